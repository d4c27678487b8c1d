"""Hidden words: which are chosen, what becomes of them, the loss against plain transformers."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, write
from datasets import Dataset
from families import SENTENCES
from runs import Killed, at, carry_out, outcome, shallow
from transformers import AutoModelForMaskedLM

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.runs.prepare import reader_of
from adaptkit.tasks.forms.mlm import MLMForm
from adaptkit.tasks.mlm import MLM
from adaptkit.training.batching import BucketSampler, Feed, Shards

IGNORED = -100
WORDS = " ".join(SENTENCES).split()
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=80)) for i in range(60)]


def feed_of(checkpoint: Path, texts: list[str], **options: Any) -> Feed:
    model = Model("tiny", str(checkpoint))
    config = loading.load_config(model, "mlm", None)
    form = MLMForm("text", **{"max_length": 40, "share": 0.15, "seed": 0, **options})
    reader = reader_of(config, loading.load_tokenizer(model, config), 0)
    return Feed(form.encode(Dataset.from_dict({"text": texts}), reader), form, reader)


def everything(feed: Feed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The true tokens [N, T] with -1 as padding, the tokens as shown, and the targets."""
    batch = feed.batch(list(range(len(feed))))
    true = torch.full_like(batch.inputs["input_ids"], -1)
    for line, ids in zip(true, feed.examples["input_ids"][:], strict=True):
        line[: len(ids)] = torch.tensor(ids)
    return true, batch.inputs["input_ids"], batch.targets["target"]


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_what_is_hidden(family, checkpoints):
    """Shares of the chosen tokens within five standard deviations; special tokens never."""
    feed = feed_of(checkpoints[family], TEXTS)
    tokenizer = feed.reader.tokenizer
    true, shown, target = everything(feed)
    chosen, real = target != IGNORED, true >= 0
    special = torch.isin(true, torch.tensor(tokenizer.all_special_ids))
    special &= true != (tokenizer.unk_token_id or -1)
    assert not (chosen & (special | ~real)).any()
    assert torch.equal(true[chosen], target[chosen])
    assert torch.equal(true[real & ~chosen], shown[real & ~chosen])
    free = (real & ~special).sum(1)
    assert chosen.sum(1).tolist() == [max(1, round(0.15 * int(n))) for n in free]
    count = int(chosen.sum())
    assert count > 600
    masked = (shown == tokenizer.mask_token_id)[chosen]
    kept = (shown == true)[chosen]
    # A random token is the true one, or the mask, with a chance of one in the vocabulary each.
    chance = 0.1 / len(tokenizer)
    for found, share in ((masked, 0.8 + chance), (kept, 0.1 + chance)):
        assert abs(int(found.sum()) - count * share) < 5 * math.sqrt(count * share * (1 - share))
    others = shown[chosen][~masked & ~kept]
    assert len(set(others.tolist())) > len(others) / 3


def test_another_share_and_another_draw(checkpoints):
    _, shown, target = everything(feed_of(checkpoints["bert"], TEXTS[:9]))
    _, again, _ = everything(feed_of(checkpoints["bert"], TEXTS[:9]))
    _, other, moved = everything(feed_of(checkpoints["bert"], TEXTS[:9], seed=1))
    assert torch.equal(shown, again)
    assert not torch.equal(target, moved) and not torch.equal(shown, other)
    assert torch.equal((target != IGNORED).sum(1), (moved != IGNORED).sum(1))
    _, _, half = everything(feed_of(checkpoints["bert"], ["good film", "", "a b"], share=0.5))
    assert (half != IGNORED).sum(1).tolist() == [1, 0, 1]
    _, _, least = everything(feed_of(checkpoints["bert"], ["good"], share=0.01))
    assert int((least != IGNORED).sum()) == 1  # one at least


def test_windows_hold_every_token_once(checkpoints):
    feed = feed_of(checkpoints["bert"], ["good", " ".join(SENTENCES), ""], max_length=12)
    tokenizer = feed.reader.tokenizer
    whole = tokenizer(" ".join(SENTENCES), add_special_tokens=False)["input_ids"]
    parts = [ids[1:-1] for ids, row in zip(feed.examples["input_ids"][:], feed.rows, strict=True)
             if row == 1]  # fmt: skip
    assert [token for part in parts for token in part] == whole
    assert max(feed.lengths) == 12 and feed.rows.count(0) == feed.rows.count(2) == 1
    for ids in feed.examples["input_ids"][:]:
        assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id


def test_every_epoch_of_training_hides_others(checkpoints):
    """The sampler's epoch is the feed's; the first one is that of scoring."""
    feed = feed_of(checkpoints["bert"], TEXTS[:9])
    still = feed_of(checkpoints["bert"], TEXTS[:9])
    batches = Shards(BucketSampler(feed.lengths, 4, 0), 4, 1, 0, 1, feed)
    seen = []
    for epoch in (0, 1, 2, 1):
        batches.set_epoch(epoch)
        seen.append(everything(feed)[2])
    assert torch.equal(seen[0], everything(still)[2])
    assert torch.equal(seen[1], seen[3])
    assert not any(torch.equal(seen[i], seen[j]) for i, j in ((0, 1), (1, 2), (0, 2)))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@torch.no_grad()
