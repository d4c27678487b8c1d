"""Classification of any number of classes: averages, templates, rows that belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from commandline import write as write_file
from datasets import Dataset
from families import tiny_tokenizer
from runs import carry_out, configure
from sklearn import metrics

import adaptkit.metrics.super_glue as module
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.metrics.bootstrap import interval, of_ratio
from adaptkit.metrics.classes import Classes, report
from adaptkit.metrics.super_glue import SuperGlue, parts, ratio
from adaptkit.runs.predicting.predictor import load
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.data import Data
from adaptkit.tasks.gap import commonest
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.task import Reader, Splits
from adaptkit.tasks.template import Template


def write(folder: Path, rows: list[dict[str, Any]], *splits: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits or ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def compute(name: str, golds: list, made: list, **more: Any) -> dict[str, float]:
    return SuperGlue(config_name=name).compute(predictions=made, references=golds, **more)


# ---- averages ----


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_averages_are_those_of_scikit_learn(classes, absent):
    random = np.random.default_rng(classes)
    golds, made = random.integers(0, classes - absent, (2, 60))
    every = list(range(classes))

    def of(kind: Any, average: str | None) -> Any:
        return kind(golds, made, labels=every, average=average, zero_division=0)

    for average in ("macro", "weighted"):
        found = Classes(config_name=f"{average}_f1").compute(
            predictions=made, references=golds, classes=classes
        )
        assert found == {
            f"{average}_f1": pytest.approx(of(metrics.f1_score, average)),
            "accuracy": pytest.approx(metrics.accuracy_score(golds, made)),
        }
    names = [f"class {i}" for i in every]
    found = report(made.tolist(), golds.tolist(), names, random.random((60, classes)))
    assert found["micro_f1"] == pytest.approx(of(metrics.f1_score, "micro"))
    for kind, score in (("precision", metrics.precision_score), ("recall", metrics.recall_score),
                        ("f1", metrics.f1_score)):  # fmt: skip
        mine = [found["classes"][name][kind] for name in names]
        assert mine == pytest.approx(of(score, None))
    assert [found["classes"][name]["rows"] for name in names] == np.bincount(
        golds, minlength=classes
    ).tolist()
    table = [[found["confusion"][one].get(other, 0) for other in names] for one in names]
    assert table == metrics.confusion_matrix(golds, made, labels=every).tolist()


def test_unknown_average():
    with pytest.raises(KeyError, match="micro"):
        Classes(config_name="micro")


@pytest.mark.parametrize("name", ["macro_f1", "weighted_f1"])
def test_interval_of_an_average(name):
    """Rows drawn one by one, each draw scored by scikit-learn; the fourth class has no row."""
    random = np.random.default_rng(1)
    labels = random.choice(4, 150, p=[0.5, 0.3, 0.2, 0])
    answers = np.where(random.random(150) < 0.6, labels, random.integers(0, 4, 150))
    scores = []
    for _ in range(600):
        draw = random.integers(0, 150, 150)
        scores.append(metrics.f1_score(labels[draw], answers[draw], labels=range(4),
                                       average=name[:-3], zero_division=0))  # fmt: skip
    found = interval(name, answers.tolist(), labels.tolist(), range(4))
    assert found == pytest.approx(np.quantile(scores, (0.025, 0.975)), abs=0.025)


def test_interval_of_many_classes_needs_little_memory():
    """A thousand draws of a whole matrix of 1000 x 1000 would take 8 GB."""
    labels = list(range(1000))
    low, high = interval("accuracy", labels[:500] + [0] * 500, labels, labels) or (1, 0)
    assert 0.45 < low < 0.5 < high < 0.55


# ---- SuperGLUE ----


def scored(name: str, golds: list[int], made: list[int]) -> dict[str, float]:
    """Return the scores of a data set's task; classes are given by their numbers."""
    task = settings(compose([f"task={name}"])).task
    names = task.classes or range(2)
    rows = Dataset.from_dict({"label": [names[i] for i in golds]})
    return task.score([names[i] for i in made], rows)


def test_cb_averages_over_three_classes():
    found = scored("cb", [0, 0, 1, 1, 2], [0, 1, 1, 1, 0])
    assert found == {"accuracy": 0.6, "macro_f1": pytest.approx((0.5 + 0.8 + 0) / 3)}
    # Scikit-learn would average over the two classes that occur, and give 1.
    assert scored("cb", [0, 0, 1], [0, 0, 1])["macro_f1"] == pytest.approx(2 / 3)


