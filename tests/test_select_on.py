"""A run does not choose an evaluation by the rows that it reports, unless it is asked to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from runs import Killed, at, carry_out, configure, history, outcome, sentiment, shallow
from safetensors.torch import load_file

from adaptkit.errors import AdaptError
from adaptkit.reports.comparison.runs import collect
from adaptkit.reports.comparison.table import table_of
from adaptkit.reports.comparison.text import markdown
from adaptkit.runs import run as pipeline
from adaptkit.runs.directory import identity, read_config
from adaptkit.runs.evaluating.evaluate import evaluate
from adaptkit.runs.record import RunResult
from adaptkit.runs.verify import verify
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.reading.holdout import check_parents, divided
from adaptkit.tasks.reading.source import DataSource
from adaptkit.tasks.task import Splits
from adaptkit.terminal import console, sweep
from adaptkit.training.trainer import AdaptTrainer

TRAIN, HELD = 120, 12
BEST = {"trainer.keep": "best", "trainer.batch_size": 32, "trainer.epochs": 4,
        "optimizer.lr": 2e-2}  # fmt: skip
HOLDOUT = {**BEST, "trainer.select_on": "holdout"}
VALIDATION = {**BEST, "trainer.select_on": "validation"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, checkpoints) -> Path:
    return shallow(checkpoints["bert"], tmp_path_factory.mktemp("select") / "bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return sentiment(tmp_path_factory.mktemp("select") / "data", TRAIN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, data) -> dict[str, Path]:
    """One run of each kind."""
    folder = tmp_path_factory.mktemp("select") / "runs"
    kinds = {"holdout": HOLDOUT, "validation": VALIDATION,
             "none": {**HOLDOUT, "trainer.keep": "last"}}  # fmt: skip
    for name, changes in kinds.items():
        carry_out(configure(folder / name, model, data, "method=bitfit", **changes))
    return {name: folder / name for name in kinds}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def watch(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Note what a run's trainer is given, trains on, and scores."""
    seen: dict[str, Any] = {"trained": set(), "scored": []}
    build, loss = pipeline.trainer_of, AdaptTrainer.compute_loss

    def built(settings: Any, splits: Splits, *rest: Any) -> Any:
        made = build(settings, splits, *rest)
        seen["splits"], trainer = splits, made[0]
        score = type(trainer.scorer).score

        def scored(self: Any, feed: Any, rows: Dataset, generate: bool = True) -> Any:
            seen["scored"].append((trainer.state.global_step, rows["id"][:]))
            return score(self, feed, rows, generate)

        patch.setattr(type(trainer.scorer), "score", scored)
        return made

    def stepped(self: Any, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        seen["trained"] |= {seen["splits"].train["id"][row] for row in inputs.rows}
        return loss(self, model, inputs, *rest, **options)

    patch.setattr(pipeline, "trainer_of", built)
    patch.setattr(AdaptTrainer, "compute_loss", stepped)
    return seen


# ---- the law ----


# a probe reads features kept in memory
@pytest.mark.parametrize("method", ["lora", pytest.param("probe", marks=pytest.mark.slow)])
def test_rows_that_choose_are_neither_trained_on_nor_reported(method, model, data, tmp_path):
    changes = {**HOLDOUT, "task.also": {"again": "validation"}}
    settings = configure(tmp_path / "run", model, data, f"method={method}", **changes)
    whole = settings.task.load(settings.data, settings.seed)
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        record, said = carry_out(settings)
    chosen = seen["splits"].selection["id"][:]
    assert len(chosen) == HELD and not seen["trained"] & {*chosen}
    assert sorted([*seen["trained"], *chosen]) == sorted(whole.train["id"])
    reported = whole.validation[""]["id"][:]
    # four evaluations; then the two scored splits, once
    assert seen["scored"] == [*((update, chosen) for update in (4, 8, 12, 16)),
                              (16, reported), (16, reported)]  # fmt: skip
    assert (record["select_on"], record["selection_rows"]) == ("holdout", HELD)
    assert record["data"]["rows"] == {"train": TRAIN - HELD, "validation": len(reported)}
    assert record["scores"]["accuracy_again"] == record["score"]
    assert sum(f"{HELD} of the {TRAIN} training rows" in line for line in said) == 1
    assert verify(tmp_path / "run") == ""


def test_the_best_on_held_out_rows_is_kept_and_scored_on_validation(finished, data, tmp_path):
    """The rebuilt run scores what the record says, and on the held-out rows what chose it."""
    folder = finished["holdout"]
    record = record_of(folder)
    curve = {e["step"]: e["eval_accuracy"] for e in history(folder) if "eval_accuracy" in e}
    assert len(set(curve.values())) > 1
    assert record["best_update"] == max(curve, key=lambda step: (curve[step], -step))
    again, _ = evaluate(folder, [], tmp_path / "again")
    assert again.score == record["score"]
    assert len(lines(folder / "predictions.jsonl")) == record["data"]["rows"]["validation"]
    run = read_config(folder)
    splits = divided(run, run.task.load(run.data, run.seed))
    assert splits.selection is not None
    shutil.copytree(data, tmp_path / "data")
    numbers = [int(name) for name in splits.selection["id"]]
    rows = lines(data / "train.jsonl")
    (tmp_path / "data" / "validation.jsonl").write_text(
        "\n".join(json.dumps(rows[number]) for number in numbers)
    )
    chosen, _ = evaluate(folder, [f"task.path={tmp_path / 'data'}"], tmp_path / "chosen")
    assert chosen.score == curve[record["best_update"]]


def test_validation_labels_choose_only_if_they_are_asked_to(finished, model, data, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(data, turned)
    rows = [{**row, "label": 1 - row["label"]} for row in lines(data / "validation.jsonl")]
    (turned / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, changes in (("holdout", HOLDOUT), ("validation", VALIDATION)):
        folder = tmp_path / name
        carry_out(configure(folder, model, turned, "method=bitfit", **changes))
        before, after = record_of(finished[name]), record_of(folder)
        same = before["best_update"] == after["best_update"]
        kept = [load_file(one / "delta.safetensors") for one in (finished[name], folder)]
        alike = all(tensor.equal(kept[1][key]) for key, tensor in kept[0].items())
        assert (same, alike) == ((True, True) if name == "holdout" else (False, False))


def test_the_same_rows_for_every_seed(model, data, tmp_path):
    found = []
    for seed in (0, 1):
        run = configure(tmp_path, model, data, **{**HOLDOUT, "seed": seed})
        found.append(divided(run, run.task.load(run.data, run.seed)).selection["id"][:])
    assert found[0] == found[1]


# ---- resumed, stopped early ----


@pytest.mark.parametrize("event", ["on_step_end", pytest.param("proof", marks=pytest.mark.slow)])
def test_resumed_is_uninterrupted(event, finished, model, data, tmp_path, monkeypatch):
    def kill(*_: Any) -> None:
        raise Killed

    settings = configure(tmp_path / "run", model, data, "method=bitfit", **HOLDOUT)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if event == "proof":  # after training
            patch.setattr(pipeline, "verify_saved", kill)
        carry_out(settings, *([] if event == "proof" else [at(event, 10, kill)]))
    _, said = carry_out(settings)
    assert f"resuming from update {16 if event == 'proof' else 8}" in said
    assert outcome(tmp_path / "run") == outcome(finished["holdout"])
    for key in ("select_on", "selection_rows"):
        assert record_of(tmp_path / "run")[key] == record_of(finished["holdout"])[key]


def test_early_stopping_by_held_out_rows(model, data, tmp_path):
    """Without a rate nothing gets better: the second evaluation without a better score ends it."""
    changes = {**HOLDOUT, "trainer.keep": "last", "trainer.early_stopping_patience": 2,
               "optimizer.lr": 1e-9}  # fmt: skip
    record, _ = carry_out(configure(tmp_path / "run", model, data, "method=bitfit", **changes))
    assert (record["updates"], record["select_on"]) == (12, "holdout")
    assert record["data"]["rows"]["train"] == TRAIN - HELD


# ---- older runs ----


def older(folder: Path, place: Path) -> Path:
    """Return a copy of a run, as it was written before there was the option."""
    shutil.copytree(folder, place)
    record, plain = record_of(place), yaml.safe_load((place / "config.yaml").read_text())
    record = {k: v for k, v in record.items() if not k.startswith("select")}
    for node, key in ((record["settings"], "trainer.select_on"), (plain["trainer"], "select_on")):
        del node[key]
    (place / "result.json").write_text(json.dumps(record))
    (place / "config.yaml").write_text(yaml.safe_dump(plain))
    return place


def test_older_runs_chose_on_validation_rows(finished, model, data, tmp_path):
    place = older(finished["validation"], tmp_path / "old")
    found = RunResult.read(place)
    assert found and (found.select_on, found.selection_rows) == ("validation", 20)
    assert read_config(place).trainer.select_on == "validation"
    assert verify(place) == ""
    made = configure(place, model, data, "method=bitfit", **VALIDATION)
    assert "done before" in carry_out(made)[1][0]
    with pytest.raises(AdaptError, match=r"other settings \(trainer\.select_on\)"):
        carry_out(configure(place, model, data, "method=bitfit", **HOLDOUT))
    plain = {**made.plain, "trainer": {**made.plain["trainer"]}}
    del plain["trainer"]["select_on"]
    assert identity(plain, "", "") == identity(made.plain, "", "")  # its checkpoints are taken


def test_where_nothing_is_chosen_the_option_is_idle(finished, model, data, tmp_path):
    place = older(finished["none"], tmp_path / "old")
    found = RunResult.read(place)
    assert found and (found.select_on, found.selection_rows) == ("none", 0)
    for value in ("holdout", "validation"):
        changes = {**BEST, "trainer.keep": "last", "trainer.select_on": value}
        made = configure(place, model, data, "method=bitfit", **changes)
        assert "done before" in carry_out(made)[1][0]
    assert record_of(finished["none"])["data"]["rows"]["train"] == TRAIN


# ---- what is said ----


def test_lines_and_tables_name_it(finished, tmp_path, capsys):
    found = {name: RunResult.read(folder) for name, folder in finished.items()}
    said = {name: console.line(one) for name, one in found.items() if one}
    assert "of 16; the epoch was chosen by these rows: optimistic)" in said["validation"]
    assert f"of 16 by {HELD} held-out training rows)" in said["holdout"]
    assert "20 rows, after update 16)" in said["none"]
    older(finished["validation"], tmp_path / "runs" / "old")
    for name in ("holdout", "none"):
        shutil.copytree(finished[name], tmp_path / "runs" / name)
    marks = {name: sweep.marked(one) for name, one in found.items()}
    assert marks == {"holdout": "", "validation": " *", "none": ""}
    table = table_of(collect([tmp_path / "runs"]))
    cells = {cell.select_on: len(cell.runs) for cell in table.cells.values()}
    assert cells == {"holdout": 1, "validation": 1, "none": 1}
    text = markdown(table)
    assert text.count("1 seed, chosen on these rows") == 1
    assert "chosen on these rows, so optimistic, unlike the others: bitfit" in text
    result, _ = evaluate(finished["validation"], [], tmp_path / "eval")
    assert "the epoch was chosen by these rows: optimistic" in result.remarks
    result, _ = evaluate(finished["holdout"], [], tmp_path / "eval2")
    assert not any("optimistic" in remark for remark in result.remarks)


# ---- what cannot be ----


def split(count: int, classes: int = 2, **changes: Any) -> Splits:
    """Rows of some classes, in turn."""
    names = tuple(f"c{i}" for i in range(classes))
    task = Classify("t", text=("text",), labels=names, **changes)
    rows = {"id": [str(i) for i in range(count)], "text": [f"text {i}" for i in range(count)],
            "label": [names[i % classes] for i in range(count)]}  # fmt: skip
    few = {name: values[:classes] for name, values in rows.items()}
    validation = {suffix: Dataset.from_dict(few) for suffix in ("", *task.also)}
    train = Dataset.from_dict(rows) if count else None
    return Splits(task, train, validation, DataSource("local", "here"))


def asked(tmp_path: Path, **changes: Any) -> Any:
    return configure(tmp_path / "run", tmp_path, tmp_path, **{**HOLDOUT, **changes})


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (split(99), "a tenth of 99 training rows is too little"),
        (split(4), "a tenth of 4 training rows is too little"),  # two shots a class
        (split(2), "a tenth of 2 training rows is too little"),  # one, which cannot be parted
        (split(190, classes=20), "and one of each class"),
        (split(0), "has no training rows"),
        (split(200, also={"mm": "other"}, best="accuracy_mm"), "is a score of another split"),
    ],
    ids=lambda value: value.replace(" ", "_")[:30] if isinstance(value, str) else "",
)
def test_rows_that_cannot_choose_are_rejected(splits, words, tmp_path):
    with pytest.raises(AdaptError, match=words) as raised:
        divided(asked(tmp_path), splits)
    assert raised.value.status == 2
    assert divided(asked(tmp_path, **{"trainer.keep": "last"}), splits) is splits
    assert divided(asked(tmp_path, **{"trainer.max_steps": 0}), splits) is splits
    assert divided(asked(tmp_path, **{"trainer.select_on": "validation"}), splits) is splits


def test_shown_rows_do_not_choose(tmp_path):
    splits = split(200)
    shown = Splits(splits.task, splits.train, splits.validation, splits.source,
                   ("all training rows are shown with their answers",))  # fmt: skip
    with pytest.raises(AdaptError, match=r"Lower task\.shots"):
        divided(asked(tmp_path), shown)


def test_a_parent_of_the_same_task_may_have_seen_them(tmp_path):
    run = asked(tmp_path)
    with pytest.raises(AdaptError, match=r"select_on=holdout: the run that model\.from_run names"):
        check_parents(run, [{"task": run.task.name}])
    check_parents(run, [{"task": "other"}])
    check_parents(asked(tmp_path, **{"trainer.keep": "last"}), [{"task": run.task.name}])


def test_with_held_out_rows_to_score_another_tenth_chooses(tmp_path):
    """Of 200 rows 20 are scored, and of the 180 left 18 choose; both are said."""
    splits = split(200)
    made = divided(asked(tmp_path, **{"data.holdout": True}), splits)
    assert made.train is not None and made.selection is not None
    parts = [made.train["id"][:], made.validation[""]["id"][:], made.selection["id"][:]]
    assert [len(part) for part in parts] == [162, 20, 18]
    assert sorted(name for part in parts for name in part) == sorted(splits.train["id"])
    said = [note.partition(":")[0] for note in made.notes]
    assert said == ["data.holdout=true", "trainer.select_on=holdout"]
    counts = [part["label"][:].count("c0") for part in (made.train, made.selection)]
    assert counts == [81, 9]
