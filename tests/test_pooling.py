"""Reading the mean or maximum of all tokens: every family's head, computed by hand."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, SENTENCES, tiny_config, tiny_model, tiny_tokenizer
from runs import carry_out, configure, sentiment
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn.functional import gelu

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError
from adaptkit.methods.probe import Probe
from adaptkit.methods.prompt import PromptTuning
from adaptkit.models.heads import HEADS as MODEL_HEADS
from adaptkit.models.loading import head_names, load_config, load_model, load_tokenizer
from adaptkit.models.model import Model
from adaptkit.models.padding import with_padding_moved
from adaptkit.models.pooling import Pooled, read_end
from adaptkit.runs.delta import load_run
from adaptkit.runs.exchange.export import export

SEQUENCE = MODEL_HEADS["sequence"]

CLOSE = {"rtol": 1e-4, "atol": 1e-5}

# What each class makes of one vector, from the definitions of the published heads.
HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda m, x: m.classifier(torch.tanh(m.bert.pooler.dense(x))),
    "albert": lambda m, x: m.classifier(torch.tanh(m.albert.pooler(x))),
    "roberta": lambda m, x: m.classifier.out_proj(torch.tanh(m.classifier.dense(x))),
    "electra": lambda m, x: m.classifier.out_proj(gelu(m.classifier.dense(x))),
    "distilbert": lambda m, x: m.classifier(torch.relu(m.pre_classifier(x))),
    "deberta-v2": lambda m, x: m.classifier(gelu(m.pooler.dense(x))),
    "modernbert": lambda m, x: m.classifier(m.head.norm(gelu(m.head.dense(x)))),
    "modernbert-decoder": lambda m, x: m.classifier(m.head.norm(gelu(m.head.dense(x)))),
    "eurobert": lambda m, x: m.classifier(gelu(m.dense(x))),
    "xlnet": lambda m, x: m.logits_proj(torch.tanh(m.sequence_summary.summary(x))),
    "t5": lambda m, x: m.classification_head.out_proj(
        torch.tanh(m.classification_head.dense(x))
    ),
}  # fmt: skip
HEADS["bart"] = HEADS["t5"]


def classifier(family: str) -> nn.Module:
    model = tiny_model(family)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tiny_config(family).eos_token_id
    return model


def context(family: str) -> Context:
    return Context(tiny_tokenizer(family), torch.Generator().manual_seed(0), 3)


def encoded(family: str, texts: list[str], side: str = "right") -> dict[str, Tensor]:
    tokenizer = tiny_tokenizer(family)
    tokenizer.padding_side = side
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(texts, padding=len(texts) > 1, return_tensors="pt")
    batch["attention_mask"] = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    return dict(batch)


def hidden_of(family: str, plain: nn.Module, text: str) -> Tensor:
    """The hidden states [T, H] of one text that the class's head would read."""
    batch = encoded(family, [text])
    if family in ("t5", "bart"):
        start = torch.tensor([[plain.config.decoder_start_token_id]])
        batch["decoder_input_ids"] = torch.cat([start, batch["input_ids"][:, :-1]], 1)
        body = plain.transformer if family == "t5" else plain.model
        return body(**batch).last_hidden_state[0]
    return plain.base_model(**batch).last_hidden_state[0]


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_head_of_one_vector(family: str, how: str) -> None:
    plain = classifier(family)
    model = copy.deepcopy(plain)
    Pooled(how).attach(model.base_model)
    with_padding_moved(model, SEQUENCE)
    head = HEADS.get(family, lambda m, x: m.score(x))
    with torch.no_grad():
        expect = []
        for text in SENTENCES:
            hidden = hidden_of(family, plain, text)
            expect.append(head(plain, hidden.mean(0) if how == "mean" else hidden.amax(0)))
        for side in ("right", "left"):
            found = model(**encoded(family, SENTENCES, side)).logits
            torch.testing.assert_close(found, torch.stack(expect), **CLOSE)
        if (family, how) != ("modernbert", "mean"):  # its published class reads the mean
            own = plain(**encoded(family, SENTENCES[2:3])).logits[0]
            assert (own - expect[2]).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "xlnet", "deberta-v2", "t5", "bart"])
def test_prompts_are_not_among_what_is_pooled(family: str) -> None:
    """A prompt is read by the text's tokens, and taken out before they are summed up."""
    plain, model = classifier(family), classifier(family)
    Pooled("mean").attach(model.base_model)
    with_padding_moved(model, SEQUENCE)
    for adapted in (plain, model):
        start = Adaptation.of(adapted, head_names(adapted))
        PromptTuning(4).adapt(start, context(family))
        adapted.eval()
    head = HEADS.get(family, lambda m, x: m.score(x))
    with torch.no_grad():
        expect = [head(plain, hidden_of(family, plain, text).mean(0)) for text in SENTENCES]
        found = model(**encoded(family, SENTENCES)).logits
    torch.testing.assert_close(found, torch.stack(expect), **CLOSE)


