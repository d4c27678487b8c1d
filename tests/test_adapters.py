"""Bottleneck adapters against their definitions, written by hand in the blocks of the bodies."""

import copy
import types
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import EACH_FAMILY, FAMILIES, RARE, rows, tiny_config, tiny_model
from shapes import LAYERS, TWO_STACKS, WIDTH
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from adaptkit.adaptation import Adaptation, Context
from adaptkit.config import compose
from adaptkit.config import settings as config
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.layers.bottleneck import Hypercomplex
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.chain import Chain
from adaptkit.methods.compacter import Compacter
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.lora import LoRA
from adaptkit.methods.parallel_adapter import ParallelAdapter
from adaptkit.methods.pfeiffer import Pfeiffer
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.models.anatomy import base_prefix
from adaptkit.models.loading import head_names
from adaptkit.runs import plan
from adaptkit.training.precision import autocast, cast

ALL = (Houlsby(6), Pfeiffer(6), ParallelAdapter(6, 3.0), Compacter(8), Compacter(8, plus_plus=True))
NAMES = ("houlsby", "pfeiffer", "parallel", "compacter", "compacter++")
each_method = pytest.mark.parametrize("method", ALL, ids=NAMES)


def body_of(family: str, **changes: Any) -> nn.Module:
    if not changes:
        return tiny_model(family)
    settings = {**tiny_config(family).to_dict(), **changes}
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(type(tiny_config(family))(**settings))
    return made.eval()


def adapt(method: Any, model: nn.Module, seed: int = 0) -> Adaptation:
    context = Context(None, torch.Generator().manual_seed(seed), 10)
    return method.adapt(Adaptation.of(model, head_names(model)), context)


def is_added(name: str) -> bool:
    return ".adapter." in name or ".parallel_adapter." in name


@torch.no_grad()
def stir(adaptation: Adaptation) -> Adaptation:
    """Move all that learns in the body away from its start."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in adaptation.body_trainable().items():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise * (0.4 if is_added(name) else 0.1))
    return adaptation


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 60, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def hidden(model: nn.Module) -> Tensor:
    """The last hidden states of the body; padding left out."""
    given = batch()
    if model.config.model_type in TWO_STACKS:
        given["decoder_input_ids"] = given["input_ids"].flip(0)
    return model.eval().base_model(**given)[0][[0, 2]]


# ---- the definitions, by hand ----


class At:
    """What a method does at the places of one block, from the tensors of its adapters."""

    def __init__(self, method: Any, adapters: list[dict[str, Tensor]], post_norm: bool) -> None:
        self.method, self.adapters = method, adapters
        self.inside = isinstance(method, Pfeiffer) and post_norm

    def bottleneck(self, which: int, x: Tensor) -> Tensor:
        t = self.adapters[which]
        low = x @ self.weight(t, "D") + t["D.bias"]
        if isinstance(self.method, Pfeiffer | ParallelAdapter):
            low = low.clamp(min=0)
        else:  # Hendrycks & Gimpel's approximation
            low = 0.5 * low * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (low + 0.044715 * low**3)))
        return low @ self.weight(t, "U") + t["U.bias"]

    def weight(self, t: dict[str, Tensor], side: str) -> Tensor:
        if not isinstance(self.method, Compacter):
            return t[f"{side}.weight"].t()
        triples = zip(t[f"{side}.A"], t[f"{side}.s"], t[f"{side}.t"], strict=True)
        return sum(torch.kron(a, torch.outer(s, u)) for a, s, u in triples)

    def attention(self, h: Tensor) -> Tensor:
        """What is added to the residual stream instead of attention's output h."""
        return h + self.bottleneck(0, h) if len(self.adapters) == 2 else h

    def ffn(self, h: Tensor, x: Tensor) -> Tensor:
        """The same for the feed-forward part's output h and input x."""
        if isinstance(self.method, ParallelAdapter):
            return h + self.method.scale * self.bottleneck(0, x)
        return h if self.inside else h + self.bottleneck(-1, h)

    def norm(self, norm: nn.Module, s: Tensor) -> Tensor:
        """The norm after the feed-forward part's residual sum."""
        return norm(s + self.bottleneck(0, norm(s))) if self.inside else norm(s)


