"""Gradient checkpointing: the same gradients, less memory, and a clear no elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commandline import call, data_root, tiny
from families import FAMILIES, RARE, SENTENCES, add_padding, tiny_model, tiny_tokenizer
from safetensors.torch import load_file
from torch import Tensor
from transformers import set_seed

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError
from adaptkit.methods.adalora import AdaLoRA
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.child_tuning import ChildTuning
from adaptkit.methods.compacter import Compacter
from adaptkit.methods.diff_pruning import DiffPruning
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.ia3 import IA3
from adaptkit.methods.lora import LoRA
from adaptkit.methods.parallel_adapter import ParallelAdapter
from adaptkit.methods.pissa import PiSSA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.ptuning import PTuning
from adaptkit.methods.ptuning_v2 import PTuningV2
from adaptkit.methods.top_k import TopK
from adaptkit.methods.vera import VeRA
from adaptkit.models.fast import use_fast_kernels
from adaptkit.models.loading import head_names
from adaptkit.models.recompute import recompute_layers
from adaptkit.regularizers.mixout import Mixout
from adaptkit.training import precision

WITHOUT = ("albert", "xlnet")  # transformers does not offer it for them
LIKE = ("distilbert", "electra", "opt", "mistral", "qwen2", "gpt_neox", *RARE)  # as others; slow
METHODS = [
    Full(), LoRA(rank=2, dropout=0.3), DoRA(rank=2), PiSSA(rank=2), VeRA(rank=8), IA3(), BitFit(),
    AdaLoRA(rank=3, target_rank=2), Houlsby(4), Compacter(4), ParallelAdapter(4), TopK(last=1),
    PrefixTuning(3, 8), PTuningV2(3), PromptTuning(length=3), PTuning(length=3),
    ChildTuning(mode="F"),
]  # fmt: skip


def adapted(family: str, *methods: Any) -> Adaptation:
    set_seed(0)
    model = tiny_model(family)
    made = Adaptation.of(model, head_names(model))
    context = Context(tiny_tokenizer(family), torch.Generator().manual_seed(0), 3)
    for method in methods:
        made = method.adapt(made, context)
    return made


def gradients(family: str, method: Any, number_format: str, again: bool) -> dict[str, Tensor]:
    made, tokenizer = adapted(family, method), tiny_tokenizer(family)
    precision.cast(made, number_format)
    if again:
        recompute_layers(made.model)
    if number_format == "bf16":
        use_fast_kernels(made.model, first_token_only=made.extra_tokens == 0)
    model = made.model.train()
    add_padding(tokenizer, model.config)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    torch.manual_seed(1)  # of dropout
    with precision.autocast(number_format, torch.device("cpu")):
        logits = model(**batch).logits
    F.cross_entropy(logits.float(), torch.arange(len(logits)) % 2).backward()
    return {name: p.grad for name, p in made.trainable.items() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "method", "number_format"),
    [
        *(pytest.param(f, LoRA(rank=2, dropout=0.2), "bf16", marks=[pytest.mark.slow] * (f in LIKE))
          for f in FAMILIES if f not in (*WITHOUT, "bert")),
        *(("bert", method, "bf16") for method in METHODS),
        ("bert", Full(), "fp32"), ("gpt2", PrefixTuning(3, 8), "fp32"), ("t5", Full(), "fp32"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_gradients_are_the_same(family, method, number_format):
    once = gradients(family, method, number_format, again=False)
    twice = gradients(family, method, number_format, again=True)
    assert once.keys() == twice.keys()
    assert once
    for name in once:
        if family == "t5":  # summed in another order
            away = (once[name].float() - twice[name].float()).norm()
            assert away <= {"fp32": 1e-5, "bf16": 0.05}[number_format] * once[name].float().norm()
        else:
            assert torch.equal(once[name], twice[name]), name


@pytest.mark.parametrize(
    "family", ["llama", pytest.param("modernbert", marks=pytest.mark.slow),
               pytest.param("gpt_neox", marks=pytest.mark.slow)],
)  # fmt: skip
def test_scores_after_an_update_have_the_pair_of_a_layers_last_map(family):
    """Where a layer is computed again, its last product is left before its hooks are called."""
    made, tokenizer = adapted(family, LoRA(rank=2, roles=("down",))), tiny_tokenizer(family)
    for name, p in made.trainable.items():
        if name.endswith(".B"):
            torch.nn.init.ones_(p.data)
    precision.cast(made, "bf16")
    recompute_layers(made.model)
    use_fast_kernels(made.model, first_token_only=True)
    add_padding(tokenizer, made.model.config)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")

    def logits(training: bool) -> Tensor:
        with precision.autocast("bf16", torch.device("cpu")), torch.set_grad_enabled(training):
            return made.model.train(training)(**batch).logits

    before = logits(training=False)
    logits(training=True).float().sum().backward()
    assert torch.equal(before, logits(training=False))


@pytest.mark.parametrize("hidden", [8, None])
def test_a_second_pass_before_the_gradients_changes_nothing(hidden):
    """As R-Drop and R3F make it: what a layer computes again belongs to its own pass."""
    found = []
    for again in (False, True):
        made = adapted("bert", PrefixTuning(3, hidden, dropout=0.3))
        if again:
            recompute_layers(made.model)
        batch = tiny_tokenizer("bert")(SENTENCES, padding=True, return_tensors="pt")
        made.model.train()
        torch.manual_seed(1)
        one, two = (made.model(**batch).logits for _ in range(2))
        F.mse_loss(one, two).backward()
        found.append({name: p.grad for name, p in made.trainable.items() if p.grad is not None})
    assert found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("family", WITHOUT)
def test_a_family_without_it_is_refused(family):
    with pytest.raises(AdaptError, match="not offered by transformers for"):
        recompute_layers(tiny_model(family))


@pytest.mark.parametrize("methods", [(DiffPruning(density=0.2),), (Full(), Mixout())])
def test_weights_that_differ_from_pass_to_pass_are_refused(methods):
    with pytest.raises(AdaptError, match="makes their weights anew for each pass"):
        recompute_layers(adapted("bert", *methods).model)


@pytest.mark.parametrize("family", [pytest.param("bert", marks=pytest.mark.slow), "t5", "bart"])
def test_a_run_is_the_same(family, checkpoints, tmp_path):
    data = data_root(tmp_path / "data")
    words = ["method=lora", *tiny(checkpoints[family]), f"data.root={data}", "trainer.max_steps=3"]
    for name, more in (("once", []), ("twice", ["trainer.gradient_checkpointing=true"])):
        answer = call("train", *words, *more, f"output_dir={tmp_path / name}")
        assert answer.status == 0, answer.err
    one, two = (load_file(tmp_path / name / "delta.safetensors") for name in ("once", "twice"))
    for name in one:
        close = torch.allclose if family == "t5" else torch.equal  # see above: T5's position bias
        assert close(one[name], two[name]), name
    refused = call("train", *words, "trainer.gradient_checkpointing=true", "method=probe",
                   f"output_dir={tmp_path / 'probe'}")  # fmt: skip
    assert refused.status == 2
    assert "none reach the frozen base model" in refused.err
    assert not (tmp_path / "probe").exists()


@pytest.mark.slow
def test_the_plan_counts_what_is_kept():
    words = ["model=mini-bert", "method=lora", "task=sst2", "trainer.batch_size=64"]
    every, inputs = (
        json.loads(call("plan", *words, *more, "--json").out)["memory"]["activations"]
        for more in ([], ["trainer.gradient_checkpointing=true"])
    )
    assert inputs < every / 4
