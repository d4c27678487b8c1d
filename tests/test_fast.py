"""Fast kernels: the same numbers as the plain ones, in training alone, on every family."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, SENTENCES, add_padding, tiny_model, tiny_tokenizer
from runs import configure, sentiment, shallow
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import set_seed
from transformers.pytorch_utils import Conv1D

import adaptkit
from adaptkit.adaptation import Adaptation, Context
from adaptkit.layers.low_rank import Pair, Updates, attach_updates
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.ia3 import IA3
from adaptkit.methods.lora import LoRA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.vera import VeRA
from adaptkit.models.anatomy import Site
from adaptkit.models.body import DROPOUT
from adaptkit.models.fast import attention, packed, use_fast_kernels
from adaptkit.models.fast.dropout import MaskDropout, mask_of
from adaptkit.models.loading import head_names
from adaptkit.models.substitute import substitute
from adaptkit.runs import prepare as preparation
from adaptkit.runs.prepare import prepare
from adaptkit.training import precision

CPU, HALF = torch.device("cpu"), torch.bfloat16


# ---- masks of dropout ----


@pytest.mark.parametrize("p", [0.1, 0.5, 0.05, 0.9])
def test_a_mask_keeps_the_share_in_every_lane_and_scales_it(p):
    torch.manual_seed(0)
    mask = mask_of(torch.Size((1 << 21,)), p)
    kept = mask != 0
    assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - p)).bfloat16())}
    lanes = kept.view(-1, 4).double().mean(0)
    error = math.sqrt(p * (1 - p) / (1 << 19))
    assert (lanes - (1 - p)).abs().max() < 4.5 * error


def test_masks_are_independent_of_each_other_and_of_their_neighbours():
    torch.manual_seed(1)
    size, p = 1 << 16, 0.1
    draws = torch.stack([(mask_of(torch.Size((size,)), p) != 0).double() for _ in range(40)])
    centred = (draws - (1 - p)) / math.sqrt(p * (1 - p))
    between = centred @ centred.t() / size
    assert between.fill_diagonal_(0).abs().max() < 5.5 / math.sqrt(size)
    for lag in [*range(1, 20), 64, 384, 1536, 4096]:
        along = (centred[:, lag:] * centred[:, :-lag]).mean()
        assert along.abs() < 5 / math.sqrt(centred.numel()), lag
    spread = draws.mean(1).std() / math.sqrt(p * (1 - p) / size)
    assert 0.7 < spread < 1.35  # as many as a binomial has


def test_a_mask_follows_the_seed_and_any_shape():
    for shape in [(3,), (1, 7), (5, 3, 11), (0, 4), (2, 2, 2, 2)]:
        torch.manual_seed(3)
        state = torch.get_rng_state()
        first = mask_of(torch.Size(shape), 0.3)
        torch.set_rng_state(state)
        assert torch.equal(first, mask_of(torch.Size(shape), 0.3))
        assert first.shape == shape


def test_dropout_by_masks_is_dropout_and_passes_on_what_masks_are_not_made_for():
    torch.manual_seed(0)
    layer = MaskDropout(0.25)
    x = torch.full((4096,), 3.0, dtype=HALF, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, x * x.grad)  # the gradient is the mask
    assert x.grad.unique().tolist() == [0.0, float(torch.tensor(4 / 3).bfloat16())]
    assert layer.eval()(x) is x
    for p in (0.0, 1.0):
        assert torch.equal(MaskDropout(p)(x), F.dropout(x, p))
    torch.manual_seed(5)
    single = torch.ones(64)
    found = MaskDropout(0.5)(single)
    torch.manual_seed(5)
    assert torch.equal(found, F.dropout(single, 0.5))


# ---- attention ----


def by_hand(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float, kept: Tensor) -> Tensor:
    return ((q @ k.mT * scale + added).softmax(-1) * kept) @ v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, "boolean", "added"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_is_its_formula(causal, masked, biased, groups, monkeypatch):
    torch.manual_seed(0)
    batch, heads, length, size = 2, 4, 6, 8
    q = torch.randn(batch, heads, length, size, dtype=HALF, requires_grad=True)
    k, v = (
        torch.randn(batch, heads // groups, length, size, dtype=HALF, requires_grad=True)
        for _ in range(2)
    )
    kept = torch.ones(batch * heads, length, length, dtype=HALF)
    kept[torch.rand(kept.shape) < 0.3] = 0
    monkeypatch.setattr(attention, "mask_of", lambda shape, p: kept.view(shape))
    visible = torch.ones(batch, 1, length, length, dtype=torch.bool)
    visible[1, ..., -2:] = False
    bias = torch.randn(1, heads, length, length) if biased else None
    added = torch.zeros(visible.shape).masked_fill(~visible, -1e9)
    mask = {None: None, "boolean": visible, "added": added}[masked]
    module = nn.Module()
    module.num_key_value_groups = groups
    found, _ = attention.attention(
        module, q, k, v, None if mask is None else mask.clone(), dropout=0.3, scaling=0.5,
        is_causal=causal, position_bias=None if bias is None else bias.to(HALF),
    )  # fmt: skip
    up = torch.randn_like(found)
    got = torch.autograd.grad(found, (q, k, v), up)

    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    wide = [exact[0], *(t.repeat_interleave(groups, 1) for t in exact[1:])]
    added = torch.zeros(batch, 1, length, length).double()
    if masked:
        added = added.masked_fill(~visible, -torch.inf)
    elif causal:  # a mask that is given says all
        added = added.masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
    if bias is not None:
        added = added + bias.to(HALF).double()
    expected = by_hand(*wide, added, 0.5, kept.double().view(batch, heads, length, length))
    expected = expected.transpose(1, 2)
    wanted = torch.autograd.grad(expected, exact, up.double())
    for one, other in zip((found, *got), (expected, *wanted), strict=True):
        assert (one.double() - other).norm() < 0.02 * other.norm()


def test_attention_is_stock_attention_where_nothing_is_dropped():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 5, 8, dtype=HALF, requires_grad=True) for _ in range(3))
    module = nn.Module()
    for dropout, made in [(0.0, q), (0.2, q.float())]:
        others = [t.to(made.dtype) for t in (k, v)]
        torch.manual_seed(1)
        found = attention.attention(module, made, *others, None, dropout, is_causal=False)[0]
        torch.manual_seed(1)
        stock = attention.sdpa_attention_forward(module, made, *others, None, dropout, None, False)
        assert torch.equal(found, stock[0])


@pytest.mark.parametrize("largest", [4, 40])
def test_rounding_is_that_of_eager_attention(largest, monkeypatch):
    """Scores are rounded to bf16 before the softmax: the larger they are, the coarser."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 40, 32, dtype=HALF, requires_grad=True) for _ in range(3))
    scale = largest / float((q @ k.mT).abs().max())
    monkeypatch.setattr(attention, "mask_of", lambda shape, p: torch.ones(shape, dtype=HALF))
    up, module = torch.randn(2, 40, 4, 32, dtype=HALF), nn.Module()
    found = attention.attention(module, q, k, v, None, 0.1, scale, is_causal=False)[0]
    eager = ((q @ k.mT * scale).softmax(-1) @ v).transpose(1, 2)
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    exact = ((wide[0] @ wide[1].mT * scale).softmax(-1) @ wide[2]).transpose(1, 2)
    wanted = (exact, *torch.autograd.grad(exact, wide, up.double()))
    away = []
    for made in (found, eager):
        got = (made, *torch.autograd.grad(made, (q, k, v), up))
        pairs = zip(got, wanted, strict=True)
        away.append([float((g.double() - w).norm() / w.norm()) for g, w in pairs])
    assert all(ours < 1.2 * theirs + 1e-3 for ours, theirs in zip(*away, strict=True))


