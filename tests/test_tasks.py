"""Tasks: where rows come from, which of them, how labels are named and texts are encoded."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from families import FAMILIES, tiny_config, tiny_tokenizer
from transformers import AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from adaptkit.adaptation import Batch
from adaptkit.config.compose import compose
from adaptkit.config.groups import options
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.models.pairs import separate_pairs
from adaptkit.storage import hub
from adaptkit.tasks.choice import Choice
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.tag import Tag
from adaptkit.tasks.task import Reader

ROWS = [{"text": f"row {i}", "label": i % 2} for i in range(6)]


@dataclass(frozen=True)
class Given:
    """The settings of the group `data` that a task looks at."""

    root: str | None = None
    source: str = "auto"
    train_rows: int | None = None
    eval_rows: int | None = None
    per_class: int | None = None
    fold: int = 0


def write(file: Path, rows: list[dict[str, Any]], features: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        datasets.Dataset.from_list(rows, features=features).to_parquet(file)
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return file


def numbers(splits: Any, rows: Any) -> list[int]:
    """The class numbers of rows whose labels are names."""
    return [splits.task.classes.index(name) for name in rows["label"][:]]


def classify(path: Path | None = None, **options: Any) -> Classify:
    return Classify(**{"name": "mine", "path": path and str(path), "text": ("text",), **options})


# ---- where rows come from ----


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("where", ["path", "root"])
def test_folder(extension, where, tmp_path):
    for split, rows in (("train", ROWS), ("validation", ROWS[:3])):
        write(tmp_path / "mine" / f"{split}.{extension}", rows)
    task = classify(tmp_path / "mine" if where == "path" else None)
    splits = task.load(Given(root=str(tmp_path) if where == "root" else None), seed=0)
    assert splits.train["text"][:] == [row["text"] for row in ROWS]
    assert numbers(splits, splits.train) == [0, 1, 0, 1, 0, 1]
    assert numbers(splits, splits.validation[""]) == [0, 1, 0]
    assert (splits.source.kind, splits.source.path) == ("local", str(tmp_path / "mine"))
    names = {f"{name}.{extension}" for name in ("train", "validation")}
    assert {file.name for file in splits.source.files} == names
    assert splits.task.classes == ("0", "1")


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "csv"])
def test_one_file_is_cut_in_two(extension, tmp_path):
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(40)]
    file = write(tmp_path / f"all.{extension}", rows)
    first, second = (classify(file).load(Given(), seed) for seed in (0, 1))
    train, validation = first.train["text"][:], first.validation[""]["text"][:]
    assert len(validation) == 4
    assert sorted(train + validation) == sorted(row["text"] for row in rows)
    assert second.validation[""]["text"][:] == validation  # seeds are compared on the same rows


def one_file(folder: Path, counts: dict[str, int]) -> Classify:
    """A task over one file with so many rows of each class, mixed."""
    labels = [name for name, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(1).permutation(len(labels))
    rows = [{"text": f"row {i}", "label": labels[k]} for i, k in enumerate(order)]
    return classify(write(folder / "all.csv", rows))


@pytest.mark.parametrize(
    "counts", [{"a": 700, "b": 250, "c": 50}, {"a": 30, "b": 9, "rare": 1}, {"a": 2, "b": 1}]
)
def test_the_held_out_tenth_has_the_proportions_of_the_classes(counts, tmp_path):
    splits = one_file(tmp_path, counts).load(Given(), 0)
    held, learnt = (Counter(r["label"][:]) for r in (splits.validation[""], splits.train))
    total = sum(counts.values())
    assert sum(held.values()) == max(1, round(total / 10))
    assert held + learnt == counts
    assert set(learnt) == set(counts)  # one row of each class at least is trained on
    for name, count in counts.items():
        assert abs(held[name] - count * sum(held.values()) / total) <= 1


def test_one_file_is_disclosed(tmp_path):
    (note,) = one_file(tmp_path, {"a": 20, "b": 20}).load(Given(), 0).notes
    assert "all.csv is one file: 4 of its 40 rows (a tenth of each class) are held out" in note


def test_rows_of_one_file_keep_their_numbers(tmp_path):
    task = one_file(tmp_path, {"a": 20, "b": 20})
    splits = task.load(Given(train_rows=10), 0)
    for rows in (splits.train, splits.validation[""]):
        assert [f"row {i}" for i in rows["id"][:]] == rows["text"][:]
    lines = (tmp_path / "all.csv").read_text().splitlines()
    lines[17] = "row 16,"  # row 17 of the table
    (tmp_path / "all.csv").write_text("\n".join(lines))
    with pytest.raises(AdaptError, match="row 17"):
        classify(tmp_path / "all.csv", labels=("a", "b")).load(Given(), 0)


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("task.validation=tset", {"validation": "tset"}),
        ("task.validation=train", {"validation": "train"}),
        ("task.train=validation", {"train": "validation"}),
        ("task.also.more=test", {"also": {"more": "test"}}),
    ],
)
def test_one_file_has_two_splits(option, names, tmp_path):
    path = one_file(tmp_path, {"a": 20, "b": 20}).path
    with pytest.raises(AdaptError, match=rf"{option}: .* is one file.* must be (train|validation)"):
        classify(Path(path), **names).load(Given(), 0)


def test_both_parts_of_one_file_can_be_scored(tmp_path):
    task = one_file(tmp_path, {"a": 20, "b": 20})
    splits = replace(task, also={"seen": "train"}).load(Given(train_rows=10), 0)
    assert [len(rows) for rows in splits.validation.values()] == [4, 36]
    assert set(splits.train["text"][:]) < set(splits.validation["seen"]["text"][:])


def test_rows_chosen_by_a_column(tmp_path):
    """They keep their numbers as ids, in a folder and in one file."""
    rows = [{"text": f"t {i}", "label": i % 2, "part": i % 3} for i in range(60)]
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.jsonl", rows)
    task = replace(classify(tmp_path), where={"part": "2"})
    found = task.load(Given(), 0)
    assert found.train["id"][:] == [str(i) for i in range(2, 60, 3)]
    assert found.validation[""]["text"][:] == [f"t {i}" for i in range(2, 60, 3)]
    alone = replace(task, path=str(tmp_path / "train.jsonl")).load(Given(), 0)
    parts = (*alone.train["id"][:], *alone.validation[""]["id"][:])
    assert sorted(map(int, parts)) == list(range(2, 60, 3))
    with pytest.raises(AdaptError, match=r"no row has '7' in 'part' \(task\.where\).*: 0, 1, 2"):
        replace(task, where={"part": "7"}).load(Given(), 0)
    with pytest.raises(AdaptError, match=r"no column 'prat'.*Set task\.where"):
        replace(task, where={"prat": "7"}).load(Given(), 0)


def test_every_row_of_one_file(tmp_path):
    splits = one_file(tmp_path, {"a": 20, "b": 1}).load(Given(), 0, train=False, every_row=True)
    assert len(splits.validation[""]) == 21 and not splits.notes


def test_a_file_with_one_row_per_class_cannot_be_cut(tmp_path):
    with pytest.raises(AdaptError, match="2 rows cannot be cut into two splits"):
        one_file(tmp_path, {"a": 1, "b": 1}).load(Given(), 0)


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "csv"])
def test_texts_come_through_as_they_are(extension, tmp_path):
    texts = ["a, b", 'say "no"', " blanks ", "l1\nl2", "naïve – 日本 🙂", "", "\t", "null", "NA"]
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.{extension}", rows)
    assert classify(tmp_path).load(Given(), 0).train["text"][:] == texts


def test_local_root_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda: True)
    for split in ("train", "validation"):
        write(tmp_path / "mine" / f"{split}.jsonl", ROWS)
    task = Classify(name="mine", path="someone/something", text=("text",))
    assert task.origin(Given(root=str(tmp_path))).kind == "local"
    assert task.origin(Given(root=str(tmp_path), source="hub")).kind == "hub"


def test_without_train(tmp_path):
    write(tmp_path / "validation.jsonl", ROWS)
    splits = classify(tmp_path).load(Given(), seed=0, train=False)
    assert splits.train is None
    assert len(splits.validation[""]) == 6


def test_order_and_ids_stay(tmp_path):
    rows = [{"text": f"{i}", "label": i % 2, "idx": 100 - i} for i in range(9)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    splits = classify(tmp_path, id="idx").load(Given(), seed=3)
    assert splits.validation[""]["id"][:] == [str(100 - i) for i in range(9)]
    some = classify(tmp_path).load(Given(eval_rows=4), seed=3).validation[""]
    assert [rows[int(n)]["text"] for n in some["id"][:]] == some["text"][:]  # numbers of the file


def test_two_rows_with_one_id(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [{"text": "a", "label": i, "key": 7} for i in (0, 1)])
    with pytest.raises(AdaptError, match="2 rows have the id '7'"):
        classify(tmp_path, id="key").load(Given(), 0)
    assert classify(tmp_path).load(Given(), 0).train["id"][:] == ["0", "1"]


def test_the_fingerprint_sees_every_value(tmp_path):
    seen = set()
    for number, (text, label) in enumerate((("a", 0), ("b", 0), ("a", 1))):
        folder = tmp_path / str(number)
        for split in ("train", "validation"):
            write(folder / f"{split}.jsonl", [{"text": text, "label": label}, *ROWS])
        first, again = (classify(folder).load(Given(), 0).fingerprint for _ in range(2))
        assert first == again
        seen.add(first)
    assert len(seen) == 3


# ---- which rows ----


@pytest.fixture
def skewed(tmp_path) -> Classify:
    """Three classes, 700 / 250 / 50."""
    counts = {0: 700, 1: 250, 2: 50}
    rows = [
        {"text": f"{label} {i}", "label": label}
        for label, count in counts.items()
        for i in range(count)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [rows[i] for i in order])
    return classify(tmp_path)


def chosen(task: Any, count: int, seed: int = 0) -> list[str]:
    return task.load(Given(train_rows=count), seed).train["text"][:]


@pytest.mark.parametrize("count", [3, 10, 20, 100, 333, 999])
def test_subset_is_stratified(count, skewed):
    shares = {"0": 0.7, "1": 0.25, "2": 0.05}
    found = Counter(text[0] for text in chosen(skewed, count))
    assert sum(found.values()) == count
    for label, share in shares.items():
        assert abs(found[label] - share * count) <= 1, found


def test_subset_is_nested_and_seeded(skewed):
    sizes = [chosen(skewed, n) for n in (8, 64, 512)]
    assert set(sizes[0]) < set(sizes[1]) < set(sizes[2])
    assert chosen(skewed, 64) == sizes[1]
    assert chosen(skewed, 64, seed=1) != sizes[1]
    assert len(set(sizes[1])) == 64


def test_subset_keeps_the_order_of_rows(skewed):
    everything = skewed.load(Given(), 0).train["text"][:]
    places = [everything.index(text) for text in chosen(skewed, 50)]
    assert places == sorted(places)


@pytest.mark.parametrize("count", [1000, 5000])
def test_subset_larger_than_the_split(count, skewed):
    assert len(chosen(skewed, count)) == 1000


def test_evaluation_subset(skewed):
    splits = skewed.load(Given(eval_rows=20), 0)
    assert len(splits.validation[""]) == 20
    assert len(splits.train) == 1000


def test_subset_of_scores(tmp_path):
    rows = [{"text": f"{i}", "label": i / 7} for i in range(50)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    task = Regress(name="mine", path=str(tmp_path), text=("text",))
    small, large = (set(chosen(task, n)) for n in (5, 20))
    assert small < large
    assert len(large) == 20


# ---- how labels are numbered ----

NAMES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos", "odd"])}
)


@pytest.mark.parametrize(
    ("values", "given", "expected", "names"),
    [
        ([0, 1, 1, 0], (), [0, 1, 1, 0], ("0", "1")),
        ([0, 2, 1, 2], (), [0, 2, 1, 2], ("0", "1", "2")),
        ([2, 0, 2, 0], (), [1, 0, 1, 0], ("0", "2")),  # class 1 does not occur
        ([0, 5, 100, 5], (), [0, 1, 2, 1], ("0", "5", "100")),
        ([True, False, True], (), [1, 0, 1], ("False", "True")),
        ([True, False, True], ("no", "yes"), [1, 0, 1], ("no", "yes")),
        (["True", "False"], (), [1, 0], ("False", "True")),  # as CSV holds truth values
        ([0.0, 1.0, 1.0], (), [0, 1, 1], ("0", "1")),  # as pandas holds numbers
        ([0.0, 1.0, 1.0], ("bad", "good"), [0, 1, 1], ("bad", "good")),
        (["0.0", "1.0"], (), [0, 1], ("0", "1")),  # as pandas writes them to CSV
        (["-1", "1"], (), [0, 1], ("-1", "1")),
        (["yes", "no", "yes"], (), [1, 0, 1], ("no", "yes")),  # in the order of the alphabet
        (["yes", "no", "yes"], ("yes", "no"), [0, 1, 0], ("yes", "no")),
        ([0, 1, 1], ("bad", "good"), [0, 1, 1], ("bad", "good")),
        ([0, 1, 1], ("bad", "good", "none"), [0, 1, 1], ("bad", "good", "none")),
        (["good", "bad"], ("bad", "good"), [1, 0], ("bad", "good")),
        (["0", "1", "1"], (), [0, 1, 1], ("0", "1")),  # as CSV holds numbers
        (["0", "1", "1"], ("bad", "good"), [0, 1, 1], ("bad", "good")),
        (["0900", "1000"], (), [0, 1], ("0900", "1000")),
        (["1", "a", "1"], (), [0, 1, 0], ("1", "a")),
        (list(range(12)), (), list(range(12)), tuple(map(str, range(12)))),
        (list(map(str, range(12))), (), list(range(12)), tuple(map(str, range(12)))),
        ([-1, 1, -1], (), [0, 1, 0], ("-1", "1")),
        ([2000, 1000, 900], (), [2, 1, 0], ("900", "1000", "2000")),
        ([1, 2, 1], ("1", "2"), [0, 1, 0], ("1", "2")),
    ],
    ids=str,
)
def test_numbering(values, given, expected, names, tmp_path):
    rows = [{"text": "x", "label": value} for value in values]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    splits = classify(tmp_path, labels=given).load(Given(), 0)
    assert splits.task.classes == names
    assert numbers(splits, splits.train) == expected
    assert numbers(splits, splits.validation[""]) == expected
    assert all(type(number) is int for number in numbers(splits, splits.train))


EMPTY = "is empty. Fill it in, or drop the row"
NO_CLASS = {
    "null": ([0, 1, None], f"row 3: label None {EMPTY}"),
    "null among texts": (["a", None, "b"], f"row 2: label None {EMPTY}"),
    "nan": ([0.0, float("nan"), 1.0], f"row 2: label nan {EMPTY}"),
    "empty cell": (["a", "b", ""], f"row 3: label '' {EMPTY}"),
    "blank cell": (["a", "b", " "], f"row 3: label ' ' {EMPTY}"),
    "list": ([["a"], ["b"]], r"row 1: label \['a'\] is a list, not a class"),
    "object": ([{"a": 1}, {"a": 2}], r"row 1: label \{'a': 1\} is a dict, not a class"),
    "score": ([1.0, 0.5], "row 2: label 0.5 is not a class. For scores use task=regress"),
}


@pytest.mark.parametrize("labels", [(), ("a", "b")], ids=["from the data", "named"])
@pytest.mark.parametrize(("values", "message"), NO_CLASS.values(), ids=NO_CLASS)
def test_what_is_not_a_class(values, message, labels, tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [{"text": "x", "label": value} for value in values])
    with pytest.raises(AdaptError, match=message):
        classify(tmp_path, labels=labels).load(Given(), 0)


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_labels_that_differ_in_blanks(extension, tmp_path):
    values = ["neg", "pos", "neg "]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.{extension}", [{"text": "x", "label": v} for v in values])
    with pytest.raises(AdaptError, match="labels 'neg' and 'neg ' differ only in the blanks"):
        classify(tmp_path).load(Given(), 0)
    with pytest.raises(AdaptError, match=r"row 3: label 'neg ' is none of .* has blanks around it"):
        classify(tmp_path, labels=("neg", "pos")).load(Given(), 0)


@pytest.mark.parametrize("tags", [[0.0, 5.0], ["0", "5"], [0, 5]], ids=str)
def test_tags_are_numbered_as_classes_are(tags, tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [{"tokens": ["x", "y"], "tags": tags}])
    splits = Tag("mine", path=str(tmp_path)).load(Given(), 0)
    assert splits.task.classes == ("0", "5")
    write(tmp_path / "train.jsonl", [{"tokens": ["x", "y"], "tags": [tags[0], None]}])
    with pytest.raises(AdaptError, match=f"row 1: label None {EMPTY}"):
        Tag("mine", path=str(tmp_path)).load(Given(), 0)


@pytest.mark.parametrize("values", [[0.0, 1.0], ["0", "1"], ["0.0", "1.0"], [0, 1]], ids=str)
def test_numbers_of_choices(values, tmp_path):
    rows = [{"text": "x", "choices": ["a", "b"], "label": value} for value in values]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    task = Choice("mine", path=str(tmp_path), text="text", choices=("choices",))
    assert task.load(Given(), 0).train["label"][:] == [0, 1]


def test_the_rows_of_each_class_are_counted(tmp_path):
    splits = one_file(tmp_path, {"a": 19, "b": 10, "rare": 1}).load(Given(), 0)
    shown = "27 training rows of 3 classes (a 17, b 9, rare 1; imbalanced, 17 to 1)"
    assert splits.summary() == f"{shown}; 3 validation rows"
    even = replace(one_file(tmp_path, {"a": 20, "b": 10}), labels=("a", "b", "c"))
    assert "27 training rows of 3 classes (a 18, b 9, c 0; 1 without a row)" in (
        even.load(Given(), 0).summary()
    )


def test_class_names_stored_in_parquet(tmp_path):
    rows = [{"text": "x", "label": label} for label in (1, 0, 1)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", rows, NAMES)
    splits = classify(tmp_path).load(Given(), 0)
    assert splits.task.classes == ("neg", "pos", "odd")
    assert numbers(splits, splits.train) == [1, 0, 1]


def test_names_stored_in_a_file_count(tmp_path):
    """Two files that number the classes differently hold the same labels."""
    for split, names in (("train", ["neg", "pos"]), ("validation", ["pos", "neg"])):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        )
        rows = [{"text": "x", "label": names.index(name)} for name in ("neg", "pos", "pos")]
        write(tmp_path / f"{split}.parquet", rows, features)
    splits = classify(tmp_path).load(Given(), 0)
    assert splits.train["label"][:] == splits.validation[""]["label"][:] == ["neg", "pos", "pos"]
    given = classify(tmp_path, labels=("pos", "neg")).load(Given(), 0)
    assert numbers(given, given.validation[""]) == [1, 0, 0]


@pytest.mark.parametrize("first", [NAMES, None], ids=["stored", "read off the rows"])
def test_names_of_two_files_that_have_nothing_in_common(first, tmp_path):
    """If nobody said what the numbers mean, a place is not a name."""
    write(tmp_path / "train.parquet", [{"text": "x", "label": i} for i in (0, 1, 2)], first)
    other = datasets.ClassLabel(names=["odd_", "pos_", "neg_"])
    features = datasets.Features({"text": datasets.Value("string"), "label": other})
    write(tmp_path / "validation.parquet", [{"text": "x", "label": i} for i in (0, 1)], features)
    with pytest.raises(AdaptError, match="split validation: the file names its classes odd_, pos_"):
        classify(tmp_path).load(Given(), 0)
    given = classify(tmp_path, labels=("odd_", "pos_", "neg_"))
    if first is None:
        assert given.load(Given(), 0).validation[""]["label"][:] == ["odd_", "pos_"]


def test_numbers_with_zeros_in_front_are_names(tmp_path):
    rows = [{"text": "x", "label": label} for label in ("01", "1", "001", "1.0", "\u0661")]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    splits = classify(tmp_path).load(Given(), 0)
    assert splits.task.classes == ("001", "01", "1", "1.0", "\u0661")


@pytest.mark.parametrize("value", ["1_5", True, "\u0661", "one"])
def test_what_is_not_a_number(value, tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [{"text": "x", "label": value}] * 2)
    task = Regress("mine", path=str(tmp_path), text=("text",))
    with pytest.raises(AdaptError, match="is not a number"):
        task.load(Given(), 0)


def test_empty_texts_are_counted(tmp_path):
    rows = [{"text": " " * (i % 3), "label": i % 2} for i in range(6)]
    rows += [{"text": "a word", "label": 1}]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    assert classify(tmp_path).load(Given(), 0).notes == ("6 of 7 training rows have no text",)


def test_names_that_overlap_in_part_are_an_error(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", [{"text": "x", "label": i} for i in (0, 1)], NAMES)
    with pytest.raises(AdaptError, match="names its classes neg, pos, odd, the task neg, pos"):
        classify(tmp_path, labels=("neg", "pos")).load(Given(), 0)
    foreign = classify(tmp_path, labels=("bad", "good", "none")).load(Given(), 0)
    assert foreign.train["label"][:] == ["bad", "good"]  # no name is known: numbers are places


@pytest.mark.parametrize("labels", [("bad", "good"), ("Pos", "Neg", "Odd"), ("a", "b", "c", "d")])
def test_numbers_are_places_only_in_lists_of_one_length(labels, tmp_path):
    """Names that differ in case alone are not foreign: their order may be another one."""
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", [{"text": "x", "label": i} for i in (0, 1)], NAMES)
    with pytest.raises(AdaptError, match="the file names its classes neg, pos, odd, the task"):
        classify(tmp_path, labels=labels).load(Given(), 0)


def test_stored_names_that_are_numerals(tmp_path):
    """A number in a column with stored names is a place in that list, not a name."""
    names = datasets.ClassLabel(names=["2", "1", "0"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = [{"text": "x", "label": label} for label in (0, 1, 2, 2)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", rows, features)
    splits = classify(tmp_path).load(Given(), 0)
    assert splits.task.classes == ("2", "1", "0")
    assert numbers(splits, splits.train) == [0, 1, 2, 2]


def test_splits_in_different_formats_agree(tmp_path):
    """CSV holds "10" where JSON holds 10: the same class has the same number."""
    rows = [{"text": "x", "label": i} for i in range(12)]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "validation.jsonl", rows)
    splits = classify(tmp_path).load(Given(), 0)
    found = [numbers(splits, rows) for rows in (splits.train, splits.validation[""])]
    assert found == [list(range(12))] * 2


def test_own_column_named_labels(tmp_path):
    rows = [{"text": "x", "label": i % 2, "labels": "something else"} for i in range(4)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    assert classify(tmp_path).load(Given(), 0).train["label"][:] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("values", [[0.0, 5.0, 2.5], [1, 2, 3], ["0.5", "1", "4e0"]], ids=str)
def test_scores(values, tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [{"text": "x", "label": v} for v in values])
    splits = Regress(name="mine", path=str(tmp_path), text=("text",)).load(Given(), 0)
    assert splits.train["label"][:] == [float(v) for v in values]
    assert splits.task.classes == ()


# ---- how texts are encoded ----

SPECIAL = {
    "bert": "[CLS] [SEP] [PAD] [MASK] [UNK]",
    "roberta": "<s> </s> <pad> <mask>",
    "gpt2": "<|endoftext|>",
    "t5": "</s> <pad>",
    "xlnet": "<sep> <cls> <pad>",
    "llama": "<s> </s>",
    "qwen2": "<|endoftext|> <|im_start|>",
    "deberta-v2": "[CLS] [SEP]",
}


def encoded(rows: list[dict], tokenizer: Any, limit: int | None = 128, **options: Any) -> Any:
    table = datasets.Dataset.from_list([{**row, "label": "a"} for row in rows])
    task = classify(labels=("a", "b"), **options)
    return task.posed.encode(table, Reader(tokenizer, limit))


@pytest.mark.parametrize("name", SPECIAL)
def test_special_tokens_in_a_text_are_plain_text(name):
    tokenizer = tiny_tokenizer(name)
    added = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    added |= set(tokenizer.all_special_ids) if name == "gpt2" else set()  # one token for all

    def special(text: str) -> Counter:
        ids = encoded([{"text": text}], tokenizer)["input_ids"][0]
        return Counter(i for i in ids if i in added)

    assert special(f"good {SPECIAL[name]} film") == special("good film")


def loaded_tokenizer(name: str) -> Any:
    """The tokenizer of a family, as loading prepares it."""
    tokenizer = tiny_tokenizer(name)
    separate_pairs(tokenizer)
    return tokenizer


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5", "xlnet"])
@pytest.mark.parametrize("pair", [False, True])
def test_ordinary_texts_are_encoded_as_the_tokenizer_does(name, pair):
    tokenizer = loaded_tokenizer(name)
    rows = [
        {"one": "the film was not bad", "two": "good"},
        {"one": "meh", "two": "an hour too long"},
    ]
    columns = ("one", "two") if pair else ("one",)
    found = encoded(rows, tokenizer, text=columns)
    for row, ids in zip(rows, found["input_ids"], strict=True):
        texts = [row[column] for column in columns]
        expected = tokenizer(*texts)["input_ids"]
        if pair and name == "gpt2":  # the tokenizer that comes with it joins a pair
            first, second = (tiny_tokenizer(name)(text)["input_ids"] for text in texts)
            expected = [*first, tokenizer.eos_token_id, *second]
        assert ids == expected
    assert found["length"][:] == [len(ids) for ids in found["input_ids"]]
    assert ("token_type_ids" in found.column_names) == (
        "token_type_ids" in tokenizer.model_input_names
    )
    assert set(found.column_names) - {"token_type_ids"} == {
        "input_ids", "target", "length", "row", "cut",
    }  # fmt: skip


SENTENCE = "he is not guilty"
CUTS = [(SENTENCE[:i], SENTENCE[i:]) for i in range(len(SENTENCE) + 1)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["pair", "choice"])
def test_pairs_of_equal_concatenation_are_read_differently(kind, name):
    """Cut where a word begins, the same text gives other pairs, and other ids."""
    tokenizer = loaded_tokenizer(name)
    cuts = [(a, b) for a, b in CUTS if not b or b[0] == " " or not a]
    rows = datasets.Dataset.from_list([{"a": a, "b": b, "c": [b, "x"]} for a, b in cuts])
    if kind == "pair":
        form = Classify("t", text=("a", "b"), labels=("n", "p")).posed
        found = form.encode(rows, Reader(tokenizer))["input_ids"][:]
    else:
        form = Choice("t", text="a", choices=("c",)).posed
        found = [ids[0] for ids in form.encode(rows, Reader(tokenizer))["input_ids"]]
    assert len({tuple(ids) for ids in found}) == len(cuts) == 5


@pytest.mark.parametrize(
    ("choices", "normalise", "message"),
    [
        (
            [["a", "b"], ["the " * 600 + "a", "the " * 600 + "b"]],
            "sum",
            "row 2: .*more tokens",
        ),
        ([["a", "b"], ["a", ""]], "characters", r"row 2: .*is empty.*normalise=tokens"),
    ],
)
@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_alternatives_that_cannot_be_ranked(choices, normalise, message, name):
    """Cut to their first tokens, two long ones would be alike."""
    tokenizer = loaded_tokenizer(name)
    rows = datasets.Dataset.from_list([{"a": "so", "c": texts} for texts in choices])
    form = Choice("t", text="a", choices=("c",), form="text", normalise=normalise).posed
    causal = name == "gpt2"
    with pytest.raises(AdaptError, match=message):
        form.encode(rows, Reader(tokenizer, causal=causal, limit=512 if causal else None))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("limit", [4, 9, 11, 12, 40])
def test_a_pair_keeps_its_second_text_within_the_limit(name, limit):
    """The longer text is cut, and the separator stays."""
    tokenizer = loaded_tokenizer(name)
    row = {"a": "the film was not bad at all for an hour", "b": "good plot"}
    cut, whole = (encoded([row], tokenizer, n, text=("a", "b")) for n in (limit, 99))
    (ids,), (full,) = cut["input_ids"], whole["input_ids"]
    assert len(ids) == min(limit, len(full))
    assert (whole["cut"][0], cut["cut"][0]) == (0, len(full) - len(ids))
    if limit >= 9:
        assert ids[-2:] == full[-2:]
        assert tokenizer.eos_token_id in ids or name not in ("gpt2", "gpt_neox", "qwen2", "qwen3")


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen2"])
def test_a_text_cannot_hold_the_separator(name):
    tokenizer = loaded_tokenizer(name)
    rows = [{"a": "good", "b": "bad"}, {"a": "", "b": "bad"}, {"a": "good", "b": ""}]
    rows.append({"a": f"good{tokenizer.eos_token}", "b": "bad"})
    ids = encoded(rows, tokenizer, text=("a", "b"))["input_ids"][:]
    end, good, bad = tokenizer.eos_token_id, *(tokenizer(w)["input_ids"] for w in ("good", "bad"))
    assert ids[:3] == [[*good, end, *bad], [end, *bad], [*good, end]]
    assert ids[3].count(end) == 1


def test_a_tokenizer_keeps_pairs_apart_where_it_is_saved(tmp_path):
    """So that an exported model, in a pipeline, reads pairs as the run did."""
    for name in FAMILIES:
        tokenizer, bare = loaded_tokenizer(name), tiny_tokenizer(name)
        tokenizer.save_pretrained(tmp_path / name)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        pair = "he is", " not guilty"
        assert again(*pair)["input_ids"] == tokenizer(*pair)["input_ids"], name
        assert again(pair[0])["input_ids"] == bare(pair[0])["input_ids"], name
        assert (tokenizer(*pair)["input_ids"] == bare(*pair)["input_ids"]) != (
            name in ("gpt2", "gpt_neox", "qwen2", "qwen3")
        )


def test_a_tokenizer_that_joins_pairs_is_rejected():
    with pytest.raises(AdaptError, match="puts nothing between two texts"):
        encoded([{"a": "x", "b": "y"}], tiny_tokenizer("gpt2"), text=("a", "b"))


def test_pairs_carry_types():
    found = encoded([{"a": "good film", "b": "bad"}], tiny_tokenizer("bert"), text=("a", "b"))
    assert found["token_type_ids"][0] == [0, 0, 0, 0, 1, 1]  # [CLS] good film [SEP] bad [SEP]


@pytest.mark.parametrize(
    ("limit", "wanted", "expected"), [(16, 128, 16), (128, 10, 10), (None, 40, 40), (128, 200, 128)]
)
def test_truncation(limit, wanted, expected):
    tokenizer = tiny_tokenizer("bert")
    long = " ".join(["good"] * 300)
    ids = encoded([{"text": long}, {"text": "bad"}], tokenizer, limit, max_length=wanted)
    assert ids["length"][:] == [expected, 3]
    assert ids["input_ids"][0][0] == tokenizer.cls_token_id
    assert ids["input_ids"][0][-1] == tokenizer.sep_token_id


def test_the_longer_text_of_a_pair_is_cut():
    tokenizer = tiny_tokenizer("bert")
    row = {"a": " ".join(["good"] * 50), "b": "the film was bad"}
    ids = encoded([row], tokenizer, text=("a", "b"), max_length=20)["input_ids"][0]
    assert len(ids) == 20
    assert tokenizer.decode(ids).split("[SEP]")[1].strip() == "the film was bad"


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt", "llama"])
def test_longest_input_fits_the_model(name):
    """The limit that the run passes on is what the family can read."""
    from adaptkit.models.anatomy import family_of

    config = tiny_config(name)
    assert family_of(config.model_type).positions(config) == 128


def test_the_headline_and_its_direction():
    assert classify().headline == "accuracy"
    assert classify(metric="accuracy_and_f1").headline == "f1"
    assert classify(metric="accuracy_and_f1", best="accuracy").headline == "accuracy"
    assert classify().larger_is_better and not classify(best="loss").larger_is_better
    with pytest.raises(ConfigError, match=r"task\.best"):
        classify(best="acuracy")


# ---- losses and predictions ----


def test_classify_loss_and_predictions():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], dtype=torch.bfloat16)
    form = classify(labels=("a", "b", "c")).posed
    outputs = SequenceClassifierOutput(logits=logits)
    batch = Batch({}, {"target": torch.tensor([0, 1])}, [0, 1], 2)
    chances = torch.exp(logits.double()) / torch.exp(logits.double()).sum(1, keepdim=True)
    expected = -(chances[0, 0].log() + chances[1, 1].log())
    loss = form.loss(outputs, batch)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    predicted = form.predict(None, outputs, batch, None)
    assert form.answers(predicted, batch.rows) == ["a", "c"]
    for found, row in zip(form.detailed(predicted, batch.rows), chances, strict=True):
        assert list(found["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-6)
    assert form.outputs == 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, (0.5, 3.0, 1.25)])
def test_weights_and_smoothing_are_those_of_torch(weights, smoothing):
    """Summed over rows, for a batch is divided by its rows; torch's own mean is one of weights."""
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(8, 3, generator=generator), torch.tensor([0, 1, 2, 2, 1, 0, 0, 0])
    form = classify(labels=("a", "b", "c"), class_weights=weights, label_smoothing=smoothing).posed
    batch = Batch({}, {"target": target}, list(range(8)), 8)
    found = form.loss(SequenceClassifierOutput(logits=logits), batch)
    w = torch.tensor(weights or (1.0, 1.0, 1.0))
    reference = torch.nn.CrossEntropyLoss(weight=w, label_smoothing=smoothing, reduction="sum")
    assert torch.equal(found, reference(logits, target))
    mean = torch.nn.CrossEntropyLoss(weight=w, label_smoothing=smoothing)(logits, target)
    torch.testing.assert_close(found / w[target].sum(), mean)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_of_tags_are_those_of_torch(smoothing):
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[-100, 0, 2, -100], [1, 1, -100, 2]])
    weights = {"a": 0.5, "c": 4.0}  # b: 1
    task = Tag("t", labels=("a", "b", "c"), class_weights=weights, label_smoothing=smoothing)
    batch = Batch({}, {"target": target}, [0, 1], 5)
    found = task.posed.loss(SequenceClassifierOutput(logits=logits), batch)
    w = torch.tensor([0.5, 1.0, 4.0])
    mean = torch.nn.CrossEntropyLoss(weight=w, label_smoothing=smoothing)(
        logits.flatten(0, 1), target.flatten()
    )
    torch.testing.assert_close(found / w[target[target >= 0]].sum(), mean)


