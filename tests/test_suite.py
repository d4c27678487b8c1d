"""A run on a suite: classes that are mapped, drops and their intervals, sets that are not there."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commandline import call, read, write
from datasets import Dataset
from runs import shallow

from adaptkit.config.compose import compose, load_raw
from adaptkit.config.groups import CONF, options
from adaptkit.config.names import variant
from adaptkit.config.overrides import sweep_lengths
from adaptkit.config.settings import settings
from adaptkit.config.suite import suite_in
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.runs.evaluating.mapped import mapping, merged
from adaptkit.runs.evaluating.suite import Outcome, check_other, macro, under, with_drop
from adaptkit.tasks.cells import accuracy_by
from adaptkit.tasks.classify import Classify
from adaptkit.training.scorer import Scored

THREE = ("entailment", "neutral", "contradiction")
TWO = ("entailment", "non-entailment")
MAP = {"neutral": "non-entailment", "contradiction": "non-entailment"}
NLI = Classify("nli", text=("premise",), labels=THREE)
HANS = Classify("hans", text=("premise",), labels=TWO, map_answers=MAP)


@functools.cache
def task_of(*words: str):
    return settings(compose(list(words))).task


# ---- classes ----


def test_a_map_fits_if_every_class_is_met():
    assert mapping(NLI, HANS) == {"entailment": "entailment", **MAP}
    assert mapping(NLI, replace(NLI, labels=THREE[::-1])) == {}  # the same classes
    assert mapping(NLI, replace(HANS, map_answers={})) == {}  # neutral is no class there
    everything = dict.fromkeys(THREE, "entailment")
    assert mapping(NLI, replace(HANS, map_answers=everything)) == {}  # one is never answered
    with pytest.raises(
        ConfigError, match=r"map_answers\.neutral=other: is not a class of the task"
    ):
        mapping(NLI, replace(HANS, map_answers={"neutral": "other"}))


def test_the_answer_is_mapped_after_the_argmax():
    """0.4 for entailment is the largest of three, although the other two are 0.6 together."""
    found = {
        "answer": "entailment",
        "probabilities": dict(zip(THREE, (0.4, 0.3, 0.3), strict=True)),
    }
    assert merged(found, {"entailment": "entailment", **MAP}) == {
        "answer": "entailment",
        "probabilities": {"entailment": 0.4, "non-entailment": pytest.approx(0.6)},
    }


def test_a_generated_text_that_is_no_class_stays_none():
    names = {"entailment": "entailment", **MAP}
    assert merged({"answer": None, "text": "so"}, names) == {"answer": None, "text": "so"}
    assert merged({"answer": "neutral"}, names) == {"answer": "non-entailment"}
    rows = Dataset.from_dict({"id": ["0", "1"], "label": ["neutral", "entailment"]})
    found = under(Scored(rows, ["contradiction", None], {}, []), names)
    assert found.answers == ["non-entailment", None]
    assert found.rows["label"][:] == ["non-entailment", "entailment"]


@pytest.mark.slow
def test_every_bundled_set_can_be_asked():
    """The same kind of task, and classes that are the run's or mapped onto the set's."""
    suite = suite_in(compose(["suite=ood"]))
    assert suite is not None
    mapped = {}
    for name in suite.sets:
        own = task_of(f"task={name}")
        for other_name, words in suite.of(name).items():
            other = task_of(*([] if "task=" in words[0] else [f"task={name}"]), *words)
            assert type(other) is type(own) and other.headline == own.headline, other_name
            if names := mapping(own, other):
                mapped[name, other_name] = names
            else:
                assert set(other.classes) == set(own.classes), other_name
    two = {set_name for _, set_name in mapped}
    assert two == {"hans", "hans_style", "scitail", "rte"}
    for names in mapped.values():
        assert names["entailment"] == "entailment"
        assert names["neutral"] == names["contradiction"] != "entailment"


# ---- cells ----


def test_cells_are_by_column_and_right_class():
    rows = Dataset.from_dict(
        {"label": ["a", "a", "b", "b", "b"], "kind": ["x", "x", "x", "y", "y"], "id": list("12345")}
    )
    assert accuracy_by(["kind"], ["a", "b", "a", "b", "a"], rows) == {
        "kind": {
            "x": {"a": {"rows": 2, "accuracy": 0.5}, "b": {"rows": 1, "accuracy": 0.0}},
            "y": {"b": {"rows": 2, "accuracy": 0.5}},
        }
    }
    assert accuracy_by([], ["a"] * 5, rows) == {}


# ---- drops ----


def outcome(name: str, task: Classify, right: list[str], answers: list[str], seed: int) -> Outcome:
    from adaptkit.runs.remarks import score_draws

    rows = Dataset.from_dict({"id": [str(i) for i in range(len(right))], "label": right})
    scored = Scored(rows, answers, task.score(answers, rows), [])
    entry = {"name": name, "metric": "accuracy", "score": scored.scores["accuracy"], "data": "hub"}
    return Outcome(entry, task, scored, score_draws(task, scored, seed))


def sampled(task: Classify, rows: int, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Labels, and answers of which about `share` are right."""
    random = np.random.default_rng(seed)
    right = random.choice(task.classes, rows)
    other = {c: [d for d in task.classes if d != c] for c in task.classes}
    wrong = [random.choice(other[c]) for c in right]
    return right.tolist(), np.where(random.random(rows) < share, right, wrong).tolist()