def test_what_other_attentions_compute_besides_is_not_passed_over():
    q, k, v = (torch.randn(2, 2, 5, 8, dtype=HALF, requires_grad=True) for _ in range(3))
    with pytest.raises(ValueError, match="softcap"):  # as the stock function says
        attention.attention(nn.Module(), q, k, v, None, 0.1, is_causal=False, softcap=30.0)


# ---- packed weights ----

needs_operators = pytest.mark.skipif(not packed.works(), reason="torch lacks the operators here")


def half_map(kind: type[nn.Module], bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(24, 40, bias=bias) if kind is nn.Linear else Conv1D(40, 24)
    made.weight.data = made.weight.data.to(HALF)
    made.weight.requires_grad_(False)
    model = nn.Sequential(made).train()
    packed.pack(model)
    return made


@needs_operators
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=lambda kind: kind.__name__)
def test_a_packed_product_is_the_product_and_so_is_its_gradient(kind):
    made = half_map(kind)
    assert type(made) is packed.KINDS[kind]
    x = torch.randn(3, 7, 24, dtype=HALF, requires_grad=True)
    with precision.autocast("bf16", CPU):
        y = made(x)
        up = torch.randn_like(y)
        got = torch.autograd.grad(y, (x, made.bias), up)
    weight = made.weight.double() if kind is nn.Linear else made.weight.double().t()
    expected = x.double() @ weight.t() + made.bias.to(HALF).double()
    wanted = (up.double() @ weight, up.double().flatten(0, 1).sum(0))
    for one, other in zip((y, *got), (expected, *wanted), strict=True):
        assert (one.double() - other).norm() < 0.01 * other.norm()