def test_a_probe_has_its_own_pooling() -> None:
    model = classifier("bert")
    pooled = replace(context("bert"), pooling="mean")
    with pytest.raises(AdaptError, match=r"model\.pooling=mean.*Leave it out.*method\.pooling"):
        Probe().adapt(Adaptation.of(model, head_names(model)), pooled)


def test_a_run_reloads_and_evaluates_as_it_was(checkpoints: Any, tmp_path: Path) -> None:
    data = sentiment(tmp_path / "data")
    changes = {"model.pooling": "mean", "trainer.max_steps": 3}
    for method in ("lora", "prompt"):
        directory = tmp_path / method
        settings = configure(directory, checkpoints["bert"], data, f"method={method}", **changes)
        record, _ = carry_out(settings)  # proves itself: a reloaded model gives the same logits
        assert record["status"] == "done"
        assert load_run(directory).settings.model.pooling == "mean"


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_no_other_library_reads_the_mean(kind: str, checkpoints: Any, tmp_path: Path) -> None:
    data = sentiment(tmp_path / "data", train=8, validation=4)
    changes = {"model.pooling": "mean", "trainer.max_steps": 1}
    carry_out(configure(tmp_path / "run", checkpoints["bert"], data, "method=lora", **changes))
    with pytest.raises(AdaptError, match=r"model\.pooling=mean"):
        export(tmp_path / "run", kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the last token of a decoder ----

DECODERS = ("gpt2", "opt", "llama", "mistral", "qwen2", "gpt_neox")


def ending(family: str, checkpoint: Path, folder: Path) -> Path:
    """A checkpoint whose tokenizer ends every text with the token that it pads with."""
    shutil.copytree(checkpoint, folder)
    tokenizer = tiny_tokenizer(family)
    tokenizer.pad_token = end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", DECODERS)
def test_an_end_token_that_pads_is_read(family: str, checkpoints: Any, tmp_path: Path) -> None:
    folder = ending(family, checkpoints[family], tmp_path / "body")
    spec = Model(family, str(folder))
    config = load_config(spec, "sequence", 2)
    tokenizer = load_tokenizer(spec, config)
    assert config.pad_token_id == config.eos_token_id == tokenizer("good")["input_ids"][-1]
    model = load_model(spec, config, "sequence").model.eval()
    with torch.no_grad():
        expect = []
        for text in SENTENCES:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            expect.append(model.score(model.base_model(ids).last_hidden_state[0, -1]))
        for side in ("right", "left"):
            tokenizer.padding_side = side
            batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
            torch.testing.assert_close(model(**batch).logits, torch.stack(expect), **CLOSE)


@pytest.mark.parametrize("family", DECODERS)
def test_the_last_token_is_that_of_the_published_class(family: str, checkpoints: Any) -> None:
    spec = Model(family, str(checkpoints[family]))
    config = load_config(spec, "sequence", 2)
    model = load_model(spec, config, "sequence").model.eval()
    plain = classifier(family)
    plain.load_state_dict(model.state_dict())
    batch = encoded(family, SENTENCES)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, **CLOSE)


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_no_other_library_reads_that_end(kind: str, checkpoints: Any, tmp_path: Path) -> None:
    folder = ending("gpt2", checkpoints["gpt2"], tmp_path / "body")
    data = sentiment(tmp_path / "data", train=8, validation=4)
    carry_out(configure(tmp_path / "run", folder, data, "method=lora", **{"trainer.max_steps": 1}))
    with pytest.raises(AdaptError, match=r"ends a text with .* padding token of its own"):
        export(tmp_path / "run", kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_end_is_where_transformers_finds_it(family: str, pairs: bool) -> None:
    model = classifier(family).eval()
    texts = [SENTENCES[:3], SENTENCES[1:4]] if pairs else [SENTENCES]
    tokenizer = tiny_tokenizer(family)
    batch = dict(tokenizer(*texts, padding=True, return_tensors="pt"))
    assert len({int(n) for n in batch["attention_mask"].sum(1)}) > 1
    batch.pop("token_type_ids", None)
    theirs = model(**batch)
    read_end(model)
    ours = model(**batch)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours.logits, theirs.logits)
    alone = model(input_ids=batch["input_ids"][:1, : int(batch["attention_mask"][0].sum())])
    torch.testing.assert_close(alone.logits, ours.logits[:1], **CLOSE)
    other = copy.deepcopy(model)  # reads its own weights
    with torch.no_grad():
        other.classification_head.out_proj.bias.add_(1)
    torch.testing.assert_close(other(**batch).logits, ours.logits + 1)
