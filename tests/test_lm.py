"""Language modelling: windows, probabilities and averages, against definitions and transformers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call
from datasets import Dataset
from families import SENTENCES
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptkit.errors import AdaptError
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.runs.prepare import reader_of
from adaptkit.tasks.forms.lm import LMForm, windows
from adaptkit.tasks.lm import LM
from adaptkit.tasks.task import Splits
from adaptkit.training.batching import Feed

DECODERS = ["gpt2", "opt", "llama", "qwen2", "gpt_neox", "modernbert-decoder", "gemma3_text"]

# (read, predicted) of 10 tokens in windows of 4, as lm-evaluation-harness cuts them; P begins.
ROLLING = {
    1: [("P012", "0123"), ("3456", "4567"), ("5678", "89")],
    2: [("P012", "0123"), ("2345", "456"), ("5678", "789")],
    3: [("P012", "0123"), ("1234", "45"), ("3456", "67"), ("5678", "89")],
}


@pytest.mark.parametrize("context", ROLLING)
def test_windows(context):
    found = [
        ("".join("P" if token == 99 else str(token) for token in read),
         "".join(str(token) for token in target if token >= 0))
        for read, target in windows(list(range(10)), 99, 4, context)
    ]  # fmt: skip
    assert found == ROLLING[context]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_every_token_is_predicted_once(count):
    cut = list(windows(list(range(count)), 99, 4, 2))
    assert [t for _, target in cut for t in target if t >= 0] == list(range(count))
    assert all(len(read) == len(target) <= 4 for read, target in cut)


def encoded(checkpoint: Path, texts: list[str], **options: int) -> tuple[Any, Feed]:
    model = Model("tiny", str(checkpoint))
    config = loading.load_config(model, "lm", None)
    tokenizer = loading.load_tokenizer(model, config)
    form = LMForm("text", **{"max_length": 64, "context": 1, **options})
    reader = reader_of(config, tokenizer, 0)
    rows = Dataset.from_dict({"text": texts})
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    return loaded, Feed(form.encode(rows, reader), form, reader)


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_the_sum_is_that_of_transformers(family, checkpoints):
    """One text in one window: the loss of `labels`, times the tokens."""
    checkpoint = checkpoints[family]
    model, feed = encoded(checkpoint, SENTENCES[:3])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    batch = feed.batch([0, 1, 2])
    outputs = model(**batch.inputs)
    found = feed.form.answers(feed.form.predict(model, outputs, batch, feed.reader), batch.rows)
    begins = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
    begin = next(token for token in begins if token is not None)
    total = 0.0
    for text, answer in zip(SENTENCES, found, strict=False):
        ids = torch.tensor([[begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        nll = float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        assert answer["tokens"] == ids.shape[1] - 1
        assert answer["nll"] == pytest.approx(nll, rel=1e-4)
        total += nll
    assert float(feed.form.loss(outputs, batch)) == pytest.approx(total, rel=1e-4)
    assert batch.weight == sum(answer["tokens"] for answer in found)


@torch.no_grad()
def test_windows_see_what_stands_before_them(checkpoints):
    """With as much context as there is room for, each window is scored as the text's own end."""
    text = " ".join(SENTENCES)
    model, feed = encoded(checkpoints["gpt2"], [text], max_length=12, context=6)
    whole = feed.reader.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(feed) == 1 + math.ceil((len(whole) - 12) / 7)
    batch = feed.batch(list(range(len(feed))))
    answers = feed.form.predict(model, model(**batch.inputs), batch, feed.reader)
    begin = feed.reader.tokenizer.eos_token_id
    expected, start, stop = 0.0, 0, 12
    while start < len(whole):
        read = [begin, *whole][max(0, stop - 12) : stop]
        logits = model(torch.tensor([read])).logits[0].log_softmax(-1)
        new = stop - start
        expected -= float(logits[-new:].gather(1, torch.tensor([whole[start:stop]]).T).sum())
        start, stop = stop, min(stop + 7, len(whole))
    assert sum(nll for nll, _ in answers) == pytest.approx(expected, rel=1e-5)
    assert sum(tokens for _, tokens in answers) == len(whole)


def test_long_texts_weigh_more():
    """A: 3 tokens, nll 6; B: 1 token, nll 6; together 20 bytes and 5 words."""
    rows = Dataset.from_dict({"id": ["A", "B"], "text": ["ab cd ef gh ", "ijklmnop"]})
    answers = [{"nll": 6.0, "tokens": 3}, {"nll": 6.0, "tokens": 1}]
    scores = LM("mine").score(answers, rows)
    assert scores["perplexity"] == pytest.approx(math.exp(3))
    assert scores["bits_per_byte"] == pytest.approx(0.865617, abs=1e-6)
    assert scores["word_perplexity"] == pytest.approx(11.0232, abs=1e-4)


def test_the_trivial_score_counts_bytes():
    """Two letters, seen 3 and 1 times: shares 4/260 and 2/260 with one more of each byte."""
    seen, scored = (Dataset.from_dict({"id": ["0"], "text": [t], "label": [None]})
                    for t in ("aaab", "ab"))  # fmt: skip
    task = LM("mine")
    name, value = task.baseline(Splits(task, seen, {"": scored}, None))  # type: ignore[arg-type]
    assert name == "bytes by frequency"
    assert value == pytest.approx(-(math.log2(4 / 260) + math.log2(2 / 260)) / 2)
    for best, expected in (("word_perplexity", 260 / 4 * 260 / 2), ("perplexity", math.nan)):
        splits = Splits(task, seen, {"": scored}, None)  # type: ignore[arg-type]
        _, value = replace(task, best=best).baseline(splits)
        assert value == pytest.approx(expected, nan_ok=True)  # one word; there are no tokens


def test_no_room_for_new_tokens(checkpoints):
    with pytest.raises(AdaptError, match=r"task\.context=65: the model reads 64 tokens at once"):
        encoded(checkpoints["gpt2"], ["a"], context=65)


def test_a_run_on_texts(checkpoints, tmp_path, monkeypatch):
    """No label anywhere, an empty text among them; an encoder cannot."""
    monkeypatch.chdir(tmp_path)
    for split, texts in (("train", SENTENCES * 4), ("validation", [*SENTENCES, ""])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    words = ["task=lm", f"task.path={tmp_path}", "model=auto", "trainer=debug", "output_dir=run"]
    answer = call("train", *words, f"model.path={checkpoints['llama']}", "method=lora")
    assert answer.status == 0, answer.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["scores"]["loss"] == pytest.approx(math.log(record["scores"]["perplexity"]))
    assert (
        record["baseline"]["name"] == "bytes by frequency" and record["metric"] == "bits_per_byte"
    )
    assert call("verify", "run").status == 0
    answer = call("train", *words, f"model.path={checkpoints['bert']}", "trainer.resume=never")
    assert answer.status == 2
    assert "BERT models cannot predict the next word of a text" in answer.err
