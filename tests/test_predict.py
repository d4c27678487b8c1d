"""Answers with their probabilities, and files of answers: streamed, resumed, handed in to GLUE."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest
import torch
from commandline import call, read, tiny, write
from families import SENTENCES, rows
from runs import sentiment
from torch import Tensor
from transformers import pipeline

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.layers.ensemble import Ensemble
from adaptkit.runs.predicting import partial, predict_file, submission
from adaptkit.runs.predicting.answer_file import write_answers
from adaptkit.runs.predicting.parts import parts_of
from adaptkit.runs.predicting.predictor import Predictor
from adaptkit.runs.predicting.rows import Rows
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.reading.stream import count_in, rows_in

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = SENTENCES[:7]
CLASSES = ("negative", "positive")


# ---- answers with what the model thinks of them ----

KINDS: dict[str, tuple[list[str], list[dict[str, Any]]]] = {
    "classify": (
        ["task=classify", "task.text=text", "task.labels=[a,b,c]"],
        [{"text": text} for text in TEXTS],
    ),
    "regress": (["task=regress", "task.text=text"], [{"text": text} for text in TEXTS]),
    "choice": (
        ["task=choice", "task.text=text", "task.choices=[choices]"],
        [{"text": t, "choices": SENTENCES[k : k + 2 + k % 2]} for k, t in enumerate(TEXTS)],
    ),
    "tag": (
        ["task=tag", "task.labels=[A,B,C]", "task.max_length=16"],  # some rows give two windows
        [{"tokens": [*text.split(), ""]} for text in TEXTS],
    ),
    "dependency": (
        ["task=dependency", "task.rank=5", "task.max_length=16"],  # some rows are cut
        [{"tokens": [*text.split(), ""]} for text in TEXTS],
    ),
    "span": (
        ["task=squad", "task.stride=4", "task.max_length=24"],
        [{"question": "why", "context": text} for text in TEXTS],
    ),
    "span2": (
        ["task=squad_v2", "task.stride=4", "task.max_length=24"],
        [{"question": "why", "context": text} for text in TEXTS],
    ),
    "lm": (["task=lm", "task.text=text"], [{"text": text} for text in TEXTS]),
    "mlm": (["task=mlm", "task.max_length=16"], [{"text": text} for text in TEXTS]),
    "seq2seq": (
        ["task=seq2seq", "task.source=text", "task.max_new_tokens=3"],
        [{"text": text} for text in TEXTS],
    ),
}
FAMILY = {"lm": "gpt2", "seq2seq": "gpt2"}


@torch.no_grad()
def predictor_of(checkpoint: Path, *words: str) -> Predictor:
    """Return a run whose tensors are random numbers."""
    place = [] if {"task=squad", "task=squad_v2"} & set(words) else ["task.path=none"]
    made = settings(compose([*tiny(checkpoint), "method=lora", *place, *words]))
    prepared = prepare(made, 1, "train")
    generator = torch.Generator().manual_seed(3)
    for parameter in prepared.adaptation.trainable.values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Predictor(made, prepared)


@pytest.mark.parametrize("kind", KINDS)
def test_details_hold_the_plain_answer(kind: str, checkpoints: Any) -> None:
    words, table = KINDS[kind]
    predictor = predictor_of(checkpoints[FAMILY.get(kind, "bert")], *words)
    plain = predictor.predict(table)
    detailed = predictor.predict(table, details=True)
    assert len(plain) == len(detailed) == len(table)
    more = {
        "classify": {"probabilities"}, "choice": {"probabilities"}, "tag": {"probabilities"},
        "dependency": {"probabilities"},
        "span": {"score"}, "span2": {"span", "no_answer", "score"},
    }.get(kind, set())  # fmt: skip
    for one, full in zip(plain, detailed, strict=True):
        assert set(full) == {"answer"} | more
        if kind == "span2":
            assert one == {name: full[name] for name in ("answer", "span", "no_answer")}
        else:
            assert one == full["answer"]


def test_probabilities_are_the_softmax_of_what_is_answered(checkpoints: Any) -> None:
    words, table = KINDS["classify"]
    predictor = predictor_of(checkpoints["bert"], *words)
    made, prepared = predictor.settings, predictor.prepared
    feed = feed_of(made, prepared, predictor.table(table))
    logits = scorer_of(made, prepared).outputs(feed.batch(range(len(table)))).logits
    for row, answer in zip(logits, predictor.predict(table, details=True), strict=True):
        exps = [math.exp(value) for value in row.tolist()]
        expected = {name: e / sum(exps) for name, e in zip("abc", exps, strict=True)}
        assert answer["probabilities"] == pytest.approx(expected, rel=1e-4)
        assert answer["answer"] == max(expected, key=lambda name: expected[name])


def test_every_choice_has_a_probability(checkpoints: Any) -> None:
    words, table = KINDS["choice"]
    for row, answer in zip(
        table, predictor_of(checkpoints["bert"], *words).predict(table, details=True), strict=True
    ):
        shares = answer["probabilities"]
        assert len(shares) == len(row["choices"]) and sum(shares) == pytest.approx(1)
        assert shares[answer["answer"]] == max(shares)


def test_every_word_has_the_probability_of_its_tag(checkpoints: Any) -> None:
    words, table = KINDS["tag"]
    answers = predictor_of(checkpoints["bert"], *words).predict(table, details=True)
    for row, answer in zip(table, answers, strict=True):
        assert len(answer["answer"]) == len(answer["probabilities"]) == len(row["tokens"])
        assert (answer["answer"][-1], answer["probabilities"][-1]) == (None, None)  # no word
        assert all(1 / 3 <= share <= 1 for share in answer["probabilities"][:-1])


def test_the_score_of_a_span_is_that_of_its_two_ends(checkpoints: Any) -> None:
    """The best pair of a start and an end, searched through one by one."""
    words, table = KINDS["span"]
    predictor = predictor_of(checkpoints["bert"], *words, "task.max_length=64")
    made, prepared = predictor.settings, predictor.prepared
    feed = feed_of(made, prepared, predictor.table(table))
    answers = predictor.predict(table, details=True)
    for number, answer in enumerate(answers):
        batch = feed.batch([number])
        outputs = scorer_of(made, prepared).outputs(batch)
        first, size = batch.targets["first"][0], len(batch.targets["starts"][0])
        starts, ends = outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()
        inside = range(first, first + size)
        best = max(starts[i] + ends[j] for i in inside for j in inside if 0 <= j - i < 30)
        assert answer["score"] == pytest.approx(best, rel=1e-4)


def test_an_ensembles_probabilities_are_shares_of_the_votes() -> None:
    """Two of three prompts say b, and the mean logits a: the votes count, ties aside."""
    form = Ensemble(HeadForm(("text",), ("a", "b"), 8), 3)
    answers = torch.tensor([[[9.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])  # [B 1, N 3, C 2]
    mean = answers.mean(1).softmax(-1)
    votes: Tensor = torch.tensor([[1.0, 2.0]]) + mean / 2

    class Outputs(dict):
        __getattr__ = dict.__getitem__

    outputs = Outputs(answers=answers, logits=votes)
    predicted = form.predict(None, outputs, SimpleNamespace(), None)
    for asked in (form.answers, form.detailed):
        (answer,) = asked(predicted, [0])
        variants = form.variants(predicted, [0])
        if asked == form.answers:
            assert answer == "b" and variants["mean_logits"] == [["a"]]
            continue
        expected = (votes / 3.5)[0].tolist()
        assert answer["answer"] == "b"
        assert list(answer["probabilities"].values()) == pytest.approx(expected)
        assert answer["probabilities"]["b"] > 0.5


# ---- reading rows one after the other ----

TABLE = [
    {"sentence": text, "idx": n, "extra": [1]}
    for n, text in enumerate(
        [*SENTENCES[:3], 'a "quoted", word', "two\nlines", "naïve 日本", "\u2028"]
    )
]


def stored(folder: Path, name: str, table: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the name says."""
    file, kind = folder / name, name.removesuffix(".gz").rpartition(".")[2]
    if kind in ("parquet", "jsonl"):
        write(folder / f"plain.{kind}", table)
        content = (folder / f"plain.{kind}").read_bytes()
    elif kind == "json":
        content = json.dumps(table).encode()
    else:
        lines = io.StringIO(newline="")
        columns = [c for c in table[0] if c != "extra"]
        writer = csv.DictWriter(lines, columns, delimiter="," if kind == "csv" else "\t",
                                extrasaction="ignore")  # fmt: skip
        writer.writeheader()
        writer.writerows(table)
        content = b"\xef\xbb\xbf" + lines.getvalue().encode()
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return file