def test_balanced_weights_of_tags_count_words(tmp_path):
    rows = [{"tokens": ["x"] * 4, "tags": ["a", "a", "a", "b"]}]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    task = Tag("t", path=str(tmp_path), class_weights="balanced").load(Given(), 0).task
    assert task.class_weights == (4 / 6, 2.0)
    assert task.with_classes(("b", "a")).class_weights == (2.0, 4 / 6)


def test_weights_by_name_follow_their_classes():
    task = classify(labels=("a", "b"), class_weights={"b": 5.0})
    assert task.posed.weights == (1.0, 5.0)
    assert task.with_classes(("b", "a")).posed.weights == (5.0, 1.0)
    assert classify(labels=(0, 1), class_weights={1: 2.0}).posed.weights == (1.0, 2.0)
    plain = ["task.labels=[ham,spam]", "task.class_weights={spam: 5}"]
    assert configured("sst2", *plain).posed.weights == (1.0, 5.0)


def test_balanced_weights(tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    task = replace(one_file(tmp_path, {"a": 60, "b": 30, "c": 10}), class_weights="balanced")
    splits = task.load(Given(train_rows=40), 0)
    names = splits.train["label"][:]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=names)
    assert splits.task.class_weights == pytest.approx(tuple(expected))
    of = dict(zip("abc", splits.task.weights, strict=True))
    assert np.mean([of[name] for name in names]) == pytest.approx(1)
    turned = splits.task.with_classes(("c", "a", "b"))
    assert turned.class_weights == (of["c"], of["a"], of["b"])
    named = replace(task, labels=("a", "b", "c", "never"))
    assert named.load(Given(), 0).task.weights[3] == 1.0
    with pytest.raises(ConfigError, match=r"task\.class_weights='balanced': needs training rows"):
        task.load(Given(), 0, train=False, every_row=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"class_weights": (1.0, 2.0, 3.0)},
            r"task\.class_weights=\[1.0, 2.0, 3.0\]: must be one ",
        ),
        (
            {"class_weights": (1.0, 0.0)},
            r"task\.class_weights=0.0: must be a finite number above 0",
        ),
        ({"class_weights": "balnced"}, "did you mean balanced"),
        ({"class_weights": {"bb": 1.0}}, "class_weights=bb: not known; did you mean b"),
        ({"class_weights": {"b": -1.0}}, r"class_weights\.b=-1.0: must be a finite number above 0"),
        ({"label_smoothing": 1.0}, r"task\.label_smoothing=1.0: must be at least 0 and below 1"),
    ],
)
def test_weights_that_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        classify(labels=("a", "b"), **options)


