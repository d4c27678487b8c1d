"""States below the lowest layer that trains: the same model, the same training, or a clear no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call
from families import FAMILIES, SENTENCES, add_padding, tiny_model, tiny_tokenizer
from runs import Killed, at, carry_out, configure, sentiment
from safetensors.torch import load_file
from torch import Tensor
from transformers import set_seed

import adaptkit
from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, ConfigError, MachineError
from adaptkit.layers.bottom import frozen_bottom
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.lora import LoRA
from adaptkit.methods.top_k import TopK
from adaptkit.models.depth import layer_numbers
from adaptkit.models.fast import use_fast_kernels
from adaptkit.models.loading import head_names
from adaptkit.models.recompute import recompute_layers
from adaptkit.runs import frozen, prepare
from adaptkit.training import precision
from adaptkit.training.batching import CachedFeed

WITHOUT = ("albert", "bart", "t5", "xlnet")  # shared layers, two stacks, padding on the left


class TopLoRA:
    """LoRA of which the last of three layers trains; the others' maps stay where they begin."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        made = LoRA(rank=2, dropout=0.1).adapt(start, context)
        numbers = layer_numbers(made.model, made.trainable)
        return made.narrow(lambda name: numbers.get(name, 2) == 2)


def adapted(family: str, method: Any, number_format: str = "fp32") -> Adaptation:
    set_seed(0)
    model = tiny_model(family)
    start = Adaptation.of(model, head_names(model))
    made = method.adapt(start, Context(None, torch.Generator().manual_seed(0), 3))
    precision.cast(made, number_format)
    return made


def encoded(model: Any, family: str) -> dict[str, Tensor]:
    tokenizer = tiny_tokenizer(family)
    add_padding(tokenizer, model.config)
    return dict(tokenizer(SENTENCES, padding=True, padding_side="right", return_tensors="pt"))


def gradients(made: Adaptation, batch: dict[str, Tensor], kind: str) -> list[Tensor]:
    """The logits of a training pass and the gradients of what trains."""
    made.model.train().zero_grad()
    torch.manual_seed(1)  # of dropout above
    with precision.autocast(kind, torch.device("cpu")):
        logits = made.model(**batch).logits.float()
    logits.logsumexp(-1).square().sum().backward()
    trained = {n: p.grad.clone() for n, p in made.trainable.items() if p.grad is not None}
    return [logits.detach(), *trained.values()]


@pytest.mark.sampled
@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize("method", [TopK(last=1), TopK(layers=(2, 3)), TopLoRA()])
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*WITHOUT}))
def test_going_on_from_states_is_exact(family, method, number_format):
    if method != TopK(last=1) and family not in ("bert", "gpt2", "llama", "deberta-v2"):
        pytest.skip("one method on every family, every method on some")
    made = adapted(family, method, number_format)
    batch = encoded(made.model, family)
    features = frozen_bottom(made)
    if number_format == "bf16":
        use_fast_kernels(made.model, first_token_only=True)
    made.model.train()
    with precision.autocast(number_format, torch.device("cpu")):
        states = features(batch)
    whole = gradients(made, batch, number_format)
    assert len(whole) > 2
    for _ in range(2):  # the form of what a layer returns is learnt in the first
        onward = gradients(made, {**batch, "features": states}, number_format)
        for one, other in zip(whole, onward, strict=True):
            assert torch.equal(one, other)
    other = gradients(made, {**batch, "features": states + 1}, number_format)
    assert not torch.equal(other[0], whole[0])  # they are what the top reads


def test_layers_above_keep_their_dropout_and_those_below_have_none():
    made = adapted("bert", TopK(last=1))
    batch = encoded(made.model, "bert")
    features = frozen_bottom(made)
    made.model.train()
    assert torch.equal(features(batch), features(batch))
    still = {name for name, m in made.model.named_modules() if name and not m.training}
    assert {"bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"} <= still
    assert not any(name.startswith("bert.encoder.layer.2") for name in still)
    assert made.model.dropout.training
    assert made.model.bert.pooler.training


