"""Words at the slot of a pattern: oracles, plain transformers by hand, and what is rejected."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from commandline import call, read, tiny, write
from datasets import Dataset
from families import FAMILIES, RARE, SENTENCES, tiny_tokenizer
from test_forms import base_settings
from torch import nn

import adaptkit
from adaptkit.adaptation import Batch
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.models.model import Model
from adaptkit.runs.delta import load_run
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.forms.cloze import ClozeForm
from adaptkit.tasks.forms.filling import stepwise
from adaptkit.tasks.forms.verbalizer import class_scores, pieces_of, table, word_scores
from adaptkit.tasks.pattern import Pattern, Wording
from adaptkit.tasks.regress import Regress

TEXTS = [text for text in SENTENCES if len(text) < 90][:5]
IT_WAS = "{first} It was {label}."
TASK = Classify("t", text=("text",), labels=("neg", "pos"), form="cloze", template=IT_WAS,
                words={"neg": "terrible", "pos": "great"})  # fmt: skip
RATING = Regress("t", text=("text",), form="cloze", template=IT_WAS,
                 words={"0": "terrible", "5": "great"})  # fmt: skip
MASKED = ("bert", "roberta", "distilbert", "albert", "deberta-v2", "modernbert", "eurobert")
CAUSAL = ("gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "modernbert-decoder",
          "gemma3_text")  # fmt: skip
SLOW = pytest.mark.slow


LIKE_OTHERS = (*RARE, "opt", "distilbert", "albert", "mistral", "qwen2", "gpt_neox")


def some(families: Any) -> list[Any]:
    return [pytest.param(f, marks=[SLOW] * (f in LIKE_OTHERS)) for f in families]


def rows_of(texts: list[str], **columns: list) -> Dataset:
    ids = [str(i) for i in range(len(texts))]
    return Dataset.from_dict({"id": ids, "text": texts, **columns})


def made(checkpoint: Any, task: Any) -> tuple[Any, Any]:
    """Return settings and what is prepared for a task on a checkpoint, nothing adapted."""
    run_settings = replace(base_settings(), model=Model("tiny", str(checkpoint)), task=task)
    return run_settings, prepare(run_settings, 1, "train")


def detailed(checkpoint: Any, task: Any, texts: list[str]) -> list[Any]:
    run_settings, prepared = made(checkpoint, task)
    scorer = scorer_of(run_settings, prepared)
    return scorer.answers(feed_of(run_settings, prepared, rows_of(texts)), details=True)


# ---- oracles ----


@pytest.mark.parametrize(
    ("how", "share"),
    [("mean", 0.5), ("sum", 0.755272), ("mean_probability", 0.606776), ("max", 0.731059)],
)
def test_several_words_of_a_class(how, share):
    logits = torch.tensor([[[2.0, 0.0, 1.0, -1.0, 0.5]]])  # [B, K, V]
    pieces = table([[[0], [1]], [[2]]])
    scores = class_scores(word_scores(logits, pieces), pieces[..., 0] >= 0, how)
    assert scores.softmax(-1).tolist() == [pytest.approx([share, 1 - share], abs=1e-6)]


def form(**options: Any) -> ClozeForm:
    return ClozeForm((Wording("", Pattern(IT_WAS, ("text",)), (("a",), ("b",))),), ("neg", "pos"),
                     32, **options)  # fmt: skip


def batch_of(rows: int, pieces: torch.Tensor, **targets: Any) -> Batch:
    return Batch({}, {"slots": torch.zeros(1), "pieces": pieces, "count": rows, **targets}, [], 0)


@pytest.mark.parametrize("free", [[(0.7, 0.3)], [(0.49, 0.21)], [(0.5, 0.1), (0.2, 0.2)]])
def test_calibration_divides_by_the_mean_of_unnormalised_shares(free):
    """Also where the words have 0.7 of all, or there are several texts without content."""
    words = torch.tensor([(0.6, 0.4), *free]).log()[..., None]  # [B + F, C, W]
    found = form()._calibrated(words, batch_of(1, table([[[0]], [[1]]]))).softmax(-1)
    assert found.tolist() == [pytest.approx([0.391304, 0.608696], abs=1e-6)]


class TwoMasks(nn.Module):
    """P(a)=.2 and P(b)=.7 if both are masked, P(a|b)=.8, P(b|a)=.95; tokens: mask, a, b."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.full((len(input_ids), 2, 3), -30.0)
        for line, (one, two) in enumerate(input_ids.tolist()):
            a, b = (0.8 if two == 2 else 0.2), (0.95 if one == 1 else 0.7)
            logits[line, 0, :2] = torch.tensor([1 - a, a]).log()
            logits[line, 1, [0, 2]] = torch.tensor([1 - b, b]).log()
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(
    ("how", "share"), [("parallel", 0.14), ("left_to_right", 0.19), ("confident", 0.56)]
)
def test_a_word_of_two_pieces(how, share):
    inputs = {"input_ids": torch.zeros(2, 2, dtype=torch.long)}
    pieces = table([[[1, 2]]])
    targets = {"slots": torch.tensor([[0, 1], [0, 1]]), "pieces": pieces}
    if how == "parallel":
        found = word_scores(TwoMasks()(**inputs).logits, pieces)
    else:
        found = stepwise(TwoMasks(), Batch(inputs, targets, [0, 1], 0), how == "confident")
    assert found.exp().flatten().tolist() == pytest.approx([share] * 2, abs=1e-6)


