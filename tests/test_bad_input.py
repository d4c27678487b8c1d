"""Bad input of every kind: a short message that says what to do, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from commandline import LABELS, Answer, call, data_root, read, tiny, write
from families import rows, save_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from adaptkit.storage import files, hub
from adaptkit.tasks.forms.head import HeadForm

FAILED_RUN = {"config.yaml", "train.log", "result.json", "history.jsonl", "checkpoints"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory beside a folder `data` with a good task sst2."""
    data_root(tmp_path / "data")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
    return here


@pytest.fixture
def body(checkpoints, tmp_path: Path) -> Path:
    """A copy of the tiny BERT that a test may damage."""
    return Path(shutil.copytree(checkpoints["bert"], tmp_path / "body"))


def refused(answer: Answer, *words: str, status: int = 2) -> None:
    """Check the form of a refusal: status, few lines, all words, no traceback."""
    assert answer.status == status, answer.err
    text = answer.err + answer.out
    assert "Traceback" not in text
    start = answer.err.find("adaptkit: ")
    assert start >= 0, text
    message = answer.err[start:]
    assert len(message.strip().splitlines()) <= 6, message
    for word in words:
        assert word in message, f"{word!r} is missing in: {message}"


def nothing_left(place: Path) -> None:
    """Check that no run directory is left, or only the record of the failure."""
    left = {p.relative_to(place).as_posix() for p in place.rglob("*")}
    for record in place.rglob("result.json"):
        assert json.loads(record.read_text())["status"] == "failed"
        assert {p.name for p in record.parent.iterdir()} <= FAILED_RUN
        left -= {p.relative_to(place).as_posix() for p in record.parent.rglob("*")}
        left -= {p.relative_to(place).as_posix() for p in (record.parent, *record.parents)
                 if place in p.parents}  # fmt: skip
    assert not left


# ---- the configuration ----

CONFIG = [
    ("method=lroa", ["method=lroa", "did you mean lora", "bitfit"]),
    ("metod=lora", ["metod", "did you mean method"]),
    ("trainer=debgu", ["trainer=debgu", "did you mean debug", "default"]),
    ("optimizer=adan", ["optimizer=adan", "did you mean adamw"]),
    ("regularizer=[l2sp]", ["regularizer=l2sp", "did you mean l2_sp"]),
    ("experiment=paper/lora_mrp", ["experiment=paper/lora_mrp", "did you mean paper/lora_mrpc"]),
    ("method.rnk=3", ["method.rnk", "did you mean method.rank"]),
    ("+method.rnk=3", ["method.rnk", "did you mean rank"]),
    ("trainer.batchsize=8", ["trainer.batchsize", "trainer.batch_size"]),
    ("lr=0.1", ["lr", "did you mean optimizer.lr"]),
    ("method.rank=0", ["method.rank=0", "1 or more"]),
    ("method.rank=-3", ["method.rank=-3", "1 or more"]),
    ("method.rank=abc", ["method.rank='abc'", "a whole number"]),
    ("method.rank=1.5", ["method.rank=1.5", "a whole number"]),
    ("method.rank=true", ["method.rank=True", "a whole number"]),
    ("method.rank=null", ["method.rank=None", "a whole number"]),
    ("method.rank=???", ["method.rank", "must be set"]),
    ("method.alpha=0", ["method.alpha=0.0", "above 0"]),
    ("method.dropout=1", ["method.dropout=1.0", "below 1"]),
    ("method.roles=[qery]", ["method.roles=qery", "did you mean query"]),
    ("method.roles=[]", ["method.roles=[]", "at least one", "query"]),
    ("method.ranks=4", ["method.ranks=4", "+method.ranks.NAME"]),
    ("method.bias=some", ["method.bias=some", "lora_only"]),
    ("optimizer.lr=-1", ["optimizer.lr=-1", "above 0"]),
    ("optimizer.lr=nan", ["optimizer.lr=nan", "above 0"]),
    ("optimizer.lr=inf", ["optimizer.lr=inf", "finite"]),
    ("optimizer.lr=0", ["optimizer.lr=0", "above 0"]),
    ("optimizer.lr=fast", ["optimizer.lr='fast'", "a number"]),
    ("optimizer.schedule=linaer", ["optimizer.schedule=linaer", "did you mean linear"]),
    ("optimizer.warmup_ratio=2", ["optimizer.warmup_ratio=2", "below 1"]),
    ("seed=-1", ["seed=-1", "at least 0"]),
    ("seed=one", ["seed='one'", "a whole number"]),
    ("trainer.batch_size=0", ["trainer.batch_size=0", "1 or more"]),
    ("trainer.epochs=-1", ["trainer.epochs=-1", "0 or more"]),
    ("trainer.epochs=nan", ["trainer.epochs=nan", "0 or more"]),
    ("trainer.epochs=inf", ["trainer.epochs=inf", "finite"]),
    ("trainer.max_steps=-1", ["trainer.max_steps=-1", "0 or more"]),
    ("trainer.eval_every=0", ["trainer.eval_every=0", "1 or more"]),
    ("trainer.max_grad_norm=nan", ["trainer.max_grad_norm=nan", "0 or more"]),
    ("trainer.precision=fp8", ["trainer.precision=fp8", "bf16", "fp32"]),
    ("model.pooling=none", ["model.pooling=none: not known. There is: max, mean, null."]),
    ("trainer.device=tpu", ["trainer.device=tpu", "cpu", "cuda"]),
    ("task.max_length=2", ["task.max_length=2", "4 or more"]),
    ("task.metric=f1", ["task.metric=f1", "did you mean", "accuracy_and_f1"]),
    ("task.labels=[one]", ["task.labels=['one']", "two classes"]),
    ("task.text=[a,b,c]", ["task.text=", "one column, or two"]),
    ("task=classify", ["task.path", "must be set"]),
    ("model=auto", ["model.path", "must be set"]),
    ("data.source=net", ["data.source=net", "auto", "local"]),
    ("data.train_rows=0", ["data.train_rows=0", "1 or more"]),
    ("method.rank", ["method.rank", "KEY=VALUE"]),
    ("task.text=[a", ["cannot be read", "task.text=[a", "quotes"]),
    ("task.also={more:[extra]}", ["task.also.more", "must be text"]),
    ("regularizer=null", ["regularizer=null", "name of a choice", "regularizer=[]", "l2_sp"]),
    ("tracker=null", ["tracker=null", "tracker=none"]),
    ("trainer=5", ["trainer=5", "debug, default"]),
    ("method=null", ["method=null", "name of a choice", "lora"]),
    ("optimizer=[]", ["optimizer=[]", "name of a choice", "adamw"]),
    ("model=[mini-bert,auto]", ["model=[mini-bert,auto]", "name of a choice"]),
    ("task={name:x}", ["task={name:x}", "name of a choice", "task.NAME=VALUE"]),
    ("regularizer={l2_sp:{strength:1}}", ["name of a choice"]),
    ("seed=${seed}", ["seed: refers to itself"]),
    ("task.name=${task.name}", ["task.name: refers to itself"]),
    ("method.rank=${oc.env:NOT_SET}", ["method.rank: cannot be resolved", "NOT_SET"]),
    ("method.rank=${no_resolver:}", ["method.rank: cannot be resolved", "no_resolver"]),
    (f"task.labels={'[' * 400}{']' * 400}", ["nested too deeply"]),
    (f"output_dir={'a' * 300}", ["output_dir=aaa", "too long", "300", "255"]),
    (f"data.root={'a' * 300}", ["data.root=aaa", "too long"]),
    (f"model.path={'a' * 300}", ["model.path=aaa", "too long"]),
    (f"task.path={'ä/' * 2000}", ["task.path=ä/", "too long"]),
    ("model.path=~no-such-user/x", ["model.path='~no-such-user/x'", "home folder"]),
    ("model.path=a--b", ["model.path=a--b", "neither a folder nor a hub id"]),
    ("output_dir=null", ["output_dir=None", "must be text"]),
    ("task.label=2024.0", ["must be text", "\"task.label='2024.0'\""]),
    ("task.label=true", ["must be text", "\"task.label='true'\"", 'write "no"']),
    ("task.path=some, (text)", ["cannot be read", "\"KEY='some, (text)'\""]),
    ("method=lora,full", ["method=lora,full", "-m"]),
    ("trainer.epochs=${nothing.here}", ["trainer.epochs", "nothing.here"]),
    ("data=5", ["data=5", "mapping"]),
]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("override", "words"), CONFIG, ids=[override[:40] for override, _ in CONFIG]
)
def test_config(place: Path, override: str, words: list[str]) -> None:
    refused(call("train", override), *words)
    nothing_left(place)