def bert(block: nn.Module, at: At) -> None:
    def attention(self: Any, h: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(at.attention(self.dense(h)) + x)

    def ffn(self: Any, h: Tensor, x: Tensor) -> Tensor:
        return at.norm(self.LayerNorm, at.ffn(self.dense(h), x) + x)

    replace(block.attention.output, attention)
    replace(block.output, ffn)


def albert(block: nn.Module, at: At) -> None:
    def layer(self: Any, x: Tensor, mask: Any = None, **kw: Any) -> Tensor:
        norm, self.attention.LayerNorm = self.attention.LayerNorm, nn.Identity()
        h = self.attention(x, mask, **kw)[0] - x
        self.attention.LayerNorm = norm
        x = norm(at.attention(h) + x)
        h = self.ffn_output(self.activation(self.ffn(x)))
        return at.norm(self.full_layer_layer_norm, at.ffn(h, x) + x)

    replace(block, layer)


def distilbert(block: nn.Module, at: At) -> None:
    def layer(self: Any, x: Tensor, attention_mask: Any = None, **kw: Any) -> Tensor:
        h = self.attention(x, attention_mask=attention_mask, **kw)[0]
        x = self.sa_layer_norm(at.attention(h) + x)
        h = self.ffn.lin2(self.ffn.activation(self.ffn.lin1(x)))
        return at.norm(self.output_layer_norm, at.ffn(h, x) + x)

    replace(block, layer)


def xlnet(block: nn.Module, at: At) -> None:
    def attention(self: Any, h: Tensor, vector: Tensor, residual: bool = True) -> Tensor:
        return self.layer_norm(at.attention(torch.einsum("ibnd,hnd->ibh", vector, self.o)) + h)

    def ffn(self: Any, x: Tensor) -> Tensor:
        h = self.layer_2(self.activation_function(self.layer_1(x)))
        return at.norm(self.layer_norm, at.ffn(h, x) + x)

    block.rel_attn.post_attention = types.MethodType(attention, block.rel_attn)
    replace(block.ff, ffn)


def bart(block: nn.Module, at: At) -> None:
    def layer(
        self: Any, x: Tensor, attention_mask: Any = None, encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None, **kw: Any,
    ) -> Tensor:  # fmt: skip
        h = self.self_attn(x, attention_mask=attention_mask, **kw)[0]
        x = self.self_attn_layer_norm(at.attention(h) + x)
        if encoder_hidden_states is not None:
            h = self.encoder_attn(
                x, key_value_states=encoder_hidden_states, attention_mask=encoder_attention_mask,
                **kw,
            )[0]  # fmt: skip
            x = self.encoder_attn_layer_norm(h + x)
        h = self.fc2(self.activation_fn(self.fc1(x)))
        return at.norm(self.final_layer_norm, at.ffn(h, x) + x)

    replace(block, layer)


def t5(block: nn.Module, at: At) -> None:
    def attention(self: Any, x: Tensor, attention_mask: Any = None, **kw: Any) -> tuple:
        h, *rest = self.SelfAttention(self.layer_norm(x), mask=attention_mask, **kw)
        return (x + at.attention(h), *rest)

    def ffn(self: Any, x: Tensor) -> Tensor:
        normed = self.layer_norm(x)
        return x + at.ffn(self.DenseReluDense(normed), normed)

    replace(block.layer[0], attention)
    replace(block.layer[-1], ffn)


def pre_norm(names: tuple[str, str, str, str], parallel: bool = False) -> Callable[..., None]:
    """A block of attention and feed-forward part, each after its norm."""

    def change(block: nn.Module, at: At) -> None:
        def layer(self: Any, hidden_states: Tensor, *args: Any, **kw: Any) -> Tensor:
            x, (norm, attention, ffn_norm, ffn) = hidden_states, (getattr(self, n) for n in names)
            given = {"past_key_values": args[0]} if args else {}
            added = at.attention(attention(norm(x), **given, **kw)[0])
            normed = ffn_norm(x if parallel else x + added)
            return x + added + at.ffn(ffn(normed), normed)

        replace(block, layer)

    return change


def opt(block: nn.Module, at: At) -> None:
    def layer(self: Any, x: Tensor, **kw: Any) -> Tensor:
        before = self.do_layer_norm_before
        h = self.self_attn(hidden_states=self.self_attn_layer_norm(x) if before else x, **kw)[0]
        x = x + at.attention(h)
        x = x if before else self.self_attn_layer_norm(x)
        normed = self.final_layer_norm(x) if before else x
        x = x + at.ffn(self.fc2(self.activation_fn(self.fc1(normed))), normed)
        return x if before else at.norm(self.final_layer_norm, x)

    replace(block, layer)


def gemma(block: nn.Module, at: At) -> None:
    def layer(self: Any, hidden_states: Tensor, **kw: Any) -> Tensor:
        h = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kw)[0]
        x = hidden_states + at.attention(self.post_attention_layernorm(h))
        normed = self.pre_feedforward_layernorm(x)
        return x + at.ffn(self.post_feedforward_layernorm(self.mlp(normed)), normed)

    replace(block, layer)