@needs_operators
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=lambda kind: kind.__name__)
def test_a_weight_that_was_written_is_packed_again(kind):
    made = half_map(kind)
    x = torch.randn(5, 24, dtype=HALF)
    before = made(x)
    with torch.no_grad():  # as `merge` and `load_delta` write
        made.weight.mul_(2)
        made.bias.mul_(2)
    torch.testing.assert_close(made(x), 2 * before)
    other = nn.Parameter(torch.zeros_like(made.weight), requires_grad=False)
    found = torch.func.functional_call(made, {"weight": other}, (x,))
    torch.testing.assert_close(found, made.bias.to(HALF).expand(5, -1))


@needs_operators
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=lambda kind: kind.__name__)
def test_a_packed_map_can_be_copied(kind):
    made, x = half_map(kind), torch.randn(5, 24, dtype=HALF)
    before = made(x)
    assert torch.equal(copy.deepcopy(made)(x), before)


def low_rank(made: nn.Module, dropout: float = 0.0, scale: float = 0.37) -> Pair:
    """A pair of LoRA on the map, whose B is not zero."""
    site = Site("query", "0", 24, 40)
    pair = Pair(site, 3, scale, dropout, torch.Generator().manual_seed(1), CPU)
    nn.init.normal_(pair.B)
    attach_updates(nn.Sequential(made), [site], lambda site: pair)
    return pair


@needs_operators
@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, 1), (nn.Linear, 0), (Conv1D, 1)])
def test_a_pair_is_added_in_the_same_node_and_once(kind, bias):
    made = half_map(kind, bias)
    pair = low_rank(made)
    x = torch.randn(3, 7, 24, dtype=HALF, requires_grad=True)
    learnt = [x, pair.A, pair.B, *([made.bias] if bias else [])]
    with precision.autocast("bf16", CPU):
        y = made(x)
    up = torch.randn_like(y).transpose(0, 1).contiguous().transpose(0, 1)  # not contiguous
    got = torch.autograd.grad(y, learnt, up)
    assert "PairedProduct" in type(y.grad_fn).__name__
    weight = made.weight.double() if kind is nn.Linear else made.weight.double().t()
    exact = [tensor.detach().double().requires_grad_() for tensor in learnt]
    expected = exact[0] @ (weight + 0.37 * exact[2] @ exact[1]).t()
    expected = expected + exact[3] if bias else expected
    wanted = torch.autograd.grad(expected, exact, up.double())
    for one, other in zip((y, *got), (expected, *wanted), strict=True):
        assert (one.double() - other).norm() < 0.01 * other.norm()
    assert [one.dtype for one in got] == [tensor.dtype for tensor in learnt]