def plain_bootstrap(*hits: np.ndarray) -> np.ndarray:
    """Means [times, samples] of rows drawn one by one."""
    random = np.random.default_rng(99)
    return np.array(
        [[h[random.integers(0, len(h), len(h))].mean() for h in hits] for _ in range(2000)]
    )


def test_drops_and_their_intervals():
    """Against a bootstrap of single rows; the set of two classes is compared in two classes."""
    own_right, own_said = sampled(NLI, 200, 0.7, 1)
    three, two = sampled(NLI, 150, 0.5, 2), sampled(HANS, 120, 0.6, 3)
    own = with_drop(outcome("in domain", NLI, own_right, own_said, 0), None)
    sets = [
        with_drop(outcome("snli", NLI, *three, 1), own),
        with_drop(outcome("hans", HANS, *two, 2), own),
    ]
    names = {"entailment": "entailment", **MAP}
    hits = np.array(own_right) == np.array(own_said)
    hits_of_two = np.array([names[a] == names[b] for a, b in zip(own_right, own_said, strict=True)])
    others = [np.array(right) == np.array(said) for right, said in (three, two)]
    assert sets[0].entry["drop"] == pytest.approx(hits.mean() - others[0].mean())
    assert sets[1].entry["in_domain_mapped"] == pytest.approx(hits_of_two.mean())
    assert sets[1].entry["drop"] == pytest.approx(hits_of_two.mean() - others[1].mean())
    for one, before, after in zip(sets, (hits, hits_of_two), others, strict=True):
        drawn = plain_bootstrap(before, after)
        expected = np.quantile(drawn[:, 0] - drawn[:, 1], (0.025, 0.975))
        assert one.entry["drop_interval"] == pytest.approx(expected, abs=0.02)
    found = macro(own, sets)
    assert found["score"] == pytest.approx(np.mean([other.mean() for other in others]))
    assert found["drop"] == pytest.approx(np.mean([one.entry["drop"] for one in sets]))
    # The rows in domain are drawn once for both sets: their mean hit is one number per row.
    drawn = plain_bootstrap((hits + 1.0 * hits_of_two) / 2, *others)
    expected = np.quantile(drawn[:, 0] - drawn[:, 1:].mean(1), (0.025, 0.975))
    assert found["drop_interval"] == pytest.approx(expected, abs=0.015)
    expected = np.quantile(drawn[:, 1:].mean(1), (0.025, 0.975))
    assert found["interval"] == pytest.approx(expected, abs=0.015)