MULTIRC = ([1, 0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0, 0])
QUESTIONS = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0)]  # paragraph, question


def test_multirc_counts_answers_and_questions():
    found = compute("multirc", *MULTIRC, groups=QUESTIONS)
    assert found == {"f1a": pytest.approx(0.8), "exact_match": pytest.approx(2 / 3)}
    by_question = compute("multirc", *MULTIRC, groups=[question for _, question in QUESTIONS])
    assert by_question["exact_match"] == 0.5  # two questions taken for one
    order = [4, 0, 6, 2, 1, 5, 3]
    mixed = [[values[i] for i in order] for values in MULTIRC]
    assert compute("multirc", *mixed, groups=[QUESTIONS[i] for i in order]) == found
    none = compute("multirc", [0, 0], [0, 0], groups=[0, 1])
    assert none == {"f1a": 0.0, "exact_match": 1.0}


def test_f1a_is_the_f1_of_all_answers():
    golds, made = np.random.default_rng(0).integers(0, 2, (2, 90))
    found = ratio(*parts("f1a", made, golds, np.arange(90) // 4))
    assert found == pytest.approx(metrics.f1_score(golds, made))


def test_gender_parity_is_the_share_of_pairs_with_one_answer():
    golds, made = [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]
    found = compute("gender_parity", golds, made, groups=[0, 0, 1, 1, 2, 2])
    assert found == {"accuracy": 0.5, "gender_parity": pytest.approx(2 / 3)}


def test_record_takes_the_best_answer():
    golds = [["Paris"], ["the U.S.", "United States"], ["New York", "York City", "NYC"]]
    found = compute("record", golds, ["paris", "States", "New York City"])
    assert found == {
        "exact_match": pytest.approx(1 / 3),
        "f1": pytest.approx((1 + 2 / 3 + 0.8) / 3),
    }


def test_axb_is_a_correlation():
    found = scored("axb", [1, 1, 0, 0, 1], [1, 0, 0, 1, 1])
    assert found == {"matthews_correlation": pytest.approx(1 / 6)}


@pytest.mark.parametrize("name", ["boolq", "copa", "superglue_rte", "wic", "wsc"])
def test_others_are_accuracies(name):
    assert scored(name, [0, 1, 1, 0], [0, 1, 0, 0]) == {"accuracy": 0.75}


def test_unknown_name():
    with pytest.raises(KeyError, match="boolx"):
        SuperGlue(config_name="boolx")


def test_loads_offline_by_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    metric = evaluate.load(str(Path(module.__file__)), "multirc", cache_dir=str(tmp_path))
    found = metric.compute(references=MULTIRC[0], predictions=MULTIRC[1], groups=QUESTIONS)
    assert found == compute("multirc", *MULTIRC, groups=QUESTIONS)


def test_interval_of_questions():
    """Whole questions drawn one by one, the draw scored by scikit-learn."""
    random = np.random.default_rng(3)
    golds = random.integers(0, 2, (80, 4))
    made = np.where(random.random((80, 4)) < 0.7, golds, 1 - golds)
    groups = np.arange(320) // 4
    scores = []
    for _ in range(600):
        draw = random.integers(0, 80, 80)
        scores.append(metrics.f1_score(golds[draw].ravel(), made[draw].ravel()))
    found = of_ratio(*parts("f1a", made.ravel(), golds.ravel(), groups))
    assert found == pytest.approx(np.quantile(scores, (0.025, 0.975)), abs=0.025)
    assert of_ratio([1.0], [2.0]) is None


# ---- texts with holes ----

PAIRS = [{"word": "bank", "first": "the bank is old", "second": "a river bank", "label": "no"},
         {"word": "{film}", "first": "a dull film", "second": "", "label": "yes"}]  # fmt: skip


@pytest.mark.parametrize("kind", [Classify, Regress])
def test_a_template_is_read_as_its_text(kind):
    rows = Dataset.from_list([{**row, "label": i} for i, row in enumerate(PAIRS)])
    rows = rows.remove_columns("label")
    labels = {"labels": ("no", "yes")} if kind is Classify else {}
    task = kind("t", text=("{word}: {{{first}}}", "second"), **labels)
    assert task.columns == ("word", "first", "second")
    tokenizer = tiny_tokenizer("bert")
    found = task.posed.encode(rows, Reader(tokenizer))
    written = Dataset.from_list(
        [{"a": f"{r['word']}: {{{r['first']}}}", "b": r["second"]} for r in PAIRS]
    )
    plain = replace(task, text=("a", "b")).posed.encode(written, Reader(tokenizer))
    assert found.to_dict() == plain.to_dict()
    short = replace(task, max_length=12).posed.encode(rows, Reader(tokenizer)).to_dict()
    assert max(short["length"]) == 12 and max(short["cut"]) > 0


VALUES = {  # as a file holds them, and as they are read
    "whole": ([5, -3], ["5", "-3"]),
    "real": ([5.0, 0.5], ["5", "0.5"]),  # one JSON file may write 5, another one 5.0
    "large": ([1e300, 2**40], ["1e+300", "1099511627776"]),
    "truth": ([True, False], ["true", "false"]),
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", VALUES)
def test_numbers_in_a_template_are_written_as_in_json(kind, ending, tmp_path):
    values, words = VALUES[kind]
    tokenizer, lines = tiny_tokenizer("bert"), []
    for name, column in (("given", values), ("words", words)):
        rows = [{"n": n, "first": "a film", "label": i} for i, n in enumerate(column)]
        for split in ("train", "validation"):
            write_file(tmp_path / name / f"{split}.{ending}", rows)
        task = Classify("t", path=str(tmp_path / name), text=("{n}: {first}", "{n}"))
        splits = task.load(Data(), 0)
        lines.append(splits.task.posed.encode(splits.train, Reader(tokenizer))["input_ids"][:])
    assert lines[0] == lines[1]
    assert Template("{n}", "task.text").column({"n": values}) == words


@pytest.mark.parametrize("value", [[5], {"a": 5}, None, float("nan"), float("inf")], ids=str)
def test_what_a_template_does_not_write(value, tmp_path):
    for split in ("train", "validation"):
        rows = [{"n": value, "first": "a film", "label": i} for i in range(2)]
        write_file(tmp_path / f"{split}.parquet", rows)
    with pytest.raises(AdaptError, match=r"row 1: n is .*, not a text"):
        Classify("t", path=str(tmp_path), text=("{n}: {first}",)).load(Data(), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (("{word",), "a brace too many or too few"),
        (("{word!r} {first}",), "names of columns only"),
        (("{{}}",), "must name a column"),
        (("a", "b", "c"), "name one column, or two"),
    ],
)
def test_a_template_that_cannot_be_read(text, message):
    with pytest.raises(AdaptError, match=rf"task\.text=.*{message}"):
        Classify("t", text=text, labels=("no", "yes"))


def test_a_template_names_a_column_that_is_not_there(tmp_path):
    task = Classify("t", path=str(write(tmp_path / "t", PAIRS)), text=("{word}: {firt}",))
    with pytest.raises(AdaptError, match=r"no column 'firt'; did you mean first.*Set task\.text"):
        task.load(Data(), 0)
    broken = [*PAIRS, {**PAIRS[0], "first": None}]
    task = replace(task, path=str(write(tmp_path / "u", broken)), text=("{word}: {first}",))
    with pytest.raises(AdaptError, match="row 3: first is None, not a text"):
        task.load(Data(), 0)


# ---- rows without a label ----

HIDDEN = [{"text": f"row {i}", "label": label} for i, label in enumerate([0, -1, 1, 2, -1, 0])]


@pytest.mark.parametrize("labels", [("yes", "maybe", "no"), ()], ids=["named", "from the data"])
def test_rows_without_a_label_are_left_out_and_counted(labels, tmp_path):
    path = str(write(tmp_path / "t", HIDDEN))
    task = Classify("t", path=path, text=("text",), labels=labels, unlabelled="drop")
    splits = task.load(Data(), 0)
    assert splits.train["id"][:] == ["0", "2", "3", "5"]
    assert [splits.task.classes.index(name) for name in splits.train["label"][:]] == [0, 1, 2, 0]
    assert splits.task.classes == (labels or ("0", "1", "2"))
    assert splits.notes == tuple(
        f"2 of the 6 rows of {split} have no label and are left out"
        for split in ("validation", "train")
    )
    assert len(task.load(Data(train_rows=3), 0).train) == 3
    with pytest.raises(AdaptError, match="row 2: label -1 is none of the 3 classes"):
        replace(task, labels=("yes", "maybe", "no"), unlabelled="error").load(Data(), 0)


def test_a_split_without_any_label(tmp_path):
    path = str(write(tmp_path / "t", [{**row, "label": -1} for row in HIDDEN]))
    task = Classify("t", path=path, text=("text",), labels=("a", "b"), unlabelled="drop")
    with pytest.raises(AdaptError, match="split validation: no row has a label"):
        task.load(Data(), 0)


# ---- rows that belong together ----

ANSWERS = [
    {"paragraph": f"text {p}", "question": f"question {q}", "answer": f"answer {a}",
     "idx": {"paragraph": p, "question": q, "answer": a}, "label": (p + q + a) % 2}
    for p in range(6) for q in range(5) for a in range(2 + (p + q) % 3)
]  # fmt: skip


def multirc(path: Path, **more: Any) -> Any:
    made = settings(compose(["task=multirc", f"task.path={path}", "method=full"])).task
    return replace(made, **more)


def whole(splits: Splits, rows: Dataset) -> bool:
    """Tell whether every question has all its answers."""
    sizes: dict[tuple[str, str], int] = {}
    for paragraph, question in zip(rows["paragraph"][:], rows["question"][:], strict=True):
        sizes[paragraph, question] = sizes.get((paragraph, question), 0) + 1
    return all(
        n == sum(r["paragraph"] == p and r["question"] == q for r in ANSWERS)
        for (p, q), n in sizes.items()
    )


@pytest.mark.parametrize("count", [3, 17, 40])
def test_questions_are_sampled_whole(count, tmp_path):
    task = multirc(write(tmp_path / "multirc", ANSWERS))
    splits = task.load(Data(train_rows=count, eval_rows=count), 1)
    assert count - 4 < len(splits.train) <= max(count, 4) and whole(splits, splits.train)
    assert whole(splits, splits.validation[""])
    larger = task.load(Data(train_rows=count + 9), 1).train["id"][:]
    assert set(splits.train["id"][:]) < set(larger)
    assert task.load(Data(train_rows=count), 2).train["id"][:] != splits.train["id"][:]


def test_questions_of_one_file_are_held_out_whole(tmp_path):
    write(tmp_path, ANSWERS, "answers")
    splits = multirc(tmp_path / "answers.jsonl").load(Data(), 0)
    held = splits.validation[""]
    assert whole(splits, held) and whole(splits, splits.train)
    assert len(held) + len(splits.train) == len(ANSWERS) and len(held) >= 6
    assert "a tenth of what belongs together" in splits.notes[0]


def test_the_trivial_answer_to_multirc_is_the_best_class(tmp_path):
    """The commonest class may be False, of which no F1 is known."""
    rows = [{**row, "label": int(row["idx"]["answer"] == 0)} for row in ANSWERS]
    task = multirc(write(tmp_path / "multirc", rows))
    splits = task.load(Data(), 0)
    right = sum(row["label"] for row in rows)
    assert splits.task.baseline(splits) == (
        "best class", pytest.approx(2 * right / (right + len(rows))),
    )  # fmt: skip


def test_multirc_needs_to_know_its_questions():
    with pytest.raises(ConfigError, match=r"task\.group=\[\]: must say which rows belong"):
        Classify("t", text=("a",), labels=("no", "yes"), metric="multirc")


def test_pairs_are_the_rows_2k_and_2k_plus_1(tmp_path):
    rows = [{"premise": f"p {i}", "hypothesis": "h", "idx": i, "label": i // 2 % 2}
            for i in (3, 0, 2, 1)]  # fmt: skip
    path = write(tmp_path / "axg", rows, "test")
    task = settings(compose(["task=axg", f"task.path={path}", "method=full"])).task
    splits = task.load(Data(), 0, train=False)
    held = splits.validation[""]
    assert task.groups(held) == [1, 0, 1, 0]
    yes, no = task.classes
    assert task.score([yes, yes, no, yes], held) == {"accuracy": 0.75, "gender_parity": 0.5}
    named = write(tmp_path / "named", [{**row, "idx": f"n{row['idx']}"} for row in rows], "test")
    with pytest.raises(AdaptError, match=r"their ids must be numbers\. Set task\.id=null"):
        replace(task, path=str(named)).score([yes] * 4, replace(task, path=str(named)).load(
            Data(), 0, train=False).validation[""])  # fmt: skip


# ---- the record ----


def test_the_record_of_three_classes(checkpoints, tmp_path):
    """Details stand next to the scores, not among them, and are made of the predictions."""
    names = ("entailment", "contradiction", "neutral")
    rows = [{"premise": f"the film {i}", "hypothesis": "was good", "idx": i, "label": i % 3}
            for i in range(18)]  # fmt: skip
    data = write(tmp_path / "data", rows)
    made = configure(tmp_path / "run", checkpoints["bert"], data, "task=cb",
                     **{"trainer.epochs": 1})  # fmt: skip
    record, said = carry_out(made)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    golds = [one["label"] for one in found]
    answers = [one["prediction"] for one in found]
    macro = metrics.f1_score(golds, answers, labels=names, average="macro", zero_division=0)
    assert record["metric"] == "macro_f1" and record["score"] == pytest.approx(macro)
    assert set(record["scores"]) == {"macro_f1", "accuracy", "loss"}
    details = record["details"]["validation"]
    assert details["macro_f1"] == pytest.approx(macro)
    table = metrics.confusion_matrix(golds, answers, labels=names)
    assert details["confusion"] == {
        one: {names[j]: int(n) for j, n in enumerate(table[i]) if n} for i, one in enumerate(names)
    }
    predictor = load(tmp_path / "run")
    shares = [
        [one["probabilities"][name] for name in names]
        for one in predictor.predict(rows, details=True)
    ]
    area = metrics.roc_auc_score([names.index(g) for g in golds], shares, multi_class="ovr")
    assert details["macro_auroc"] == pytest.approx(area, abs=1e-6)
    low, high = record["score_interval"]
    assert 0 <= low <= record["score"] <= high <= 1
    assert not any("confusion" in line or "precision" in line for line in said)
    assert record["baseline"] == {"name": "majority class", "value": pytest.approx(1 / 6)}


def test_auroc_is_the_chance_that_a_row_of_the_class_ranks_higher():
    random = np.random.default_rng(4)
    shares = random.integers(0, 4, (40, 3)) / 3  # many ties
    golds = random.integers(0, 3, 40).tolist()
    expected = []
    for c in range(3):
        inside = [row[c] for row, gold in zip(shares, golds, strict=True) if gold == c]
        others = [row[c] for row, gold in zip(shares, golds, strict=True) if gold != c]
        wins = sum((a > b) + (a == b) / 2 for a in inside for b in others)
        expected.append(wins / len(inside) / len(others))
    found = report([0] * 40, golds, "abc", shares)
    assert [found["classes"][name]["auroc"] for name in "abc"] == pytest.approx(expected)
    assert found["macro_auroc"] == pytest.approx(sum(expected) / 3)
    one = report([0] * 40, [1] * 40, "abc", shares)
    assert one["macro_auroc"] is None and one["classes"]["b"]["auroc"] is None


# ---- a gap and its candidates ----

STORY = [
    {"passage": "Ann met Bob. Ann left.", "query": "@placeholder was late, said @placeholder.",
     "entities": ["Bob", "Ann", "Bob", "Rome"], "answers": ["Ann", "Anna"]},
    {"passage": "Cid met Dan.", "query": "It was @placeholder.", "entities": ["Cid", "Dan"],
     "answers": ["Dan"]},
]  # fmt: skip


def gap(path: Path) -> Any:
    return settings(compose(["task=record", f"task.path={path}", "method=full"])).task


def test_candidates_are_read_in_the_gap(tmp_path):
    task = gap(write(tmp_path / "record", STORY))
    splits = task.load(Data(), 0)
    tokenizer = tiny_tokenizer("bert")
    examples = task.posed.encode(splits.train, Reader(tokenizer))
    for story, ids, names, right in zip(
        STORY, examples["input_ids"], examples["candidates"], examples["right"], strict=True
    ):
        assert names == list(dict.fromkeys(story["entities"]))
        filled = [story["query"].replace("@placeholder", name) for name in names]
        assert ids == tokenizer([story["passage"]] * len(names), filled)["input_ids"]
        assert right == [float(name in story["answers"]) for name in names]


def test_the_loss_of_several_right_candidates(tmp_path):
    """-log of their share together; a row with none that is right has no loss."""
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    task = gap(write(tmp_path / "record", STORY))
    rows = Dataset.from_list([
        {"passage": "a", "query": "@placeholder", "entities": ["x", "y", "z"], "label": ["y", "z"]},
        {"passage": "a", "query": "@placeholder", "entities": ["x", "y"], "label": ["w"]},
        {"passage": "a", "query": "@placeholder", "entities": ["x", "y"], "label": ["x"]},
    ])  # fmt: skip
    reader = Reader(tiny_tokenizer("bert"))
    batch = task.posed.collate(task.posed.encode(rows, reader).to_list(), reader)
    assert batch.weight == 2 and len(batch.inputs["input_ids"]) == 7
    share = torch.tensor([0.5, 0.3, 0.2, 0.6, 0.4, 0.25, 0.75])
    outputs = SequenceClassifierOutput(logits=share.log()[:, None])
    assert float(task.posed.loss(outputs, batch)) == pytest.approx(-np.log(0.5) - np.log(0.25))
    predicted = task.posed.predict(None, outputs, batch, reader)
    assert task.posed.answers(predicted, batch.rows) == ["x", "x", "y"]
    (*_, last) = task.posed.detailed(predicted, batch.rows)
    assert last == {"answer": "y", "probabilities": pytest.approx({"x": 0.25, "y": 0.75})}


def test_the_trivial_candidate_is_the_commonest(tmp_path):
    assert commonest(["Bob", "Ann", "Rome"], STORY[0]["passage"]) == "Ann"
    assert commonest(["Cid", "Dan"], "nobody") == "Cid"
    splits = gap(write(tmp_path / "record", STORY)).load(Data(), 0)
    assert splits.task.baseline(splits) == ("commonest candidate", 0.5)
    assert splits.task.score(["ann", "Dan"], splits.validation[""]) == {
        "f1": 1.0, "exact_match": 1.0,
    }  # fmt: skip
    assert splits.task.row_scores(["Ann", "Cid"], splits.validation[""]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "It was he."}, "row 2: query 'It was he.' has no gap: '@placeholder'"),
        ({"entities": ["Cid", "Cid"]}, "row 2: entities .*two different texts"),
        ({"entities": []}, "row 2: entities .*two different texts"),
        ({"answers": []}, "row 2: has no right answer"),
        ({"answers": ["Eve"]}, "split train, row 2: the right answer 'Eve' is not one of its"),
    ],
)
def test_a_row_that_breaks_a_rule(change, message, tmp_path):
    write(tmp_path / "record", [STORY[0], {**STORY[1], **change}], "train")
    write(tmp_path / "record", STORY, "validation")
    with pytest.raises(AdaptError, match=message):
        gap(tmp_path / "record").load(Data(), 0)