@needs_operators
def test_a_product_that_fails_leaves_the_pair_to_the_hook(monkeypatch):
    """Memory that ran out in training, then scores: the pair is not lost."""
    made = half_map(nn.Linear)
    pair, x = low_rank(made), torch.randn(5, 24, dtype=HALF)

    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as once, pytest.raises(torch.OutOfMemoryError):
        once.setattr(packed, "multiply", fail)
        made(x)
    made.eval()
    with precision.autocast("bf16", CPU):
        plain = F.linear(x, made.weight, made.bias.to(HALF))
        expected = plain + F.linear(0.37 * F.linear(x, pair.A), pair.B)
        torch.testing.assert_close(made(x), expected, rtol=2e-2, atol=2e-2)


@needs_operators
def test_a_pair_that_drops_or_is_not_alone_is_added_by_its_hook():
    x = torch.randn(5, 24, dtype=HALF)
    for dropout, training in ((0.5, True), (0.5, False), (0.0, False)):
        made = half_map(nn.Linear)
        pair = low_rank(made, dropout)
        made.train(training)
        with precision.autocast("bf16", CPU):
            y = made(x)
            assert "PairedProduct" not in type(y.grad_fn).__name__
            if not training:
                plain = F.linear(x, made.weight, made.bias.to(HALF))
                expected = plain + F.linear(0.37 * F.linear(x, pair.A), pair.B)
                torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    other, updates = low_rank(half_map(nn.Linear)), Updates()
    updates.add(Site("query", "0", 24, 20, rows=tuple(range(20))), other, CPU)
    assert updates.plain_pair() is None  # for some outputs
    updates.add(Site("value", "0", 24, 20, rows=tuple(range(20, 40))), other, CPU)
    assert updates.plain_pair() is None


def test_nothing_is_packed_that_would_fill_the_memory(monkeypatch):
    made = nn.Sequential(nn.Linear(64, 64).requires_grad_(False))
    assert packed.packed_bytes(made) == 2 * 2 * 64 * 64
    monkeypatch.setattr(packed, "free_memory", lambda: 2.0 * packed.packed_bytes(made) - 1)
    packed.pack(made)
    assert type(made[0]) is nn.Linear


@needs_operators
def test_a_map_that_trains_or_is_computed_or_scored_is_left_alone():
    made = half_map(nn.Linear, bias=False)
    x = torch.randn(5, 24, dtype=HALF)
    assert torch.equal(made.eval()(x), F.linear(x, made.weight))
    with torch.no_grad():
        assert torch.equal(made.train()(x), F.linear(x, made.weight))
    learnt = nn.Linear(4, 4)
    packed.pack(learnt)
    assert type(learnt) is nn.Linear
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4).requires_grad_(False))
    packed.pack(computed)
    assert not isinstance(computed, packed.PackedLinear)


def test_without_the_operators_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(packed, "layout", lambda matrix: torch.ops.mkldnn.no_such_operator(matrix))
    assert not packed.works()
    monkeypatch.setattr(packed, "layout", lambda matrix: matrix)
    monkeypatch.setattr(packed, "multiply", lambda x, weight, bias: x)  # another meaning
    assert not packed.works()
    made = nn.Sequential(nn.Linear(4, 4).requires_grad_(False))
    packed.pack(made)
    assert type(made[0]) is nn.Linear