def test_a_set_is_independent_of_the_rows_in_domain():
    """The same rows twice: with the same draws, the interval of the drop would be 0 to 0."""
    labels = sampled(NLI, 100, 0.5, 4)
    own = outcome("in domain", NLI, *labels, 0)
    low, high = with_drop(outcome("again", NLI, *labels, 1), own).entry["drop_interval"]
    assert low < -0.1 < 0.1 < high


def test_scores_that_cannot_be_compared_have_no_drop():
    labels = sampled(NLI, 20, 0.5, 5)
    own, other = outcome("in domain", NLI, *labels, 0), outcome("x", NLI, *labels, 1)
    for change in ({"data": "sample"}, {"metric": "macro_f1"}, {"score": None}):
        different = replace(other, entry={**other.entry, **change})
        assert with_drop(different, own).entry["drop"] is None
        assert macro(own, [with_drop(different, own)]) == {}
    assert macro(None, [with_drop(other, None)])["drop"] is None  # the rows in domain are gone


def test_a_part_of_the_own_rows_needs_a_run_on_another_part():
    def run(name: str, **where: str):
        plain = {"task": {"name": name, "where": where}}
        return SimpleNamespace(settings=SimpleNamespace(plain=plain), plain=plain)

    check_other("sport", run("xsum", topic="news"), run("xsum", topic="sport"))
    check_other("sport", run("squad"), run("mrqa_drop", subset="DROP"))
    check_other("tech", run("bbc_lead"), run("bbc_lead"))
    main = {"topic": "news", "section": "main"}  # another section of the same topic is new
    check_other("within_news", run("xsum", **main), run("xsum", **{**main, "section": "other"}))
    sport = run("bbc_lead", topic="business")
    sport.plain["task"]["validation"] = "test_sport"  # a split of its own
    check_other("sport", run("bbc_lead", topic="business"), sport)
    for where in ({}, {"topic": "sport"}):
        with pytest.raises(AdaptError, match=r"\+task.where.topic=OTHER"):
            check_other("sport", run("xsum", **where), run("xsum", topic="sport"))


# ---- the command ----

TEXTS = ("the man sleeps", "a dog runs", "the film was good", "she reads a book", "nobody came")


def pairs(count: int, classes: tuple[str, ...], seed: int) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {"premise": random.choice(TEXTS), "hypothesis": random.choice(TEXTS),
         "label": classes[number % len(classes)]}
        for number in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Rows of mnli (also mismatched), snli and hans_style; no other set."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "mnli" / "train.jsonl", pairs(48, THREE, 1))
    for split in ("matched", "mismatched"):
        write(folder / "mnli" / f"validation_{split}.jsonl", pairs(30, THREE, 2))
    write(folder / "snli" / "validation.jsonl", pairs(33, THREE, 3))
    rows = pairs(40, TWO, 4)
    kinds = ("lexical_overlap", "subsequence", "constituent")
    styled = [{**row, "heuristic": kinds[i % 3]} for i, row in enumerate(rows)]
    write(folder / "hans_style" / "validation.jsonl", styled)
    return folder


