"""Extractive question answering: windows, labels, loss, decoding and the two official metrics."""

from __future__ import annotations

import json
import math
import random
import re
import string
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import call, read, tiny, write
from datasets import Dataset
from families import FAMILIES as ALL
from families import tiny_tokenizer
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from adaptkit.errors import AdaptError, ConfigError
from adaptkit.metrics.squad import Squad, best_of, exact, f1, normalised
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.tasks.data import Data
from adaptkit.tasks.forms.span import SpanForm
from adaptkit.tasks.span import Span, place_of, right_answers
from adaptkit.tasks.task import Reader

NONE = ("eurobert", "modernbert-decoder", "gemma3_text")  # transformers has no such class of theirs
FAMILIES = [family for family in ALL if family not in NONE]
NUMBERS = ("one two three four five six seven eight nine ten red blue green black white cat dog "
           "bird fish tree")  # fmt: skip
NINE_TEN = {"text": ["nine ten"], "answer_start": [40]}


@pytest.fixture(scope="module")
def reader() -> Reader:
    """BERT's layout over a vocabulary of whole words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "which", "number", "?", *NUMBERS.split()]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return Reader(PreTrainedTokenizerFast(tokenizer_object=backend, **names))


def form_of(length: int = 12, stride: int = 2, **more: Any) -> SpanForm:
    return SpanForm("question", "context", length, stride, more.pop("longest", 30),
                    more.pop("candidates", 20), **more)  # fmt: skip


def row_of(context: str = NUMBERS, question: str = "which number ?", **more: Any) -> Dataset:
    return Dataset.from_dict(
        {"id": ["7"], "question": [question], "context": [context],
         **{name: [value] for name, value in more.items()}}
    )  # fmt: skip


# ---- windows and labels ----


def test_the_windows_of_the_reference(reader):
    """Question of 3, T=12, overlap 2: 6 tokens of text per window, every 4 tokens."""
    found = form_of().encode(row_of(label=NINE_TEN), reader).to_list()
    words = NUMBERS.split()
    shown = [
        (w["length"], w["text"], w["first"], tuple(w["target"]), w["null"], w["row"]) for w in found
    ]
    cut = [words[begin : begin + 6] for begin in (0, 4, 8, 12, 16)]
    lengths, targets = (12, 12, 12, 12, 10), ((0, 0), (9, 10), (5, 6), (0, 0), (0, 0))
    assert shown == [
        (length, " ".join(part), 5, target, 0, 0)
        for length, part, target in zip(lengths, cut, targets, strict=True)
    ]
    assert [w["starts"] for w in found] == [
        [w["text"].index(word) for word in w["text"].split()] for w in found
    ]


@pytest.mark.parametrize("count", range(1, 21))
@pytest.mark.parametrize("stride", [0, 1, 5])
def test_the_number_of_windows(count, stride, reader):
    context = " ".join(NUMBERS.split()[:count])
    found = form_of(stride=stride).encode(row_of(context), reader)
    assert len(found) == (1 if count <= 6 else 1 + math.ceil((count - 6) / (6 - stride)))


@pytest.mark.parametrize(
    ("answer", "targets"),
    [
        ("one", [(5, 5), (0, 0), (0, 0), (0, 0), (0, 0)]),
        ("six", [(10, 10), (6, 6), (0, 0), (0, 0), (0, 0)]),
        ("one two three four five six", [(5, 10), (0, 0), (0, 0), (0, 0), (0, 0)]),
        ("one two three four five six seven", [(0, 0)] * 5),  # longer than a window
        ("tree", [(0, 0), (0, 0), (0, 0), (0, 0), (8, 8)]),
        (" two ", [(6, 6), (0, 0), (0, 0), (0, 0), (0, 0)]),  # blanks are no tokens
        ("wo thr", [(6, 7), (0, 0), (0, 0), (0, 0), (0, 0)]),  # parts of words
        ("", [(0, 0)] * 5),
    ],
)
def test_where_answers_stand(answer, targets, reader):
    label = right_answers(answer, NUMBERS)
    found = form_of().encode(row_of(label=label), reader)
    assert [tuple(target) for target in found["target"][:]] == targets


def test_only_training_leaves_out_windows_without_the_answer(reader):
    """Windows of scored rows may not be chosen by their answers."""
    form = form_of(only_answered=True)
    rows = Dataset.from_dict({
        "id": ["a", "b"], "question": ["which number ?"] * 2, "context": [NUMBERS] * 2,
        "label": [NINE_TEN, {"text": [], "answer_start": []}],
    })  # fmt: skip
    every = form.encode(rows, reader)
    assert every["row"][:] == [0] * 5 + [1] * 5
    assert form.prepare(every, None)["row"][:] == [0, 0, 1, 1, 1, 1, 1]
    assert form_of().prepare(every, None) is every


def test_the_task_says_which_windows(reader):
    assert Span("t").posed.only_answered is False
    assert Span("t", windows="answered").posed.only_answered is True


def test_the_loss_of_the_reference(reader):
    form = form_of()
    targets = {"target": torch.tensor([[1, 2]]), "size": torch.tensor([3])}
    batch = SimpleNamespace(targets=targets)
    outputs = SimpleNamespace(
        start_logits=torch.tensor([[1.0, 2.0, 0.0]]), end_logits=torch.tensor([[0.0, 1.0, 3.0]])
    )
    assert float(form.loss(outputs, batch)) == pytest.approx(0.288726, abs=1e-6)
    wide = SimpleNamespace(**{
        name: torch.cat([values, torch.tensor([[9.0, -9.0]])], 1)
        for name, values in vars(outputs).items()
    })  # fmt: skip
    assert float(form.loss(wide, batch)) == pytest.approx(0.288726, abs=1e-6)  # padding


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "t5", "xlnet"])
@torch.no_grad()
def test_the_loss_is_that_of_transformers(family, checkpoints):
    """For a window without padding: what the head itself computes of the same positions."""
    model = Model(family, str(checkpoints[family]))
    config = loading.load_config(model, "span", 2)
    tokenizer = loading.load_tokenizer(model, config)
    loaded, reader = loading.load_model(model, config, "span").model.eval(), Reader(tokenizer)
    text = "the film was not bad"
    rows = row_of(text, "why ?", label=right_answers("not bad", text))
    form = form_of(60)
    (example,) = form.encode(rows, reader).to_list()
    batch = form.collate([example], reader)
    first, last = batch.targets["target"].unbind(1)
    own = loaded(**batch.inputs, start_positions=first, end_positions=last).loss
    torch.testing.assert_close(form.loss(loaded(**batch.inputs), batch), own)
    held = tokenizer.decode(example["input_ids"][int(first) : int(last) + 1])
    assert held.strip() == "not bad"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_body_under_a_span_head_is_the_stored_one(family, checkpoints):
    """Some families name their base model otherwise in this class, or put the head inside it."""
    model = Model(family, str(checkpoints[family]))
    loaded = loading.load_model(model, loading.load_config(model, "span", 2), "span")
    if family != "modernbert":  # it has a layer of its own before the map
        assert loaded.head == {"qa_outputs.weight", "qa_outputs.bias"}
    stored = {t.double().sum().item() for t in
              load_file(checkpoints[family] / "model.safetensors").values()}  # fmt: skip
    body = {n: p for n, p in loaded.model.named_parameters() if n not in loaded.head}
    assert len(body) > 10
    assert not {n for n, p in body.items() if p.double().sum().item() not in stored}


# ---- decoding ----

S = [1, 6, 0, 2, 0, 1.5, 3, -1, 0]
E = [0.5, 0, 5, 1, 0, 0.2, 2.5, 2.4, 0]  # CLS q SEP Oslo is in Norway . SEP


@pytest.mark.parametrize(
    ("options", "answer", "score"),
    [
        ({}, "Norway", 5.5),
        ({"candidates": 2}, "Norway", 5.5),
        ({"candidates": 1}, "Norway", 5.5),  # the best start is not in the question
        ({"longest": 1}, "Norway", 5.5),
    ],
)
def test_decoding_of_the_reference(options, answer, score):
    ((null, best, text),) = decoded(form_of(**options), S, E)
    assert (null, text) == (1.5, answer) and best == pytest.approx(score)
    ((said,),) = [form_of(unanswerable=True, **options).answers([(null, best, text)], [0])]
    assert said == {"answer": answer, "span": answer, "no_answer": pytest.approx(-4.0)}


def decoded(form: SpanForm, starts: list[float], ends: list[float]) -> list[tuple]:
    text = "Oslo is in Norway."
    targets = {
        "first": [3], "null": [0], "text": [text], "starts": [[0, 5, 8, 11, 17]],
        "ends": [[4, 7, 10, 17, 18]],
    }  # fmt: skip
    outputs = SimpleNamespace(start_logits=torch.tensor([starts]), end_logits=torch.tensor([ends]))
    return form.predict(None, outputs, SimpleNamespace(targets=targets), None)


def test_a_pair_outside_the_best_is_found_when_they_do_not_fit():
    """The best start stands after the best end."""
    starts, ends = [0, 0, 0, 1, 0, 0, 0, 9, 0], [0, 0, 0, 9, 8, 0, 0, 0, 0]
    ((_, score, text),) = decoded(form_of(candidates=1), starts, ends)
    assert (score, text) == (10, "Oslo")


def test_every_best_span_against_all_pairs():
    """n=20 of at most 12 tokens is exhaustive; L limits the length in tokens."""
    generator = torch.Generator().manual_seed(0)
    for width in range(1, 13):
        starts, ends = torch.randn(2, width, generator=generator)
        for longest in (1, 2, 5, 30):
            score, i, j = form_of(longest=longest).best(starts, ends)
            pairs = {
                (a, b): float(starts[a] + ends[b])
                for a in range(width) for b in range(a, min(width, a + longest))
            }  # fmt: skip
            assert (i, j) == max(pairs, key=pairs.__getitem__)
            assert score == pytest.approx(pairs[i, j])


def test_no_answer_is_the_least_over_the_windows_and_the_best_span_wins():
    form = form_of(unanswerable=True, threshold=0.5)
    windows = [(3.0, 1.0, "a"), (2.0, 1.5, "b"), (5.0, 0.0, "c"), (1.0, 4.0, "d"), (2.0, 1.4, "e")]
    rows = [0, 0, 0, 1, 2]
    expected = [
        {"answer": "b", "span": "b", "no_answer": 0.5},  # beaten by no more than the threshold
        {"answer": "d", "span": "d", "no_answer": -3.0},
        {"answer": "", "span": "e", "no_answer": pytest.approx(0.6)},
    ]
    assert form.answers(windows, rows) == expected
    order = [4, 2, 3, 0, 1]
    mixed = form.answers([windows[i] for i in order], [rows[i] for i in order])
    assert mixed == expected
    plain = form_of().answers([windows[i] for i in order], [rows[i] for i in order])
    assert plain == ["b", "d", "e"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@torch.no_grad()
def test_one_window_is_many_if_the_text_fits(family, checkpoints):
    """The same tokens, the same answer, whatever the limit."""
    model = Model(family, str(checkpoints[family]))
    config = loading.load_config(model, "span", 2)
    reader = Reader(loading.load_tokenizer(model, config))
    loaded = loading.load_model(model, config, "span").model.eval()
    rows = row_of("the music was great but the ending was terrible", "what was great ?")
    said = []
    for length, stride in ((60, 0), (90, 30)):
        form = form_of(length, stride)
        examples = form.encode(rows, reader).to_list()
        assert len(examples) == 1
        batch = form.collate(examples, reader)
        said.append(form.answers(form.predict(None, loaded(**batch.inputs), batch, reader), [0]))
    assert said[0] == said[1]


HARD = [
    "plain words only",
    "  two  blanks\tand\na line ",
    "naïve café — “quoted” 日本語 🙂 x",
    "[SEP] </s> <s> [CLS] <|endoftext|> <unk> mixed <pad> in",
    "a [SEP] b </s></s> c",
    "ﬁne ½ Ⅳ ﷺ e\u0301 z",  # characters that normalisation changes
    "x\u00a0y\u200bz",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", HARD)
def test_offsets_point_into_the_rows_own_text(family, text, checkpoints):
    """Every piece of the text is where it says, and special tokens in it are plain text."""
    model = Model(family, str(checkpoints[family]))
    tokenizer = loading.load_tokenizer(model, loading.load_config(model, "span", 2))
    question = "why [SEP] </s> <cls> ?"
    found = form_of(100, 0).encode(row_of(text, question), Reader(tokenizer)).to_list()
    special = tokenizer("a", "b", return_special_tokens_mask=True)["special_tokens_mask"]
    for window in found:
        ids = window["input_ids"]
        marked = sum(i in {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} for i in ids)
        assert marked <= sum(special)
        assert window["text"] in text and len(window["starts"]) == len(window["ends"])
        assert window["starts"][0] == 0 and window["ends"][-1] == len(window["text"])
        assert all(a <= b for a, b in zip(window["starts"], window["ends"], strict=True))
        assert window["starts"] == sorted(window["starts"])
        assert window["first"] + len(window["starts"]) <= len(ids)
    # every character but blanks and what a tokenizer drops is in some piece
    (last,) = re.findall(r"\S+$", text.rstrip())
    assert last in found[-1]["text"]


def test_answers_are_read_with_their_case_and_without_blanks_around(checkpoints):
    """Pieces of byte-level tokenizers begin with the blank before a word."""
    model = Model("gpt2", str(checkpoints["gpt2"]))
    tokenizer = loading.load_tokenizer(model, loading.load_config(model, "span", 2))
    form = form_of(60)
    rows = row_of("The  Film was GOOD", "what ?")
    (example,) = form.encode(rows, Reader(tokenizer)).to_list()
    batch = form.collate([example], Reader(tokenizer))
    said = set()
    for first in range(len(example["starts"])):
        logits = torch.zeros(1, len(example["input_ids"]))
        logits[0, example["first"] + first] = 9
        outputs = SimpleNamespace(start_logits=logits, end_logits=logits)
        said |= set(form.answers(form.predict(None, outputs, batch, Reader(tokenizer)), [0]))
    assert all(text == text.strip() and text in "The  Film was GOOD" for text in said)
    assert "GOOD" in said or "G" in said


# ---- bad input ----


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_that_leaves_no_room(family, checkpoints):
    """A tokenizer would end with a panic of its own."""
    model = Model(family, str(checkpoints[family]))
    reader = Reader(loading.load_tokenizer(model, loading.load_config(model, "span", 2)))
    long = " ".join(["film"] * 40)
    message = (r"the row with id '7': its question has \d+ tokens, and leaves room for \d+ of the "
               r"text\. That must be more than task.stride=4\. Raise task.max_length")  # fmt: skip
    with pytest.raises(AdaptError, match=message):
        form_of(24, 4).encode(row_of(long, " ".join(["film"] * 12 + ["x y"] * 8)), reader)
    with pytest.raises(AdaptError, match="leaves room for 0"):
        form_of(24, 4).encode(row_of("film", long), reader)


def test_the_stride_of_windows(reader):
    """Room of 6 tokens: an overlap of 5 is the largest."""
    assert len(form_of(stride=5).encode(row_of(), reader)) == 15
    with pytest.raises(AdaptError, match=r"leaves room for 6 of the text.*task\.stride=6"):
        form_of(stride=6).encode(row_of(), reader)
    with pytest.raises(ConfigError, match=r"task\.stride=384: must be below task\.max_length=384"):
        Span("t", stride=384)


def test_a_model_with_few_positions_is_named(reader):
    """The way out is not task.max_length if the model reads no more."""
    small = Reader(reader.tokenizer, limit=12)
    with pytest.raises(AdaptError, match="this model reads 12 tokens at once"):
        form_of(384, 128).encode(row_of(), small)


@pytest.mark.parametrize("context", ["", "   ", "\n\t"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_empty_text_has_no_answer(family, context, checkpoints):
    model = Model(family, str(checkpoints[family]))
    config = loading.load_config(model, "span", 2)
    reader = Reader(loading.load_tokenizer(model, config))
    loaded = loading.load_model(model, config, "span").model.eval()
    form = form_of(60, unanswerable=True)
    examples = form.encode(row_of(context), reader).to_list()
    batch = form.collate(examples, reader)
    predicted = form.predict(None, loaded(**batch.inputs), batch, reader)
    (answer,) = form.answers(predicted, batch.rows)
    assert answer["answer"] == "" == answer["span"]
    assert math.isfinite(json.loads(json.dumps(answer, allow_nan=False))["no_answer"])


# ---- answers in files ----

TEXT = "Oslo is in Norway. Oslo is a city."
FORMS = {
    "squad": {"text": ["Oslo", "Norway"], "answer_start": [19, 11]},
    "dicts": [{"text": "Oslo", "answer_start": 19}, {"text": "Norway", "answer_start": 11}],
    "one dict": {"text": "Oslo", "answer_start": 19},
    "text": "Oslo",
    "texts": ["Oslo", "Norway"],
    "no starts": {"text": ["Oslo", "Norway"]},
}
FOUND = {"squad": (["Oslo", "Norway"], [19, 11]), "text": (["Oslo"], [0]),
         "one dict": (["Oslo"], [19]), "texts": (["Oslo", "Norway"], [0, 11])}  # fmt: skip
FOUND |= {"dicts": FOUND["squad"], "no starts": FOUND["texts"]}


@pytest.mark.parametrize("kind", FORMS)
def test_right_answers(kind):
    texts, starts = FOUND[kind]
    assert right_answers(FORMS[kind], TEXT) == {"text": texts, "answer_start": starts}


@pytest.mark.parametrize("nothing", [None, "", " ", [], [""], {"text": [], "answer_start": []},
                                     {"text": "", "answer_start": -1}])  # fmt: skip
def test_no_answer(nothing):
    assert right_answers(nothing, TEXT) == {"text": [], "answer_start": []}


@pytest.mark.parametrize("bad", [3, 1.5, [3], {"text": 3}, {"texts": ["a"]}, {},
                                 {"text": ["a", "b"], "answer_start": [1]}])  # fmt: skip
def test_what_is_not_an_answer(bad):
    assert right_answers(bad, TEXT) is None


def test_a_place_that_is_off_is_corrected():
    assert place_of("Oslo", 17, TEXT) == 19 and place_of("Oslo", 3, TEXT) == 0
    assert place_of("Oslo", 0, TEXT) == 0 and place_of("Bergen", 3, TEXT) == -1
    assert place_of("Oslo", -7, TEXT) == 0


def rows_of(kind: str, count: int = 6, **more: Any) -> list[dict]:
    return [
        {"question": f"where is {i} ?", "context": TEXT, "answers": FORMS[kind], **more}
        for i in range(count)
    ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("kind", FORMS)
def test_answers_of_files(kind, ending, tmp_path):
    if ending == "csv" and kind != "text":
        pytest.skip("a cell holds a text")
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.{ending}", rows_of(kind))
    splits = Span("t", path=str(tmp_path)).load(Data(), 0)
    texts, starts = FOUND[kind]
    for rows in (splits.train, splits.validation[""]):
        assert rows["label"][:] == [{"text": texts, "answer_start": starts}] * 6
    assert not splits.notes


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("own", [list("abcdef"), list(range(10, 16)), None])
def test_ids_of_files(own, ending, tmp_path):
    table = rows_of("text")
    for i, row in enumerate(table):
        row |= {} if own is None else {"id": own[i]}
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.{ending}", table)
    rows = Span("t", path=str(tmp_path), id=own and "id").load(Data(), 0).validation[""]
    assert rows["id"][:] == [str(value) for value in own or range(6)]


def saved(folder: Path, table: list[dict], scored: list[dict] | None = None) -> Path:
    write(folder / "train.jsonl", table)
    write(folder / "validation.jsonl", table if scored is None else scored)
    return folder


def test_answers_that_are_not_in_their_text(tmp_path):
    table = rows_of("text", 5)
    table[3] |= {"answers": "Bergen"}
    folder = saved(tmp_path, table)
    with pytest.raises(AdaptError, match=r"the answer of 1 of 5 training rows is not in its text, "
                       r"for example row 4\. Correct them, or leave them out: "
                       r"task\.on_missing=skip"):  # fmt: skip
        Span("t", path=str(folder)).load(Data(), 0)
    splits = Span("t", path=str(folder), on_missing="skip").load(Data(), 0)
    assert splits.train["id"][:] == ["0", "1", "2", "4"]
    assert len(splits.validation[""]) == 5  # they count as wrong
    assert splits.notes == (
        "the answer of 1 of 5 training rows is not in its text, so that they are left out",
        "no answer of 1 of 5 validation rows is in its text",
    )
    table = rows_of("texts", 5)
    table[3] |= {"answers": ["Bergen", "the town"], "context": "he left the town"}
    found = Span("t", path=str(saved(tmp_path / "two", table))).load(Data(), 0)
    form, reader = found.task.posed, Reader(tiny_tokenizer("bert"))
    for one in form.encode(found.train, reader).filter(lambda one: one["row"] == 3):
        first, last = one["target"]
        said = reader.tokenizer.decode(one["input_ids"][first : last + 1])
        assert said.replace(" ", "") == "thetown"
    lost = {**table[3], "answers": ["Bergen"]}
    with pytest.raises(AdaptError, match="none of the 2 training rows"):
        Span("t", path=str(saved(tmp_path / "none", [lost] * 2)), on_missing="skip").load(Data(), 0)


def test_rows_without_an_answer(tmp_path):
    table = rows_of("texts", 4)
    table[1] |= {"answers": []}
    folder = saved(tmp_path, table)
    with pytest.raises(AdaptError, match=r"validation, row 2: has no answer\. Use task\.metric=sq"):
        Span("t", path=str(folder)).load(Data(), 0, train=False)
    splits = Span("t", path=str(folder), metric="squad_v2").load(Data(), 0)
    assert splits.train["label"][1] == {"text": [], "answer_start": []}
    assert not splits.notes


@pytest.mark.parametrize("value", [7, {"answer": "x"}])
def test_values_that_are_not_answers(value, tmp_path):
    folder = saved(tmp_path, [row | {"answers": value} for row in rows_of("text", 2)])
    with pytest.raises(AdaptError, match=r"row 1: answers is .*, not \{text: \[\.\.\.\], answer_s"):
        Span("t", path=str(folder)).load(Data(), 0)


# ---- the metrics ----

STRINGS = {
    "The U.S.A.": "usa", "don't": "dont", "the": "", "$5.00": "500", "the-end": "theend",
    "3.5 %": "35", "A-team": "ateam", "1,000": "1000", "half–time": "half–time",
    "“quoted”": "“quoted”", "a\u00a0cat": "cat", "Café": "café",
}  # fmt: skip


@pytest.mark.parametrize(("text", "bare"), STRINGS.items())
def test_normalised(text, bare):
    assert normalised(text) == bare


@pytest.mark.parametrize(
    ("said", "right", "v1", "v2"),
    [
        ("in the year 1066", ["1066"], (0, 0.5), (0, 0.5)),
        ("New York City", ["New York", "York City", "NYC"], (0, 0.8), (0, 0.8)),
        ("to be to be", ["to be"], (0, 2 / 3), (0, 2 / 3)),
        ("the", ["the"], (1, 0), (1, 1)),
        ("", ["Paris"], (0, 0), (0, 0)),
        ("the", [], None, (1, 1)),
        ("", [], None, (1, 1)),
        ("Paris", [], None, (0, 0)),
        ("", ["the"], (1, 0), (1, 1)),
    ],
)
def test_the_table_of_the_reference(said, right, v1, v2):
    for strict, expected in ((False, v1), (True, v2)):
        if expected:
            found = (best_of(exact, said, right, strict), best_of(f1, said, right, strict))
            assert found == pytest.approx(expected)


def bare(text: str) -> str:
    """Return the official scripts' normalisation, from its description."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", kept).split())


