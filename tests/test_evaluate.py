"""A finished run on other data: its settings hold, names decide, the scores are the other's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commandline import call
from runs import shallow
from sklearn.metrics import f1_score

from adaptkit.config.compose import compose
from adaptkit.runs.evaluating.evaluate import keep_wording

ROWS = [("good film", "yes_"), ("bad film", "no_"), ("a dull story", "no_"), ("i liked it", "yes_")]


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluate")
    model = shallow(checkpoints["bert"], folder / "bert")
    data = folder / "data"
    data.mkdir()
    for split, times in (("train", 4), ("validation", 3), ("test", 5)):
        lines = [json.dumps({"text": text, "answer": name}) for text, name in ROWS * times]
        (data / f"{split}.jsonl").write_text("\n".join(lines[:-1]))
    answer = call(
        "train", "model=auto", f"model.path={model}", "trainer=debug", "task=classify",
        f"task.path={data}", "task.text=text", "task.label=answer", "task.labels=[yes_,no_]",
        "task.metric=accuracy_and_f1", "method=full", f"output_dir={folder / 'run'}",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    return folder / "run", data


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("override", ["task.validation=test", "data.eval_rows=5", None])
def test_the_runs_own_settings_hold(override, finished):
    """The task has columns and a path that no file of conf/ knows."""
    run, _ = finished
    words = [override] if override else []
    answer = call("eval", run, *words, "--json")
    assert answer.status == 0, answer.err
    record = json.loads(answer.out)
    rows = {"task.validation=test": 19, "data.eval_rows=5": 5, None: 11}[override]
    assert record["data"]["rows"]["validation"] == rows


def test_an_unknown_option_is_named(finished):
    answer = call("eval", finished[0], "task.validatoin=test")
    assert answer.status == 2 and "did you mean validation" in answer.err


def test_the_f1_is_that_of_the_other_tasks_positive_class(finished):
    run, _ = finished
    scores = {}
    for labels in ("[yes_,no_]", "[no_,yes_]"):
        answer = call("eval", run, f"task.labels={labels}", "--json", "--output",
                      run.parent / labels[1:3])  # fmt: skip
        assert answer.status == 0, answer.err
        scores[labels] = json.loads(answer.out)["scores"]
    made = predictions(run.parent / "ye")
    assert made == predictions(run.parent / "no")  # the answers are the same names
    gold, found = ([row[key] for row in made] for key in ("label", "prediction"))
    for labels, positive in (("[yes_,no_]", "no_"), ("[no_,yes_]", "yes_")):
        expected = f1_score(gold, found, pos_label=positive, zero_division=0)
        assert scores[labels]["f1"] == pytest.approx(expected)


def test_verify_sees_an_edited_label(finished, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    lines = (copy / "predictions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["label"] = {"yes_": "no_", "no_": "yes_"}[first["label"]]
    (copy / "predictions.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    answer = call("verify", copy)
    assert answer.status == 1 and "the label of the row with id '0' is 'yes_' now" in answer.out


def test_a_file_that_lacks_a_class_can_be_scored(finished, tmp_path):
    run, _ = finished
    (tmp_path / "validation.jsonl").write_text(json.dumps({"text": "good", "answer": "yes_"}))
    answer = call("eval", run, "task=classify", f"task.path={tmp_path}", "task.text=text",
                  "task.label=answer", "--json")  # fmt: skip
    assert answer.status == 0, answer.err
    record = json.loads(answer.out)
    assert record["labels"] == ["yes_", "no_"]
    assert record["baseline"] == {"name": "majority class of these rows", "value": 1.0}


def test_labels_that_yaml_reads_as_truth_values():
    answer = call("plan", "task=sst2", "task.labels=[no,yes]", "method=lora")
    assert answer.status == 0
    answer = call("plan", "task=sst2", "task.labels=[false,true]", "method=lora")
    assert answer.status == 2 and "must be text or a whole number" in answer.err


def test_a_typed_precision_is_the_one_that_scores(finished, tmp_path):
    run, _ = finished
    answer = call("eval", run, "trainer.precision=bf16", "--json", "--output", tmp_path / "e")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["precision"] == "bf16"
    assert json.loads((run / "result.json").read_text())["precision"] == "fp32"


def test_an_evaluation_never_overwrites_a_run(finished):
    run, _ = finished
    before = (run / "result.json").read_bytes()
    answer = call("eval", run, "--output", run)
    assert answer.status == 2 and "is a folder that is not empty" in answer.err
    assert (run / "result.json").read_bytes() == before


def test_a_mistake_does_not_cost_the_finished_run(finished, tmp_path):
    """trainer.resume=never replaces a run only after all that can be checked is checked."""
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    kept = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    settings = json.loads((copy / "result.json").read_text())["settings"]
    words = [
        "model=auto", f"model.path={settings['model.path']}", "trainer=debug", "task=classify",
        f"task.path={settings['task.path']}", "task.text=text", "task.labels=[yes_,no_]",
        "method=full", "trainer.resume=never", f"output_dir={copy}",
    ]  # fmt: skip
    answer = call("train", *words, "task.label=anser")
    assert answer.status == 2 and "no column 'anser'" in answer.err
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == kept
    answer = call("train", *words, "task.label=answer")
    assert answer.status == 0, answer.err
    assert not (copy / "eval").exists()


def test_empty_cells_are_no_class(tmp_path, checkpoints):
    rows = "text,label\ngood,1\nbad,0\nwell,\n"
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(rows)
    answer = call("train", "model=auto", f"model.path={checkpoints['bert']}", "task=classify",
                  f"task.path={tmp_path}", "task.text=text")  # fmt: skip
    assert answer.status == 2 and "row 3: label '' is empty" in answer.err


def test_all_rows_of_an_own_file_are_scored(finished, tmp_path):
    """The run's columns and labels hold; what is typed changes."""
    run, _ = finished
    lines = [f"{text},{name}" for text, name in ROWS * 10]
    (tmp_path / "mine.csv").write_text("\n".join(["text,answer", *lines]))
    answer = call("eval", run, f"task.path={tmp_path / 'mine.csv'}", "--json",
                  "--output", tmp_path / "e")  # fmt: skip
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["data"]["rows"]["validation"] == 40
    assert found["task"] == "mine"  # the scores bear the name of the file that they are of
    answer = call("eval", run, f"task.path={tmp_path / 'mine.csv'}", "task.validation=tset")
    assert answer.status == 2 and "must be validation" in answer.err