def test_the_loss_of_a_number_is_the_cross_entropy_of_its_share():
    rating = form(bounds=(0.0, 5.0))
    rating = replace(rating, classes=())
    logits = torch.tensor([[[1.0, 3.0, 0.0]], [[2.0, 1.0, 0.0]]])
    target = torch.tensor([4.0, 6.0])  # 6 is as much as 5
    slots = torch.zeros(2, 1, dtype=torch.long)
    batch = batch_of(2, table([[[0]], [[1]]]), target=target)
    batch.targets["slots"] = slots
    high = torch.tensor([2.0, -1.0]).sigmoid()
    share = torch.tensor([0.8, 1.0])
    expected = -(share * high.log() + (1 - share) * (1 - high).log()).sum()
    torch.testing.assert_close(rating.loss(SimpleNamespace(logits=logits), batch), expected)
    found = rating.predict(TwoMasks(), SimpleNamespace(logits=logits), batch, None)
    assert found == pytest.approx((5 * high).tolist())


# ---- by hand, with transformers alone ----


def by_hand(family: str, folder: Any, text: str, ahead_of_it: int = 0) -> tuple[float, float]:
    """Return the shares of "terrible" and "great" behind TEXT "It was".

    `ahead_of_it`: the number of the first tokens that BART's decoder does not read.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def ids(words: str, special: bool = True) -> list[int]:
        return tokenizer(words, add_special_tokens=special)["input_ids"]

    blank = "" if family in ("bert", "distilbert", "albert", "deberta-v2", "t5") else " "
    (bad,), (good,) = ids(f"{blank}terrible", False), ids(f"{blank}great", False)
    front = f"{text} It was"
    if family in CAUSAL:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        line = ids(front)
        if family == "modernbert-decoder":  # closes its texts
            assert line.pop() == tokenizer.sep_token_id
        logits = model(torch.tensor([line])).logits[0, -1]
    elif family in ("t5", "bart"):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
        start = model.config.decoder_start_token_id
        mark = "<extra_id_0>" if family == "t5" else "<mask>"
        line = ids(f"{front}{mark}.")
        place = line.index(tokenizer.convert_tokens_to_ids(mark))
        ahead = (
            [start, line[place]]
            if family == "t5"
            else [start, line[0], *line[1 + ahead_of_it : place]]
        )
        one, two = torch.tensor([line]), torch.tensor([ahead])
        logits = model(input_ids=one, decoder_input_ids=two).logits[0, -1]
    else:
        model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
        line = ids(f"{front}{tokenizer.mask_token}.")
        logits = model(torch.tensor([line])).logits[0, line.index(tokenizer.mask_token_id)]
    return tuple(logits[[bad, good]].double().softmax(-1).tolist())


@pytest.mark.parametrize("family", some((*MASKED, *CAUSAL, "t5", "bart")))
@torch.no_grad()
def test_scores_equal_those_by_hand(family, checkpoints):
    answers = detailed(checkpoints[family], TASK, TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        shares = by_hand(family, checkpoints[family], text)
        assert list(answer["probabilities"].values()) == pytest.approx(shares, abs=2e-5)
        assert answer["answer"] == ("neg", "pos")[shares[1] > shares[0]]
    numbers = detailed(checkpoints[family], RATING, TEXTS[:1])
    high = by_hand(family, checkpoints[family], TEXTS[0])[1]
    assert numbers[0]["answer"] == pytest.approx(5 * high, abs=1e-4)


@pytest.mark.parametrize(
    "family", ["bert", "t5", *(pytest.param(f, marks=SLOW) for f in ("gpt2", "bart"))]
)
@torch.no_grad()
def test_the_loss_equals_the_cross_entropy_by_hand(family, checkpoints):
    """Weights and label smoothing as torch.nn.CrossEntropyLoss has them."""
    labels = ["pos", "neg", "pos", "pos", "neg"]
    rows = rows_of(TEXTS, label=labels)
    for options in ({}, {"class_weights": (1.0, 3.0), "label_smoothing": 0.2}):
        run_settings, prepared = made(checkpoints[family], replace(TASK, **options))
        batch = feed_of(run_settings, prepared, rows).batch(range(5))
        loss = prepared.form.loss(prepared.adaptation.model.eval()(**batch.inputs), batch)
        shares = torch.tensor([by_hand(family, checkpoints[family], text) for text in TEXTS])
        weight = torch.tensor([1.0, 3.0]) if options else None
        expected = nn.CrossEntropyLoss(
            weight, label_smoothing=0.2 if options else 0.0, reduction="sum"
        )(shares.log(), torch.tensor([label == "pos" for label in labels]).long())
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        assert batch.weight == 5


@pytest.mark.parametrize("calibration", ["contextual", "pmi"])
@torch.no_grad()
def test_calibration_by_hand(calibration, checkpoints):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints["bert"])
    model = transformers.AutoModelForMaskedLM.from_pretrained(checkpoints["bert"])
    words = tokenizer.convert_tokens_to_ids(["terrible", "great"])

    def shares(text: str) -> torch.Tensor:
        line = tokenizer(f"{text} It was [MASK].", return_tensors="pt")
        place = line["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        return model(**line).logits[0, place].softmax(-1)[words]

    free = {"contextual": ["N/A", "", "[ MASK]"], "pmi": [""]}[calibration]
    without = torch.stack([shares(text) for text in free]).mean(0)
    task = replace(TASK, calibration=calibration)
    for text, answer in zip(TEXTS, detailed(checkpoints["bert"], task, TEXTS), strict=True):
        expected = shares(text) / without
        expected = expected / expected.sum()
        assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("pieces", ["parallel", "left_to_right", "confident"])
@torch.no_grad()
def test_words_of_several_pieces_by_hand(pieces, checkpoints):
    """ "so-so" has three pieces, "good film" two, "great" one."""
    words = {"bad": "so-so", "fair": "good film", "best": "great"}
    task = Classify("t", text=("text",), labels=("bad", "fair", "best"), form="cloze",
                    template="{first} It was {label} !", words=words, pieces=pieces)  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints["bert"])
    model = transformers.AutoModelForMaskedLM.from_pretrained(checkpoints["bert"])
    mask = tokenizer.mask_token_id

    def score(text: str, word: str) -> float:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        count = 3 if pieces == "parallel" else len(ids)
        line = tokenizer(f"{text} It was {'[MASK]' * count} !", return_tensors="pt")["input_ids"]
        first = line[0].tolist().index(mask)
        total, left = 0.0, list(range(len(ids)))
        while left:
            found = model(line).logits[0].log_softmax(-1)
            made = {k: float(found[first + k, ids[k]]) for k in left}
            if pieces == "parallel":
                return sum(made.values())
            k = max(left, key=made.__getitem__) if pieces == "confident" else left[0]
            total += made[k]
            line[0, first + k] = ids[k]
            left.remove(k)
        return total

    for text, answer in zip(TEXTS, detailed(checkpoints["bert"], task, TEXTS), strict=True):
        scores = torch.tensor([score(text, word) for word in words.values()])
        expected = scores.softmax(-1).tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)


def test_words_of_several_pieces_are_learnt_at_once(checkpoints):
    """However they are read: the loss is that of `parallel`."""
    rows, losses = rows_of(TEXTS[:2], label=["pos", "neg"]), []
    for pieces in ("parallel", "left_to_right", "confident"):
        task = replace(TASK, words={"neg": "so-so", "pos": "great"}, pieces=pieces)
        run_settings, prepared = made(checkpoints["bert"], task)
        batch = feed_of(run_settings, prepared, rows).batch([0, 1])
        losses.append(prepared.form.loss(prepared.adaptation.model.eval()(**batch.inputs), batch))
    assert losses[0] == losses[1] == losses[2] > 0


# ---- tokens ----

PATTERNS = ("x was {label}.", "x ({label}) y", "{label}: x", "x\n{label}", "x {label}", "“{label}”")


@pytest.mark.parametrize("family", some(FAMILIES))
@pytest.mark.parametrize("text", PATTERNS)
def test_label_words_are_the_tokens_of_the_filled_text(family, text):
    """One list of tokens, with the word's in the place of the slot."""
    tokenizer = tiny_tokenizer(family)
    pattern = Pattern(text, ("text",))
    for word in ("great", "terrible", "so"):
        ((ids,),) = pieces_of(tokenizer, ((word,),), pattern.left)
        whole = tokenizer(text.format(label=word), add_special_tokens=False)["input_ids"]
        places = [i for i in range(len(whole)) if whole[i : i + len(ids)] == ids]
        assert places, (tokenizer.convert_ids_to_tokens(whole), ids)
        ahead = tokenizer.decode(whole[: places[-1]]).strip()
        assert (
            ahead
            == tokenizer.decode(
                tokenizer(text.partition("{label}")[0].rstrip(" "), add_special_tokens=False)[
                    "input_ids"
                ]
            ).strip()
        )


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "t5", "bart"])
@pytest.mark.parametrize("hidden", ["[MASK]", "<mask>", "<extra_id_0>", "<extra_id_1> [SEP]"])
def test_there_is_one_slot_whatever_the_text_holds(family, hidden, checkpoints):
    """Cut or not; it stands where the pattern says, and no word of the pattern is lost."""
    _, prepared = made(checkpoints[family], replace(TASK, max_length=64))
    tokenizer = prepared.reader.tokenizer
    rows = rows_of([f"{hidden} good {hidden}", f"{hidden} " * 60, "", "good"])
    mark = tokenizer.convert_tokens_to_ids(prepared.form.slot(prepared.reader))
    examples = prepared.form.encode(rows, prepared.reader).to_list()
    ending = examples[-1]["input_ids"][2 - len(examples[-1]["input_ids"]) :]  # behind "good"
    for one in examples:
        ids = one["input_ids"]
        assert ids.count(mark) == 1 and ids[one["slot"]] == mark and len(ids) <= 64
        assert ids[-4:] == ending[-4:]
    assert examples[1]["cut"] > 0 == examples[0]["cut"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_shown_rows_are_filled_into_the_template_that_is_used(family, checkpoints):
    """Not into the last style; and no slot hides in their texts."""
    templates = {"a": {"text": "{first} It was {label}"}, "b": {"text": "{label} for {first}"}}
    task = Classify("t", text=("text",), labels=("neg", "pos"), form="cloze", templates=templates,
                    words={"neg": "bad", "pos": "good"}, shots=1)  # fmt: skip
    rows = rows_of(["so [MASK] <extra_id_0> dull", "so great"], label=["neg", "pos"])
    task = replace(task, shots=0, demonstrations=task.chosen_shots(rows, 3))
    _, prepared = made(checkpoints[family], task)
    (example,) = prepared.form.encode(rows_of(["a film"]), prepared.reader).to_list()
    text = prepared.reader.tokenizer.decode(example["input_ids"]).lower()
    assert "so great it was good" in text and text.index("dull it was bad") >= 0
    assert "a film it was" in text[text.index("it was good") :] and " for " not in text
    slot = prepared.form.slot(prepared.reader)
    assert text.count(slot.lower() or "a film it was") == 1


def test_shots_are_as_many_of_every_class_and_seeded():
    rows = rows_of(list("abcdefgh"), label=["neg", "pos"] * 4)
    task = replace(TASK, shots=2)
    found = task.chosen_shots(rows, 0)
    assert [row["label"] for row in found].count("neg") == 2 == len(found) - 2
    assert len({row["text"] for row in found}) == 4
    assert found == task.chosen_shots(rows, 0)
    assert len({json.dumps(task.chosen_shots(rows, seed)) for seed in range(5)}) > 1
    assert replace(task, demonstrations=found).chosen_shots(rows, 1) == found  # a saved run


def test_a_causal_model_reads_no_text_at_all(checkpoints):
    """Nothing stands before the slot of an empty text: the token that ends texts does."""
    task = replace(TASK, template="{first} {label}")
    assert len(detailed(checkpoints["gpt2"], task, ["", "good"])) == 2
    assert len(detailed(checkpoints["gpt2"], replace(task, calibration="pmi"), ["good"])) == 1


def test_a_decoder_takes_the_first_template_that_ends_with_its_slot(checkpoints):
    templates = {"a": {"text": "{label}: {first}"}, "b": {"text": "{first} It was {label}!"}}
    task = Classify("t", text=("text",), labels=("bad", "good"), form="cloze", templates=templates)
    for family, style in (("bert", "a"), ("gpt2", "b")):
        _, prepared = made(checkpoints[family], task)
        assert prepared.form.wording(prepared.reader).style == style


# ---- vectors in front of the text ----


QUICK = ["bert", "t5", *(pytest.param(f, marks=SLOW) for f in ("roberta", "gpt2", "bart"))]


@pytest.mark.parametrize("family", QUICK)
@torch.no_grad()
def test_a_prompt_of_words_equals_those_words_by_hand(family, checkpoints):
    """Vectors set to the embeddings of words: the answers of the text with these words in front."""
    words = "good film good"
    run_settings = replace(
        settings(compose(["model=auto", "model.path=unset", "method=prompt", "method.length=3",
                          "trainer.device=cpu", "trainer.precision=fp32"])),
        model=Model("tiny", str(checkpoints[family])), task=TASK,
    )  # fmt: skip
    prepared = prepare(run_settings, 1, "train")
    tokenizer = prepared.reader.tokenizer
    byte = family in ("roberta", "gpt2", "bart")
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    assert len(ids) == 3
    embeddings = prepared.adaptation.model.get_input_embeddings()
    ((_, vectors),) = prepared.adaptation.trainable.items()
    vectors.copy_(embeddings(torch.tensor(ids)).view_as(vectors))
    answers = scorer_of(run_settings, prepared).answers(
        feed_of(run_settings, prepared, rows_of([" " * byte + "why not", " " * byte + "good"])),
        details=True,
    )
    for text, answer in zip(("why not", "good"), answers, strict=True):
        expected = by_hand(family, checkpoints[family], f"{words} {text}", 3)
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=2e-5)


