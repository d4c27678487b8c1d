"""Rates and starts that differ from layer to layer, and decay to the start: by hand, in runs."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from families import EACH_FAMILY, tiny_config, tiny_model
from runs import carry_out, configure, history, sentiment, shallow
from safetensors.torch import load_file
from shapes import LAYERS
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from adaptkit.adaptation import Adaptation, Context, Stage, Step
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.methods.chain import Chain
from adaptkit.methods.full import Full
from adaptkit.methods.lora import LoRA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.probe import Probe
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.top_k import TopK
from adaptkit.models.loading import head_names
from adaptkit.optimizers import AdamW
from adaptkit.regularizers.l2_sp import L2SP
from adaptkit.regularizers.layerwise_lr_decay import LayerwiseLrDecay
from adaptkit.regularizers.reinit import Reinit
from adaptkit.regularizers.weight_decay_to_pretrained import WeightDecayToPretrained
from adaptkit.training.arguments import parameter_groups

APART = [pytest.param(*p.values, marks=p.marks) for p in EACH_FAMILY if p.values != ("albert",)]


def adapted(family: str, *methods: Any, seed: int = 0, stage: Stage = "train") -> Adaptation:
    model = tiny_model(family)
    context = Context(None, torch.Generator().manual_seed(seed), 3, stage)
    adaptation = Adaptation.of(model, head_names(model))
    for method in methods:
        adaptation = method.adapt(adaptation, context)
    return adaptation


def number(name: str) -> int | None:
    """The layer's number from 0, read off a parameter's name."""
    found = re.search(r"\.(?:layers?|block|h)\.(\d+)\.", name)
    return int(found[1]) if found else None


TOP = re.compile(r"(pooler\.dense|ln_f|\.norm|final_norm|final_layer_norm)\.(weight|bias)$")

# ---- learning rates ----


@pytest.mark.parametrize("family", APART)
def test_every_layer_has_its_rate(family: str) -> None:
    """Three layers: 1/2, 1/4, 1/8, embeddings 1/16; the head and what is behind the layers 1."""
    adaptation = adapted(family, Full(), LayerwiseLrDecay(0.5))
    for name in adaptation.trainable:
        layer = number(name)
        if layer is not None:
            expect = 0.5 ** (LAYERS - layer)
        else:
            top = name in adaptation.head or TOP.search(name)
            expect = 1.0 if top and "embed" not in name else 0.5 ** (LAYERS + 1)
        assert adaptation.factor(name) == expect, name
        assert adaptation.factors.get(name, 1.0) == expect


def test_what_a_method_adds_has_the_rate_of_its_layer() -> None:
    adaptation = adapted("bert", LoRA(rank=2, b_lr_ratio=4.0), LayerwiseLrDecay(0.5))
    rates = {n: adaptation.factor(n) for n in adaptation.trainable if ".query.lora." in n}
    assert list(rates.values()) == [1 / 8, 4 / 8, 1 / 4, 4 / 4, 1 / 2, 4 / 2]
    groups = parameter_groups(adaptation, AdamW(1e-2))
    assert {group["lr"] for group in groups} == {1e-2 * f for f in (1 / 8, 1 / 4, 1 / 2, 1, 2)}


def test_decay_1_and_strength_0_and_0_layers_change_nothing() -> None:
    start = adapted("bert", Full())
    context = Context(None, torch.Generator().manual_seed(0), 3)
    assert LayerwiseLrDecay(1.0).adapt(start, context) is start
    assert WeightDecayToPretrained(0.0).adapt(start, context) is start
    before = copy.deepcopy(start.model.state_dict())
    assert Reinit(0, pooler=False).adapt(start, context) is start
    assert all(torch.equal(before[n], t) for n, t in start.model.state_dict().items())


# ---- random layers ----


@pytest.mark.parametrize("family", APART)
def test_layers_are_drawn_as_in_a_new_model(family: str) -> None:
    config = tiny_config(family)
    config.num_labels = 2
    before = tiny_model(family).state_dict()
    state = torch.get_rng_state()
    after = adapted(family, Full(), Reinit(last=2)).model
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    new = AutoModelForSequenceClassification.from_config(config)
    values = dict(new.named_parameters())
    for name, tensor in after.named_parameters():
        layer = number(name)
        if not (layer in (1, 2) or (".pooler." in name and family == "bert")):
            assert torch.equal(tensor, before[name]), name
            continue
        assert not torch.equal(tensor, before[name]), name
        if values[name].std() == 0:
            assert torch.equal(tensor, values[name]), name
        else:
            error = 4 / tensor.numel() ** 0.5
            ratio = (tensor.std() / values[name].std()).item()
            assert ratio == pytest.approx(1, abs=error), name
            assert (tensor.mean().abs() / tensor.std()).item() < error, name


def test_bert_is_drawn_by_its_initializer_range() -> None:
    model = adapted("bert", Full(), Reinit(last=1)).model.bert
    for name, tensor in [*model.encoder.layer[2].named_parameters(),
                         *model.pooler.named_parameters()]:  # fmt: skip
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "LayerNorm" in name:
            assert bool((tensor == 1).all()), name
        else:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.1), name


def test_the_generator_alone_decides_what_is_drawn() -> None:
    one, again, other = (
        adapted("bert", Full(), Reinit(), seed=seed).model.bert.pooler.dense.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_drawn_layers_are_saved_and_not_drawn_again() -> None:
    run = adapted("bert", TopK(last=2), Reinit(last=2))
    drawn = {n for n, t in adapted("bert", TopK(last=2)).model.named_parameters()
             if not torch.equal(t, run.model.get_parameter(n))}  # fmt: skip
    assert len(drawn) == 2 * 16 + 2 and drawn <= run.delta().keys()
    restored = adapted("bert", TopK(last=2), Reinit(last=2), seed=5, stage="restore")
    plain = tiny_model("bert").state_dict()
    assert all(torch.equal(plain[n], t) for n, t in restored.model.state_dict().items())
    restored.load_delta(run.delta())
    saved = restored.model.state_dict()
    assert all(torch.equal(saved[n], t) for n, t in run.model.state_dict().items())


# ---- decay towards the start ----


def test_decoupled_and_coupled_decay_of_one_number() -> None:
    """w = 1, w0 = 0.2, lr = 0.1, strength 0.01, no gradient of a task: 0.9992 against 0.9."""

    def moved(regularizer: Any) -> float:
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(model.weight, 0.2)
        start = Adaptation.of(model, frozenset())
        context = Context(None, torch.Generator(), 1)
        adaptation = regularizer.adapt(start, context)
        nn.init.constant_(model.weight, 1.0)
        optimizer = AdamW(0.1).build(parameter_groups(adaptation, AdamW(0.1)))
        now = Step(0, 1, 0.1, adaptation.factors)
        terms = [term(model, {}, None, now) for term in adaptation.penalty.values()]
        (sum(terms) + 0 * model.weight.sum()).backward()
        optimizer.step()
        for hook in adaptation.after_update:
            hook(now)
        return model.weight.item()

    assert moved(WeightDecayToPretrained(0.01)) == pytest.approx(0.9992, abs=1e-12)
    assert moved(L2SP(alpha=0.01)) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_decay_uses_the_rate_of_each_parameter(order: int) -> None:
    pull = WeightDecayToPretrained(0.5)
    adaptation = adapted("bert", Full(), *[pull, LayerwiseLrDecay(0.5)][::order])
    before = {n: p.detach().clone() for n, p in adaptation.trainable.items()}
    with torch.no_grad():
        for parameter in adaptation.trainable.values():
            parameter += 1
    for hook in adaptation.after_update:
        hook(Step(1, 3, 0.1, adaptation.factors))
    for name, parameter in adaptation.trainable.items():
        share = 0 if name in adaptation.head else 0.1 * adaptation.factor(name) * 0.5
        torch.testing.assert_close(parameter.detach(), before[name] + 1 - share)


def test_a_decay_past_the_start_is_rejected() -> None:
    (hook,) = adapted("bert", Full(), WeightDecayToPretrained(20.0)).after_update
    hook(Step(1, 3, 0.049))
    with pytest.raises(AdaptError, match=r"strength=20.0: times the learning rate it is 1, "):
        hook(Step(1, 3, 0.05))


# ---- pairs that make no sense ----

WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("bert", (LoRA(rank=2), Reinit()), "would stay random"),
    ("bert", (Chain((LoRA(rank=2), TopK())), Reinit(last=2)), "would stay random"),
    ("bert", (TopK(last=1), Reinit(last=2)), "would stay random"),
    ("bert", (Full(), Reinit(last=4)), "reinit.last=4: this model has 3 layers"),
    ("bert", (Probe(), Reinit()), "trains none"),
    ("albert", (Full(), Reinit()), "reinit: the layers of ALBERT share"),
    ("albert", (Full(), LayerwiseLrDecay()), "decay: the layers of ALBERT share"),
    ("bert", (Probe(), LayerwiseLrDecay()), "trains nothing in a layer"),
    ("bert", (PromptTuning(2, init="random"), LayerwiseLrDecay()), "trains nothing in a layer"),
    ("bert", (PrefixTuning(2, 4), LayerwiseLrDecay()), "trains nothing in a layer"),
    ("bert", (Probe(), WeightDecayToPretrained()), "trains nothing of it"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "methods", "words"), WRONG, ids=lambda value: str(value)[:70])
def test_a_pair_that_makes_no_sense_is_rejected(family: str, methods: Any, words: str) -> None:
    with pytest.raises(AdaptError) as info:
        adapted(family, *methods)
    message = str(info.value)
    assert words in message and message.endswith(".") and "\n" not in message
    assert message.count(". ") <= 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LayerwiseLrDecay(0.0), "decay=0.0: must be above 0 and at most 1"),
        (lambda: LayerwiseLrDecay(1.1), "decay=1.1: must be above 0 and at most 1"),
        (lambda: LayerwiseLrDecay(float("nan")), "must be above 0"),
        (lambda: WeightDecayToPretrained(-1.0), "strength=-1.0: must be 0 or more"),
        (lambda: Reinit(last=-1), "reinit.last=-1: must be 0 or more"),
    ],
)
def test_ranges(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        make()


# ---- runs ----

STEP = {"trainer.max_steps": 1, "optimizer.warmup_ratio": 0.0, "optimizer.lr": 0.1}


@dataclass(frozen=True)
class Place:
    """A checkpoint of one layer, rows, and runs."""

    folder: Path
    model: Path
    data: Path

    def __call__(self, name: str, *groups: str, **changes: Any) -> dict[str, Tensor]:
        """Fine-tune fully; return what was saved."""
        directory = self.folder / name
        carry_out(configure(directory, self.model, self.data, "method=full", *groups, **changes))
        return load_file(directory / "delta.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, checkpoints: Any) -> Place:
    folder = tmp_path_factory.mktemp("apart")
    return Place(folder, shallow(checkpoints["bert"], folder / "bert"), sentiment(folder / "data"))


def test_off_is_plain_training_bit_for_bit(place: Place) -> None:
    plain = place("plain", **{"trainer.max_steps": 4})
    off = {
        "trainer.max_steps": 4, "regularizer.weight_decay_to_pretrained.strength": 0.0,
        "regularizer.layerwise_lr_decay.decay": 1.0, "regularizer.reinit.last": 0,
        "regularizer.reinit.pooler": False,
    }  # fmt: skip
    groups = "regularizer=[reinit,layerwise_lr_decay,weight_decay_to_pretrained]"
    other = place("off", groups, **off)
    assert all(torch.equal(plain[name], tensor) for name, tensor in other.items())


def test_an_update_decays_by_its_own_rate(place: Place) -> None:
    """One update of SGD, with and without: apart by lr * factor * strength * (w - w0)."""
    decay = {"regularizer.layerwise_lr_decay.decay": 0.5}
    pull = {"regularizer.weight_decay_to_pretrained.strength": 2.0}
    groups = ("optimizer=sgd", "regularizer=[layerwise_lr_decay]")
    plain = place("slow", *groups, **STEP, **decay)
    both = "regularizer=[weight_decay_to_pretrained,layerwise_lr_decay]"
    pulled = place("pulled", "optimizer=sgd", both, **STEP, **decay, **pull)
    before, compared = load_file(place.model / "model.safetensors"), 0
    for name, tensor in plain.items():
        base = before.get(name)
        if base is None or name.startswith("classifier"):
            assert torch.equal(pulled[name], tensor), name
            continue
        factor = 0.5 if ".layer.0." in name else 1.0 if ".pooler." in name else 0.25
        expect = tensor.double() - 0.1 * factor * 2.0 * (tensor.double() - base.double())
        torch.testing.assert_close(pulled[name].double(), expect, rtol=1e-6, atol=1e-7)
        compared += not torch.equal(tensor, base)
    assert compared > 15


def test_the_log_holds_the_rate_before_the_factors(place: Place) -> None:
    changes = {"trainer.max_steps": 3, "trainer.log_every": 1, "optimizer.lr": 1e-2}
    place("log", "regularizer=[layerwise_lr_decay]", **changes,
          **{"regularizer.layerwise_lr_decay.decay": 0.1})  # fmt: skip
    seen = [line["lr"] for line in history(place.folder / "log") if "lr" in line]
    assert seen == pytest.approx([1e-2 * AdamW(1e-2).share(u, 3) for u in range(3)])