def test_the_file_that_a_run_was_trained_on_gives_its_held_out_rows(finished, tmp_path):
    run, _ = finished
    lines = [f"{text},{name}" for text, name in ROWS * 10]
    (tmp_path / "mine.csv").write_text("\n".join(["text,answer", *lines]))
    model = json.loads((run / "result.json").read_text())["settings"]["model.path"]
    answer = call(
        "train", "model=auto", f"model.path={model}", "trainer=debug", "task=classify",
        f"task.path={tmp_path / 'mine.csv'}", "task.text=text", "task.label=answer",
        "method=bitfit", f"output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert answer.status == 0 and "4 of its 40 rows" in answer.err
    recorded = json.loads((tmp_path / "run" / "result.json").read_text())["data"]
    assert recorded["rows"] == {"train": 36, "validation": 4}
    assert "4 of its 40 rows" in recorded["notes"][0]
    assert call("verify", tmp_path / "run").status == 0
    moved = (tmp_path / "mine.csv").rename(tmp_path / "moved.csv")  # it is the same file
    for more in (
        [f"task.path={moved}"],
        [f"task.path={shutil.copy(moved, tmp_path / 'mine.csv')}"],
    ):
        answer = call("eval", tmp_path / "run", *more, "--json")
        assert json.loads(answer.out)["data"]["rows"]["validation"] == 4
    with (tmp_path / "mine.csv").open("a") as file:
        file.write("\nanother one,yes_")
    answer = call("eval", tmp_path / "run")  # another tenth would be held out now
    assert answer.status == 2
    assert "has changed since the run was trained, so that the rows held out" in answer.err


def test_a_further_split_may_be_named(finished):
    run, _ = finished
    answer = call("eval", run, "+task.also.more=test", "--json")
    assert answer.status == 0, answer.err
    assert {"accuracy", "accuracy_more"} <= set(json.loads(answer.out)["scores"])
    for words in (["task.class_weights.no_=2"], ["+task.class_weights.no_=2"]):  # null until now
        assert call("eval", run, *words).status == 0
    answer = call("eval", run, "task.max_length.more=3")
    assert answer.status == 2 and "task.max_length=" in answer.err


@pytest.mark.parametrize(
    ("own", "other", "option", "value"),
    [
        ("task=copa task.form=text task.listed=true", "task=choice task.path=x task.text=a "
         "task.choices=[b,c]", "listed", True),
        ("task=stsb task.form=text task.step=0.5", "task=regress task.path=x task.text=a", "step",
         0.5),
    ],
)  # fmt: skip
def test_another_task_is_asked_as_the_run_was(own, other, option, value):
    before, now = (compose(words.split())["task"] for words in (own, other))
    keep_wording(before, now, ["task"])
    assert (now["form"], now[option]) == ("text", value)