def test_with_gradient_checkpointing():
    """A layer that is computed again for its gradients reads the same states."""
    made = adapted("bert", TopK(last=2))
    batch = encoded(made.model, "bert")
    features = frozen_bottom(made)
    states = features(batch)
    expected = gradients(made, batch, "fp32")
    recompute_layers(made.model)
    found = gradients(made, {**batch, "features": states}, "fp32")
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("family", "method", "says"),
    [
        ("bert", TopK(last=3), "the lowest layer trains"),
        ("bert", TopK(layers=(1, 3)), "the lowest layer trains"),
        ("bert", BitFit(), r"embeddings\.LayerNorm\.bias trains"),
        ("gpt2", LoRA(rank=2), "the lowest layer trains"),
        ("albert", LoRA(rank=2), "share one set of weights"),
        ("t5", TopK(last=1), "not offered for T5"),
        ("xlnet", TopK(last=1), "not offered for XLNet"),
    ],
)
def test_where_there_is_nothing_below(family, method, says):
    with pytest.raises(AdaptError, match=says):
        frozen_bottom(adapted(family, method))


# ---- runs ----


WORDS = ("data.source=sample", "data.train_rows=24", "data.eval_rows=8", "trainer.device=cpu",
         "trainer.precision=fp32", "optimizer=sgd", "optimizer.lr=1e-1", "trainer.epochs=2",
         "trainer.batch_size=8", "trainer.cache_frozen=layers")  # fmt: skip
RUNS = {
    "a class": ["model=mini-bert", "task=sst2", "method=top_k", "method.last=1"],
    "a class, pooled": ["model=mini-bert", "task=sst2", "method=top_k", "method.last=1",
                        "model.pooling=mean"],
    "a number": ["model=mini-gpt2", "task=stsb", "method=top_k", "method.last=1"],
    "tags": ["model=mini-bert", "task=ud_ewt", "method=top_k", "method.last=1"],
    "a span": ["model=mini-bert", "task=squad", "method=top_k", "method.last=1"],
    "cloze": ["model=mini-bert", "task=sst2", "task.form=cloze", "method=top_k", "method.last=1"],
    "texts": ["model=mini-gpt2", "task=e2e", "method=top_k", "method.last=1"],
    "two passes": ["model=mini-bert", "task=sst2", "method=top_k", "method.last=1",
                   "regularizer=[r_drop,l2_sp]"],
}  # fmt: skip


def trained(words: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    adaptkit.run(*WORDS, *words, f"output_dir={folder}")
    record = json.loads((folder / "result.json").read_text())
    return record, load_file(folder / "delta.safetensors")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=name, marks=() if name == "a class" else pytest.mark.slow)
        for name, words in RUNS.items()
    ],
)
def test_training_is_that_of_still_layers(words, tmp_path, monkeypatch):
    read: list[int] = []
    batch = CachedFeed.batch

    def counted(self, indices):
        read.append(len(indices))
        return batch(self, indices)

    monkeypatch.setattr(CachedFeed, "batch", counted)
    kept, tensors = trained(words, tmp_path / "kept")
    assert sum(read) >= 2 * 24
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr("adaptkit.runs.run.kept", lambda *_: False)
        computed, others = trained(words, tmp_path / "computed")
    assert not read
    assert kept["score"] == pytest.approx(computed["score"], abs=1e-4)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=2e-5)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return sentiment(tmp_path / "rows")


TOP = ("method=top_k", {"method.last": 1, "trainer.cache_frozen": "layers"})