NAMES = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.gz")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    table = [row for row in TABLE if '"' not in row["sentence"] or "tsv" not in name]
    if "tsv" in name:  # quotes around cells of several lines: another reading than row per line
        table = [row for row in table if "\n" not in row["sentence"]]
    found = list(rows_in(stored(tmp_path, name, table), {"sentence", "idx"}))
    assert [row["sentence"] for row in found] == [row["sentence"] for row in table]
    assert [str(row["idx"]) for row in found] == [str(row["idx"]) for row in table]
    assert count_in(tmp_path / name) == (len(table) if name == "a.parquet" else None)


@pytest.mark.parametrize("name", ["a.conll", "a.conll.gz"])
def test_tagged_words_are_rows(name: str, tmp_path: Path) -> None:
    content = b"A O\ncat B-X\n\nRuns O\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = list(rows_in(tmp_path / name, {"tokens"}))
    assert [row["tokens"] for row in found] == [["A", "cat"], ["Runs"]]
    assert count_in(tmp_path / name) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"s": "a"}\n\n{"s": ', "row 3 is not JSON"),
        ("a.jsonl", b'{"s": "a"}\n{"s": "\xe9"}', "line 2 is not UTF-8"),
        ("a.csv", b"s,t\na,b\nc\n", "row 2 has another number of cells"),
        ("a.csv", b's,t\na,b\n"c"d,e\n', "row 2 is broken"),
        ("a.tsv", b"s\tt\na\tb\nc\n", "row 2 has another number of cells"),
    ],
)
def test_the_rows_above_a_broken_one_are_read(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    found = rows_in(tmp_path / name, {"s"})
    assert next(found)["s"] == "a"
    with pytest.raises(AdaptError, match=message):
        list(found)


@pytest.mark.parametrize(("name", "size"), [("a.csv.gz", 50), ("a.parquet", 50), ("a.gz.csv", 1)])
def test_damaged_files(name: str, size: int, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(stored(tmp_path, f"whole{name[1:]}", TABLE).read_bytes()[:size] + b"\xff")
    with pytest.raises(AdaptError, match=r"is not a readable|is not UTF-8"):
        list(rows_in(file, {"sentence"}))


# ---- files of answers ----


@pytest.fixture(scope="module")
def trained(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sentiment rows; the folder of its data has a test split with hidden labels."""
    folder = tmp_path_factory.mktemp("predict")
    data = sentiment(folder / "data")
    write(data / "test.jsonl", [{**row, "label": -1} for row in rows(9, seed=5)])
    answer = call(
        "train", *tiny(checkpoints["bert"]), "method=lora", "task=sst2", f"task.path={data}",
        "trainer.device=cpu", "trainer.precision=fp32", f"output_dir={folder / 'run'}",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    return folder / "run"


def predicted(*words: str | Path) -> Any:
    answer = call("predict", *words)
    assert answer.status == 0, answer.err
    return answer


@pytest.mark.parametrize("where", ["--input", "--split"])
def test_the_runs_own_validation_rows(where: str, trained: Path, tmp_path: Path) -> None:
    source = "validation" if where == "--split" else trained.parent / "data" / "validation.jsonl"
    answer = predicted(trained, where, source, "--output", tmp_path / "a.jsonl")
    assert "20 rows, " in answer.out and "rows per second" in answer.out
    found, known = read(tmp_path / "a.jsonl"), read(trained / "predictions.jsonl")
    assert [(row["id"], row["prediction"]) for row in found] == [
        (row["id"], row["prediction"]) for row in known
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.jsonl"]


def test_the_formats_of_answers_say_the_same(trained: Path, tmp_path: Path) -> None:
    source = stored(tmp_path, "in.csv", TABLE)
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.parquet"):
        predicted(trained, "--input", source, "--output", tmp_path / name)
    rows_of_json = read(tmp_path / "a.jsonl")
    assert [row["id"] for row in rows_of_json] == [str(row["idx"]) for row in TABLE]
    expected = [
        {"id": row["id"], "prediction": row["prediction"],
         **{f"probability_{name}": row["probabilities"][name] for name in CLASSES}}
        for row in rows_of_json
    ]  # fmt: skip
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist() == expected
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file, delimiter=mark))
        assert found == [{key: str(value) for key, value in row.items()} for row in expected]


def test_lists_and_objects_of_answers(tmp_path: Path) -> None:
    table = [
        {"id": "0", "prediction": [], "probabilities": []},
        {"id": "1", "prediction": ["A", None], "probabilities": [0.5, None]},
    ]
    write_answers(tmp_path / "a.parquet", lambda: table)
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist() == table
    write_answers(tmp_path / "a.csv", lambda: table)
    assert (tmp_path / "a.csv").read_text().splitlines()[2] == '1,"[""A"", null]","[0.5, null]"'
    write_answers(tmp_path / "n.jsonl", lambda: [{"id": "0", "score": -math.inf}])
    assert read(tmp_path / "n.jsonl") == [{"id": "0", "score": None}]


def test_candidates_of_a_row_are_no_columns(tmp_path: Path) -> None:
    """Every row has other names, and another number of them."""
    table = [
        {"id": "0", "prediction": "Ann", "probabilities": {"Ann": 0.75, "Bob": 0.25}},
        {"id": "1", "prediction": "Cid", "probabilities": {"Cid": 1.0}},
    ]
    expected = [{**row, "probabilities": json.dumps(row["probabilities"])} for row in table]
    write_answers(tmp_path / "a.parquet", lambda: table)
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist() == expected
    write_answers(tmp_path / "a.csv", lambda: table)
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == expected


def test_ids_that_are_there_twice(trained: Path, tmp_path: Path) -> None:
    rows = [{"sentence": "good", "idx": name} for name in (4, 5, 4)]
    source = write(tmp_path / "rows.jsonl", rows)
    answer = call("predict", trained, "--input", source, "--output", tmp_path / "a.jsonl")
    assert answer.status == 0 and "several rows have the id '4'" in answer.err


@pytest.mark.parametrize("option", ["data.eval_rows=1", "task.where={idx:4}"])
def test_options_that_choose_rows(option: str, trained: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"sentence": "good", "idx": 4}])
    words = ["--input", source, "--output", tmp_path / "a.jsonl"]
    answer = call("predict", trained, option, *words)
    assert answer.status == 2 and f"{option.partition('=')[0]}: predict answers all" in answer.err
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_input_is_not_overwritten(trained: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"sentence": "good", "idx": 4}])
    before = source.read_bytes()
    words = ["--input", source, "--output", tmp_path / "." / "rows.jsonl", "--overwrite"]
    answer = call("predict", trained, *words)
    assert answer.status == 2 and "is the input itself" in answer.err
    assert source.read_bytes() == before


def test_standard_input_and_output(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = trained.parent / "data" / "validation.jsonl"
    predicted(trained, "--input", source, "--output", tmp_path / "a.jsonl")
    stdin = SimpleNamespace(buffer=io.BytesIO(source.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    answer = predicted(trained, "--input", "-", "--output", "-")
    assert answer.out == (tmp_path / "a.jsonl").read_text()
    assert "20 rows" in answer.err


def test_other_columns_and_ids(trained: Path, tmp_path: Path) -> None:
    table = [{"review": text, "name": f"n{i}"} for i, text in enumerate(TEXTS)]
    source = write(tmp_path / "in.jsonl", table)
    answer = call("predict", trained, "--input", source, "--output", tmp_path / "a.jsonl")
    assert answer.status == 2 and "row 1 lacks the column 'sentence'" in answer.err
    words = ["task.text=[review]", "task.id=name", "--batch-size", "2", "--device", "cpu"]
    predicted(trained, *words, "--input", source, "--output", tmp_path / "a.jsonl")
    assert [row["id"] for row in read(tmp_path / "a.jsonl")] == [row["name"] for row in table]
    numbered = predicted(trained, "task.text=[review]", "--input", source, "--output",
                         tmp_path / "b.jsonl")  # fmt: skip
    assert "task.id=idx: there is no such column, so the ids are numbers from 0" in numbered.err
    assert [row["id"] for row in read(tmp_path / "b.jsonl")] == [str(i) for i in range(len(TEXTS))]


def test_hidden_labels_are_not_looked_at(trained: Path, tmp_path: Path) -> None:
    answer = predicted(trained, "--split", "test", "--output", tmp_path / "a.csv")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 10
    assert "task.id=idx: there is no such column, so the ids are numbers from 0" in answer.err
    answer = predicted(trained, "--split", "test", "task.id=null", "--output", tmp_path / "b.csv")
    assert "rows are numbered" not in answer.err


@pytest.mark.parametrize("odd", [7, None, "\ud800"], ids=repr)
def test_a_bad_row_is_named_and_nothing_is_written(
    odd: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_file, "PART", 4)
    table = [{"sentence": row["sentence"]} for row in rows(11)]
    table[8]["sentence"] = odd  # the first row of the third part
    source = write(tmp_path / "in.jsonl", table)
    answer = call("predict", trained, "--input", source, "--output", tmp_path / "a.jsonl")
    assert (answer.status, answer.out) == (2, "")
    assert f"{source}: " in answer.err and "row 9" in answer.err
    assert not (tmp_path / "a.jsonl").exists()
    table[8]["sentence"] = "good"
    write(source, table)
    again = call("predict", trained, "--input", source, "--output", tmp_path / "a.jsonl")
    assert again.status == 2 and "another command" in again.err and "--overwrite" in again.err
    predicted(trained, "--input", source, "--output", tmp_path / "a.jsonl", "--overwrite")
    assert len(read(tmp_path / "a.jsonl")) == 11


@pytest.mark.parametrize("key", [None, "name"])
def test_a_row_that_the_model_cannot_read_is_named(key: str | None, checkpoints: Any) -> None:
    """By its number among all, as the file has it, or by its own id."""
    predictor = predictor_of(checkpoints["bert"], *KINDS["tag"][0])
    table = [{"tokens": ["a"], "name": f"n{i}"} for i in range(11)]
    table[9]["tokens"] = ["x" * 80]
    given = Rows("a file", iter(table), table[0], key, bool(key), None, "")
    name = "the row with id 'n9'" if key else "row 10"
    with pytest.raises(AdaptError, match=f"^{name}: the word 'x+' alone has"):
        list(parts_of(predictor, given, 4, None, 0))


def test_mistakes(trained: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"sentence": "good"}])
    there = write(tmp_path / "there.jsonl", [{"a": 1}])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    blank = write(tmp_path / "blank.jsonl", [{"sentence": "good", "idx": ""}])
    out = tmp_path / "a.jsonl"
    for words, message in [
        (["--input", source, "--output", there], "this file exists; nothing was changed"),
        (["--input", source, "--output", tmp_path / "a.txt"], r"must end in .jsonl, .csv"),
        (["--input", source, "--output", tmp_path], "must end in"),
        (["--input", tmp_path / "no.jsonl", "--output", out], "no such file"),
        (["--input", tmp_path / "a.xlsx", "--output", out], "must end in .parquet"),
        (["--input", empty, "--output", out], "has no rows"),
        (["--input", blank, "--output", out], "row 1: idx (task.id) is empty"),
        (["--split", "tset", "--output", out], "no split 'tset'"),
        (["--output", out], "one of the arguments --input --split is required"),
        (["--input", source, "--output", out, "method=full"], "keeps its model and method"),
        (["--input", source, "--output", out, "--batch-size", "0"], "eval_batch_size"),
        (["--split", "test", "--format", "glue", "--output", "-"], "writes a file"),
        (["--split", "test", "--format", "glue", "--output", out], "reads SST-2.tsv"),
    ]:
        answer = call("predict", trained, *words)
        assert answer.status == 2 and message in answer.err, (words, answer.err)
        assert answer.err.count("\n") == 1, answer.err
    assert read(there) == [{"a": 1}]
    assert not out.exists() and not list(tmp_path.glob(".*"))


# ---- kills ----


def killed_after(stop: int, words: list[str]) -> None:
    """Carry out a command until `stop` rows are kept, in a process of its own."""
    append = partial.Partial.append

    def until(self: partial.Partial, lines: Any) -> None:
        append(self, lines)
        if self.done >= stop:
            with self.path.open("ab") as file:
                file.write(b'{"id": "12", "predi')  # a line that is cut short
            os.kill(os.getpid(), signal.SIGKILL)

    partial.Partial.append = until
    call(*words)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_killed_command_goes_on_and_ends_the_same(
    name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in.jsonl", [{"sentence": row["sentence"]} for row in rows(22)])
    words = [str(w) for w in ("predict", trained, "--input", source, "--device", "cpu", "--output")]
    monkeypatch.setattr(predict_file, "PART", 4)
    child = multiprocessing.get_context("fork").Process(
        target=killed_after, args=(12, [*words, str(tmp_path / name)])
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    whole = call(*words, str(tmp_path / f"whole-{name}"))
    assert "22 rows, " in whole.out
    answered: list[int] = []
    answers = Predictor.answers

    def counted(self: Predictor, table: Any, details: bool = False) -> list[Any]:
        answered.append(len(table))
        return answers(self, table, details)

    monkeypatch.setattr(Predictor, "answers", counted)
    again = call(*words, str(tmp_path / name))
    assert "22 rows (12 were answered before), " in again.out, again
    assert answered == [4, 4, 2]
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert not list(tmp_path.glob(".*"))


def kept(folder: Path, owner: str, again: bool = False, fresh: bool = False) -> int:
    """Return how many rows an owner finds."""
    with partial.partial_of(folder / "a", {"owner": owner}, 2, again, fresh) as found:
        done = found.done
        found.append([{"id": "0"}, {"id": "1"}])
        assert len(list(found.rows())) == found.done == done + 2
        raise KeyboardInterrupt  # leaves the file
    return done


def test_whose_answers_are_taken_up(tmp_path: Path) -> None:
    def rows_of(owner: str, **more: bool) -> int:
        before = -1
        with pytest.raises((KeyboardInterrupt, AdaptError)) as stop:
            kept(tmp_path, owner, **more)
        if stop.type is AdaptError:
            return before
        return len((tmp_path / ".a.partial").read_text().splitlines()) - 1

    assert rows_of("one") == 2  # rows that the file holds afterwards
    assert rows_of("one") == 4
    assert rows_of("two") == -1  # an error
    assert rows_of("one", fresh=True) == 2
    assert rows_of("two", again=True) == 2
    assert rows_of("two", again=True) == 4
    with (tmp_path / ".a.partial").open("ab") as file:
        file.write(b'{"id": "4"}\n{"id"')
    assert rows_of("two") == 6  # what is not a whole part was cut off


def test_a_partial_file_has_one_writer(tmp_path: Path) -> None:
    with (
        partial.partial_of(tmp_path / "a", {}, 2, False),
        pytest.raises(AdaptError, match="another process is writing it"),
        partial.partial_of(tmp_path / "a", {}, 2, False),
    ):
        pass
    assert not list(tmp_path.iterdir())


# ---- GLUE ----

# As the benchmark's page of instructions has them.
FILES = {
    "cola": ("CoLA", ["acceptable", "unacceptable"], ["1", "0"]),
    "sst2": ("SST-2", ["positive", "negative"], ["1", "0"]),
    "mrpc": ("MRPC", ["equivalent", "not_equivalent"], ["1", "0"]),
    "stsb": ("STS-B", [2.5, -0.1, 5.3], ["2.5000", "0.0000", "5.0000"]),
    "qqp": ("QQP", ["duplicate", "not_duplicate"], ["1", "0"]),
    "mnli": (
        "MNLI-mm",
        ["entailment", "contradiction", "neutral"],
        ["entailment", "contradiction", "neutral"],
    ),
    "qnli": ("QNLI", ["not_entailment", "entailment"], ["not_entailment", "entailment"]),
    "rte": ("RTE", ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
    "wnli": ("WNLI", ["entailment", "not_entailment"], ["1", "0"]),
}
# As jiant, the benchmark's own software, writes them.
LINES = {
    "boolq": ("BoolQ", ["True", "False"], ["true", "false"]),
    "cb": ("CB", ["neutral", "contradiction", "entailment"], None),
    "copa": ("COPA", [1, 0], [1, 0]),
    "record": ("ReCoRD", ["Ann", "naïve 日本"], None),
    "superglue_rte": ("RTE", ["not_entailment", "entailment"], None),
    "wic": ("WiC", ["True", "False"], ["true", "false"]),
    "wsc": ("WSC", ["True", "False"], None),
    "axb": ("AX-b", ["not_entailment", "entailment"], None),
    "axg": ("AX-g", ["not_entailment", "entailment"], None),
}


@pytest.mark.parametrize("task", FILES)
def test_submission_files(task: str, tmp_path: Path) -> None:
    name, answers, words = FILES[task]
    made = settings(compose([f"task={task}"])).task
    found = submission.submission_of(made)
    split = "test_mismatched" if task == "mnli" else "test"
    file = submission.file_for(found, tmp_path, split)
    assert file == tmp_path / f"{name}.tsv" == submission.file_for(found, file, None)
    table = [{"id": str(i), "prediction": answer} for i, answer in enumerate(answers)]
    submission.write_submission(file, table, found)
    lines = ["index\tprediction", *(f"{i}\t{word}" for i, word in enumerate(words))]
    assert file.read_text() == "".join(f"{line}\n" for line in lines)
    assert submission.remark_on(found, file, submission.ROWS[file.name]) == ()


@pytest.mark.parametrize("task", LINES)
def test_submission_lines_of_superglue(task: str, tmp_path: Path) -> None:
    name, answers, words = LINES[task]
    found = submission.submission_of(settings(compose([f"task={task}"])).task)
    file = submission.file_for(found, tmp_path, "test")
    assert file == tmp_path / f"{name}.jsonl"
    # ReCoRD's rows have two numbers; that of the query is the index.
    ids = [json.dumps({"passage": 7, "query": i}) if task == "record" else str(i) for i in (3, 5)]
    ids += [str(i) for i in range(len(answers) - 2)]
    table = [{"id": i, "prediction": a} for i, a in zip(ids, answers, strict=False)]
    submission.write_submission(file, table, found)
    numbers = [3, 5, 0]
    expected = [{"idx": i, "label": w} for i, w in zip(numbers, words or answers, strict=False)]
    assert read(file) == expected
    (remark,) = submission.remark_on(found, file, 1)
    assert remark.startswith(f"{name}.jsonl has 1 rows; the server of SuperGLUE expects ")


def test_multirc_is_nested(tmp_path: Path) -> None:
    """Its rows are answers; a line is a passage with its questions, as in the data."""
    found = submission.submission_of(settings(compose(["task=multirc"])).task)
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (4, 9, 2), (0, 1, 1)]
    said = ["True", "False", "False", "True", "True"]
    keys = ("paragraph", "question", "answer")
    table = [
        {"id": json.dumps(dict(zip(keys, place, strict=True))), "prediction": answer}
        for place, answer in zip(places, said, strict=True)
    ]
    file = submission.file_for(found, tmp_path, "test")
    submission.write_submission(file, table, found)
    first = [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]
    second = [{"idx": 0, "label": 0}, {"idx": 1, "label": 1}]
    assert file.name == "MultiRC.jsonl" and read(file) == [
        {"idx": 0, "passage": {"questions": [{"idx": 0, "answers": first},
                                             {"idx": 1, "answers": second}]}},
        {"idx": 4, "passage": {"questions": [{"idx": 9, "answers": [{"idx": 2, "label": 1}]}]}},
    ]  # fmt: skip
    for identity in ("3", "a", '{"paragraph": 1}', "[0, 1, 2]"):
        with pytest.raises(AdaptError, match="an id with the numbers paragraph, question, answer"):
            found.index(identity)


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_the_nested_ids_of_a_file(name: str, checkpoints: Any, tmp_path: Path) -> None:
    """The whole way, of a file and of a split."""
    table = [
        {"paragraph": f"good {p}", "question": "why", "answer": "bad",
         "idx": {"paragraph": p, "question": 2 * p, "answer": a}, "label": a}
        for p in range(2) for a in range(2)
    ]  # fmt: skip
    data = tmp_path / "data"
    for split in ("train", "validation"):
        write(data / f"{split}.jsonl", table)
    answer = call(
        "train", *tiny(checkpoints["bert"]), "method=bitfit", "task=multirc", "trainer.max_steps=1",
        f"task.path={data}", f"output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    known = [row["id"] for row in read(tmp_path / "run" / "predictions.jsonl")]
    assert known == [json.dumps(row["idx"]) for row in table]
    source = write(tmp_path / name, table)
    predicted(tmp_path / "run", "--input", source, "--format", "glue", "--output", tmp_path / "o")
    predicted(
        tmp_path / "run", "--split", "validation", "--format", "glue", "--output", tmp_path / "p"
    )
    one, other = (read(tmp_path / folder / "MultiRC.jsonl") for folder in "op")
    assert one == other and [line["idx"] for line in one] == [0, 1]
    assert [line["passage"]["questions"][0]["idx"] for line in one] == [0, 2]
    flat = write(tmp_path / "flat.jsonl", [{**row, "idx": n} for n, row in enumerate(table)])
    wrong = call("predict", tmp_path / "run", "--input", flat, "--format", "glue", "--output",
                 tmp_path / "q")  # fmt: skip
    assert wrong.status == 2 and "Set task.id to the column that holds such objects" in wrong.err


def test_submissions_that_cannot_be_made(tmp_path: Path) -> None:
    mnli = submission.submission_of(settings(compose(["task=mnli"])).task)
    assert submission.file_for(mnli, tmp_path, "test_matched").name == "MNLI-m.tsv"
    assert submission.file_for(mnli, tmp_path / "AX.tsv", None).name == "AX.tsv"
    with pytest.raises(AdaptError, match=r"may belong to MNLI-m.tsv, MNLI-mm.tsv, AX.tsv"):
        submission.file_for(mnli, tmp_path, None)
    with pytest.raises(AdaptError, match="not known"):
        submission.submission_of(settings(compose(["task=imdb"])).task)
    renamed = replace(settings(compose(["task=sst2"])).task, labels=("bad", "good"))
    with pytest.raises(AdaptError, match="needs the classes negative, positive"):
        submission.submission_of(renamed)


def test_a_submission_of_a_run(trained: Path, tmp_path: Path) -> None:
    answer = predicted(trained, "--split", "test", "--format", "glue", "--output", tmp_path)
    assert "SST-2.tsv has 9 rows; the server of GLUE expects 1,821" in answer.err
    predicted(trained, "--split", "test", "--output", tmp_path / "a.jsonl")
    answers = [row["prediction"] for row in read(tmp_path / "a.jsonl")]
    lines = (tmp_path / "SST-2.tsv").read_text().splitlines()[1:]
    assert lines == [f"{i}\t{CLASSES.index(name)}" for i, name in enumerate(answers)]
    named = write(tmp_path / "in.jsonl", [{"sentence": "good", "idx": "a7"}])
    words = ["--input", named, "--format", "glue", "--output", tmp_path / "x" / "SST-2.tsv"]
    wrong = call("predict", trained, *words)
    assert wrong.status == 2 and "id 'a7' needs a whole number" in wrong.err


# ---- the merged export ----


def test_the_merged_model_gives_the_same_probabilities(trained: Path, tmp_path: Path) -> None:
    source = trained.parent / "data" / "validation.jsonl"
    predicted(trained, "--input", source, "--output", tmp_path / "a.jsonl")
    assert call("export", trained, "--format", "merged", "--out", tmp_path / "m").status == 0
    plain = pipeline("text-classification", str(tmp_path / "m"))
    texts = [row["sentence"] for row in read(source)]
    for mine, theirs in zip(read(tmp_path / "a.jsonl"), plain(texts, top_k=None), strict=True):
        shares = {one["label"]: one["score"] for one in theirs}
        assert mine["probabilities"] == pytest.approx(shares, rel=1e-4)
        assert mine["prediction"] == max(shares, key=lambda name: shares[name])