def official_f1(said: str, gold: str, second: bool) -> float:
    one, other = bare(said).split(), bare(gold).split()
    if second and (len(one) == 0 or len(other) == 0):
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall)


def official_v2(answers: list[dict], golds: list[list[str]]) -> dict[str, float]:
    """Return the second script's numbers, as shares."""

    def of(said: str, right: list[str], kind: str) -> float:
        right = [gold for gold in right if bare(gold)] or [""]
        if kind == "f1":
            return max(official_f1(said, gold, True) for gold in right)
        return max(float(bare(said) == bare(gold)) for gold in right)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    result = {}
    for kind, name in (("f1", "f1"), ("exact", "exact_match")):
        scores = [of(a["answer"], gold, kind) for a, gold in zip(answers, golds, strict=True)]
        result[name] = mean(scores)
        result[f"has_answer_{name}"] = mean([s for s, g in zip(scores, golds, strict=True) if g])
        result["no_answer_accuracy"] = mean(
            [s for s, g in zip(scores, golds, strict=True) if not g]
        )
        raw = [of(a["span"], gold, kind) for a, gold in zip(answers, golds, strict=True)]
        # By definition: the best over every threshold, of the mean score if all rows whose
        # `no_answer` is above it are answered by nothing. Rows are taken in one by one.
        order = sorted(range(len(answers)), key=lambda i: answers[i]["no_answer"])
        tried = [(sum(not gold for gold in golds) / len(golds), 0.0)]
        for count in range(1, len(order) + 1):
            taken = set(order[:count])
            total = sum(
                raw[i] if i in taken and golds[i] else
                float(not golds[i] and not (i in taken and answers[i]["span"]))
                for i in range(len(golds))
            )  # fmt: skip
            tried.append((total / len(golds), answers[order[count - 1]]["no_answer"]))
        best = max(value for value, _ in tried)
        result[f"best_{name}"] = best
        result[f"best_{name}_threshold"] = next(t for v, t in tried if math.isclose(v, best))
    return result


