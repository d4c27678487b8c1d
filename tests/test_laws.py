"""Laws: what holds for every method on every family of models that it supports.

Each pair of a setting and a family is loaded, adapted and trained for three updates once; the laws
look at what came of it. Pairs that make no sense must be refused in one sentence.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families import EACH_FAMILY, FAMILIES, RARE, SENTENCES, rows
from safetensors.torch import load_file
from shapes import (
    FUSED,
    GATED,
    INNER,
    LAYERS,
    LINEAR,
    NO_BIAS,
    TWO_STACKS,
    WIDTH,
    expected,
    shape,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.pytorch_utils import Conv1D

from adaptkit.adaptation import Adaptation, Context, Stage, Step
from adaptkit.errors import AdaptError
from adaptkit.methods import METHODS
from adaptkit.methods.adalora import AdaLoRA
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.chain import Chain
from adaptkit.methods.child_tuning import ChildTuning
from adaptkit.methods.compacter import Compacter
from adaptkit.methods.diff_pruning import DiffPruning
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.ia3 import IA3
from adaptkit.methods.layernorm import LayerNormTuning
from adaptkit.methods.lora import LoRA
from adaptkit.methods.parallel_adapter import ParallelAdapter
from adaptkit.methods.pfeiffer import Pfeiffer
from adaptkit.methods.pissa import PiSSA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.probe import Probe
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.ptuning import PTuning
from adaptkit.methods.ptuning_v2 import PTuningV2
from adaptkit.methods.top_k import TopK
from adaptkit.methods.vera import VeRA
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.regularizers.l2_sp import L2SP
from adaptkit.storage.files import save_tensors
from adaptkit.training.precision import cast

CLASSES = 3
# One attention bias of their own shape (XLNet), or one bias for query, key and value.
NO_QUERY_BIAS = frozenset({"xlnet", *FUSED, *NO_BIAS})
# Decoders: the first token sees nothing but itself. T5 was trained without any such token.
NO_CLS = frozenset({
    "gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "t5", "modernbert-decoder",
    "gemma3_text",
})  # fmt: skip
OWN_ATTENTION = frozenset({"deberta-v2", "xlnet"})  # nothing can be put before keys and values


@dataclass(frozen=True)
class Setting:
    """A method with hyperparameters, and what they promise."""

    method: Any
    refused: frozenset[str] = frozenset()  # families
    starts_as_body: bool = True
    slow: bool = False


SETTINGS: dict[str, Setting] = {
    "full": Setting(Full()),
    "diff": Setting(DiffPruning(density=0.2, alpha=0.0)),
    "child-f": Setting(ChildTuning(mode="F", share=0.5), slow=True),
    "lora": Setting(LoRA(rank=4, alpha=8.0)),
    "lora-all": Setting(
        LoRA(rank=2, alpha=3.0, roles=("all",), rank_stabilised=True, bias="lora_only")
    ),
    "lora-ffn": Setting(LoRA(rank=3, roles=("ffn",), dropout=0.2, bias="all"), slow=True),
    "lora-gate": Setting(LoRA(roles=("gate",)), frozenset(FAMILIES) - set(GATED), slow=True),
    "lora-dropout": Setting(LoRA(dropout=0.5), frozenset({"xlnet"}), slow=True),
    "lora-embeddings": Setting(LoRA(rank=4, roles=("value", "embeddings"), ranks={"value": 2})),
    "lora-other": Setting(
        LoRA(rank=2, roles=("query", "other")),
        frozenset(FAMILIES) - {"bert", "electra", "albert"},
        slow=True,
    ),
    "dora": Setting(DoRA(rank=4, alpha=6.0)),
    "dora-all": Setting(DoRA(rank=2, roles=("all",)), slow=True),
    "dora-dropout": Setting(DoRA(dropout=0.3), frozenset({"xlnet"}), slow=True),
    "pissa": Setting(PiSSA(rank=4, alpha=6.0)),
    "pissa-fast": Setting(PiSSA(rank=2, roles=("all",), niter=2), slow=True),
    "vera": Setting(VeRA(rank=40)),
    "vera-all": Setting(VeRA(rank=5, roles=("all",)), slow=True),
    "adalora": Setting(AdaLoRA(rank=3, target_rank=2, roles=("query", "value"))),
    "adalora-all": Setting(AdaLoRA(rank=4, target_rank=2, every=1), slow=True),
    "ia3": Setting(IA3()),
    "ia3-down": Setting(IA3(("down",)), slow=True),
    "ia3-more": Setting(IA3(("query", "output", "up")), slow=True),
    "chain-ia3": Setting(Chain((LoRA(rank=2, roles=("value", "down")), IA3()))),
    "bitfit": Setting(BitFit(), frozenset(NO_BIAS)),
    "bitfit-query": Setting(BitFit(("query",)), NO_QUERY_BIAS, slow=True),
    "bitfit-down": Setting(BitFit(("down", "ffn_norm")), frozenset({*NO_BIAS, "qwen2"}), slow=True),
    "bitfit-pair": Setting(BitFit(("query_up",)), NO_QUERY_BIAS | {"qwen2"}, slow=True),
    "layernorm": Setting(LayerNormTuning(), slow=True),
    "top_k": Setting(TopK(last=1), frozenset({"albert"}), slow=True),
    "top_k-layers": Setting(TopK(layers=(1, 3)), frozenset({"albert"}), slow=True),
    "chain": Setting(Chain((LoRA(rank=2), BitFit())), frozenset(NO_BIAS)),
    "prompt": Setting(PromptTuning(length=5), starts_as_body=False),
    "prompt-random": Setting(PromptTuning(3, init="random"), starts_as_body=False, slow=True),
    "prompt-text": Setting(PromptTuning(6, init="good film"), starts_as_body=False, slow=True),
    "prompt-ensemble": Setting(PromptTuning(3, prompts=3), starts_as_body=False),
    "prompt-lora": Setting(
        Chain((LoRA(rank=2), PromptTuning(length=2))), starts_as_body=False, slow=True
    ),
    "ptuning": Setting(PTuning(length=5), starts_as_body=False),
    "ptuning-mlp": Setting(
        PTuning(4, encoder="mlp", anchors="good film"), starts_as_body=False, slow=True
    ),
    "ptuning-body": Setting(PTuning(3, tune_body=True), starts_as_body=False, slow=True),
    "prefix": Setting(PrefixTuning(4, 8), OWN_ATTENTION, starts_as_body=False),
    "prefix-flat": Setting(
        PrefixTuning(3, None, init="good film"), OWN_ATTENTION, starts_as_body=False, slow=True
    ),
    "prefix-text": Setting(
        PrefixTuning(3, 8, 0.1, "good film"), OWN_ATTENTION, starts_as_body=False, slow=True
    ),
    "prefix-lora": Setting(
        Chain((PrefixTuning(3, 8), LoRA(rank=2))), OWN_ATTENTION, starts_as_body=False, slow=True
    ),
    "ptuning_v2": Setting(PTuningV2(5), OWN_ATTENTION, starts_as_body=False),
    "ptuning_v2-mlp": Setting(PTuningV2(3, 8), OWN_ATTENTION, starts_as_body=False, slow=True),
    "probe": Setting(Probe(), starts_as_body=False),
    "probe-max-0": Setting(Probe("max", layer=0), starts_as_body=False, slow=True),
    "probe-mlp": Setting(
        Probe(classifier="mlp", hidden=6, hidden_layers=2), starts_as_body=False, slow=True
    ),
    "probe-mix": Setting(Probe(mix=True, hidden=3), starts_as_body=False, slow=True),
    "probe-cls": Setting(Probe("cls"), NO_CLS, starts_as_body=False),
    "probe-last-2": Setting(Probe("last", layer=2), starts_as_body=False, slow=True),
    "houlsby": Setting(Houlsby(size=5), starts_as_body=False),  # nearly: see test_adapters.py
    "pfeiffer": Setting(Pfeiffer(size=6), starts_as_body=False),
    "parallel": Setting(ParallelAdapter(size=6)),
    "compacter": Setting(Compacter(size=8), starts_as_body=False),
    "compacter++": Setting(Compacter(4, 2, plus_plus=True), starts_as_body=False, slow=True),
    "chain-adapters": Setting(
        Chain((LoRA(rank=2, roles=("all",)), Houlsby(4), ParallelAdapter(4))),
        starts_as_body=False,
        slow=True,
    ),
}
FIRST = ("lora-all", "prefix")  # of the rare families, the rest is slow
# Families that are built like others: of them, all but these is slow.
LIKE_OTHERS = ("distilbert", "electra", "albert", "opt", "mistral", "qwen2", "gpt_neox")
MOST_USED = (*FIRST, "full", "houlsby", "probe")


def is_slow(name: str, family: str) -> bool:
    if family in RARE:
        return name not in FIRST
    return family in LIKE_OTHERS and name not in MOST_USED


PAIRS = [
    pytest.param(
        name,
        family,
        id=f"{name}-{family}",
        marks=[pytest.mark.slow] * (setting.slow or is_slow(name, family))
        + [pytest.mark.sampled] * (name not in MOST_USED),
    )
    for name, setting in SETTINGS.items()
    for family in FAMILIES
    if family not in setting.refused
]
REFUSED = [(n, f) for n, setting in SETTINGS.items() for f in FAMILIES if f in setting.refused]


@dataclass
class Prepared:
    """A tiny checkpoint under a head for three classes."""

    loaded: loading.Loaded
    tokenizer: Any
    context: Context

    def start(self) -> Adaptation:
        return Adaptation.of(self.loaded.model, self.loaded.head)

    def batch(self, texts: list[str], side: str = "right") -> dict[str, Tensor]:
        self.tokenizer.padding_side = side
        return dict(self.tokenizer(texts, padding=True, return_tensors="pt"))


def prepare(folder: Path, seed: int = 0, stage: Stage = "train") -> Prepared:
    set_seed(seed)
    model = Model(folder.name, str(folder))
    config = loading.load_config(model, "sequence", CLASSES)
    tokenizer = loading.load_tokenizer(model, config)
    loaded = loading.load_model(model, config, "sequence")
    generator = torch.Generator().manual_seed(seed)
    return Prepared(loaded, tokenizer, Context(tokenizer, generator, 3, stage))


@cache
def missing_keys(folder: Path) -> frozenset[str]:
    """What Hugging Face draws at random because the file does not hold it."""
    _, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    return frozenset(info["missing_keys"])


@torch.no_grad()
def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    model.eval()
    return model(**batch).logits


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def train(
    adaptation: Adaptation, batches: list[tuple[dict[str, Tensor], Tensor]], lr: float = 1e-2
) -> tuple[list[float], dict[str, float]]:
    """Make one real update per batch; return the losses and each tensor's largest gradient."""
    optimizer = torch.optim.AdamW(list(adaptation.trainable.values()), lr=lr, weight_decay=0.0)
    losses, largest = [], dict.fromkeys(adaptation.trainable, 0.0)
    adaptation.model.train()
    for batch, labels in batches:
        optimizer.zero_grad()
        logits = adaptation.model(**batch).logits  # of an ensemble several answers per row
        loss = cross_entropy(logits, labels.repeat_interleave(len(logits) // len(labels)))
        loss.backward()
        for name, parameter in adaptation.trainable.items():
            if parameter.grad is not None:
                largest[name] = max(largest[name], parameter.grad.abs().max().item())
        optimizer.step()
        losses.append(loss.item())
    return losses, largest


@dataclass
class Case:
    """One setting on one family, before and after three updates."""

    setting: Setting
    family: str
    folder: Path
    prepared: Prepared
    adaptation: Adaptation
    body_logits: Tensor  # of the model before it was adapted
    first_logits: Tensor
    before: dict[str, Tensor]  # all tensors of the adapted model
    fresh: dict[str, Tensor]  # the delta before training
    gradients: dict[str, float] = field(default_factory=dict)

    @property
    def batch(self) -> dict[str, Tensor]:
        return self.prepared.batch(SENTENCES)


@pytest.fixture(scope="module")
def built(checkpoints: Any) -> Callable[[str, str], Case]:
    def build(name: str, family: str) -> Case:
        setting, prepared = SETTINGS[name], prepare(checkpoints[family])
        body = logits(prepared.loaded.model, prepared.batch(SENTENCES))
        adaptation = setting.method.adapt(prepared.start(), prepared.context)
        case = Case(
            setting, family, checkpoints[family], prepared, adaptation, body,
            logits(adaptation.model, prepared.batch(SENTENCES)), tensors_of(adaptation.model),
            {n: t.clone() for n, t in adaptation.delta().items()},
        )  # fmt: skip
        labels = torch.arange(len(SENTENCES)) % CLASSES
        case.gradients = train(adaptation, [(case.batch, labels)] * 3)[1]
        return case

    return build


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, built: Callable[[str, str], Case]) -> Iterator[Case]:
    yield built(*request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        pairs = [pytest.param(p.values, id=p.id, marks=p.marks) for p in PAIRS]
        metafunc.parametrize("case", pairs, indirect=True, scope="module")


# ---- what may and what must move ----


def test_every_method_has_its_laws() -> None:
    untrained = {METHODS["hard_prompt"]}  # see test_cloze.py
    assert {type(s.method) for s in SETTINGS.values()} == set(METHODS.values()) - untrained


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_a_pair_that_makes_no_sense_is_refused(name: str, family: str, checkpoints: Any) -> None:
    prepared = prepare(checkpoints[family])
    with pytest.raises(AdaptError) as info:
        SETTINGS[name].method.adapt(prepared.start(), prepared.context)
    message = str(info.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 300
    assert message.count(". ") <= 1  # what is wrong; what to do


def test_starts_as_the_body(case: Case) -> None:
    if case.setting.starts_as_body:
        torch.testing.assert_close(case.first_logits, case.body_logits, rtol=0, atol=1e-6)


def test_trainable_names_the_models_own_parameters(case: Case) -> None:
    named = dict(case.adaptation.model.named_parameters())
    assert all(named[name] is tensor for name, tensor in case.adaptation.trainable.items())
    learning = {name for name, parameter in named.items() if parameter.requires_grad}
    assert learning == set(case.adaptation.trainable)
    assert case.adaptation.head <= learning


def test_only_what_is_trainable_moves_and_all_of_that(case: Case) -> None:
    after = tensors_of(case.adaptation.model)
    moved = {name for name, old in case.before.items() if not torch.equal(old, after[name])}
    assert moved <= set(case.adaptation.trainable)
    reached = {name for name, size in case.gradients.items() if size}
    assert moved >= reached and reached


# Softmax ignores what all keys share: q (k + b) = q k + q b, and q b is the same for every key.
# (Not so where positions rotate or multiply the keys: Qwen2, GPT-NeoX, DeBERTa.)
KEY_BIAS = {
    **dict.fromkeys(("bert", "roberta", "electra"), "attention.self.key.bias"),
    "albert": "attention.key.bias", "distilbert": "k_lin.bias",
    "opt": "k_proj.bias", "bart": "k_proj.bias",
}  # fmt: skip


def test_every_trainable_tensor_gets_a_gradient(case: Case) -> None:
    key_bias = KEY_BIAS.get(case.family, "none")
    typical = max(case.gradients.values())
    for full, size in case.gradients.items():
        name = full.replace("/", ".")  # differences are called by what they change
        if name.endswith(key_bias):
            assert size < 1e-5 * typical, name
        elif name.endswith("transformer.mask_emb"):  # XLNet: stands for words to be guessed
            assert size == 0
        else:
            assert size > 1e-7 * typical, name


def test_new_parameters_learn_and_are_saved(case: Case) -> None:
    if isinstance(case.setting.method, Probe):  # a head of its own on the frozen body
        assert all(name.startswith("head.") for name in case.adaptation.delta())
        return
    missing = missing_keys(case.folder)
    assert missing
    assert missing <= case.adaptation.head
    assert missing <= set(case.adaptation.delta())


# ---- what is saved ----


def finished(case: Case) -> Adaptation:
    """What a run saves: the trained tensors in a model of their own, resumed and finished."""
    again = prepare(case.folder)
    resumed = case.setting.method.adapt(again.start(), again.context)
    resumed.load_delta(case.adaptation.delta())
    expect = logits(case.adaptation.model, case.batch)
    assert torch.equal(logits(resumed.model, case.batch), expect)
    for last in resumed.finish:
        last()
    return resumed


def test_delta_round_trip_is_bit_exact(case: Case, tmp_path: Path) -> None:
    kept = finished(case)
    save_tensors(tmp_path / "delta.safetensors", kept.delta(), {"method": "any"})
    other = prepare(case.folder, seed=1, stage="restore")
    restored = case.setting.method.adapt(other.start(), other.context)
    expect = logits(kept.model, case.batch)
    assert not torch.equal(logits(restored.model, case.batch), expect)
    restored.load_delta(load_file(tmp_path / "delta.safetensors"))
    assert torch.equal(logits(restored.model, case.batch), expect)


@pytest.mark.sampled
@pytest.mark.parametrize("family", ("bert", "gpt2", "t5"))
@pytest.mark.parametrize("name", SETTINGS)
def test_tensors_begin_at_the_same_place_in_a_restored_model(
    name: str, family: str, checkpoints: Any
) -> None:
    """Within 64 bytes: else some CPUs round a product otherwise (AMD's, of one row, in fp32)."""
    if (name, family) in REFUSED:
        pytest.skip("refused, see above")
    length = int.from_bytes((checkpoints[family] / "model.safetensors").read_bytes()[:8], "little")
    assert (8 + length) % 64  # tensors that are mapped from the file begin at other places
    places = []
    for stage in ("train", "restore"):
        prepared = prepare(checkpoints[family], stage=stage)
        adaptation = SETTINGS[name].method.adapt(prepared.start(), prepared.context)
        cast(adaptation, "fp32")
        named = [*adaptation.model.named_parameters(), *adaptation.model.named_buffers()]
        places.append({n: t.data_ptr() % 64 for n, t in named if t.is_floating_point()})
    before, after = places
    assert after == {name: before.get(name, 0) for name in after}  # or made anew, by `finish`
    assert not any(after[name] for name in adaptation.trainable)


def test_same_seed_same_tensors(case: Case) -> None:
    again, other = prepare(case.folder), prepare(case.folder, seed=1)
    same = case.setting.method.adapt(again.start(), again.context).delta()
    assert list(same) == list(case.fresh)
    assert all(torch.equal(case.fresh[name], tensor) for name, tensor in same.items())
    differs = case.setting.method.adapt(other.start(), other.context).delta()
    probe = isinstance(case.setting.method, Probe)  # all of its head is new
    new = {n for n in differs if n.startswith("head.")} if probe else missing_keys(case.folder)
    pairs = {n for n in differs if n.endswith(".A") and not n.endswith(".embeddings.A")}
    pairs -= {n for n in pairs if f"{n[:-1]}delta_A0" in differs}  # PiSSA's come from W
    drawn = pairs | {n for n in differs if n in new and n.endswith("weight") and "norm" not in n}
    assert drawn and not any(torch.equal(case.fresh[n], differs[n]) for n in drawn)


# ---- padding ----


def test_padding_does_not_matter(case: Case) -> None:
    model, batch = case.adaptation.model, case.prepared.batch
    right = logits(model, batch(SENTENCES, "right"))
    left = logits(model, batch(SENTENCES, "left"))
    alone = torch.cat([logits(model, batch([text])) for text in SENTENCES])
    torch.testing.assert_close(right, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-4)
    assert alone.std(0).max() > 1e-3  # texts do matter


# ---- counts, from the docstrings' formulas ----


def number_of_biases(model: nn.Module) -> int:
    """Count the bias vectors of the modules that have one, and XLNet's three tensors per layer."""
    maps = (nn.Linear, Conv1D, nn.LayerNorm)
    found = {
        id(module.bias): module.bias.numel()
        for module in model.base_model.modules()
        if isinstance(module, maps) and module.bias is not None
    }
    xlnet = 3 * WIDTH * LAYERS if model.config.model_type == "xlnet" else 0
    return sum(found.values()) + xlnet


def low_rank_numbers(family: str, rank: int, roles: tuple[str, ...]) -> int:
    """The sum of r (in + out)."""
    counts = expected(family)
    return sum(counts[role] * rank * sum(shape(family, role)) for role in roles)


def layers_of(family: str) -> int:
    """Of both stacks; layers that share their weights are one."""
    return expected(family)["down"]


def number_of_norms(model: nn.Module) -> int:
    """Count the gains and shifts of the body's norms, by their names."""
    named = model.base_model.named_parameters()
    return sum(p.numel() for n, p in named if re.search(r"norm|\bln_", n, re.IGNORECASE))


def word_width(model: nn.Module) -> int:
    """The width of the words' embeddings: that of ELECTRA and ALBERT is half the hidden one."""
    return WIDTH // 2 if model.config.model_type in ("electra", "albert") else WIDTH


def prompt_encoder(model: nn.Module, length: int, lstm: bool = True) -> int:
    """The sum of P d, an LSTM of two layers (two directions, d / 2 wide) and two maps d -> d."""
    d = word_width(model)
    h = d // 2
    one = 2 * (4 * h * d + 4 * h * h + 8 * h)
    return length * d + (2 * one if lstm else 0) + 2 * (d * d + d)


def scaled_numbers(family: str) -> int:
    """The outputs of keys and values, the inputs of down."""
    counts = expected(family)
    outputs = sum(counts[role] * shape(family, role)[1] for role in ("key", "value"))
    return outputs + counts["down"] * shape(family, "down")[0]


def mapped(family: str, roles: tuple[str, ...], each: Callable[[int, int], int]) -> int:
    """The sum of a number per adapted map, from its (in, out)."""
    return sum(expected(family)[role] * each(*shape(family, role)) for role in roles)


def prefix_numbers(family: str, length: int, inner: int = 0) -> int:
    """2 P w L per kind of attention; with the MLP (P d + d m + m) + (m + 1) 2 w L."""
    kinds = 3 if family in TWO_STACKS else 1
    out = 2 * shape(family, "key")[1] * expected(family)["key"] // kinds
    mlp = length * WIDTH + WIDTH * inner + inner + (inner + 1) * out
    return kinds * (mlp if inner else length * out)


def layer_numbers(model: nn.Module, count: int) -> int:
    """All of `count` layers of each stack, and the base model's norm and pooler behind the last.

    T5's relative positions lie in its first layers.
    """
    lists = {
        name: module for name, module in model.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == LAYERS and name.count(".") < 2
    }  # fmt: skip
    layers = sum(p.numel() for m in lists.values() for p in m[-count:].parameters())
    named = [(n.removeprefix("encoder.").removeprefix("decoder."), p)
             for n, p in model.base_model.named_parameters()]  # fmt: skip
    last = re.compile(r"pooler\.|(ln_f|norm|final_norm|final_layer_norm)\.(weight|bias)$")
    return layers + sum(p.numel() for n, p in named if last.match(n))


COUNTS: dict[str, Callable[[str, nn.Module], int]] = {
    "prefix": lambda family, model: prefix_numbers(family, 4, 8),
    "prefix-flat": lambda family, model: prefix_numbers(family, 3),
    "ptuning_v2": lambda family, model: prefix_numbers(family, 5),
    "ptuning_v2-mlp": lambda family, model: prefix_numbers(family, 3, 8),
    "lora-embeddings": lambda family, model: (
        low_rank_numbers(family, 2, ("value",)) + 4 * (model.config.vocab_size + word_width(model))
    ),
    "dora": lambda family, model: mapped(family, ("query", "value"), lambda i, o: 4 * (i + o) + o),
    "dora-all": lambda family, model: mapped(family, LINEAR, lambda i, o: 2 * (i + o) + o),
    "pissa": lambda family, model: low_rank_numbers(family, 4, ("query", "value")),
    "vera": lambda family, model: mapped(family, ("query", "value"), lambda i, o: 40 + o),
    "vera-all": lambda family, model: mapped(family, LINEAR, lambda i, o: 5 + o),
    "adalora": lambda family, model: mapped(
        family, ("query", "value"), lambda i, o: 3 * (i + o + 1)
    ),
    "adalora-all": lambda family, model: mapped(family, LINEAR, lambda i, o: 4 * (i + o + 1)),
    "ia3": lambda family, model: scaled_numbers(family),
    "ia3-down": lambda family, model: expected(family)["down"] * INNER,
    "ia3-more": lambda family, model: (
        mapped(family, ("query", "up"), lambda i, o: o)
        + mapped(family, ("output",), lambda i, o: i)
    ),
    "chain-ia3": lambda family, model: (
        low_rank_numbers(family, 2, ("value", "down")) + scaled_numbers(family)
    ),
    "prompt": lambda family, model: 5 * word_width(model),
    "prompt-ensemble": lambda family, model: 3 * 3 * word_width(model),
    "ptuning": lambda family, model: prompt_encoder(model, 5),
    "ptuning-mlp": lambda family, model: prompt_encoder(model, 4, lstm=False),
    "full": lambda family, model: sum(p.numel() for p in model.base_model.parameters()),
    "lora": lambda family, model: low_rank_numbers(family, 4, ("query", "value")),
    "lora-gate": lambda family, model: low_rank_numbers(family, 8, ("gate",)),
    "lora-dropout": lambda family, model: low_rank_numbers(family, 8, ("query", "value")),
    "lora-ffn": lambda family, model: (
        low_rank_numbers(family, 3, ("up", "gate", "down")) + number_of_biases(model)
    ),
    "bitfit": lambda family, model: number_of_biases(model),
    "bitfit-pair": lambda family, model: (
        expected(family)["query"] * WIDTH + expected(family)["up"] * shape(family, "up")[1]
    ),
    "layernorm": lambda family, model: number_of_norms(model),
    "top_k": lambda family, model: layer_numbers(model, 1),
    "chain": lambda family, model: (
        low_rank_numbers(family, 2, ("query", "value")) + number_of_biases(model)
    ),
    "bitfit-query": lambda family, model: expected(family)["query"] * WIDTH,
    "bitfit-down": lambda family, model: (
        WIDTH * (expected(family)["down"] + expected(family)["ffn_norm"])
    ),
    "houlsby": lambda family, model: (
        2 * layers_of(family) * (2 * 5 * WIDTH + 5 + WIDTH) + number_of_norms(model)
    ),
    "pfeiffer": lambda family, model: layers_of(family) * (2 * 6 * WIDTH + 6 + WIDTH),
    "parallel": lambda family, model: layers_of(family) * (2 * 6 * WIDTH + 6 + WIDTH),
    "compacter": lambda family, model: (
        2 * layers_of(family) * (2 * (WIDTH + 8) + 8 + WIDTH) + 4**3 + number_of_norms(model)
    ),
    "compacter++": lambda family, model: (
        layers_of(family) * (2 * (WIDTH + 4) + 4 + WIDTH) + 2**3 + number_of_norms(model)
    ),
    "chain-adapters": lambda family, model: (
        low_rank_numbers(family, 2, LINEAR)
        + number_of_norms(model)
        + layers_of(family) * 3 * (2 * 4 * WIDTH + 4 + WIDTH)
    ),
}


@pytest.mark.parametrize(("name", "family"), [p for p in PAIRS if p.values[0] in COUNTS])
def test_count_is_that_of_the_docstring(name: str, family: str, checkpoints: Any) -> None:
    prepared = prepare(checkpoints[family])
    count = COUNTS[name](family, prepared.loaded.model)
    pooler = {n for n in prepared.loaded.head if ".pooler." in n}  # new, so it counts as head
    adaptation = SETTINGS[name].method.adapt(prepared.start(), prepared.context)
    new = sum(adaptation.trainable[n].numel() for n in pooler if counted(name, n))
    assert sum(p.numel() for p in adaptation.body_trainable().values()) == count - new


def counted(name: str, parameter: str) -> bool:
    """Whether a setting's formula would count a parameter of a new pooler."""
    return name == "full" or (
        name in ("bitfit", "lora-ffn", "chain") and parameter.endswith("bias")
    )


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_lora_all_counts_maps_and_their_biases(family: str, checkpoints: Any) -> None:
    prepared = prepare(checkpoints[family])
    method = SETTINGS["lora-all"].method
    body = method.adapt(prepared.start(), prepared.context).body_trainable()
    added = sum(p.numel() for n, p in body.items() if ".lora." in n)
    assert added == low_rank_numbers(family, 2, LINEAR)
    biases = {n: p.numel() for n, p in body.items() if ".lora." not in n}
    assert all(n.endswith("bias") and "norm" not in n.lower() for n in biases)
    per_layer = {"bert": 5 * WIDTH + INNER, "gpt2": 5 * WIDTH + INNER, "llama": 0, "t5": 0}
    if family in per_layer:  # q, k, v, output, down; up
        assert sum(biases.values()) == LAYERS * per_layer[family]


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("name", ("probe", "probe-cls", "probe-max-0"))
def test_probe_learns_one_linear_map(name: str, family: str, checkpoints: Any) -> None:
    if family in SETTINGS[name].refused:
        pytest.skip("refused, see above")
    prepared = prepare(checkpoints[family])
    adaptation = SETTINGS[name].method.adapt(prepared.start(), prepared.context)
    assert not adaptation.body_trainable()
    learnt = sum(p.numel() for p in adaptation.trainable.values())
    assert learnt == WIDTH * CLASSES + CLASSES


# ---- merging ----


def test_merged_equals_unmerged(case: Case) -> None:
    if case.adaptation.merge is None:
        assert not isinstance(case.setting.method, LoRA)
        return
    again = prepare(case.folder)
    plain = copy.deepcopy(again.loaded.model)
    adaptation = case.setting.method.adapt(again.start(), again.context)
    adaptation.load_delta(case.adaptation.delta())
    unmerged = logits(adaptation.model, case.batch)
    adaptation.merge()
    torch.testing.assert_close(logits(adaptation.model, case.batch), unmerged, rtol=1e-5, atol=1e-5)
    types = {name: type(module) for name, module in plain.named_modules()}
    assert {name: type(module) for name, module in adaptation.model.named_modules()} == types
    merged, shapes = adaptation.model.state_dict(), plain.state_dict()
    assert set(merged) == set(shapes)
    assert all(merged[name].shape == tensor.shape for name, tensor in shapes.items())
    repaired = type(plain)(plain.config)  # a plain Hugging Face model reads it
    repaired.load_state_dict(merged)
    again_batch = case.prepared.batch(SENTENCES[:1])
    torch.testing.assert_close(logits(repaired, again_batch), unmerged[:1], rtol=1e-4, atol=1e-4)


# ---- penalties ----


@pytest.mark.parametrize("family", ("bert", "xlnet", "t5"))
@pytest.mark.parametrize("name", ("full", "lora", "probe"))
def test_l2_sp_is_its_formula(name: str, family: str, built: Callable[[str, str], Case]) -> None:
    case = built(name, family)
    prepared = prepare(case.folder)
    start = SETTINGS[name].method.adapt(prepared.start(), prepared.context)
    alpha, beta = 0.3, 0.7
    adaptation = L2SP(alpha, beta).adapt(start, prepared.context)
    adaptation = L2SP(0.0, 0.0).adapt(_renamed(adaptation), prepared.context)
    adaptation.load_delta(case.adaptation.delta())
    now = {n: p.detach().double() for n, p in adaptation.trainable.items()}
    pull = sum((now[n] - case.fresh[n].double()).square().sum() for n in now if n not in start.head)
    size = sum(now[n].square().sum() for n in now if n in start.head)
    terms = {
        term: penalty(adaptation.model, {}, None, Step(3, 3, 0.0))
        for term, penalty in adaptation.penalty.items()
    }
    torch.testing.assert_close(
        terms["strong"].double(), torch.as_tensor(alpha / 2 * pull + beta / 2 * size), rtol=1e-4,
        atol=1e-7,
    )  # fmt: skip
    assert terms["strong"] > 0
    assert terms["l2_sp"].item() == 0
    terms["l2_sp"].backward()
    assert all(p.grad is None or not p.grad.any() for p in adaptation.trainable.values())


def _renamed(adaptation: Adaptation) -> Adaptation:
    return replace(adaptation, penalty={"strong": adaptation.penalty["l2_sp"]})


def test_l2_sp_starts_at_the_size_of_the_head(checkpoints: Any) -> None:
    prepared = prepare(checkpoints["bert"])
    start = Full().adapt(prepared.start(), prepared.context)
    adaptation = L2SP(1.0, 0.0).adapt(start, prepared.context)
    value = adaptation.penalty["l2_sp"](start.model, {}, None, Step(0, 3, 0.0))
    assert value.item() == 0


# ---- learning ----


@pytest.mark.parametrize(
    ("name", "family", "lr"),
    [
        ("full", "bert", 2e-3), ("full", "t5", 2e-3), ("lora", "roberta", 1e-2),
        ("lora-all", "xlnet", 1e-2), ("lora", "gpt2", 1e-2), ("lora-all", "bart", 1e-2),
        ("bitfit", "deberta-v2", 2e-2), ("bitfit", "opt", 2e-2), ("probe", "modernbert", 5e-2),
        ("probe-cls", "electra", 5e-2), ("lora", "llama", 1e-2),
        ("prompt", "albert", 3e-2), ("prompt-ensemble", "gpt2", 3e-2), ("ptuning", "bert", 1e-2),
    ],
)  # fmt: skip
def test_loss_falls(name: str, family: str, lr: float, checkpoints: Any) -> None:
    prepared = prepare(checkpoints[family])
    adaptation = SETTINGS[name].method.adapt(prepared.start(), prepared.context)
    table = rows(32)
    batch = prepared.batch([row["sentence"] for row in table])
    labels = torch.tensor([row["label"] for row in table])
    losses, _ = train(adaptation, [(batch, labels)] * 20, lr)
    start = sum(losses[:2]) / 2
    assert sum(losses[-3:]) / 3 < 0.75 * start
