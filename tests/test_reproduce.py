"""Published recipes: every value has a source and survives, figures are compared with the same."""

from __future__ import annotations

import functools
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commandline import call
from runs import sentiment, shallow
from scipy.stats import percentileofscore
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from adaptkit.cli import reproducing
from adaptkit.config import compose as composing
from adaptkit.config.compose import compose, load_raw
from adaptkit.config.groups import CONF, options
from adaptkit.config.settings import Settings, settings
from adaptkit.reports import published
from adaptkit.reports.published import (
    HALF,
    Distribution,
    Figure,
    Published,
    distributions,
    figures,
    obstacles,
    ordinal,
    place,
    places,
    score_of,
    second_half,
)
from adaptkit.runs.directory import flat
from adaptkit.runs.record import RunResult

RECIPES = [n.removeprefix("paper/") for n in options("experiment") if n.startswith("paper/")]
SOURCE = re.compile(r"(paper|authors' script|own guess)\b")
NEEDED = {"optimizer.lr", "optimizer.weight_decay", "optimizer.warmup_ratio", "optimizer.schedule",
          "trainer.batch_size", "task.max_length"}  # fmt: skip


@functools.cache
def recipe(name: str) -> Settings:
    return settings(compose([f"experiment=paper/{name}"]))


def file_of(name: str) -> Path:
    return CONF / "experiment" / "paper" / f"{name}.yaml"


# ---- the recipes ----


def test_there_is_a_recipe_for_every_figure():
    assert set(figures()) == set(RECIPES)
    assert len(RECIPES) >= 12


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_it_says(name):
    """Nothing in the defaults list overrides a value of the file; every value has a source."""
    text = file_of(name).read_text(encoding="utf-8")
    plain = {key: node for key, node in load_raw(file_of(name)).items() if key != "defaults"}
    resolved, wanted = flat(recipe(name).plain), flat(plain)
    assert {key: resolved[key] for key in wanted} == wanted
    assert set(wanted) >= NEEDED
    assert len({"trainer.epochs", "trainer.max_steps"} & set(wanted)) == 1
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    values = [line for line in lines if not line.partition("#")[0].rstrip().endswith(":")]
    assert len(values) == len(wanted) + len(load_raw(file_of(name))["defaults"])
    bare = [line for line in values if not SOURCE.match(line.partition("# ")[2])]
    assert bare == []
    assert f"experiment=paper/{name}" in text.splitlines()[2]


@pytest.mark.parametrize("name", RECIPES)
def test_a_figure_is_of_its_recipe(name):
    figure, job = figures()[name], recipe(name)
    assert figure.model == job.model.path
    assert figure.task == job.task.name
    assert figure.source and figure.tolerance_source.startswith(("own guess", "paper"))
    assert figure.tolerance > 0
    assert figure.spread is None or figure.tolerance == pytest.approx(2 * figure.spread)
    assert figure.statistic in ("mean", "median", "max")
    assert 0 < figure.value < (100 if figure.metric == "bleu" else 1)


def planned(name: str) -> None:
    from adaptkit.runs.plan import plan

    params = plan(recipe(name), "fp32", memory=False).params
    assert params.trainable > 0
    assert params.total == figures()[name].parameters