def replace(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = types.MethodType(forward, module)


LLAMA = pre_norm(("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"))
POST_NORM = {
    **dict.fromkeys(("bert", "roberta", "electra", "deberta-v2"), bert),
    "albert": albert, "distilbert": distilbert, "xlnet": xlnet, "bart": bart,
}  # fmt: skip
PRE_NORM = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "eurobert"), LLAMA),
    "gemma3_text": gemma,
    "gpt2": pre_norm(("ln_1", "attn", "ln_2", "mlp")), "t5": t5, "opt": opt,
    **dict.fromkeys(
        ("modernbert", "modernbert-decoder"), pre_norm(("attn_norm", "attn", "mlp_norm", "mlp"))
    ),
    "gpt_neox": pre_norm(
        ("input_layernorm", "attention", "post_attention_layernorm", "mlp"), parallel=True
    ),
}  # fmt: skip
BLOCKS = {
    **dict.fromkeys(("bert", "roberta", "electra", "deberta-v2"), ("encoder.layer",)),
    "albert": ("encoder.albert_layer_groups.0.albert_layers",),
    "distilbert": ("transformer.layer",), "xlnet": ("layer",), "gpt2": ("h",),
    "bart": ("encoder.layers", "decoder.layers"), "t5": ("encoder.block", "decoder.block"),
    "opt": ("decoder.layers",),
    **dict.fromkeys(("llama", "mistral", "qwen2", "modernbert", "gpt_neox", *RARE), ("layers",)),
}  # fmt: skip


def adapters_in(model: nn.Module, block: str) -> list[dict[str, Tensor]]:
    """The tensors of a block's adapters, in the order of its modules; shared ones everywhere."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.base_model.named_parameters(remove_duplicate=False):
        if name.startswith(f"{block}.") and is_added(name):
            owner, _, leaf = name.partition("adapter.")
            found.setdefault(owner, {})[leaf] = parameter.detach()
    return list(found.values())


def by_hand(method: Any, adapted: nn.Module, body: nn.Module) -> nn.Module:
    """`body` with the adapted model's values, and blocks that follow the definitions."""
    values = adapted.state_dict()
    body.load_state_dict({name: values[name] for name in body.state_dict()})
    family = body.config.model_type
    post = family in POST_NORM or not getattr(body.config, "do_layer_norm_before", True)
    for stack in BLOCKS[family]:
        for index, block in enumerate(body.base_model.get_submodule(stack)):
            adapters = adapters_in(adapted, f"{stack}.{index}")
            twice = isinstance(method, Houlsby) or method == Compacter(8)
            assert len(adapters) == (2 if twice else 1)
            (POST_NORM | PRE_NORM)[family](block, At(method, adapters, post))
    return body


@pytest.mark.sampled
@each_method
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_definition(family: str, method: Any) -> None:
    plain = hidden(tiny_model(family))
    adapted = stir(adapt(method, tiny_model(family))).model
    expect = hidden(by_hand(method, adapted, tiny_model(family)))
    torch.testing.assert_close(hidden(adapted), expect, rtol=1e-4, atol=1e-4)
    assert (expect - plain).abs().max() > 0.1