# ---- bad input ----


def rejected(**options: Any) -> str:
    with pytest.raises(AdaptError) as error:
        replace(TASK, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"template": "{first} was"}, "must hold {label} once"),
        ({"template": "{label} {first} {label}"}, "must hold {label} once"),
        ({"template": "It was {label}"}, "must name a text as well, as {first}"),
        ({"template": "{second} was {label}"}, "names {second}, and task.text has one text"),
        ({"template": "{txet} was {label}"}, "txet"),
        ({"template": "{first.upper} {label}"}, "first.upper"),
        ({"template": "{first!r} {label}"}, "may hold names of columns only"),
        ({"template": "{first} {label"}, "has a brace too many or too few"),
        ({"template": "question"}, "question"),
        ({"words": {"neg": "bad"}}, "has no word for the class 'pos'"),
        ({"words": {"neg": "bad", "pos": []}}, "has no word for the class 'pos'"),
        ({"words": {"neg": "bad", "pos": "bad"}}, "'bad' stands for 'neg' and for 'pos'"),
        ({"words": {"neg": "no", "pos": ["yes", "no"]}}, "'no' stands for 'neg' and for 'pos'"),
        ({"words": {"neg": False, "pos": True}}, "Put quotes around it"),
        ({"words": {"neg": "bad", "pos": " "}}, "task.words.pos"),
        ({"words": {"neg": "bad", "pos": "good", "odd": "odd"}}, "odd"),
        ({"form": "head"}, "task.template='{first} It was {label}.': is not read with"),
        ({"decode": "generate"}, "task.decode='generate': is not read with task.form=cloze"),
        ({"normalise": "tokens"}, "Set task.form=text"),
        ({"shots": -1}, "task.shots"),
        ({"templates": {"a": {"words": {}}}, "template": "a"}, "must have a text"),
        ({"templates": {"a": "x"}, "template": ""}, "must have a text"),
    ],
)  # fmt: skip
def test_a_wrong_template_or_word(options, sentence):
    said = rejected(**options)
    assert sentence in said and "\n" not in said and len(said) < 300


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"words": {"neg": "日本", "pos": "good"}}, "the tokenizer does not know '日本'"),
        ({"words": {"neg": "so-so", "pos": "good"}}, "has 3 pieces in this tokenizer (so - so)"),
        ({"words": {"neg": "Good", "pos": "good"}}, "are the same to this tokenizer"),
        ({"words": {"neg": "so-so", "pos": "so"}, "pieces": "first"}, "are the same to this"),
        ({"template": "{first} [MASK] {label}"}, "must not hold [MASK] itself"),
        ({"template": "{first} {label}" + " x" * 40, "max_length": 32}, "leaves no room for a tex"),
        ({"template": "{first} {label}" + " x" * 29, "max_length": 32}, "leaves no room for a tex"),
        ({"shots": 1, "demonstrations": ({"text": "x " * 40, "label": "neg"},), "max_length": 32},
         "task.shots: the examples leave no room for a text in 32 tokens"),
    ],
)  # fmt: skip
def test_what_the_tokenizer_cannot_take(options, sentence, checkpoints):
    _, prepared = made(checkpoints["bert"], replace(TASK, **options))
    with pytest.raises(AdaptError) as error:
        prepared.form.encode(rows_of(["film " * 9]), prepared.reader)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [("xlnet", "XLNet models have no masked-word head"),
     ("electra", "the checkpoint has no masked-word head")],
)  # fmt: skip
def test_a_family_that_fills_no_slots(family, sentence, checkpoints):
    with pytest.raises(AdaptError, match=sentence):
        made(checkpoints[family], TASK)