def test_a_scored_row_whose_answer_is_no_candidate_is_wrong(tmp_path):
    write(tmp_path / "record", STORY, "train")
    write(tmp_path / "record", [{**STORY[1], "answers": ["Eve"]}], "validation")
    splits = gap(tmp_path / "record").load(Data(), 0)
    assert splits.task.score(["Dan"], splits.validation[""])["f1"] == 0.0


# ---- the data sets ----

ORDERS = {  # reference: the numbers of the hub's files
    ("snli", "anli_r1", "anli_r3", "sick", "cad_nli", "mnli"): "entailment neutral contradiction",
    ("cb",): "entailment contradiction neutral",
    ("boolq", "wic", "wsc", "multirc"): "False True",
    ("superglue_rte", "axb", "axg", "rte"): "entailment not_entailment",
    ("hans", "hans_style"): "entailment non-entailment",
    ("imdb", "yelp_polarity", "amazon_polarity", "rotten_tomatoes"): "negative positive",
}


@pytest.mark.parametrize(
    ("name", "labels"), [(name, labels) for names, labels in ORDERS.items() for name in names]
)
def test_the_classes_of_the_data_sets(name, labels):
    task = settings(compose([f"task={name}", "method=full"])).task
    assert task.classes == tuple(labels.split())
    assert task.name == name
    assert task.path is None or "/" in task.path  # bare names are not known any more