# ---- laws over families ----


def adapted(family: str, method: Any, number_format: str) -> Adaptation:
    """A tiny classifier, without dropout but in the kernels that are made for it."""
    set_seed(0)
    model = tiny_model(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in {*DROPOUT} & {*vars(module)}:  # OPT and BART drop without a module
            if isinstance(vars(module)[name], float):
                setattr(module, name, 0.0)
    start = Adaptation.of(model, head_names(model))
    context = Context(tiny_tokenizer(family), torch.Generator().manual_seed(0), 3)
    made = method.adapt(start, context)
    precision.cast(made, number_format)
    return made


def gradient(adaptation: Adaptation, family: str, number_format: str) -> Tensor:
    tokenizer, model = tiny_tokenizer(family), adaptation.model.train()
    add_padding(tokenizer, model.config)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with precision.autocast(number_format, CPU):
        logits = model(**batch).logits
    F.cross_entropy(logits.float(), torch.arange(len(logits)) % 2).backward()
    grads = [parameter.grad for parameter in adaptation.trainable.values()]
    return torch.cat([grad.flatten() for grad in grads if grad is not None])


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, LoRA(rank=2, roles=("all",))) for family in FAMILIES),
        *((family, PrefixTuning(3, None)) for family in ("bert", "gpt2", "llama", "bart")),
        *((family, Full()) for family in ("bert", "electra", "gpt2")),
        ("gpt2", DoRA(rank=2)), ("gpt2", DoRA(rank=2, roles=("output",))), ("bert", DoRA(rank=2)),
        ("gpt2", VeRA(rank=8)), ("gpt2", IA3()),
        ("bert", BitFit()), ("roberta", Houlsby(4)), ("electra", BitFit()), ("gpt2", BitFit()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_gradients_are_those_of_stock_kernels(family, method, monkeypatch):
    """Exactly in fp32 (attention, one place read); in bf16 as near to it as torch's kernels."""
    exact = gradient(adapted(family, method, "fp32"), family, "fp32")
    usual = 0.0
    for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):  # with dropout, and without
        with sdpa_kernel([kernel, SDPBackend.MATH], set_priority=True):
            stock = gradient(adapted(family, method, "bf16"), family, "bf16")
        usual = max(usual, float((stock - exact).norm()))
    assert usual < 0.3 * exact.norm()  # else this says nothing

    monkeypatch.setattr(attention, "fits", lambda x, p: p == 0)
    draw = mask_of
    monkeypatch.setattr(attention, "mask_of", lambda shape, p: draw(shape, p).float())
    single = adapted(family, method, "fp32")
    use_fast_kernels(single.model, first_token_only=True)
    found = gradient(single, family, "fp32")
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)

    monkeypatch.setattr(attention, "mask_of", draw)
    half = adapted(family, method, "bf16")
    use_fast_kernels(half.model, first_token_only=True)
    away = (gradient(half, family, "bf16") - exact).norm()
    assert away < 1.6 * usual + 0.02 * exact.norm()


def test_a_pair_may_be_another_for_one_call():
    """As Mixout has it: gradients pass through what takes its place."""
    gradients = []
    for replaced in (False, True):
        made = adapted("bert", LoRA(rank=2), "bf16")
        pairs = {name: parameter for name, parameter in made.model.named_parameters()
                 if name.endswith((".A", ".B"))}  # fmt: skip
        assert pairs
        with torch.no_grad():
            for number, parameter in enumerate(pairs.values()):
                random = torch.Generator().manual_seed(number)
                parameter.copy_(torch.randn(parameter.shape, generator=random))
                if not replaced:
                    parameter.mul_(2)
        use_fast_kernels(made.model, first_token_only=True)
        if replaced:
            substitute(made.model, lambda of=pairs: {name: 2 * one for name, one in of.items()})
        gradient(made, "bert", "bf16")
        gradients.append({name: one.grad for name, one in pairs.items()})
    for name, grad in gradients[0].items():
        assert grad.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], 2 * grad, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("family", "method"),
    [*((family, LoRA(rank=2)) for family in FAMILIES), ("gpt2", DoRA(rank=2)),
     ("gpt2", DoRA(rank=2, roles=("output",))), ("bert", PrefixTuning(3, 8, dropout=0.3))],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("mode", ["evaluation", "training without gradients"])
