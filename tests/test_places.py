"""Vectors of a prompt among the words of a pattern: by hand, and what is rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from commandline import call, data_root, tiny
from families import FAMILIES
from test_cloze import CAUSAL, TASK, TEXTS, rows_of, some
from test_forms import LACKING, base_settings
from torch import Tensor

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_write import write_prompt
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.ptuning import PTuning
from adaptkit.models.model import Model
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.tasks.pattern import Pattern

MIDDLE, END = "{prompt:2} {first} {prompt:1} It was {label}.", "{first} It was {prompt:3} {label}"
THREE = PromptTuning(3)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
EACH = some(f for f in FAMILIES if ("cloze", f) not in LACKING)


def prompted(folder: Any, template: str, method: Any = THREE) -> tuple[Any, Any]:
    """Return settings and what is prepared, with vectors that show where they stand."""
    task = replace(TASK, template=template)
    made = replace(base_settings(), model=Model("tiny", str(folder)), task=task, method=method)
    prepared = prepare(made, 1, "train")
    if isinstance(method, PromptTuning):
        vectors = prepared.adaptation.model.prompt.vectors.data
        vectors.copy_(torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)))
    return made, prepared


def by_hand(family: str, folder: Any, text: str, template: str, vectors: Tensor) -> Tensor:
    """Return the shares of "terrible" and "great", from embeddings put together piece by piece."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def ids(words: str) -> list[int]:
        return tokenizer(words, add_special_tokens=False)["input_ids"]

    around = tokenizer("x")["input_ids"]
    place = around.index(ids("x")[0])
    front, behind = around[:place], around[place + 1 :]
    blank = "" if family in ("bert", "distilbert", "albert", "deberta-v2", "t5") else " "
    if family == "t5":
        kind, mark = transformers.AutoModelForSeq2SeqLM, "<extra_id_0>"
    elif family == "bart":
        kind, mark = transformers.AutoModelForSeq2SeqLM, "<mask>"
    elif family in CAUSAL:
        kind, mark = transformers.AutoModelForCausalLM, ""
    else:
        kind, mark = transformers.AutoModelForMaskedLM, tokenizer.mask_token
    model = kind.from_pretrained(folder)
    words = model.get_input_embeddings()
    slot = [tokenizer.convert_tokens_to_ids(mark)] if mark else []
    if template == MIDDLE:
        first = ids(f"{blank}{text}")
        last = [*ids(f"{blank}It was"), *slot, *ids("." if slot else "")]
        parts: list[Any] = [front, vectors[:2], first, vectors[2:], last]
    else:
        parts = [front, ids(f"{text} It was"), vectors, slot]
    if family not in CAUSAL:
        parts.append(behind)
    embeds = torch.cat(
        [p if isinstance(p, Tensor) else words(torch.tensor(p).long()) for p in parts]
    )
    known = [t for p in parts for t in ([None] * len(p) if isinstance(p, Tensor) else p)]
    inputs: dict[str, Any] = {"inputs_embeds": embeds[None]}
    at = known.index(slot[0]) if slot else -1
    if family in ("t5", "bart"):
        start = model.config.decoder_start_token_id
        ahead = slot if family == "t5" else [t for t in known[:at] if t is not None]
        inputs["decoder_input_ids"] = torch.tensor([[start, *ahead]])
        at = -1
    logits = model(**inputs).logits[0, at]
    (bad,), (good,) = ids(f"{blank}terrible"), ids(f"{blank}great")
    return logits[[bad, good]].softmax(-1)


@pytest.mark.parametrize("template", [MIDDLE, END])
@pytest.mark.parametrize("family", EACH)
@torch.no_grad()
def test_the_vectors_stand_where_the_pattern_says(family, template, checkpoints):
    made, prepared = prompted(checkpoints[family], template)
    scorer = scorer_of(made, prepared)
    found = scorer.answers(feed_of(made, prepared, rows_of(TEXTS)), details=True)
    (vectors,) = prepared.adaptation.model.prompt.current()
    for text, answer in zip(TEXTS, found, strict=True):
        expected = by_hand(family, checkpoints[family], text, template, vectors)
        shares = torch.tensor([*answer["probabilities"].values()])
        torch.testing.assert_close(shares, expected, **CLOSE)
    assert prepared.adaptation.extra_tokens == 0


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_an_encoder_makes_them_and_finish_keeps_them(family, checkpoints):
    made, prepared = prompted(checkpoints[family], END, PTuning(3))
    feed = feed_of(made, prepared, rows_of(TEXTS, label=["neg"] * 5))
    model, batch = prepared.adaptation.model.eval(), feed.batch(range(5))
    prepared.form.loss(model(**batch.inputs), batch).backward()
    assert all(p.grad.abs().sum() > 0 for p in prepared.adaptation.body_trainable().values())
    with torch.no_grad():
        before = model(**batch.inputs).logits
        for last in prepared.adaptation.finish:
            last()
        assert torch.equal(model(**batch.inputs).logits, before)
    assert set(prepared.adaptation.delta()) == {"prompt.delta_vectors"}
    with pytest.raises(AdaptError, match="inside a template"):
        write_prompt(model, "CAUSAL_LM")