@pytest.fixture(scope="module")
def words(root, checkpoints, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("run")
    return [
        "train", "task=mnli", "model=auto", f"data.root={root}", "method=full", "trainer=debug",
        f"model.path={shallow(checkpoints['bert'], folder / 'bert')}", "task.id=null",
        f"output_dir={folder / 'run'}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(words) -> Path:
    answer = call(*words)
    assert answer.status == 0, answer.err
    return Path(words[-1].partition("=")[2])


def right(folder: str, names: dict[str, str] | None = None) -> np.ndarray:
    """Which answers of a set are right, read off its predictions."""
    names = names or {}
    rows = [r for r in read(Path(folder) / "predictions.jsonl") if not r["id"].startswith("mis")]
    return np.array(
        [
            names.get(r["prediction"], r["prediction"]) == names.get(r["label"], r["label"])
            for r in rows
        ]
    )


def test_the_table_is_that_of_the_predictions(run):
    answer = call("eval", run, "suite=ood", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert json.loads(Path(found.pop("file")).read_text()) == found
    own, (snli, hans) = found["in_domain"], found["sets"]
    assert [snli["name"], hans["name"]] == ["snli", "hans_style"]
    assert set(found["missing"]) == {"sick", "hans", "scitail", "rte", "cad_nli"}
    assert "holds no folder 'sick'" in found["missing"]["sick"]
    for line in ("in domain: accuracy", "snli: accuracy", "sick: not evaluated"):
        assert line in answer.err
    recorded = json.loads((run / "result.json").read_text())
    assert own["score"] == recorded["score"] and own["interval"] == recorded["score_interval"]
    for entry, rows in ((own, 30), (snli, 33), (hans, 40)):
        assert entry["rows"] == rows == len(right(entry["directory"]))
        assert entry["score"] == pytest.approx(right(entry["directory"]).mean())
        assert entry["interval"][0] <= entry["score"] <= entry["interval"][1]
    assert hans["baseline"]["value"] == 0.5  # of two classes
    assert snli["drop"] == pytest.approx(own["score"] - snli["score"])
    in_two = right(own["directory"], MAP).mean()
    assert hans["in_domain_mapped"] == pytest.approx(in_two)
    assert hans["drop"] == pytest.approx(in_two - hans["score"])
    assert found["macro"]["score"] == pytest.approx((snli["score"] + hans["score"]) / 2)
    assert found["macro"]["drop"] == pytest.approx((snli["drop"] + hans["drop"]) / 2)
    shown = call("eval", run, "suite=ood").out
    assert f"{hans['score']:.4f}" in shown and "macro average of 2" in shown
    assert "not evaluated: sick: data.root=" in shown


def test_answers_of_a_mapped_set_are_those_of_the_run(run, root, tmp_path):
    """The same texts as rows of three classes: each answer, mapped by hand, is the one recorded."""
    three = [{**row, "label": "neutral"} for row in read(root / "hans_style" / "validation.jsonl")]
    write(tmp_path / "snli" / "validation.jsonl", three)
    answer = call("eval", run, "task=snli", f"data.root={tmp_path}", "--output", tmp_path / "three")
    assert answer.status == 0, answer.err
    answer = call("eval", run, "task=hans_style", "--output", tmp_path / "two")
    assert answer.status == 0, answer.err
    assert "mapped after the argmax (task.map_answers): neutral -> non-entailment" in answer.err
    names = {"entailment": "entailment", **MAP}
    single = [names[row["prediction"]] for row in read(tmp_path / "three" / "predictions.jsonl")]
    assert [row["prediction"] for row in read(tmp_path / "two" / "predictions.jsonl")] == single


@pytest.mark.slow
def test_hans_is_never_one_number(run, root):
    answer = call("eval", run, "task=hans_style", "--json")
    record = json.loads(answer.out)
    made = read(Path(record["directory"]) / "predictions.jsonl")
    heuristics = [row["heuristic"] for row in read(root / "hans_style" / "validation.jsonl")]
    cells = record["details"]["validation"]["by"]["heuristic"]
    for heuristic in set(heuristics):
        for label in TWO:
            hits = [
                row["prediction"] == label
                for row, kind in zip(made, heuristics, strict=True)
                if row["label"] == label and kind == heuristic
            ]
            expected = {"rows": len(hits), "accuracy": pytest.approx(np.mean(hits))}
            assert cells[heuristic][label] == expected
    shown = call("eval", run, "task=hans_style").out
    assert "hans_style, heuristic constituent: entailment " in shown
    assert "hans_style, heuristic constituent: entailment " in call("eval", run, "suite=ood").out


def test_a_file_without_the_column_of_the_cells(run, tmp_path):
    write(tmp_path / "hans" / "validation.jsonl", pairs(6, TWO, 5))
    answer = call("eval", run, "task=hans", f"data.root={tmp_path}")
    assert answer.status == 2 and "no column 'heuristic'" in answer.err
    assert "Set task.by" in answer.err
    assert call("eval", run, "task=hans", f"data.root={tmp_path}", "task.by=[]").status == 0


@pytest.mark.slow
def test_options_hold_for_every_set(run, tmp_path):
    answer = call(
        "eval", run, "suite=ood", "data.eval_rows=12", "--json", "--output", tmp_path / "o"
    )
    found = json.loads(answer.out)
    assert [e["rows"] for e in (found["in_domain"], *found["sets"])] == [12, 12, 12]
    assert Path(found["file"]).parent == tmp_path / "o"
    again = call("eval", run, "suite=ood", "--output", tmp_path / "o")
    assert again.status == 2 and "is a folder that is not empty" in again.err
    own = call(
        "eval", run, "suite=ood", "+suite.sets.mnli.mine=task=snli task.max_length=8", "--json"
    )
    assert json.loads(own.out)["sets"][-1]["name"] == "mine"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["suite=odd"], "suite=odd: not known; did you mean ood?"),
        (["suite=ood", "task.max_lenght=3"], "did you mean max_length"),
        (["suite=ood", "method=lora"], "a finished run keeps its model and method"),
        (["suite=ood", "+suite.sets.mnli.mine=task=snil"], "did you mean snli"),
        (["suite=ood", "task=snli"], "task=snli: every set of suite=ood has rows of its own"),
        (["suite=ood", "task.path=x.csv"], "'+suite.sets.TASK.NAME=task.path=x.csv'"),
    ],
)
def test_mistakes_are_not_missing_sets(typed, message, run):
    answer = call("eval", run, *typed)
    assert answer.status == 2 and message in answer.err