@pytest.mark.parametrize("command", ["plan", "train -m"])
@pytest.mark.parametrize("override", ["method=lroa", "method.rnk=3", "method.rank=0", "model=auto"])
def test_config_of_other_commands(place: Path, command: str, override: str) -> None:
    answer = call(*command.split(), override)
    refused(answer, override.partition("=")[0].replace("model", "model.path"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--cfg", "job", "-m"], ["--cfg", "--multirun"]),
        (["list", "metods"], ["list=metods", "did you mean methods"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_flags(place: Path, words: list[str], named: list[str]) -> None:
    refused(call(*words), *named)


def test_unknown_flag(place: Path) -> None:
    refused(call("train", "--nonsense"), "--nonsense: no such flag", "without dashes")
    answer = call("train", "--cfg=everything")
    assert answer.status == 2
    assert "--cfg" in answer.err
    assert "usage: adaptkit train" in answer.err


def test_eval_of_nothing(place: Path) -> None:
    answer = call("eval")
    assert answer.status == 2
    assert "required: run. adaptkit eval --help says more.\n" in answer.err


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_tracker_that_is_not_installed(
    place: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(call("train", f"tracker={tracker}"), f"tracker='{tracker}'", f"adaptkit[{tracker}]")
    nothing_left(place)


# ---- data ----


def sentences(**changes: object) -> list[dict]:
    """Return eight good rows; `row3={...}` changes the third."""
    table = [dict(row) for row in rows(8, seed=3)]
    for key, change in changes.items():
        table[int(key.removeprefix("row")) - 1] |= change
    return table


def text_file(name: str, content: str | bytes):
    """Return a function that writes `content` to a split's file."""

    def put(folder: Path) -> None:
        encoded = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(encoded)

    return put


def table_file(name: str, table: list[dict]):
    """Return a function that writes rows to a split's file."""
    return lambda folder: write(folder / name, table)


def renamed(old: str, new: str) -> list[dict]:
    return [{new if key == old else key: value for key, value in r.items()} for r in sentences()]


BROKEN_JSON = '{"sentence": "a film", "label": 0}\n{"sentence": "a fil\n'
RAGGED = "sentence,label\na film,0\na film,1,2\n"
NOT_UTF8 = b'{"sentence": "a film", "label": 0}\n{"sentence": "caf\xe9", "label": 1}\n'
DATA = {
    "no text column": (table_file("train.jsonl", renamed("sentence", "sentense")),
                       ["train", "'sentence'", "did you mean sentense", "task.text"]),
    "no label column": (table_file("train.jsonl", renamed("label", "y")),
                        ["train", "'label'", "columns: sentence, y", "task.label"]),
    "empty split": (text_file("validation.jsonl", ""), ["validation.jsonl", "no rows"]),
    "empty CSV": (text_file("train.csv", "sentence,label\n"), ["train.csv", "no rows"]),
    "one class": (table_file("train.jsonl", [{**r, "label": 1} for r in sentences()]),
                  ["train", "'positive'", "all rows (8)"]),
    "label out of range": (table_file("train.jsonl", sentences(row3={"label": 7})),
                           ["train", "row 3", "7", "negative, positive"]),
    "hidden labels": (table_file("validation.jsonl", sentences(row1={"label": -1})),
                      ["validation", "row 1", "-1", "withheld"]),
    "label missing": (table_file("train.jsonl", sentences(row4={"label": None})),
                      ["train", "row 4", "None"]),
    "label of another type": (table_file("train.jsonl", sentences(row4={"label": "yes"})),
                              ["train.jsonl", "row 4", "label", "'yes'"]),
    "null for text": (table_file("train.jsonl", sentences(row5={"sentence": None})),
                      ["train", "row 5", "sentence", "None"]),
    "number for text": (table_file("train.parquet", [{**r, "sentence": 5} for r in sentences()]),
                        ["train", "row 1", "sentence", "5"]),
    "mixed types": (table_file("train.jsonl", sentences(row6={"sentence": 6})),
                    ["train.jsonl", "row 6", "sentence", "6"]),
    "column missing": (text_file("train.jsonl", '{"sentence": "a", "label": 0}\n{"label": 1}\n'),
                       ["train.jsonl", "row 2", "'sentence'"]),
    "broken JSONL": (text_file("train.jsonl", BROKEN_JSON), ["train.jsonl", "row 2", "JSON"]),
    "list in JSONL": (text_file("train.jsonl", "[1, 2]\n"), ["train.jsonl", "row 1", "object"]),
    "ragged CSV": (text_file("train.csv", RAGGED), ["train.csv", "row 2", "cells"]),
    "unclosed quote": (text_file("train.csv", 'sentence,label\na,0\n"b,1\n'),
                       ["train.csv", "row 2"]),
    "JSONL not UTF-8": (text_file("train.jsonl", NOT_UTF8), ["train.jsonl", "line 2", "UTF-8"]),
    "CSV not UTF-8": (text_file("train.csv", b"sentence,label\na,0\ncaf\xe9,1\n"),
                      ["train.csv", "line 3", "UTF-8"]),
    "corrupt Parquet": (text_file("train.parquet", b"PAR1 nothing of the kind PAR1"),
                        ["train.parquet", "Parquet"]),
    "cut Parquet": (text_file("train.parquet", b""), ["train.parquet", "Parquet"]),
    "two rows of one id": (table_file("train.jsonl", [{**r, "idx": 5} for r in sentences()]),
                           ["train", "8 rows", "'5'", "task.id=null"]),
    "missing split": (lambda folder: (folder / "validation.jsonl").unlink(),
                      ["'validation'", "train.jsonl", "validation.parquet"]),
}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(("damage", "words"), DATA.values(), ids=DATA)
def test_data(place: Path, checkpoints, damage, words: list[str]) -> None:
    root = place.parent / "data"
    damage(root / "sst2")
    for better in ("parquet", "csv"):  # the file looked at is the damaged one
        if (root / "sst2" / f"train.{better}").exists():
            (root / "sst2" / "train.jsonl").unlink()
    refused(call("train", *tiny(checkpoints["bert"]), f"data.root={root}"), *words)
    nothing_left(place)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.root=../nowhere"], ["data.root=../nowhere", "no such folder"]),
        (["data.root=../data/sst2/train.jsonl"], ["data.root=", "train.jsonl", "folder"]),
        (["data.root=../data", "data.source=local", "task=mrpc"], ["mrpc", "data.root", "train"]),
        (["data.source=local"], ["data.source=local", "data.root"]),
        (["task=classify", "task.path=./no.csv", "task.text=a"], ["task.path=./no.csv", "no such"]),
        (["task=classify", "task.path=../one.txt", "task.text=a"], ["one.txt", ".csv"]),
        (["task=classify", "task.path=../one.csv", "task.text=a"], ["all rows (1)", "label '0'"]),
        (["data.root=../data", "+task.also.more=extra"], ["'extra'", "validation.jsonl"]),
        (["data.root=../data", "task.metric=accuracy_and_f1", "task.labels=[a,b,c]"], ["two"]),
        (["data.root=../scores", "task=stsb"], ["stsb", "row 2", "'high'", "not a number"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_places_of_data(place: Path, checkpoints, overrides: list, words: list[str]) -> None:
    (place.parent / "one.txt").write_text("a\n")
    (place.parent / "one.csv").write_text("a,label\nx,0\n")
    pair = {"sentence1": "a", "sentence2": "b"}
    for split in ("train", "validation"):
        write(place.parent / "scores" / "stsb" / f"{split}.csv",
              [{**pair, "label": "1"}, {**pair, "label": "high"}])  # fmt: skip
    refused(call("train", *tiny(checkpoints["bert"]), *overrides), *words)
    nothing_left(place)


WORDS = [{"tokens": ["a", "good", "film", "."], "upos": [8, 6, 0, 1]} for _ in range(4)]
QUESTIONS = [
    {"premise": "the film was good .", "choice1": "i liked it", "choice2": "i left",
     "question": "effect", "label": i % 2} for i in range(4)
]  # fmt: skip
LISTS = [{"premise": "the film", "ends": ["was good", "was bad"], "label": i % 2} for i in range(4)]
TAGS = ["task=ud_ewt"]
COPA = ["task=copa"]
SOME = ["task=choice", "task.name=some", "task.path=unused", "task.text=premise",
        "task.choices=[ends]"]  # fmt: skip


def third(table: list[dict], **changes: object) -> list[dict]:
    """Return rows of which the third has other values."""
    return [{**row, **changes} if i == 2 else row for i, row in enumerate(table)]


TASKS = {  # what is wrong -> task, its good rows, the bad ones, what the message names
    "too few tags": (TAGS, WORDS, third(WORDS, upos=[8, 6, 0]),
                     ["4 words", "upos", "[8, 6, 0]", "one tag"]),
    "too many tags": (TAGS, WORDS, third(WORDS, upos=[8, 6, 0, 1, 1]),
                      ["4 words", "upos", "[8, 6, 0, 1, 1]", "one tag"]),
    "no tags": (TAGS, WORDS, third(WORDS, upos=None), ["4 words", "upos", "None", "one tag"]),
    "no words": (TAGS, WORDS, third(WORDS, tokens=None), ["tokens", "None", "list of words"]),
    "a word missing": (TAGS, WORDS, third(WORDS, tokens=["a", None, "film", "."]),
                       ["tokens", "None", "list of words"]),
    "unknown tag": (TAGS, WORDS, third(WORDS, upos=[8, 6, 18, 1]), ["18", "18 classes", "NOUN"]),
    "hidden tags": (TAGS, WORDS, third(WORDS, upos=[-1, -1, -1, -1]), ["-1", "withheld"]),
    "label above": (COPA, QUESTIONS, third(QUESTIONS, label=2), ["label 2", "2 choices", "from 0"]),
    "label below": (COPA, QUESTIONS, third(QUESTIONS, label=-2), ["label -2", "2 choices"]),
    "hidden label": (COPA, QUESTIONS, third(QUESTIONS, label=-1), ["label -1", "withheld"]),
    "label missing": (COPA, QUESTIONS, third(QUESTIONS, label=None), ["label None", "2 choices"]),
    "unknown connective": (COPA, QUESTIONS, third(QUESTIONS, question="reason"),
                           ["question", "'reason'", "task.connectives", "cause, effect"]),
    "choice missing": (COPA, QUESTIONS, third(QUESTIONS, choice2=None),
                       ["choice2", "None", "text"]),
    "context missing": (COPA, QUESTIONS, third(QUESTIONS, premise=None),
                        ["premise", "None", "text"]),
    "one choice": (SOME, LISTS, third(LISTS, ends=["was good"], label=0), ["was good", "two"]),
    "no choice": (SOME, LISTS, third(LISTS, ends=[], label=0), ["[]", "two"]),
    "no list of choices": (SOME, LISTS, third(LISTS, ends=None), ["None", "two"]),
    "label of a shorter list": (SOME, third(LISTS, ends=["a", "b", "c"], label=2),
                                third(LISTS, label=2), ["label 2", "2 choices"]),
}  # fmt: skip


def write_task(place: Path, task: list[str], train: list[dict], validation: list[dict]) -> None:
    name = task[1].partition("=")[2] if len(task) > 1 else task[0].partition("=")[2]
    write(place.parent / "data" / name / "train.jsonl", train)
    write(place.parent / "data" / name / "validation.jsonl", validation)


@pytest.mark.sampled
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(("task", "good", "bad", "words"), TASKS.values(), ids=TASKS)
def test_rows_of_tags_and_choices(
    place: Path, checkpoints, task: list[str], good: list, bad: list, words: list[str], split: str
) -> None:
    write_task(place, task, *((bad, good) if split == "train" else (good, bad)))
    answer = call("train", *tiny(checkpoints["bert"]), *task, "data.root=../data")
    refused(answer, f"split {split}, row 3", *words)
    nothing_left(place)


@pytest.mark.parametrize(
    ("column", "value"), [("tokens", "a good film ."), ("tokens", [1, 2, 3, 4]), ("upos", 1)]
)
@pytest.mark.parametrize("labels", ["", "task.labels=[]"], ids=["named", "from the data"])
def test_columns_that_are_no_lists_of_words_and_tags(
    place: Path, checkpoints, column: str, value: object, labels: str
) -> None:
    table = [{**row, column: value} for row in WORDS]
    write_task(place, TAGS, table, table)
    words = [*TAGS, "data.root=../data", *([labels] if labels else [])]
    answer = call("train", *tiny(checkpoints["bert"]), *words)
    refused(answer, "row 1", column, str(value))
    nothing_left(place)


def test_word_longer_than_the_limit(place: Path, checkpoints) -> None:
    long = third(WORDS, tokens=["a", "x" * 200, "film", "."])
    write_task(place, TAGS, long, WORDS)
    words = [*TAGS, "data.root=../data", "task.max_length=12"]
    answer = call("train", *tiny(checkpoints["gpt2"]), *words)
    refused(answer, "row 3: ", "xxxx", "12", "task.max_length")
    nothing_left(place)


def test_choice_longer_than_the_limit(place: Path, checkpoints) -> None:
    """A context is cut, a choice never."""
    words = [*tiny(checkpoints["bert"]), *COPA, "data.root=../data", "task.max_length=12"]
    write_task(place, COPA, third(QUESTIONS, choice2="good film " * 20), QUESTIONS)
    refused(call("train", *words), "row 3: ", "choice", "40 tokens", "12", "task.max_length")
    nothing_left(place)
    write_task(place, COPA, third(QUESTIONS, premise="good film " * 20), QUESTIONS)
    answer = call("train", *words, "output_dir=run")
    assert answer.status == 0, answer.err


@pytest.mark.parametrize(
    ("task", "long"),
    [
        (TAGS, {"tokens": ["a", "x" * 200, "film", "."]}),
        (COPA, {"choice2": "good film " * 20}),
    ],
    ids=["tags", "choices"],
)
def test_row_too_long_is_named_as_in_the_file(
    place: Path, checkpoints, task: list[str], long: dict
) -> None:
    """By its number in the whole file, not in the part of it that is used, or by its own id."""
    good = WORDS if task == TAGS else QUESTIONS
    table = [{**row, "idx": f"own-{number}"} for number, row in enumerate(good * 4, 1)]
    for row in table[10:]:
        row |= long
    write_task(place, task, table, good)
    words = [*task, "data.root=../data", "task.max_length=12", "data.train_rows=8"]
    answer = call("train", *tiny(checkpoints["gpt2"]), *words)
    refused(answer)
    named = re.search(r"own-(\d+)", answer.err) or re.search(r"row (\d+)", answer.err)
    assert named and int(named.group(1)) > 10, answer.err
    assert "train" in answer.err


@pytest.mark.parametrize(
    ("family", "words", "named"),
    [
        ("bert", ["task=squad", "task.max_length=16", "task.stride=4"], ["question", "stride=4"]),
        ("t5", ["task=xsum", "task.max_length=4"], ["task.source", "template"]),
        ("bart", ["task=xsum", "task.max_target_length=600"], ["task.max_target_length"]),
        ("bert", ["task=xsum"], ["bert"]),
    ],
    ids=["span", "template", "target", "encoder"],
)  # fmt: skip
def test_what_does_not_fit_is_known_before_weights_are_loaded(
    place: Path, checkpoints, family: str, words: list[str], named: list[str]
) -> None:
    answer = call("train", *tiny(checkpoints[family]), *words, "data.source=sample")
    refused(answer, *named)
    nothing_left(place)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=choice", "task.path=x", "task.text=a", "task.choices=[]"], ["task.choices=[]"]),
        (["task=copa", "task.connectives=null"], ["task.connectives"]),
        (["task=copa", "task.metric=f1"], ["task.metric=f1", "accuracy"]),
        (["task=ud_ewt", "task.metric=f1"], ["task.metric=f1", "accuracy", "entities"]),
        (["task=ud_ewt", "task.best=f2"], ["task.best=f2", "accuracy"]),
        (["task=ud_ewt", "task.max_length=3"], ["task.max_length=3", "4 or more"]),
        (["task=tag"], ["task.path", "must be set"]),
        (["task=choice", "task.path=x"], ["task.text", "must be set"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_settings_of_tags_and_choices(place: Path, overrides: list, words: list[str]) -> None:
    refused(call("train", *overrides), *words)
    nothing_left(place)


# ---- models ----


def without(*patterns: str):
    """Return a function that removes files from a model's folder."""

    def remove(folder: Path) -> None:
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return remove


def pickled(folder: Path) -> None:
    without("*.safetensors")(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def config_with(**changes: object):
    """Return a function that changes entries of config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def weights(change):
    """Return a function that changes one matrix of the body."""

    def rewrite(folder: Path) -> None:
        file, name = folder / "model.safetensors", "bert.encoder.layer.0.output.dense.weight"
        tensors = load_file(file)
        save_file({**tensors, name: change(tensors[name])}, file, {"format": "pt"})

    return rewrite


def index(target: str):
    """Return a function that moves the weights out of the folder and names them in an index."""

    def move(folder: Path) -> None:
        names = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "other.safetensors").touch()
        table = dict.fromkeys(names, target.format(folder=folder.parent))
        file = folder / "model.safetensors.index.json"
        file.write_text(json.dumps({"metadata": {}, "weight_map": table}))

    return move


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text("[1]")


def longer_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zzone", "zztwo"])
    tokenizer.save_pretrained(folder)


DEEP = '{"model_type": "bert", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
MODELS = {
    "index that leaves the folder": (index("../outside.safetensors"), ["'../outside", "index"]),
    "absolute index": (index("{folder}/outside.safetensors"), ["outside.safetensors'", "index"]),
    "broken index": (broken_index, ["index.json", "broken"]),
    "padding before the table": (config_with(pad_token_id=-1), ["-1", "padding", "0 to 239"]),
    "padding past the table": (config_with(pad_token_id=999), ["999", "padding", "0 to 239"]),
    "longer tokenizer": (longer_tokenizer, ["tokenizer", "242 tokens", "240 rows"]),
    "flash attention": (config_with(attn_implementation="flash_attention_2"), ["FlashAttention2"]),
    "unknown attention": (config_with(attn_implementation="fast"), ["attn_implementation", "fast"]),
    "unknown activation": (config_with(hidden_act="fast"), ["'fast' is not known"]),
    "text as width": (config_with(hidden_size="x"), ["hidden_size", "int", "'x'"]),
    "negative width": (config_with(hidden_size=-1), ["hidden_size=-1", "1 or more"]),
    "gigantic width": (config_with(hidden_size=10**12), ["cannot be loaded"]),
    "no heads": (config_with(num_attention_heads=0), ["num_attention_heads=0", "1 or more"]),
    "no positions": (config_with(max_position_embeddings=0), ["positions", "1 or more"]),
    "gigantic head": (config_with(num_labels=10**9), ["num_labels=1000000000"]),
    "scalar": (weights(lambda w: w.sum()), ["layer.0.output.dense.weight", "shapes"]),
    "not a number": (weights(lambda w: w / 0), ["layer.0.output.dense.weight", "not finite"]),
    "whole numbers": (weights(lambda w: w.long()), ["layer.0.output.dense.weight", "I64", "F32"]),
    "bits": (weights(lambda w: w > 0), ["layer.0.output.dense.weight", "BOOL", "F32"]),
    "empty weights": (text_file("model.safetensors", ""), ["cut short", "fetch it again"]),
    "empty config": (text_file("config.json", ""), ["config.json", "broken"]),
    "empty tokenizer": (text_file("tokenizer.json", ""), ["tokenizer cannot be loaded"]),
    "deep config": (text_file("config.json", DEEP), ["config.json", "broken", "recursion"]),
    "list as architecture": (config_with(model_type=["bert"]), ["not supported", "bert"]),
    "adapter inside": (text_file("adapter_config.json", "{}"), ["adapter_config.json", "import"]),
    "no weights": (without("*.safetensors"), ["*.safetensors", "Fetch"]),
    "pickled weights": (pickled, ["*.bin", "save_pretrained"]),
    "truncated weights": (cut_short, ["cut short", "fetch it again"]),
    "no config": (without("config.json"), ["config.json"]),
    "broken config": (text_file("config.json", "{not json"), ["config.json", "broken"]),
    "list as config": (text_file("config.json", "[1]"), ["config.json", "broken"]),
    "unknown architecture": (config_with(model_type="mamba9"), ["mamba9", "bert"]),
    "unsupported architecture": (config_with(model_type="clip"), ["clip", "bert"]),
    "no tokenizer": (without("tokenizer*", "vocab*", "special*"), ["tokenizer"]),
    "other shapes": (config_with(hidden_size=64), ["weights", "config.json"]),
}  # fmt: skip


# A plan reads neither numbers nor tokenizers.
UNPLANNED = [
    MODELS[name][0]
    for name in ("no tokenizer", "longer tokenizer", "empty tokenizer", "not a number")
]


@pytest.mark.sampled
@pytest.mark.parametrize(("damage", "words"), MODELS.values(), ids=MODELS)
def test_model(place: Path, body: Path, damage, words: list[str]) -> None:
    damage(body)
    answer = call("train", "method=lora", *tiny(body), "data.root=../data")
    refused(answer, "model.path=", str(body), *words)
    nothing_left(place)
    if call("plan", "method=lora", *tiny(body), "data.root=../data").status:
        return
    assert damage in UNPLANNED


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "nowhere", "no/such-model"])
def test_no_such_model(place: Path, path: str) -> None:
    answer = call("train", *tiny(Path(path)), f"model.path={path}", "data.root=../data")
    refused(answer, path, "folder")
    nothing_left(place)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("family", "overrides", "words"),
    [
        ("distilbert", ["method=lora", "method.roles=[gate]"], ["gate", "query"]),
        ("bert", ["method=lora", "method.rank=1000"], ["method.rank=1000", "Choose 32 or less"]),
        ("llama", ["method=bitfit"], ["bitfit", "bias", "method=lora"]),
        ("llama", ["method=chain", "method.parts=[{name: houlsby}, {name: bitfit}]"], ["no bias"]),
        ("bert", ["method.roles=[query,gate]"], ["'gate'", "There is: query"]),
        ("bert", ["method=bitfit", "method.components=[up,gate]"], ["'gate'", "There is: query"]),
        (
            "xlnet",
            ["method=bitfit", "method.components=[query_up]"],
            ["components=query", "no bias"],
        ),
        ("bert", ["method=top_k", "method.last=4"], ["method.last=4", "has 3 layers"]),
        ("t5", ["method=top_k", "method.layers=[3,4]"], ["method.layers=[3, 4]", "has 3 layers"]),
        ("bert", ["method=top_k", "method.layers=0"], ["method.layers=0", "1 or more"]),
        (
            "bert",
            ["method=top_k", "method.last=1", "method.layers=1"],
            ["method.last=1", "Drop one"],
        ),
        ("albert", ["method=top_k"], ["method=top_k", "ALBERT share one set of weights"]),
        ("bert", ["method=adalora", "method.orthogonality=inf"], ["orthogonality=inf", "finite"]),
        ("bert", ["method=chain", "method.parts={name: lora}"], ["method.parts=", "a list"]),
        ("bert", ["method=chain", "method.parts=[{name: mam}]"], ["method.parts=mam", "prefix"]),
        (
            "bert",
            ["method=chain", "method.parts=[{name: lora}, {name: full}]"],
            ["Full adds nothing"],
        ),
        (
            "bert",
            ["method=chain", "method.parts=[{name: prompt}, {name: prefix, init: good film}]"],
            ["method.init='good film'", "before the prompt"],
        ),
        ("gpt2", ["method=probe", "method.pooling=cls"], ["cls", "mean", "last"]),
        ("bert", ["method=probe", "method.layer=7"], ["method.layer=7", "0 to 3"]),
        ("bert", ["method=probe", "method.layer=-5"], ["method.layer=-5", "0 to 3"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
@pytest.mark.parametrize("command", ["train", "plan"])
def test_method_that_does_not_fit(
    place: Path, checkpoints, command: str, family: str, overrides: list[str], words: list[str]
) -> None:
    answer = call(command, *tiny(checkpoints[family]), *overrides, "data.root=../data")
    refused(answer, *words)
    nothing_left(place)


def test_a_failed_start_does_not_bar_the_mended_command(place: Path, checkpoints) -> None:
    words = [*tiny(checkpoints["bert"]), "method=prompt", "method.length=2", "data.root=../data"]
    refused(call("train", *words, "method.init='\u200b'", "output_dir=run"), "method.init", "token")
    assert json.loads(Path("run/result.json").read_text())["status"] == "failed"
    assert call("train", *words, "method.init=random", "output_dir=run").status == 0
    refused(call("train", *words, "method.length=3", "output_dir=run"), "method.length", "resume")


def test_device_that_is_not_there(place: Path, checkpoints, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = [*tiny(checkpoints["bert"]), "data.root=../data"]
    refused(call("train", *run, "trainer.device=cuda"), "trainer.device='cuda'", "cpu")
    refused(call("train", *run, "trainer.precision=fp16"), "trainer.precision='fp16'", "bf16")
    nothing_left(place)


# ---- run directories ----


@pytest.fixture(scope="module")
def original(checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its body and its data."""
    folder = tmp_path_factory.mktemp("original")
    body = shutil.copytree(checkpoints["bert"], folder / "body")
    words = ["train", "method=bitfit", *tiny(body), f"data.root={data_root(folder / 'data')}"]
    assert call(*words, f"output_dir={folder / 'run'}").status == 0
    return folder / "run"


@pytest.fixture
def finished(place: Path, original: Path) -> Path:
    """A copy of a finished run that a test may damage."""
    return Path(shutil.copytree(original, place / "run"))


def edited(folder: Path) -> None:
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("- all", "- query"))


def other_method(folder: Path) -> None:
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("name: bitfit", "name: bitfti"))


def failed(folder: Path) -> None:
    record = json.loads((folder / "result.json").read_text())
    left = {**record, "status": "failed", "error": "the reason"}
    (folder / "result.json").write_text(json.dumps(left))


RUNS = {
    "no run": (lambda folder: shutil.rmtree(folder), ["is not a run directory", "config.yaml"]),
    "not finished": (without("result.json"), ["is not finished"]),
    "failed": (failed, ["failed", "the reason"]),
    "broken record": (text_file("result.json", '{"status"'), ["result.json", "damaged"]),
    "list as record": (text_file("result.json", "[1]"), ["result.json", "damaged"]),
    "record of nothing": (text_file("result.json", '{"status": "done"}'),
                          ["result.json", "damaged"]),
    "no delta": (without("delta.safetensors"), ["delta.safetensors", "missing or damaged"]),
    "truncated delta": (lambda folder: text_file(
        "delta.safetensors", (folder / "delta.safetensors").read_bytes()[:-100])(folder),
        ["delta.safetensors", "missing or damaged"]),
    "edited config": (edited, ["config.yaml was edited"]),
    "broken config": (text_file("config.yaml", "method: [\n"), ["config.yaml", "damaged"]),
    "emptied config": (text_file("config.yaml", "{}\n"), ["config.yaml", "damaged"]),
    "unknown method": (other_method, ["method=bitfti", "did you mean bitfit"]),
}  # fmt: skip


@pytest.mark.parametrize("command", ["verify", "eval"])
@pytest.mark.parametrize(("damage", "words"), RUNS.values(), ids=RUNS)
def test_run_directory(finished: Path, command: str, damage, words: list[str]) -> None:
    damage(finished)
    refused(call(command, finished), str(finished), *words)
    assert not (finished / "eval").exists()


def test_predictions_gone(finished: Path) -> None:
    (finished / "predictions.jsonl").unlink()
    refused(call("verify", finished), "predictions.jsonl", "missing")


def test_changed_body(finished: Path, body: Path) -> None:
    save_tiny("bert", body, seed=1)
    config = finished / "config.yaml"
    config.write_text(re.sub(r"path: \S+/body\b", f"path: {body}", config.read_text()))
    for command in ("verify", "eval"):
        refused(call(command, finished), str(finished), str(body), "fingerprint", "model.path")


def test_verify_tells_changed_predictions(finished: Path) -> None:
    file = finished / "predictions.jsonl"
    lines = read(file)
    lines[4]["prediction"] = LABELS[1 - LABELS.index(lines[4]["prediction"])]
    write(file, lines)
    answer = call("verify", finished)
    assert answer.status == 1
    assert "1 of 12 predictions differ" in answer.out
    assert "the first in the row with id '4'" in answer.out


def test_eval_changes_no_method(finished: Path) -> None:
    refused(call("eval", finished, "method.components=[query]"), "method.components", "task")


# ---- the hub ----


def test_hub_offline(place: Path, checkpoints) -> None:
    refused(call("train", "model=bert-base", "data.root=../data"),
            "google-bert/bert-base-uncased", "cannot be reached", "model.path=DIR")  # fmt: skip
    # Data that was asked for, or has no sample, is not replaced by one.
    for path, words in {
        "nyu-mll/glue": ["data.source=hub"],
        "owner/films": ["task=classify", "task.path=owner/films", "task.text=text"],
    }.items():
        refused(call("train", *tiny(checkpoints["bert"]), *words),
                path, "cannot be reached", "data.root=DIR")  # fmt: skip
    nothing_left(place)


@pytest.mark.parametrize(
    ("kind", "reached"),
    [("refuses", False), ("is silent", False), ("talks nonsense", False), ("says no", True)],
)
def test_unreachable_hub_is_known_soon(
    kind: str, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = {"talks nonsense": b"hello", "says no": b"HTTP/1.1 404 Not Found\r\n\r\n"}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if kind != "refuses":
            server.listen()
        if kind in says:

            def answer() -> None:
                client, _ = server.accept()
                client.recv(1000)
                client.sendall(says[kind])
                client.close()

            threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(hub, "SECONDS", 1.0)
        started = time.monotonic()
        assert hub.reachable.__wrapped__() == reached
        assert time.monotonic() - started < 2


def test_hub_is_given_up_within_five_seconds() -> None:
    assert hub.SECONDS < 5


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "data"])
def test_unreachable_hub_in_a_process(place: Path, checkpoints, what: str) -> None:
    words = {
        "model": ["model=bert-base", "data.root=../data"],
        "data": tiny(checkpoints["bert"], "data.source=hub"),
    }
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "adaptkit", "train", *words[what]],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    refused(Answer(done.returncode, done.stdout, done.stderr), "cannot be reached")
    nothing_left(place)


# ---- the machine ----


def full_disk(file_name: str):
    """Return an os.replace that finds no space for files of that name."""
    real = os.replace

    def replace(source, target):
        if Path(target).name == file_name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return real(source, target)

    return replace


@pytest.mark.parametrize("file", ["config.yaml", "delta.safetensors", "complete"])
def test_full_disk(place: Path, checkpoints, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "replace", full_disk(file))
    run = ["train", *tiny(checkpoints["bert"]), "data.root=../data", "output_dir=run"]
    refused(call(*run), file, "No space left", status=1)
    assert not list(place.rglob("*.tmp"))
    if (place / "run" / "result.json").exists():
        assert json.loads((place / "run" / "result.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    monkeypatch.chdir(place)
    again = call(*run)
    assert again.status == 0, again.err


def test_full_disk_while_tensors_are_written(place: Path, checkpoints, monkeypatch) -> None:
    def save_file(tensors, target, metadata=None):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    answer = call("train", *tiny(checkpoints["bert"]), "data.root=../data")
    refused(answer, "delta.safetensors", "No space left", status=1)
    assert not list(place.rglob("*.tmp"))
    assert not list(place.rglob("delta.safetensors"))
    nothing_left(place)


def test_output_dir_is_a_file(place: Path, checkpoints) -> None:
    (place / "taken").write_text("mine")
    run = [*tiny(checkpoints["bert"]), "data.root=../data"]
    refused(call("train", *run, "output_dir=taken"), "output_dir", "taken", "folder")
    refused(call("train", *run, "output_dir=taken/below"), "output_dir", "taken", "folder")
    assert (place / "taken").read_text() == "mine"


def test_sweep_in_a_folder_that_takes_no_files(place: Path, monkeypatch) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a file system that nobody can write to")
    monkeypatch.chdir("/proc/self")
    answer = call("train", "-m", "method=lora,bitfit", f"output_dir={place}/run")
    refused(answer, "outputs", status=1)
    nothing_left(place)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_output_dir_is_not_writable(place: Path, checkpoints) -> None:
    (place / "locked").mkdir(mode=0o500)
    answer = call("train", *tiny(checkpoints["bert"]), "output_dir=locked/run")
    refused(answer, "output_dir", "locked", status=1)


def test_output_dir_on_a_read_only_file_system(place: Path, checkpoints) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a file system that nobody can write to")
    answer = call("train", *tiny(checkpoints["bert"]), "output_dir=/proc/self/run")
    refused(answer, "output_dir", "/proc/self/run", status=1)


# ---- a loss that is no number ----


def test_diverging_run(place: Path, checkpoints) -> None:
    answer = call("train", "method=full", *tiny(checkpoints["bert"]), "data.root=../data",
                  "optimizer.lr=1e30", "optimizer.schedule=constant")  # fmt: skip
    refused(answer, "loss is", "at update 2", "diverged", "optimizer.lr")
    nothing_left(place)
    assert json.loads(next(place.rglob("result.json")).read_text())["status"] == "failed"


def test_diverging_run_keeps_the_checkpoint_before(
    place: Path, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, calls = HeadForm.loss, []

    def loss(self, outputs, batch):
        training = outputs.logits.requires_grad
        if training:
            calls.append(1)
        broken = training and len(calls) == 3
        return calm(self, outputs, batch) * (float("nan") if broken else 1)

    run = ["train", *tiny(checkpoints["bert"]), "data.root=../data", "output_dir=run"]
    monkeypatch.setattr(HeadForm, "loss", loss)
    refused(call(*run), "loss is nan at update 3", "diverged", "optimizer.lr")
    assert (place / "run" / "checkpoints" / "checkpoint-2" / "complete").is_file()
    again = call(*run)  # the third call of the loss is over: it goes on and finishes
    assert again.status == 0, again.err
    assert "resuming from update 2" in again.err