def test_the_loss_is_that_of_transformers(family, checkpoints):
    """A plain forward pass with `labels`: its mean loss, times the number of hidden tokens."""
    feed = feed_of(checkpoints[family], TEXTS[:5])
    model = AutoModelForMaskedLM.from_pretrained(checkpoints[family]).eval()
    batch = feed.batch(list(range(len(feed))))
    target = batch.targets["target"]
    outputs = model(**batch.inputs, labels=target)
    expected = float(outputs.loss) * int((target != IGNORED).sum())
    assert float(feed.form.loss(outputs, batch)) == pytest.approx(expected, rel=1e-5)
    assert batch.weight == int((target != IGNORED).sum())
    answers = feed.form.answers(feed.form.predict(model, outputs, batch, feed.reader), batch.rows)
    assert len(answers) == 5
    scores = MLM("mine").score(answers, Dataset.from_dict({}))
    right = (outputs.logits.argmax(-1) == target).sum() / (target != IGNORED).sum()
    assert scores["masked_loss"] == pytest.approx(float(outputs.loss), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(float(right))


def test_scores_of_texts_weigh_tokens():
    rows = Dataset.from_dict({"id": ["a", "b"]})
    answers = [{"nll": 6.0, "right": 2, "tokens": 3}, {"nll": 2.0, "right": 0, "tokens": 1}]
    task = MLM("mine")
    assert task.score(answers, rows) == {"masked_loss": 2.0, "accuracy": 0.5}
    assert task.parts(answers, rows) == ([6.0, 2.0], [3.0, 1.0])
    assert not task.larger_is_better
    best = replace(task, best="accuracy")
    assert best.larger_is_better and best.parts(answers, rows) == ([2.0, 0.0], [3.0, 1.0])
    assert replace(task, best="loss").parts(answers, rows) is None


@pytest.mark.parametrize(("field", "value"), [("mask_share", 0.0), ("mask_share", 1.0),
                                              ("mask_seed", -1)])  # fmt: skip
def test_options_out_of_range(field, value):
    with pytest.raises(ConfigError, match=rf"task\.{field}="):
        MLM("mine", **{field: value})


# ---- runs ----


@pytest.fixture(scope="module")
def words(checkpoints, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("mlm")
    for split, texts in (("train", TEXTS[:12]), ("validation", [*TEXTS[12:16], ""])):
        write(folder / f"{split}.jsonl", [{"text": text} for text in texts])
    return [
        "task=mlm", f"task.path={folder}", "task.max_length=24", "model=auto", "method=full",
        f"model.path={shallow(checkpoints['bert'], folder / 'bert')}", "trainer.device=cpu",
        "trainer.precision=fp32", "trainer.epochs=2", "trainer.checkpoint_every=2",
        "trainer.keep=last", "trainer.batch_size=8",
    ]  # fmt: skip


def test_a_kill_in_the_second_epoch(words, tmp_path):
    """The masks of a resumed epoch are those of the uninterrupted one."""
    whole = settings(compose([*words, f"output_dir={tmp_path / 'whole'}"]))
    cut = settings(compose([*words, f"output_dir={tmp_path / 'cut'}"]))
    record, _ = carry_out(whole)
    per_epoch = record["updates"] // 2
    assert per_epoch > 3

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        carry_out(cut, at("on_step_end", per_epoch + 3, kill))
    _, said = carry_out(cut)
    assert any(line.startswith("resuming from update") for line in said)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_pretraining_on_the_texts_of_a_task(words, tmp_path, monkeypatch):
    """Its record, its use as a start of a classifier, and models that cannot."""
    monkeypatch.chdir(tmp_path)
    answer = call("train", *words, "output_dir=run", "trainer=debug")
    assert answer.status == 0, answer.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    scores = record["scores"]
    assert scores["loss"] == pytest.approx(scores["masked_loss"]) == record["score"]
    low, high = record["score_interval"]
    assert low < record["score"] < high and record["baseline"]["value"] is None
    assert call("verify", "run").status == 0
    rows = [{"text": text, "label": ("a", "b")[i % 2]} for i, text in enumerate(TEXTS[:8])]
    write(tmp_path / "rows.jsonl", rows)
    path = next(word for word in words if word.startswith("model.path="))
    answer = call(
        "train", "task=classify", "task.path=rows.jsonl", "task.text=text", "model=auto", path,
        "model.from_run=run", "output_dir=next", "trainer=debug",
    )  # fmt: skip
    assert answer.status == 0, answer.err


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_a_model_without_hidden_words(family, checkpoints, words, tmp_path):
    answer = call("train", *words, f"model.path={checkpoints[family]}",
                  f"output_dir={tmp_path / 'run'}")  # fmt: skip
    assert answer.status == 2
    assert "models have no masked-word head, which this task needs" in answer.err


def test_a_tokenizer_without_a_mask(checkpoints):
    feed = feed_of(checkpoints["bert"], ["good"])
    feed.reader.tokenizer.mask_token = None
    with pytest.raises(AdaptError, match="has no mask, so that no word can be hidden"):
        feed.form.encode(Dataset.from_dict({"text": ["good"]}), feed.reader)