def test_what_needs_no_gradients_is_untouched(family, method, mode):
    plain = adapted(family, method, "bf16").model
    fast = adapted(family, method, "bf16").model
    use_fast_kernels(fast, first_token_only=True)
    tokenizer = tiny_tokenizer(family)
    for model in (plain, fast):
        add_padding(tokenizer, model.config)
        model.train(mode != "evaluation")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    answers = []
    for model in (plain, fast):
        torch.manual_seed(2)
        with torch.no_grad(), precision.autocast("bf16", CPU):
            answers.append(model(**batch).logits)
    assert torch.equal(*answers)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_behind_the_last_attention_one_place_is_computed(family):
    fast = adapted(family, LoRA(rank=2), "bf16").model
    use_fast_kernels(fast, first_token_only=True)
    base = fast.base_model
    seen: list[int] = []
    for layer in base.encoder.layer:
        layer.intermediate.register_forward_hook(lambda m, a, y: seen.append(y.shape[1]))
    ids = torch.full((2, 9), 7)
    with precision.autocast("bf16", CPU):
        fast.train()(input_ids=ids)
        fast.eval()(input_ids=ids)
    assert seen == [9, 9, 1, 9, 9, 9]


# ---- in a run ----


@pytest.mark.parametrize(
    ("words", "number_format", "kind"),
    [
        ([], "bf16", MaskDropout),
        ([], "fp32", nn.Dropout),
        (["trainer.fast=false"], "bf16", nn.Dropout),
    ],
)
def test_a_run_uses_them_in_bf16_unless_told_not_to(
    words, number_format, kind, checkpoints, tmp_path
):
    model, data = shallow(checkpoints["bert"], tmp_path / "bert"), sentiment(tmp_path / "data")
    changes = {"trainer.precision": number_format, "trainer.device": "cpu"}
    settings = configure(tmp_path / "run", model, data, "method=lora", *words, **changes)
    bound = settings.bind(settings.task.with_classes(("negative", "positive")))
    for stage, expected in (("train", kind), ("restore", nn.Dropout)):
        made = prepare(bound, 1, stage=stage).adaptation.model
        assert {type(m) for m in made.modules() if isinstance(m, nn.Dropout)} == {expected}


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["task=sst2", "method=lora", "regularizer=r3f"], True),
        (["task=sst2", "method=lora", "model.pooling=mean"], False),
        (["task=sst2", "method=chain", "method.parts=[{name: lora}, {name: prompt}]"], False),
        (["task=ud_ewt", "method=lora"], False),
        (["task=copa", "method=lora"], True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["task=sst2", "method=lora"], True),
                (["task=sst2", "method=prefix"], True),
                (["task=sst2", "method=prompt"], False),
                (["task=sst2", "method=lora", "task.form=cloze"], False),
                (["task=squad", "method=lora"], False),
            )
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_place_is_computed_only_where_one_is_read(words, first, tmp_path, monkeypatch):
    seen: list[bool] = []
    monkeypatch.setattr(
        preparation,
        "use_fast_kernels",
        lambda model, first_token_only: seen.append(first_token_only),
    )
    adaptkit.run(
        "model=mini-bert", "model.pooling=null", *words, "data.source=sample", "data.train_rows=4",
        "data.eval_rows=2", "trainer.max_steps=1", "trainer.precision=bf16", "trainer.device=cpu",
        f"output_dir={tmp_path}",
    )  # fmt: skip
    assert seen == [first]