PIECES = ["the", "a", "an", "Oslo", "oslo", "U.S.A.", "1,000", "1000", "café", "–", "...", "New",
          "York", "to", "be", "don't", "dont", "\u00a0", "日本"]  # fmt: skip


def drawn(generator: random.Random, most: int = 5) -> str:
    return " ".join(generator.choices(PIECES, k=generator.randint(0, most)))


def test_a_thousand_predictions_as_the_first_official_script():
    generator = random.Random(1)
    golds = [[drawn(generator) for _ in range(generator.randint(1, 4))] for _ in range(1000)]
    said = [generator.choice([drawn(generator), generator.choice(gold)]) for gold in golds]
    pairs = list(zip(said, golds, strict=True))
    expected = {
        "f1": sum(max(official_f1(s, g, False) for g in gold) for s, gold in pairs) / 1000,
        "exact_match": sum(max(bare(s) == bare(g) for g in gold) for s, gold in pairs) / 1000,
    }
    whole = [{"answer": text, "span": text, "no_answer": 0.0} for text in said]
    found = Squad(config_name="squad").compute(predictions=whole, references=golds)
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(0.2 < value < 0.9 for value in found.values())


def test_a_thousand_predictions_as_the_second_official_script():
    generator = random.Random(2)
    golds = [[drawn(generator) or "x" for _ in range(generator.choice([0, 1, 1, 3]))]
             for _ in range(1000)]  # fmt: skip
    answers = []
    for gold in golds:
        span = generator.choice([drawn(generator), generator.choice(gold) if gold else "Oslo", ""])
        margin = generator.gauss(0.0 if gold else 1.5, 2)
        answers.append(
            {"answer": span if margin <= 0 else "", "span": span, "no_answer": margin}
        )  # fmt: skip
    found = Squad(config_name="squad_v2").compute(predictions=answers, references=golds)
    assert found == pytest.approx(official_v2(answers, golds), abs=1e-9)