def test_regress_loss_and_predictions():
    form = Regress(name="mine", text=("text",)).posed
    outputs = SequenceClassifierOutput(logits=torch.tensor([[1.0], [4.0]], dtype=torch.bfloat16))
    batch = Batch({}, {"target": torch.tensor([2.0, 2.5])}, [0, 1], 2)
    assert float(form.loss(outputs, batch)) == pytest.approx(1.0 + 2.25)
    assert form.predict(None, outputs, batch, None) == [1.0, 4.0]
    assert form.outputs == 1


def test_baselines(tmp_path):
    train, validation = [0, 0, 0, 1], [1, 1, 0, 1]
    for split, labels in (("train", train), ("validation", validation)):
        write(tmp_path / f"{split}.jsonl", [{"text": "x", "label": n} for n in labels])
    splits = classify(tmp_path).load(Given(), 0)
    assert splits.task.baseline(splits) == (
        "majority class",
        0.25,
    )  # the class of the training rows
    splits = Regress(name="mine", path=str(tmp_path), text=("text",)).load(Given(), 0)
    assert splits.task.trivial_answers(splits, splits.train) == ("mean", [[0.25] * 4])
    name, value = splits.task.baseline(splits)
    assert name == "mean" and np.isnan(value)


def test_the_baseline_is_that_of_the_split_that_decides(tmp_path):
    """Class 0 is commonest in training; 1 of 4 and 2 of 3 of the scored rows have it."""
    for split, labels in (("train", [0, 0, 1]), ("validation", [1, 1, 0, 1]), ("far", [0, 1, 0])):
        write(tmp_path / f"{split}.jsonl", [{"text": "x", "label": n} for n in labels])
    for best, expected in (("", 1 / 4), ("accuracy_far", 2 / 3), ("loss_far", float("nan"))):
        splits = classify(tmp_path, also={"far": "far"}, best=best).load(Given(), 0)
        assert splits.task.baseline(splits) == (
            "majority class", pytest.approx(expected, nan_ok=True),
        )  # fmt: skip