def test_words_behind_the_slot_of_a_causal_model(checkpoints):
    _, prepared = made(checkpoints["gpt2"], replace(TASK, template="{label}: {first}"))
    with pytest.raises(AdaptError, match=r"has words after \{label\}, which a causal model"):
        prepared.form.encode(rows_of(["good"]), prepared.reader)


def test_several_pieces_in_a_model_without_several_masks(checkpoints):
    words = {"neg": "so-so", "pos": "good"}
    for family in ("gpt2", "t5"):
        _, prepared = made(checkpoints[family], replace(TASK, words=words, pieces="parallel"))
        with pytest.raises(AdaptError, match=r"'so-so' has . pieces in this tokenizer"):
            prepared.form.encode(rows_of(["good"]), prepared.reader)


def test_more_shots_than_rows_of_a_class():
    task = replace(TASK, shots=2)
    with pytest.raises(AdaptError, match="the class 'pos' has 1 training rows"):
        task.chosen_shots(rows_of(list("abc"), label=["neg", "neg", "pos"]), 0)
    with pytest.raises(AdaptError, match="there are no training rows to show"):
        task.chosen_shots(None, 0)


@pytest.mark.parametrize("length", ["trainer.max_steps=2", "trainer.epochs=1", ""])
def test_calibration_of_what_is_trained(length):
    words = ["task=sst2", "task.form=cloze", "task.calibration=pmi", "model=mini-bert"]
    with pytest.raises(AdaptError, match=r"task\.calibration='pmi': belongs to a model that is not "
                                         r"trained\. Set trainer\.max_steps=0"):  # fmt: skip
        settings(compose([*words, "method=lora", *([length] if length else [])]))
    for untrained in (["method=hard_prompt"], ["method=lora", "trainer.epochs=0"]):
        assert settings(compose([*words, *untrained])).task.calibration == "pmi"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [({"0": "no"}, "must name two numbers"), ({"0": "no", "1": "a", "2": "b"}, "two numbers"),
     ({"low": "no", "high": "yes"}, "two numbers"), ({}, "two numbers")],
)  # fmt: skip
def test_a_number_needs_two_words(words, sentence):
    with pytest.raises(AdaptError, match=sentence):
        replace(RATING, words=words)