def test_no_set_at_all(run, root, tmp_path):
    (tmp_path / "mnli").symlink_to(root / "mnli")
    answer = call("eval", run, "suite=ood", f"data.root={tmp_path}")
    assert answer.status == 2 and "none of its sets could be evaluated" in answer.err
    assert "in domain" in answer.out and "not evaluated: snli" in answer.out


@pytest.mark.slow
def test_training_goes_on_with_the_suite(words, run):
    """The run is done before: only the sets are scored, once, and the record holds them."""
    before = (run / "delta.safetensors").read_bytes()
    absent = [f"~suite.sets.mnli.{name}" for name in ("sick", "hans", "scitail", "rte", "cad_nli")]
    answer = call(*words, "suite=ood", *absent)
    assert answer.status == 0 and "done before" in answer.err
    assert "macro average of 2" in answer.out and "snli: accuracy" in answer.err
    record = json.loads((run / "result.json").read_text())
    assert record["ood"]["suite"] == "ood" and len(record["ood"]["sets"]) == 2
    assert "suite" not in (run / "config.yaml").read_text()
    again = call(*words, "suite=ood", *absent)
    assert again.status == 0 and "snli: accuracy" not in again.err
    assert "macro average of 2" in again.out
    assert (run / "delta.safetensors").read_bytes() == before
    assert call("verify", run).status == 0
    assert call(*words).status == 0  # the suite is no part of what the run is


@pytest.mark.slow
def test_an_interrupted_suite_goes_on(words, run, monkeypatch):
    """The run is done by then: nothing starts again."""
    from adaptkit.runs.evaluating import suite

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    record = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**record, "ood": {}}))
    monkeypatch.setattr(suite, "scored_set", stop)
    answer = call(*words, "suite=ood")
    assert answer.status == 130
    assert "the run itself is done, and the same command scores its suite" in answer.err
    monkeypatch.undo()
    assert "macro average of 2" in call(*words, "suite=ood").out


def test_a_suite_without_sets_for_the_task():
    answer = call("train", "task=cola", "suite=ood")
    assert answer.status == 2
    assert "suite=ood: has no sets for the task cola, only for sst2, squad" in answer.err