def test_texts_that_hold_the_mark_take_no_place(checkpoints):
    """OPT starts every text with the token that marks places."""
    texts = ["<mask> [MASK] </s> <|endoftext|> good", "a fine film"]
    for family in ("roberta", "opt", "gpt2", "bert"):
        made, prepared = prompted(checkpoints[family], END)
        feed = feed_of(made, prepared, rows_of(texts))
        ids = feed.batch([0]).inputs["input_ids"][0].tolist()
        assert [t for t in ids if t < 0] == [-1, -2, -3], family


def test_a_shown_row_has_no_places_and_a_slot_in_front_of_them_is_found():
    pattern = Pattern("{prompt:1} {label}: {first} {prompt:2}", ("text",))
    assert (pattern.prompted, pattern.prompted_before) == (3, 1)
    assert pattern.filled({"text": "fine"}, "great") == " great: fine "
    assert not pattern.at_end  # nothing trained may come behind what a decoder writes
    assert Pattern("{{prompt:3}} {first} {label}", ("text",)).prompted == 0
    column = Pattern("{prompt} {prompt:2} {label}", ("prompt",))  # a text that is called so
    assert column.prompted == 2 and column.filled({"prompt": "fine"}, "ok") == "fine  ok"


@pytest.mark.parametrize(
    ("method", "template", "why"),
    [
        ("lora", MIDDLE, "task.template: .* the method trains none"),
        ("prompt", "{first} {prompt} {label}", "how many vectors"),
        ("prompt", "{first} {prompt:0} {label}", "how many vectors"),
        ("prompt", MIDDLE, "method.length=20: .* places for 3"),
        ("ptuning", MIDDLE, "method.length=9: .* places for 3"),
    ],
)  # fmt: skip
def test_what_is_rejected(method, template, why, checkpoints):
    with pytest.raises(AdaptError, match=why):
        chosen = settings(compose([f"method={method}"])).method
        prompted(checkpoints["bert"], template, chosen)


def test_other_rejections(checkpoints):
    with pytest.raises(AdaptError, match=r"method\.anchors.*into the template"):
        prompted(checkpoints["bert"], MIDDLE, PTuning(3, anchors="good"))
    with pytest.raises(AdaptError, match=r"task\.form=cloze alone"):
        replace(TASK, template=END, form="text").wordings()


def test_a_run_is_saved_read_again_and_shown(checkpoints, tmp_path):
    run = tmp_path / "run"
    words = [*tiny(checkpoints["gpt2"]), "task=sst2", "task.form=cloze", f"task.template={END}",
             f"data.root={data_root(tmp_path)}", "method=ptuning",
             "task.words={negative:bad,positive:good}",
             "method.length=3"]  # fmt: skip
    done = call("train", *words, f"output_dir={run}")  # proves what it has saved
    assert done.status == 0, done.err
    record = json.loads((run / "result.json").read_text())
    assert record["params"]["stored"] == 3 * 32
    again = call("eval", run, f"--output={tmp_path / 'again'}")
    assert again.status == 0, again.err
    scores = json.loads((tmp_path / "again" / "result.json").read_text())["scores"]
    assert scores["loss"] == pytest.approx(record["scores"]["loss"], rel=1e-5)
    for count, template in ((0, "{first} It was {label}"), (4, "{first} {prompt:4} was {label}")):
        other = call("eval", run, f"task.template={template}")
        assert other.status == 2, template
        assert f"has places for {count} vectors" in other.err and "trained with 3" in other.err
    shown = call("train", *words, "--show-example").out
    assert "It was [P1][P2][P3]" in shown