@pytest.mark.parametrize("first", [0, 1])
def test_baseline_of_equally_common_classes_is_the_best_of_them(tmp_path, first):
    """Half of the rows are positive: naming all of them positive has an F1 of 2/3, none 0."""
    for split in ("train", "validation"):
        labels = [first, 1 - first] * 2
        write(tmp_path / f"{split}.jsonl", [{"text": "x", "label": n} for n in labels])
    splits = classify(tmp_path, metric="accuracy_and_f1", best="f1").load(Given(), 0)
    assert splits.task.baseline(splits) == ("majority class", pytest.approx(2 / 3))


# ---- the GLUE tasks, as published ----


@dataclass(frozen=True)
class Fact:
    """Configuration of nyu-mll/glue: columns, class names in order, the official metric."""

    text: tuple[str, ...]
    labels: tuple[str, ...]
    metric: dict[str, float]  # of labels 1 1 0 0, predictions 1 0 0 0
    best: str


ACCURACY, F1 = {"accuracy": 0.75}, {"accuracy": 0.75, "f1": 2 / 3}
ENTAILS = ("entailment", "not_entailment")
GLUE = {
    "cola": Fact(("sentence",), ("unacceptable", "acceptable"),
                 {"matthews_correlation": 3**-0.5}, "matthews_correlation"),
    "sst2": Fact(("sentence",), ("negative", "positive"), ACCURACY, "accuracy"),
    "mrpc": Fact(("sentence1", "sentence2"), ("not_equivalent", "equivalent"), F1, "f1"),
    "qqp": Fact(("question1", "question2"), ("not_duplicate", "duplicate"), F1, "f1"),
    "stsb": Fact(("sentence1", "sentence2"), (),
                 {"pearson": 3**-0.5, "spearmanr": 3**-0.5}, "pearson"),
    "mnli": Fact(("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
                 ACCURACY, "accuracy"),
    "qnli": Fact(("question", "sentence"), ENTAILS, ACCURACY, "accuracy"),
    "rte": Fact(("sentence1", "sentence2"), ENTAILS, ACCURACY, "accuracy"),
    "wnli": Fact(("sentence1", "sentence2"), ENTAILS[::-1], ACCURACY, "accuracy"),
}  # fmt: skip


def configured(name: str, *overrides: str) -> Any:
    return settings(compose(["model=auto", "model.path=x", f"task={name}", *overrides])).task


@pytest.mark.parametrize("name", GLUE)
def test_glue(name):
    task, fact = configured(name), GLUE[name]
    assert (task.name, task.path, task.subset) == (name, "nyu-mll/glue", name)
    assert task.text == fact.text
    assert task.label == "label"
    assert task.classes == fact.labels
    assert task.id == "idx"
    assert task.train == "train"
    assert task.headline == fact.best
    names = fact.labels or (0.0, 1.0)
    rows = datasets.Dataset.from_dict({"label": [names[n] for n in (1, 1, 0, 0)]})
    scores = task.score([names[n] for n in (1, 0, 0, 0)], rows)
    assert scores == pytest.approx(fact.metric)
    assert isinstance(task, Regress if name == "stsb" else Classify)
    matched = {"": "validation_matched", "mismatched": "validation_mismatched"}
    assert task.scored() == (matched if name == "mnli" else {"": "validation"})


def test_all_of_glue_is_there():
    assert set(GLUE) <= set(options("task"))


def test_mnli_is_scored_on_both_splits(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": i % 3} for i in range(6)]
    for split, count in (("train", 6), ("validation_matched", 4), ("validation_mismatched", 5)):
        write(tmp_path / "mnli" / f"{split}.jsonl", rows[:count])
    splits = configured("mnli").load(Given(root=str(tmp_path)), 0)
    assert list(splits.validation) == ["", "mismatched"]
    assert [len(part) for part in splits.validation.values()] == [4, 5]


# ---- mistakes that would go unnoticed ----


def write_both(folder: Path, rows: list[dict]) -> Path:
    for split in ("train", "validation"):
        write(folder / f"{split}.jsonl", rows)
    return folder


def test_a_number_among_named_classes_is_not_a_place(tmp_path):
    rows = [{"text": "x", "label": label} for label in ("1 star", "2", "other")]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "validation.jsonl", [*rows, {"text": "x", "label": "0"}])
    with pytest.raises(AdaptError, match="row 4: label '0' is none of the 3 classes"):
        classify(tmp_path).load(Given(), 0)


def test_a_class_is_named_once(tmp_path):
    folder = write_both(tmp_path, ROWS)
    with pytest.raises(ConfigError, match=r"task\.labels=.* names 'a' 2 times"):
        classify(folder, labels=("a", "b", "a")).load(Given(), 0)


def test_the_label_is_not_a_text(tmp_path):
    folder = write_both(tmp_path, [{"text": "x", "label": name} for name in ("a", "b")])
    with pytest.raises(AdaptError, match=r"task\.label=label: this column is read as input"):
        classify(folder, text=("text", "label")).load(Given(), 0)


@pytest.mark.parametrize("tag", ["NOUN", "B-", "I-", "B"])
def test_entities_are_bio(tag, tmp_path):
    folder = write_both(tmp_path, [{"tokens": ["x", "y"], "tags": [tag, "O"]}])
    task = Tag("mine", path=str(folder), metric="entities")
    with pytest.raises(AdaptError, match=rf"task\.metric=entities: the tag '{tag}' is not BIO"):
        task.load(Given(), 0)
    folder = write_both(tmp_path, [{"tokens": ["x", "y"], "tags": ["B-A", "O"]}])
    splits = Tag("mine", path=str(folder), metric="entities").load(Given(), 0)
    assert splits.task.score([["B-A", "O"]], splits.validation[""])["f1"] == 1


def test_a_subset_without_words_is_counted(tmp_path):
    rows = [{"tokens": [], "tags": []}, {"tokens": ["x"], "tags": ["A"]}]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    task = Tag("mine", path=str(tmp_path))
    said = {task.load(Given(train_rows=1), seed).summary() for seed in range(9)}
    one = "1 training rows of 1 classes"
    assert {f"{one} (A 0; 1 without a row); 2 validation rows", f"{one} (A 1); 2 validation rows"} \
        == said  # fmt: skip


@pytest.mark.parametrize("labels", [(), ("A",)])
def test_rows_without_words(labels, tmp_path):
    rows = [{"tokens": [], "tags": []}, {"tokens": [], "tags": []}]
    features = datasets.Features({name: datasets.Sequence(datasets.Value("string"))
                                  for name in ("tokens", "tags")})  # fmt: skip
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", rows, features)
    with pytest.raises(AdaptError, match=r"is empty: there are no classes|no row has a word"):
        Tag("mine", path=str(tmp_path), labels=labels).load(Given(), 0)