@each_method
def test_definition_where_opt_normalises_after(method: Any) -> None:
    body = body_of("opt", do_layer_norm_before=False)
    adapted = stir(adapt(method, copy.deepcopy(body))).model
    expect = hidden(by_hand(method, adapted, body))
    torch.testing.assert_close(hidden(adapted), expect, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_by_hand_without_adapters_are_the_body(family: str) -> None:
    """The blocks written above are right in all but the adapters."""
    body, expect = tiny_model(family), hidden(tiny_model(family))
    neutral = types.SimpleNamespace(
        attention=lambda h: h, ffn=lambda h, x: h, norm=lambda norm, s: norm(s)
    )
    for stack in BLOCKS[family]:
        for block in body.base_model.get_submodule(stack):
            (POST_NORM | PRE_NORM)[family](block, neutral)
    torch.testing.assert_close(hidden(body), expect, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "fan_in", "fan_out"), [(4, 32, 8), (2, 6, 10), (1, 3, 5)])
def test_hypercomplex_weight_is_a_sum_of_kronecker_products(
    n: int, fan_in: int, fan_out: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    rule = nn.Parameter(torch.randn(n, n, n, generator=generator))
    layer = Hypercomplex(fan_in, fan_out, rule, generator)
    nn.init.normal_(layer.bias)
    expect = torch.zeros(fan_in, fan_out)
    for i in range(n):
        expect += torch.kron(rule[i].data, layer.s[i, :, None].data @ layer.t[i, None].data)
    torch.testing.assert_close(layer.weight.t(), expect)
    x = torch.randn(2, 3, fan_in)
    torch.testing.assert_close(layer(x), x @ expect + layer.bias)
    assert layer.s.shape == (n, fan_in // n) and layer.t.shape == (n, fan_out // n)


# ---- the start ----


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize(
    ("method", "near"), [(Houlsby(6), 1e-3), (Compacter(8), 3e-2), (Pfeiffer(6), 0.2)]
)
def test_starts_near_the_body(family: str, method: Any, near: float) -> None:
    change = (hidden(adapt(method, tiny_model(family)).model) - hidden(tiny_model(family))).abs()
    assert 0 < change.max() < near


def starts(method: Any) -> dict[str, Tensor]:
    """The adapters' tensors in a BERT, those of the same name in one."""
    named = adapt(method, tiny_model("bert")).body_trainable().items()
    found: dict[str, list[Tensor]] = {}
    for name, tensor in named:
        if is_added(name):
            found.setdefault(".".join(name.split(".")[-2:]), []).append(tensor.detach().flatten())
    return {name: torch.cat(tensors) for name, tensors in found.items()}


def test_starts_are_the_papers() -> None:
    start = starts(Houlsby(100))
    for name in ("D.weight", "U.weight"):
        assert start[name].abs().max() <= 2e-3  # cut at two sigma, which leaves 0.88 sigma
        assert start[name].std().item() == pytest.approx(0.88e-3, rel=0.02)
    start = starts(Pfeiffer(100))
    assert start["D.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert start["U.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    start = starts(ParallelAdapter(100))
    assert start["D.weight"].std().item() == pytest.approx((3 * WIDTH) ** -0.5, rel=0.02)
    assert start["D.weight"].abs().max() <= WIDTH**-0.5
    assert not start["U.weight"].any()
    start = starts(Compacter(64))
    assert start["D.A"].std().item() == pytest.approx(0.01, rel=0.2)
    assert start["D.s"].abs().max() <= (6 / (WIDTH / 4 + 1)) ** 0.5
    assert start["U.s"].abs().max() <= (6 / (64 / 4 + 1)) ** 0.5 < start["D.s"].abs().max()
    for method in ALL:
        assert not any(t.any() for n, t in starts(method).items() if n.endswith("bias"))


# ---- what learns and what is saved ----


@pytest.mark.parametrize("family", EACH_FAMILY)
@each_method
def test_names_of_the_body_stay(family: str, method: Any) -> None:
    body = tiny_model(family)
    adaptation = adapt(method, tiny_model(family))
    mine = dict(adaptation.model.named_parameters())
    assert {n for n in mine if not is_added(n)} == {n for n, _ in body.named_parameters()}
    assert adaptation.head == head_names(body) <= set(adaptation.delta())
    norm = {n for n in adaptation.body_trainable() if not is_added(n)}
    if isinstance(method, Pfeiffer | ParallelAdapter):
        assert not norm
        return
    prefix = base_prefix(body)  # norms: whatever has one gain per feature, embeddings included
    gains = {
        n for n, p in body.named_parameters()
        if p.dim() == 1 and n.endswith("weight") and n.startswith(prefix)
    }  # fmt: skip
    shifts = {n.replace("weight", "bias") for n in gains} & set(mine)
    assert norm == gains | shifts and len(gains) >= 2 * LAYERS * (family != "albert")


def test_the_rule_is_shared_and_saved_once() -> None:
    adaptation = adapt(Compacter(8), tiny_model("t5"))
    layers = [m for m in adaptation.model.modules() if isinstance(m, Hypercomplex)]
    assert len(layers) == 2 * 2 * 2 * LAYERS  # down and up, two sub-layers, two stacks
    assert len({id(layer.A) for layer in layers}) == 1
    assert [n for n in adaptation.delta() if n.endswith(".A")] == [
        "transformer.encoder.block.0.layer.0.dropout.adapter.D.A"
    ]
    other = adapt(Compacter(8), tiny_model("t5"), seed=1)
    other.load_delta({n: t.clone() + 1 for n, t in adaptation.delta().items()})
    rule = [m.A for m in other.model.modules() if isinstance(m, Hypercomplex)]
    assert all(torch.equal(a, layers[0].A + 1) for a in rule)


@each_method
def test_a_copied_model_has_adapters_of_its_own(method: Any) -> None:
    adaptation = stir(adapt(method, tiny_model("bart")))
    twin, expect = copy.deepcopy(adaptation.model), hidden(adaptation.model)
    assert torch.equal(hidden(twin), expect)
    stir(adaptation)
    assert torch.equal(hidden(twin), expect) and not torch.equal(hidden(adaptation.model), expect)


# ---- parameters of published shapes ----


@cache
def planned(*overrides: str) -> plan.Plan:
    run = config.settings(compose.compose(["task=sst2", *overrides]))
    return plan.plan(run, "fp32", memory=False)


BIG = ("bert-large", "t5-base", "bart-large", "gpt2-medium")
ORACLES = [  # model, method, options, parameters outside the head
    ("bert-base", "houlsby", (), 2_417_664),
    ("bert-base", "houlsby", ("size=8",), 351_936),
    ("bert-base", "houlsby", ("size=256",), 9_500_160),
    ("bert-large", "houlsby", (), 6_444_032),
    ("bert-large", "houlsby", ("size=8",), 936_320),
    ("roberta-base", "houlsby", ("size=48",), 1_827_456),
    ("gpt2", "houlsby", (), 2_417_664),
    ("t5-small", "houlsby", ("size=8",), 24 * (2 * 8 * 512 + 8 + 512) + 16_384),
    ("bart-base", "houlsby", ("size=8",), 313_536 + 49_152),
    ("bart-large", "houlsby", ("size=16",), 1_622_784 + 126_976),
    ("gpt2-medium", "houlsby", ("size=16",), 1_622_784 + 100_352),
    ("bert-base", "pfeiffer", (), 894_528),
    ("roberta-base", "pfeiffer", ("size=64",), 1_189_632),
    ("deberta-v3-base", "pfeiffer", ("size=64",), 1_189_632),
    ("bert-large", "pfeiffer", ("size=64",), 3_171_840),
    ("roberta-base", "parallel_adapter", ("size=16",), 304_320),
    ("bart-large", "parallel_adapter", (), 25_202_688),
    ("bert-base", "compacter", (), 57_088 + 38_400),
    ("bert-base", "compacter", ("plus_plus=true",), 28_576 + 38_400),
    ("t5-small", "compacter", ("size=16",), 38_080 + 16_384),
    ("t5-small", "compacter", ("size=16", "plus_plus=true"), 19_072 + 16_384),
    ("t5-base", "compacter", (), 161_728),
    ("t5-base", "compacter", ("plus_plus=true",), 104_704),
]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("model", "method", "options", "count"),
    [
        pytest.param(*o, id="-".join((*o[:2], *o[2])), marks=[pytest.mark.slow] * (o[0] in BIG))
        for o in ORACLES
    ],
)
def test_published_counts(model: str, method: str, options: tuple[str, ...], count: int) -> None:
    options = tuple(f"method.{option}" for option in options)
    found = planned(f"model={model}", f"method={method}", *options).params
    assert found.body_trainable == count
    assert found.stored == found.trainable


def test_mix_and_match_counts() -> None:
    """He et al.'s setting for classifying: half prefix, half adapters; the prefix's MLP goes."""
    found = planned("model=roberta-base", "method=mam").params
    assert found.stored - found.head_trainable == 294_912 + 304_320 == 599_232
    summaries = ["{name: prefix, length: 30, projection: null}"]
    summaries += ["{name: parallel_adapter, size: 512}"]
    found = planned("model=t5-small", "method=mam", f"method.parts=[{', '.join(summaries)}]").params
    prefix = 3 * 2 * 30 * 512 * 6  # in encoder, decoder and cross-attention
    assert found.body_trainable == prefix + 12 * (2 * 512 * 512 + 512 + 512)


# ---- together with others ----


@pytest.mark.parametrize("family", ("bert", "t5", "llama"))
def test_mix_and_match_is_its_parts(family: str) -> None:
    parts = PrefixTuning(4, projection=None), ParallelAdapter(6, 2.0)
    adaptation = stir(adapt(Chain(parts), tiny_model(family)))
    for index, part in enumerate(parts):
        alone = adapt(part, tiny_model(family))
        mine = alone.body_trainable()
        assert mine and mine.keys() < adaptation.body_trainable().keys()
        other = parts[1 - index]
        both = adapt(other, tiny_model(family))
        assert not mine.keys() & both.body_trainable().keys()
    layer = adapters_in(adaptation.model, f"{BLOCKS[family][0]}.0")
    assert len(layer) == 1
    before = hidden(adaptation.model)
    for name, parameter in adaptation.trainable.items():  # the prefix alone
        if is_added(name):
            parameter.data.zero_()
    alone = adapt(parts[0], tiny_model(family))
    alone.load_delta({n: t for n, t in adaptation.delta().items() if not is_added(n)})
    torch.testing.assert_close(hidden(adaptation.model), hidden(alone.model))
    assert not torch.allclose(hidden(alone.model), before, atol=1e-2)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_chain_with_low_rank_maps(family: str) -> None:
    """Both parts do their work where they meet: the adapter sees what the changed map gives."""
    chain = Chain((LoRA(2, roles=("output", "up", "down")), Houlsby(6), ParallelAdapter(6)))
    adaptation = stir(adapt(chain, tiny_model(family)))
    merged = adapt(LoRA(2, roles=("output", "up", "down")), tiny_model(family))
    values = adaptation.delta()
    merged.load_delta({name: values[name] for name in merged.delta()})
    merged.merge()
    both = adapt(Chain((Houlsby(6), ParallelAdapter(6))), merged.model)
    both.load_delta({name: values[name] for name in both.delta()})
    torch.testing.assert_close(hidden(adaptation.model), hidden(both.model), rtol=1e-4, atol=1e-4)
    assert {n for n in adaptation.trainable if ".lora." in n}


def test_chain_keeps_what_the_parts_choose() -> None:
    adaptation = adapt(Chain((BitFit(), Pfeiffer(6), ParallelAdapter(6))), tiny_model("bert"))
    learning = set(adaptation.body_trainable())
    alone = [adapt(m, tiny_model("bert")) for m in (BitFit(), Pfeiffer(6), ParallelAdapter(6))]
    assert learning == {n for one in alone for n in one.body_trainable()}


@pytest.mark.parametrize("pair", [(Houlsby(4), Compacter(4)), (Houlsby(4), Houlsby(4)),
                                  (ParallelAdapter(4), ParallelAdapter(4))])  # fmt: skip
def test_two_of_a_kind_are_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(AdaptError, match="has a bottleneck adapter already: use one method") as e:
        adapt(Chain(pair), tiny_model("bert"))
    assert len(str(e.value)) < 300


@each_method
@pytest.mark.parametrize("family", ("bert", "t5", "bart", "gpt2", "llama"))
def test_gradient_checkpointing_gives_the_same_gradients(family: str, method: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        adaptation = stir(adapt(method, without_dropout(tiny_model(family))))
        if checkpointing:
            adaptation.model.gradient_checkpointing_enable({"use_reentrant": False})
        adaptation.model.train()
        given = batch()
        if family in ("t5", "bart"):
            given["input_ids"][:, -1] = adaptation.model.config.eos_token_id
            given["attention_mask"][:] = 1
        adaptation.model(**given, labels=torch.tensor([0, 1, 0])).loss.backward()
        gradients.append({n: p.grad for n, p in adaptation.body_trainable().items()})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    assert all(g is not None for g in gradients[0].values())


def without_dropout(model: nn.Module) -> nn.Module:
    """The model without chance, and with a padding token."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    model.config.pad_token_id = model.config.pad_token_id or 0
    return model


@each_method
@pytest.mark.parametrize("family", ("bert", "gpt2", "t5", "bart", "llama", "xlnet"))
def test_half_precision(family: str, method: Any) -> None:
    adaptation = stir(adapt(method, tiny_model(family)))
    exact = hidden(adaptation.model)
    cast(adaptation, "bf16")
    assert all(p.dtype == torch.float32 for p in adaptation.trainable.values())
    assert any(p.dtype == torch.bfloat16 for p in adaptation.model.parameters())
    with autocast("bf16", torch.device("cpu")):
        half = hidden(adaptation.model).float()
        loss = adaptation.model.base_model(
            **batch(), **({"decoder_input_ids": batch()["input_ids"]} if family in TWO_STACKS
                          else {}))[0].float().square().mean()  # fmt: skip
    assert (half - exact).norm() < 0.1 * exact.norm()
    loss.backward()
    added = [p for n, p in adaptation.trainable.items() if is_added(n)]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in added)


# ---- learning ----


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("method", "lr"),
    [(Houlsby(8), 1e-2), (Pfeiffer(8), 1e-2), (ParallelAdapter(16), 1e-2), (Compacter(8), 1e-2)],
    ids=NAMES[:4],
)
@pytest.mark.parametrize("family", ("bert", "gpt2", "t5", "llama"))
def test_loss_falls(family: str, method: Any, lr: float) -> None:
    adaptation = adapt(method, without_dropout(tiny_model(family)))
    body = [p for n, p in adaptation.trainable.items() if n not in adaptation.head]
    table = rows(24)
    words = sorted({word for row in table for word in row["sentence"].split()})
    ids = torch.full((24, 24), 5)
    for index, row in enumerate(table):
        numbers = [10 + words.index(word) for word in row["sentence"].split()][:23]
        ids[index, : len(numbers)] = torch.tensor(numbers)
    ids[:, -1] = getattr(adaptation.model.config, "eos_token_id", None) or 5
    labels = torch.tensor([row["label"] for row in table])
    optimizer = torch.optim.Adam(body, lr=lr)  # the body alone: the head learns anyway
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(adaptation.model(input_ids=ids).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(Houlsby, 0), "method.size=0: must be 1 or more."),
        (partial(Pfeiffer, -1), "method.size=-1: must be 1 or more."),
        (partial(ParallelAdapter, 0), "method.size=0: must be 1 or more."),
        (partial(ParallelAdapter, 4, 0.0), "method.scale=0.0: must be a finite number above 0."),
        (partial(Compacter, 6), "method.size=6: must be a multiple of method.division=4."),
        (partial(Compacter, 6, 0), "method.division=0: must be 1 or more."),
    ],
)
def test_bad_options(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as info:
        build()
    assert str(info.value) == message


def test_division_must_divide_the_width() -> None:
    with pytest.raises(ConfigError) as info:
        adapt(Compacter(6, 3), tiny_model("bert"))
    assert str(info.value) == "method.division=3: must divide the width 32 of this model."


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