# ---- every option matters ----

SEVERAL = {"neg": ["terrible", "bad", "so-so"], "pos": ["great", "good"]}
BASE = replace(TASK, words=SEVERAL, pieces="parallel")
CHANGES: Mapping[str, Any] = {
    "template": "{first} So {label}.", "words": {**SEVERAL, "neg": ["dull"]}, "aggregate": "max",
    "pieces": "first", "calibration": "pmi", "max_length": 12,
    "demonstrations": ({"text": "a dull film", "label": "neg"},),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_matters(name, checkpoints):
    texts = ["the film was good and the music was great but the ending was terrible"]
    ((before,), (after,)) = (
        detailed(checkpoints["bert"], task, texts)
        for task in (BASE, replace(BASE, **{name: CHANGES[name]}))
    )
    one, two = (math.log(found["probabilities"]["neg"]) for found in (before, after))
    assert abs(one - two) > 1e-3


def test_hundreds_of_classes(checkpoints):
    names = tuple(f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmno")
    task = Classify("t", text=("text",), labels=names, form="cloze", template=IT_WAS,
                    pieces="parallel")  # fmt: skip
    (answer,) = detailed(checkpoints["bert"], task, ["good"])
    assert len(answer["probabilities"]) == 300
    assert math.isclose(sum(answer["probabilities"].values()), 1, abs_tol=1e-4)


# ---- commands ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("validation", 5)):
        write(folder / f"{split}.jsonl", [
            {"text": TEXTS[i % 5], "label": ("neg", "pos")[i % 2]} for i in range(count)
        ])  # fmt: skip
    return folder


def overrides(data: Any) -> list[str]:
    return [
        "task=classify",
        f"task.path={data}",
        "task.text=text",
        "task.form=cloze",
        "task.template='{first} It was {label}.'",
        "task.words={neg: bad, pos: good}",
    ]


def test_a_prompt_with_shots_is_a_run(data, checkpoints, tmp_path):
    """Scored, verified, evaluated again and asked; the shown rows are kept with it."""
    run = tmp_path / "run"
    done = call("train", *overrides(data), *tiny(checkpoints["gpt2"]), "method=hard_prompt",
                "task.shots=2", "trainer.batch_size=1", f"output_dir={run}")  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((run / "result.json").read_text())
    assert record["updates"] == 0 and record["params"]["trainable"] == 0
    assert call("verify", run).status == 0
    out = tmp_path / "answers.jsonl"
    asked = call("predict", run, "--input", data / "validation.jsonl", "--output", out)
    assert asked.status == 0, asked.err
    written = [row["prediction"] for row in read(run / "predictions.jsonl")]
    assert [row["prediction"] for row in read(out)] == written
    assert call("eval", run).status == 0


@pytest.mark.parametrize(
    ("family", "form"),
    [("bert", "cloze"), pytest.param("t5", "text", marks=SLOW),
     *(pytest.param(family, form, marks=SLOW)
       for form, families in (("cloze", ("gpt2", "llama", "t5", "bart")), ("text", ("bart",)))
       for family in families)],
)  # fmt: skip
def test_a_tuned_run_goes_on_everywhere(family, form, data, checkpoints, tmp_path, monkeypatch):
    """From Python, as a stream, as a parent, as a PEFT adapter and as a plain model."""
    plain, run = ["trainer.precision=fp32", "trainer.device=cpu"], tmp_path / "run"
    what = overrides(data) if form == "cloze" else [*overrides(data)[:3], "task.form=text"]
    base = tiny(checkpoints[family], "trainer.max_steps=2", "optimizer.lr=0.02", "method=lora")
    done = call("train", *what, *base, f"output_dir={run}")
    assert done.status == 0, done.err
    written = [row["prediction"] for row in read(run / "predictions.jsonl")]
    scores = json.loads((run / "result.json").read_text())["scores"]
    texts = [row["text"] for row in read(data / "validation.jsonl")]
    predictor = adaptkit.load(run)
    assert [predictor.predict([{"text": text}])[0] for text in texts] == written
    shares = [one["probabilities"] for one in predictor.predict([{"text": t} for t in texts],
                                                                details=True)]  # fmt: skip

    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    streamed = call("predict", run, "--input", "-", "--output", tmp_path / "streamed.jsonl")
    assert streamed.status == 0, streamed.err
    assert [row["prediction"] for row in read(tmp_path / "streamed.jsonl")] == written

    child = tmp_path / "child"
    done = call("train", *what, *tiny(checkpoints[family]), "method=hard_prompt",
                f"model.from_run={run}", f"output_dir={child}")  # fmt: skip
    assert done.status == 0, done.err
    assert json.loads((child / "result.json").read_text())["scores"] == pytest.approx(scores, 1e-4)

    peft, back = tmp_path / "peft", tmp_path / "back"
    assert call("export", run, "--format", "peft", "--out", peft).status == 0
    done = call("import", peft, *what, "model=auto", f"model.path={checkpoints[family]}", *plain,
                "--out", back)  # fmt: skip
    assert done.status == 0, done.err
    assert json.loads((back / "result.json").read_text())["scores"] == pytest.approx(scores, 1e-4)

    merged = tmp_path / "merged"
    assert call("export", run, "--format", "merged", "--out", merged).status == 0
    task = load_run(run).settings.task
    for one, share in zip(detailed(merged, task, texts), shares, strict=True):
        assert one["probabilities"] == pytest.approx(share, abs=1e-4)


def test_all_training_rows_of_one_class(checkpoints, tmp_path):
    """There is nothing to tell apart, as in any form; a validation split may be so."""
    for split, label in (("train", "neg"), ("validation", "neg")):
        write(tmp_path / f"{split}.jsonl", [{"text": text, "label": label} for text in TEXTS])
    words = [*overrides(tmp_path), "task.labels=[neg,pos]", *tiny(checkpoints["bert"])]
    done = call("train", *words, "method=lora", f"output_dir={tmp_path / 'run'}")
    assert done.status == 2 and "there is nothing to tell apart" in done.err