def test_the_best_threshold_of_the_reference():
    golds = [["q1"], ["Rome"], ["right"], [], []]
    said = [("q1", -4), ("in Rome", -1), ("wrong", 0.5), ("Berlin", 2), ("", 5)]
    answers = [{"answer": text, "span": text, "no_answer": float(n)} for text, n in said]
    found = Squad(config_name="squad_v2").compute(predictions=answers, references=golds)
    assert found["best_exact_match"] == pytest.approx(0.6)
    assert found["best_exact_match_threshold"] == -4
    assert found["best_f1"] == pytest.approx(0.7333, abs=1e-4)
    assert found["best_f1_threshold"] == -1


def test_the_mean_of_the_rows_is_the_score():
    rows = Dataset.from_dict({"label": [right_answers(FORMS["squad"], TEXT)] * 3})
    said = ["Oslo", "in Norway", "x"]
    task = Span("t")
    scores = task.score(said, rows)
    assert sum(task.row_scores(said, rows)) / 3 == pytest.approx(scores["f1"])
    other = Span("t", best="exact_match")
    assert other.row_scores(said, rows) == [1, 0, 0]
    assert Span("t", metric="squad_v2", best="best_f1").row_scores(said, rows) is None


# ---- whole runs ----


def test_unanswerable_rows_from_training_to_the_record(checkpoints, tmp_path):
    table = rows_of("squad", 12, title="x")
    for row in table[::3]:
        row |= {"answers": {"text": [], "answer_start": []}}
    table[1] |= {"context": f"{TEXT} {'It is far away from here. ' * 12}"}  # several windows
    folder = saved(tmp_path / "data", table)
    done = call("train", "task=span", "task.metric=squad_v2", "task.max_length=48",
                "task.stride=8", f"task.path={folder}", f"output_dir={tmp_path / 'run'}",
                "method=lora", *tiny(checkpoints["bert"]))  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(record["scores"]) == {*Span("t", metric="squad_v2").scores(), "loss"}
    assert record["baseline"] == {"name": "no answer", "value": pytest.approx(4 / 12)}
    lines = read(tmp_path / "run" / "predictions.jsonl")
    assert len(lines) == 12
    assert call("verify", tmp_path / "run").status == 0


def test_a_question_that_is_too_long_is_told_in_one_sentence(checkpoints, tmp_path):
    table = rows_of("text", 4)
    table[2] |= {"question": "why " * 80}
    folder = saved(tmp_path / "data", table)
    done = call("train", "task=span", "task.max_length=48", "task.stride=8",
                f"task.path={folder}", f"output_dir={tmp_path / 'run'}", "method=lora",
                *tiny(checkpoints["bert"]))  # fmt: skip
    assert done.status == 2 and "Traceback" not in done.err and "panicked" not in done.err
    assert "row 3: its question has" in done.err