def test_states_in_a_folder_are_exact_and_shared(checkpoints, rows, tmp_path, monkeypatch):
    store = {"trainer.features": str(tmp_path / "store")}
    memory, _ = carry_out(configure(tmp_path / "memory", checkpoints["bert"], rows, TOP[0],
                                    **TOP[1]))  # fmt: skip
    first, said = carry_out(configure(tmp_path / "first", checkpoints["bert"], rows, TOP[0],
                                      **TOP[1], **store))  # fmt: skip
    assert sum("states of the frozen layers of 44 texts computed" in line for line in said) == 1

    def never(*_: Any) -> Any:
        raise RuntimeError("computed again")

    monkeypatch.setattr("adaptkit.training.scorer.Scorer.features", never)
    second, said = carry_out(configure(tmp_path / "second", checkpoints["bert"], rows, TOP[0],
                                       **TOP[1], **store))  # fmt: skip
    assert sum("read from" in line for line in said) == 2
    assert memory["scores"] == first["scores"] == second["scores"]
    tensors = [load_file(tmp_path / name / "delta.safetensors") for name in
               ("memory", "first", "second")]  # fmt: skip
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name])
        assert torch.equal(tensor, tensors[2][name])


def test_other_weights_below_are_other_states(checkpoints, rows, tmp_path):
    """Of the layers above they are the same states; and deeper states lie apart."""
    store = {"trainer.features": str(tmp_path / "store")}
    made = {
        "one": {},
        "seed": {"seed": 1},  # another head
        "deeper": {"method.last": 2},
        "drawn": {"model.random_weights": True},
    }
    found = {}
    for name, options in made.items():
        carry_out(configure(tmp_path / name, checkpoints["bert"], rows, TOP[0],
                            **{**TOP[1], **store, "trainer.max_steps": 1, **options}))  # fmt: skip
        found[name] = len([*(tmp_path / "store").glob("*/index.json")])
    assert found == {"one": 2, "seed": 2, "deeper": 4, "drawn": 6}


def test_a_killed_run_goes_on_to_the_bit(checkpoints, rows, tmp_path):
    whole, _ = carry_out(configure(tmp_path / "whole", checkpoints["bert"], rows, TOP[0], **TOP[1]))

    def kill() -> None:
        raise Killed

    made = configure(tmp_path / "killed", checkpoints["bert"], rows, TOP[0], **TOP[1])
    with pytest.raises(Killed):
        carry_out(made, at("on_step_end", 9, kill))
    again, said = carry_out(made)
    assert any("resuming from update" in line for line in said)
    assert again["scores"] == whole["scores"]
    one, other = (load_file(tmp_path / name / "delta.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_rejected(checkpoints, rows, tmp_path, monkeypatch):
    def made(*words: str, **options: Any) -> Any:
        return configure(tmp_path / "run", checkpoints["bert"], rows, *words,
                         **{"trainer.cache_frozen": "layers", **options})  # fmt: skip

    with pytest.raises(ConfigError, match=r"regularizer=r4f adds noise"):
        made("method=top_k", "regularizer=r4f")
    with pytest.raises(ConfigError, match=r"cache_frozen=layers leaves out a part"):
        made("method=top_k", **{"trainer.compile": True})
    with pytest.raises(AdaptError, match="the lowest layer trains"):
        carry_out(made("method=lora"))
    with pytest.raises(ConfigError, match="is not a probe"):
        made("method=top_k", **{"trainer.cache_frozen": "auto", "trainer.features": "x"})
    monkeypatch.setattr(frozen, "free_memory", lambda: 1000.0)
    with pytest.raises(MachineError, match=r"Keep them in a folder with trainer\.features"):
        carry_out(made("method=top_k", **{"method.last": 1}))
    assert prepare.frozen_bottom is frozen_bottom


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=mini-bert", "task=mlm"], "draws its inputs anew"),
        (["model=mini-bert", "task=copa"], "several per row"),
        (["model=mini-t5", "task=xsum"], "not offered for T5"),
    ],
)
def test_tasks_that_cannot(words, says, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for split in ("train", "validation"):
        (texts / f"{split}.jsonl").write_text("\n".join(json.dumps({"text": s}) for s in SENTENCES))
    path = [f"task.path={texts}"] if "task=mlm" in words else ["data.source=sample"]
    answer = call("train", "method=top_k", "method.last=1", "trainer=debug", *words, *path,
                  "trainer.cache_frozen=layers", f"output_dir={tmp_path / 'run'}")  # fmt: skip
    assert answer.status == 2
    assert says in answer.err