@pytest.mark.parametrize("name", ["prompt_mrpc"])
def test_recipes_are_planned_without_weights(name):
    planned(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned_without_weights(name):
    planned(name)


# ---- published scores ----


def test_half_of_the_rows_is_that_of_the_published_runs():
    """RTE: 146 and 131 rows of the classes. The published logs have accuracies of 139 rows."""
    labels = ["b"] * 146 + ["a"] * 131
    chosen = second_half(labels)
    assert len(set(chosen)) == 139
    assert round(98 / len(chosen), 4) == 0.7050  # the first of the 50 published accuracies
    drawn = {c: np.random.RandomState(1).permutation(n) for c, n in (("b", 146), ("a", 131))}
    expected = [*drawn["b"][73:], *(146 + drawn["a"][65:])]
    assert chosen == sorted(map(int, expected))


def test_scores_of_single_runs_agree_with_their_summary():
    (mnli,) = [one for one in distributions() if one.scores]
    assert len(mnli.scores) == mnli.runs == 100
    assert mnli.mean == pytest.approx(statistics.fmean(mnli.scores), abs=1e-6)
    assert mnli.deviation == pytest.approx(statistics.stdev(mnli.scores), abs=1e-6)
    assert (mnli.min, mnli.max) == (min(mnli.scores), max(mnli.scores))


def test_a_place_among_scores_is_a_percentile():
    (mnli,) = [one for one in distributions() if one.scores]
    for score in (0.84, 0.8432, mnli.scores[0]):
        share = round(percentileofscore(mnli.scores, score, kind="mean"))
        assert place(score, mnli) == f"at the {ordinal(share)} percentile of 100 published runs"
    assert place(0.5, mnli) == "below all 100 published runs"
    assert place(0.9, mnli) == "above all 100 published runs"
    assert [ordinal(n) for n in (1, 2, 3, 11, 12, 21, 113)] == [
        "1st", "2nd", "3rd", "11th", "12th", "21st", "113th"
    ]  # fmt: skip


def test_a_place_without_scores_is_in_deviations():
    rte = next(one for one in distributions() if one.task == "rte")
    away = rte.mean - 0.9 * rte.deviation
    assert place(away, rte) == "0.9 standard deviations below the mean of 50 published runs"
    assert place(rte.mean + rte.deviation, rte).startswith("1.0 standard deviation above")
    assert place(rte.mean, rte) == "at the mean of 50 published runs"


def record(**changes: Any) -> RunResult:
    """A run that measured what the published ones did on RTE."""
    plain = {
        "task": "rte", "task_version": 1, "model": "bert-large", "method": "lora",
        "regularizers": [], "variant": "default", "seed": 0, "metric": "accuracy",
        "split": "validation", "status": "done", "started_at": "", "finished_at": "",
        "score": 0.7, "scores": {"accuracy": 0.7}, "labels": ["yes", "no"],
        "settings": {"model.path": "google-bert/bert-large-uncased", "data.holdout": False,
                     "model.random_weights": False, "model.quantization": None},
        "data": {"source": "local", "rows": {"train": 2490, "validation": 277}},
        "params": {"total": 335_143_938 + 786_432},  # of BERT-large with two classes, and of LoRA
    }  # fmt: skip
    return RunResult(**{**plain, **changes})


def predicted(folder: Path, seed: int = 0, rows: int = 277) -> tuple[list[str], list[str]]:
    """Write predictions.jsonl; return answers and labels."""
    random = np.random.default_rng(seed)
    answers, labels = (random.choice(["yes", "no"], rows).tolist() for _ in range(2))
    lines = [{"id": str(i), "prediction": a, "label": label}
             for i, (a, label) in enumerate(zip(answers, labels, strict=True))]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return answers, labels


def test_a_run_is_placed_by_its_score_on_the_published_rows(tmp_path):
    answers, labels = predicted(tmp_path)
    half = second_half(labels)
    mine, right = [answers[i] for i in half], [labels[i] for i in half]
    (said,) = places(record(), tmp_path)
    assert f"accuracy {accuracy_score(right, mine):.4f} on the same half of the rows" in said
    assert "standard deviations below the mean of 50 published runs (authors' logs" in said
    for metric, oracle in (("f1", f1_score(right, mine, pos_label="no")),
                           ("matthews_correlation", matthews_corrcoef(right, mine))):  # fmt: skip
        (one,) = [d for d in distributions() if d.metric == metric]
        assert score_of(record(), tmp_path, one) == pytest.approx(oracle)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    assert places(record(), tmp_path) == []  # the order of the file cannot be told


SETTINGS = record().settings
OTHERS = [
    {"data": {"source": "sample", "rows": {"train": 2490, "validation": 277}}},
    {"data": {"source": "local", "rows": {"train": 1000, "validation": 277}}},
    {"data": {"source": "local", "rows": {"train": 2490, "validation": 276}}},
    {"settings": {**SETTINGS, "model.path": "google-bert/bert-large-cased"}},
    {"settings": {**SETTINGS, "model.path": "adaptkit:mini-bert"}},
    {"settings": {**SETTINGS, "model.random_weights": True}},
    {"settings": {**SETTINGS, "data.holdout": True}},
    {"params": {"total": 109_483_778}},
    {"task": "qnli"}, {"metric": "loss"}, {"status": "failed"}, {"evaluated_run": "x"},
    {"imported_from": "x"}, {"from_runs": [{"task": "mnli"}]},
]  # fmt: skip


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_another_measurement_has_no_place(changes, tmp_path):
    predicted(tmp_path)
    assert places(record(), tmp_path)
    assert places(record(**changes), tmp_path) == []


def test_a_folder_with_the_models_name_is_that_model(tmp_path):
    predicted(tmp_path)
    path = {**SETTINGS, "model.path": "/weights/bert-large-uncased"}
    assert places(record(settings=path), tmp_path)


def test_a_figure_may_need_another_run_before_it():
    figure = figures()["lora_mrpc"]
    rows = {"source": "local", "rows": {"train": 3668, "validation": 408}}
    same = record(task="mrpc", data=rows, params={"total": figure.parameters},
                  settings={**SETTINGS, "model.path": figure.model})  # fmt: skip
    assert "model.from_run" in obstacles(same, figure)[0]
    assert obstacles(replace(same, from_runs=[{"task": "mnli"}]), figure) == []
    assert obstacles(replace(same, from_runs=[{"task": "rte"}]), figure)


# ---- the command ----

TINY = """# @package _global_
# A recipe of a test
# adaptkit reproduce tiny   (adaptkit train experiment=paper/tiny)
defaults:
  - override /model: auto    # own guess
  - override /method: bitfit # own guess

model:
  path: {model}
task:
  path: {data}
trainer: {{max_steps: 4, batch_size: 8, precision: fp32, device: cpu}}
"""


@pytest.fixture
def tiny(checkpoints, tmp_path, monkeypatch) -> Any:
    """A recipe on a small model, and how to set its figure: tiny(value=0.5)."""
    from adaptkit.terminal import reach

    data, model = sentiment(tmp_path / "rows"), shallow(checkpoints["bert"], tmp_path / "small")
    conf = tmp_path / "conf"
    (conf / "experiment" / "paper").mkdir(parents=True)
    for entry in CONF.iterdir():
        if entry.name != "experiment":
            (conf / entry.name).symlink_to(entry)
    text = TINY.format(model=model, data=data)
    (conf / "experiment" / "paper" / "tiny.yaml").write_text(text)
    monkeypatch.setattr(reach, "peak", lambda device, kind: 1e10)  # measured in half a second
    monkeypatch.setattr(composing, "CONF", conf)
    monkeypatch.setattr(reproducing, "CONF", conf)
    monkeypatch.chdir(tmp_path)
    base = Figure(
        model=str(model), parameters=None, task="sst2", metric="accuracy", runs=2, source="a test",
        rows={"train": 44, "validation": 20}, part=None, value=0.5, statistic="mean", spread=None,
        tolerance=0.01, tolerance_source="own guess", differs=None,
    )  # fmt: skip

    def chosen(**changes: Any) -> Figure:
        table = {"tiny": replace(base, **changes)}
        monkeypatch.setattr(reproducing, "figures", lambda: table)
        return table["tiny"]

    chosen()
    return SimpleNamespace(figure=chosen, data=data)


@pytest.mark.slow
def test_ours_stands_next_to_theirs(tiny, tmp_path, capsys):
    words = ("reproduce", "tiny", "--seeds", 2, "--out", "runs")
    first = call(*words)
    records = [json.loads((tmp_path / "runs" / f"seed{k}" / "result.json").read_text())
               for k in (0, 1)]  # fmt: skip
    scores = [one["score"] for one in records]
    mean, deviation = statistics.fmean(scores), statistics.stdev(scores)
    assert "# A recipe of a test" in first.out and "source: a test" in first.out
    assert f"ours:   accuracy {mean:.4f} (mean of 2 runs; standard deviation {deviation:.4f})" in (
        first.out
    )
    assert "training: about a minute on this machine (2 x 4 updates of 8 rows" in first.err
    again = call(*words)
    assert again.err.count("done before") == 2
    shown = again.out.splitlines()  # runs that are carried out show their lines themselves
    assert [line for line in shown if line in first.out.splitlines()] == first.out.splitlines()
    assert sum(" seed " in line for line in shown) == 2
    outcomes = [(RunResult.read(tmp_path / "runs" / f"seed{k}"), tmp_path / "runs" / f"seed{k}")
                for k in (0, 1)]  # fmt: skip

    def verdict(count: int = 2, **changes: Any) -> tuple[int, str]:
        capsys.readouterr()
        status = reproducing.compared(tiny.figure(**changes), outcomes[:count], [], count)
        return status, capsys.readouterr().out

    for value, word, status in ((mean, "within tolerance", 0), (mean + 0.02, "below", 3),
                                (mean - 0.02, "above", 3)):  # fmt: skip
        found, out = verdict(value=value)
        assert found == status
        assert f"\n{word}: ours - theirs = {mean - value:+.4f}" in out
    out = verdict(value=max(scores), statistic="max")[1]
    assert f"accuracy {max(scores):.4f} (max of 2 runs; mean {mean:.4f}" in out
    out = verdict(count=1)[1]
    assert f"ours:   accuracy {scores[0]:.4f} (one run: no standard deviation)" in out
    assert verdict(metric="nothing") == (3, "2 of 2 runs have no nothing\n")


def test_a_run_and_a_report_say_the_place(tiny, tmp_path, monkeypatch):
    shared = {name: getattr(tiny.figure(), name) for name in Published.__dataclass_fields__}
    among = Distribution(**shared, mean=-1.0, deviation=0.1, min=-2.0, max=-0.5,
                         scores=[-2.0, -0.5])  # fmt: skip
    monkeypatch.setattr(published, "distributions", lambda: [among])
    said = "above all 2 published runs (a test)"
    assert f"\n  {said}\n" in call("reproduce", "tiny", "--out", "runs").out
    assert f"bitfit on sst2, seed 0: {said}" in call("report", tmp_path / "runs").err


def test_other_settings_are_not_compared(tiny):
    answer = call("reproduce", "tiny", "trainer.max_steps=2", "optimizer.lr=0.1", "--out", "a")
    assert answer.status == 0
    assert "not comparable: the figure does not apply to these runs" in answer.out
    assert "trainer.max_steps=2 instead of 4" in answer.out
    assert "optimizer.lr=0.1 instead of 0.001" in answer.out
    assert "will not apply" in answer.err
    assert "tolerance:" in answer.out and "ours - theirs" not in answer.out
    tiny.figure(model="owner/other")
    other = call("reproduce", "tiny", "--out", "b")
    assert "neither owner/other nor a folder of its name" in other.out
    assert "ours - theirs" not in other.out
    tiny.figure(differs="the figure is of other rows")
    assert "  the figure is of other rows" in call("reproduce", "tiny", "--out", "b").out


def test_the_same_batches_in_other_pieces_are_compared():
    figure, job = figures()["lora_cola"], recipe("lora_cola")
    trainer = {**job.plain["trainer"], "batch_size": 8}
    other = {**job.plain, "trainer": trainer}
    said = reproducing.changed(job.plain, other, figure)
    assert said == ["8 rows of an update instead of 32"]
    trainer["gradient_accumulation"] = 4
    assert reproducing.changed(job.plain, other, figure) == []


def refused(*words: str) -> str:
    answer = call("reproduce", "tiny", "--out", "runs", *words)
    assert answer.status == 2
    assert answer.err.splitlines()[-1].startswith("adaptkit: tiny cannot be run here: ")
    assert not Path("runs").exists()
    return answer.err


def test_what_cannot_be_run_here_says_why(tiny, monkeypatch):
    from adaptkit.terminal import reach

    assert re.search(r"about a minute on .*, more than --hours 0\. ", refused("--hours", "0"))
    monkeypatch.setattr(reach, "free_memory", lambda: 1e6)
    assert re.search(r"needs about 0\.\d GB of memory, and 0.0 GB are free", refused())
    tiny.figure(rows={"train": 67349, "validation": 872})
    assert "the split train has 44 rows, and the figure is of 67,349" in refused()
    tiny.figure(model="owner/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "hub cannot be reached" in refused("model.path=owner/model")


def test_a_sample_is_no_place_to_reproduce(tiny, monkeypatch):
    file = Path("conf/experiment/paper/tiny.yaml")
    file.write_text(file.read_text().replace(f"task:\n  path: {tiny.data}\n", ""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "only as the bundled SAMPLE" in refused()


def test_words_that_the_command_sets_itself(tiny):
    for word, way_out in (("seed=3", "--seeds"), ("output_dir=x", "--out")):
        answer = call("reproduce", "tiny", word)
        assert (answer.status, way_out in answer.err) == (2, True)
    assert "did you mean tiny?" in call("reproduce", "tyny").err


def test_recipes_are_listed():
    out = call("reproduce").out
    for name, figure in figures().items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert f"{figure.metric} {figure.value:g}" in line


def test_the_table_holds_no_unknown_part():
    plain = json.loads(published.TABLE.read_text(encoding="utf-8"))
    every = [*plain["figures"].values(), *plain["distributions"]]
    assert {one["part"] for one in every} <= {None, HALF}


def test_names_and_options_are_completed():
    from adaptkit.cli.completion import answers

    assert answers(["reproduce"], "", ("reproduce",)) == list(figures())
    assert "optimizer.lr=" in answers(["reproduce", "lora_cola"], "optimizer.l", ("reproduce",))
