"""Logits of a vocabulary only where they are read: the same training, on every form with one."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
import transformers
from families import FAMILIES, SENTENCES, add_padding, tiny_config, tiny_tokenizer
from safetensors.torch import load_file

import adaptkit
from adaptkit.models.places import Places
from adaptkit.tasks.forms.padding import padded_inputs

RUNS = {
    "lm": ["model=mini-gpt2", "task=lm", "method=lora"],
    "lm, prefix": ["model=mini-gpt2", "task=lm", "method=prefix"],
    "mlm": ["model=mini-bert", "task=mlm", "method=bitfit"],
    "texts": ["model=mini-gpt2", "task=xsum", "method=lora", "trainer.batch_size=4"],
    "texts, prompt": ["model=mini-gpt2", "task=e2e", "method=prompt"],
    "cloze": ["model=mini-bert", "task=sst2", "task.form=cloze", "method=lora"],
    "cloze, r3f": ["model=mini-bert", "task=sst2", "task.form=cloze", "regularizer=r3f"],
    "cloze, prompt": ["model=mini-bert", "task=sst2", "task.form=cloze", "method=prompt"],
    "cloze, several tokens": [
        "model=mini-bert", "task=sst2", "task.form=cloze", "task.pieces=parallel",
        "task.words={negative:[terrible],positive:[wonderful]}",
    ],
    "cloze, next word": ["model=mini-gpt2", "task=sst2", "task.form=cloze", "method=lora"],
    "written": ["model=mini-gpt2", "task=sst2", "task.form=text", "method=lora"],
    "number": ["model=mini-gpt2", "task=stsb", "task.form=text", "method=lora"],
    "alternatives": ["model=mini-gpt2", "task=copa", "task.form=text", "method=lora"],
}  # fmt: skip
OTHERS = {  # whose logits stay as they are
    "two stacks": ["model=mini-t5", "task=xsum", "method=lora", "trainer.batch_size=4"],
    "classifier": ["model=mini-bert", "task=sst2", "method=lora"],
}  # fmt: skip


def trained(words: list[str], folder, patch: pytest.MonkeyPatch, select: bool) -> tuple:
    """The trained tensors, and the shapes of the states that the head was given."""
    seen: list[tuple[int, int]] = []
    only, hook = Places.only, Places._select

    @contextlib.contextmanager
    def maybe(self, mask):
        with only(self, mask if select else None):
            yield

    def spy(self, module, args, output):
        states = hook(self, module, args, output)["last_hidden_state"]
        if module.training and torch.is_grad_enabled():
            seen.append(tuple(states.shape[:2]))
        return output

    if "task=lm" in words or "task=mlm" in words:
        texts = folder.parent / "texts"
        texts.mkdir(exist_ok=True)
        for split in ("train", "validation"):
            lines = [{"text": text} for text in SENTENCES]
            (texts / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        words = [*words, f"task.path={texts}"]
    else:
        words = [*words, "data.source=sample"]
    with patch.context() as once:
        once.setattr(Places, "only", maybe)
        once.setattr(Places, "_select", spy)
        adaptkit.run(
            *words, "data.train_rows=16", "data.eval_rows=2",
            "trainer.max_steps=2", "trainer.precision=fp32", "trainer.device=cpu",
            "optimizer=sgd", "optimizer.lr=1e-1", f"output_dir={folder}",
        )  # fmt: skip
    return load_file(folder / "delta.safetensors"), seen


@pytest.mark.parametrize("head", ["AutoModelForCausalLM", "AutoModelForMaskedLM"])
@pytest.mark.parametrize("family", FAMILIES)
def test_selected_logits_are_those_of_the_places(family, head):
    """On every family with such a head; two stacks and left padding compute all."""
    config, auto = tiny_config(family), getattr(transformers, head)
    if type(config) not in auto._model_mapping:
        pytest.skip("has no such head")
    torch.manual_seed(0)
    model, tokenizer = auto.from_config(config).eval(), tiny_tokenizer(family)
    add_padding(tokenizer, model.config)
    texts = [{"input_ids": tokenizer(text)["input_ids"]} for text in SENTENCES]
    batch = padded_inputs(texts, tokenizer)
    mask = (torch.rand(batch["input_ids"].shape) < 0.3) & batch["attention_mask"].bool()
    places = Places(model, wanted=True)
    with torch.no_grad():
        every = model(**batch).logits
        with places.only(torch.stack(mask.nonzero(as_tuple=True))):
            chosen = model(**batch).logits
    assert places.able == (family not in ("bart", "t5", "xlnet"))
    expected = every[mask][None] if places.able else every
    torch.testing.assert_close(chosen, expected, rtol=1e-4, atol=1e-5)


OFTEN = ("lm", "cloze, r3f")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=name, marks=() if name in OFTEN else pytest.mark.slow)
        for name, words in {**RUNS, **OTHERS}.items()
    ],
)
def test_training_is_the_same(words, tmp_path, monkeypatch):
    chosen, narrow = trained(words, tmp_path / "some", monkeypatch, select=True)
    every, wide = trained(words, tmp_path / "all", monkeypatch, select=False)
    assert chosen.keys() == every.keys()
    for name in chosen:
        torch.testing.assert_close(chosen[name], every[name], rtol=1e-3, atol=2e-5)
    if words in RUNS.values():
        assert narrow
        assert all(size[0] == 1 for size in narrow)
        assert sum(n * t for n, t in narrow) < sum(n * t for n, t in wide)
    else:
        assert narrow == wide