@pytest.mark.slow
def test_a_sample_says_so(tmp_path, monkeypatch, checkpoints):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
    model = shallow(checkpoints["bert"], tmp_path / "bert")
    answer = call("train", "model=auto", f"model.path={model}", "task=sst2", "data.source=sample",
                  "data.eval_rows=20", "trainer=debug", "suite=ood", "method=bitfit")  # fmt: skip
    assert answer.status == 0, answer.err
    assert "imdb (sample)" in answer.out and "macro average of 1" in answer.out
    assert "WARNING: bundled SAMPLE data" in answer.out


def test_no_suite_and_no_experiment(tmp_path, monkeypatch):
    """null is what the default is called, and takes away the suite of an experiment."""
    monkeypatch.chdir(tmp_path)
    assert settings(compose(["suite=null", "experiment=null"])).suite is None
    assert settings(compose(["experiment=ood/sst2", "suite=null"])).suite is None
    assert variant(["suite=null", "experiment=null"]) == variant(["suite=ood"]) == "default"
    answer = call("train", "experiment=ood/sst2", "suite=null", "--cfg", "job")
    assert answer.status == 0 and "suite" not in answer.out


# ---- where it is listed ----


def test_suites_and_experiments_are_listed():
    assert "ood" in json.loads(call("list", "suites", "--json").out)["suites"]
    assert "sets:" in call("list", "suite", "ood").out
    assert {"ood/sst2", "ood/squad", "ood/mnli"} <= set(options("experiment"))
    assert "override /suite: ood" in call("list", "experiment", "ood/sst2").out


def test_completion(monkeypatch, capsys):
    from adaptkit.cli.completion import answers

    found = answers(["eval", "run"], "suite=oo", ("eval",))
    assert set(found) == {"suite=ood", "suite=domain"}  # the shell keeps what fits
    assert "suites" in answers(["list"], "", ("list",))


PROTOCOLS = [n for n in options("experiment") if not n.startswith("paper/")]  # test_reproduce.py


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_experiment_composes_and_says_how_it_is_run(name):
    job = settings(compose([f"experiment={name}"]))
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"experiment={name}" in text.splitlines()[2]
    assert job.suite is None or job.suite.of(job.task.name)


@pytest.mark.parametrize("task", ["mnli", "snli"])
def test_the_sets_of_domain_generalisation_have_maps_for_two_classes(task):
    """Also questions: what entails is a duplicate."""
    suite = settings(compose([f"experiment=domain/{task}"])).suite
    for words in suite.of(task).values():
        other = settings(compose(words)).task
        own = settings(compose([f"task={task}"])).task
        assert len(other.classes) == 3 or mapping(own, other)["entailment"] in other.classes
    qqp = settings(compose(suite.of(task)["qqp"])).task
    assert mapping(own, qqp) == {
        "entailment": "duplicate", "neutral": "not_duplicate", "contradiction": "not_duplicate",
    }  # fmt: skip
    assert qqp.headline == "accuracy"


@pytest.mark.parametrize("name", ["sst2", "squad", "mnli"])
def test_an_experiment_sweeps_methods_and_seeds(name):
    job = settings(compose([f"experiment=ood/{name}"]))
    assert job.task.name == name and job.suite is not None and job.suite.of(name)
    params = load_raw(CONF / "experiment" / "ood" / f"{name}.yaml")["hydra"]["sweeper"]["params"]
    assert params == {"method": "full,lora,prefix,prompt,bitfit", "seed": "range(0,3)"}
    swept = [f"{key}={value}" for key, value in params.items()]
    assert sweep_lengths(swept) == {"method": 5, "seed": 3}
    assert sweep_lengths([*swept, "seed=7"]) == {"method": 5}  # one job per method
    listed = call("train", f"experiment=ood/{name}", "method=full", "--cfg", "job")
    assert listed.status == 0 and "suite:" in listed.out
