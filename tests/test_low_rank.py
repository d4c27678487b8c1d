"""The low-rank family and IA3: against PEFT, against formulas written by hand, and their traps."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import SENTENCES, rows, tiny_config, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaptkit.adaptation import Adaptation, Context, Stage, Step
from adaptkit.config import compose
from adaptkit.config import settings as config
from adaptkit.errors import AdaptError
from adaptkit.methods.adalora import AdaLoRA
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.chain import Chain
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.ia3 import IA3
from adaptkit.methods.lora import LoRA
from adaptkit.methods.pissa import PiSSA
from adaptkit.methods.ptuning import PTuning
from adaptkit.methods.vera import VeRA
from adaptkit.models import anatomy
from adaptkit.models.loading import head_names
from adaptkit.runs import plan

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CLASSES = 2


def body_of(family: str) -> nn.Module:
    model = tiny_model(family)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tiny_config(family).eos_token_id
    return model.eval()


@cache
def _batch(family: str) -> dict[str, Tensor]:
    tokenizer = tiny_tokenizer(family)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    return {k: v for k, v in batch.items() if k != "token_type_ids"}


def adapt(
    method: Any, model: nn.Module, updates: int = 20, seed: int = 0, stage: Stage = "train"
) -> Adaptation:
    context = Context(None, torch.Generator().manual_seed(seed), updates, stage)
    return method.adapt(Adaptation.of(model, head_names(model)), context)


def randomize(adaptation: Adaptation, size: float = 0.2) -> None:
    """Move every learning tensor of the body away from its start."""
    generator = torch.Generator().manual_seed(3)
    for parameter in adaptation.body_trainable().values():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


# ---- PEFT ----

QV = ("query", "value")
TARGETS = {  # family -> the names PEFT needs for query and value
    "bert": ["query", "value"], "llama": ["q_proj", "o_proj"], "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"], "gpt2": r".*\.(attn\.c_proj|c_fc)",
}  # fmt: skip
ROLES = {"llama": ("query", "output"), "gpt2": ("output", "up")}
IA3_TARGETS = {  # outputs, inputs
    "bert": (["key", "value"], r"layer\.\d+\.output\.dense"),
    "llama": (["k_proj", "v_proj"], "down_proj"),
    "t5": (["k", "v"], "wo"),
    "bart": (["k_proj", "v_proj"], "fc2"),
}


def lora_name(rest: str) -> str:
    return f"lora_{rest}.default.weight"


# method -> (our method for given roles, PEFT's config, our tensor's name -> PEFT's)
KINDS: dict[str, tuple[Callable, Callable, Callable]] = {
    "dora": (
        lambda roles: DoRA(4, 6.0, roles=roles),
        lambda **o: peft.LoraConfig(r=4, lora_alpha=6.0, use_dora=True, **o),
        lambda rest: (
            "lora_magnitude_vector.default.weight" if rest == "magnitude" else lora_name(rest)
        ),
    ),
    "pissa": (
        lambda roles: PiSSA(4, 6.0, roles=roles),
        lambda **o: peft.LoraConfig(r=4, lora_alpha=6.0, init_lora_weights="pissa", **o),
        lora_name,
    ),
    "vera": (
        lambda roles: VeRA(40, roles=roles),
        lambda **o: peft.VeraConfig(r=40, **o),
        lambda rest: f"vera_lambda_{rest}.default",
    ),
    "adalora": (
        lambda roles: AdaLoRA(3, 2, 5.0, roles=roles, t_init=2, t_final=4, every=2),
        lambda **o: peft.AdaLoraConfig(
            init_r=3, target_r=2, lora_alpha=5, tinit=2, tfinal=4, deltaT=2, total_step=12,
            orth_reg_weight=0.1, **o,
        ),
        lambda rest: f"lora_{rest}.default",
    ),
}  # fmt: skip
PAIRS = [
    (kind, family) for kind in KINDS for family in TARGETS if (kind, family) != ("vera", "gpt2")
]
PAIRS += [("ia3", family) for family in IA3_TARGETS]


def theirs_of(kind: str, family: str, body: nn.Module) -> nn.Module:
    heads = ["classification_head"] if family in ("t5", "bart") else None
    options = {"task_type": "SEQ_CLS", "modules_to_save": heads}
    if kind == "ia3":
        outputs, inputs = IA3_TARGETS[family]
        regex = rf".*\.({'|'.join(outputs)}|{inputs})"
        made = peft.IA3Config(
            target_modules=regex, feedforward_modules=rf".*\.({inputs})", **options
        )
    else:
        made = KINDS[kind][1](target_modules=TARGETS[family], **options)
    return peft.get_peft_model(body, made).eval()


def twins(kind: str, family: str) -> tuple[Adaptation, nn.Module, dict[str, tuple]]:
    """Our adaptation, PEFT's model, and the pairs of tensors that learn, set to equal values."""
    body = body_of(family)
    theirs = theirs_of(kind, family, copy.deepcopy(body))
    method = IA3() if kind == "ia3" else KINDS[kind][0](ROLES.get(family, QV))
    ours = adapt(method, body, updates=12)
    if kind == "vera":
        shared = next(m for m in ours.model.modules() if hasattr(m, "low"))
        base = theirs.base_model
        base.vera_A["default"].copy_(shared.low)
        base.vera_B["default"].copy_(shared.up)
    named = {n.replace(".modules_to_save.default", ""): p for n, p in theirs.named_parameters()}
    pairs = {}
    for name, mine in ours.trainable.items():
        module, _, rest = name.partition(".ia3." if kind == "ia3" else ".lora.")
        last = rest.rpartition(".")[2]
        its = "" if not rest else "ia3_l.default" if kind == "ia3" else KINDS[kind][2](last)
        pairs[name] = (mine, named[f"base_model.model.{module}" + (f".{its}" if its else "")])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for mine, its in pairs.values():
            if kind == "pissa":  # singular vectors may differ in sign, their products do not
                mine.copy_(its.view_as(mine))
            else:
                mine.add_(torch.randn(mine.shape, generator=generator) * 0.1)
                its.copy_(mine.view_as(its))
        if kind == "pissa":
            for module in ours.model.modules():
                if hasattr(module, "delta_A0"):
                    module.delta_A0.copy_(module.A)
                    module.delta_B0.copy_(module.B)
    return ours, theirs, pairs


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "family"), PAIRS)
def test_like_peft(kind: str, family: str) -> None:
    """The same logits, and the same tensors after updates (with AdaLoRA's pruning, all of it)."""
    ours, theirs, pairs = twins(kind, family)
    batch, labels = _batch(family), torch.arange(len(SENTENCES)) % CLASSES
    learning = {id(p) for p in theirs.parameters() if p.requires_grad}
    assert learning == {id(its) for _, its in pairs.values()}
    optimizers = [
        torch.optim.AdamW([p[i] for p in pairs.values()], lr=1e-3, weight_decay=0.0, eps=1e-5)
        for i in (0, 1)
    ]
    start = {name: mine.detach().clone() for name, (mine, _) in pairs.items()}
    # After update 8 of 12 AdaLoRA's choice is final; then PEFT looks for its ranks by name.
    for update in range(1, 9 if kind == "adalora" else 6):
        mine = ours.model.eval()(**batch).logits
        its = theirs.eval()(**batch).logits
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=5e-5)
        terms = [cross_entropy(mine, labels), cross_entropy(its, labels)]
        step = Step(update - 1, 12, 1e-3)
        for penalty in ours.penalty.values():
            terms[0] = terms[0] + penalty(ours.model, batch, None, step)
        if kind == "adalora":  # PEFT hides the penalty in the loss
            terms[1] = theirs(**batch, labels=labels).loss
        torch.testing.assert_close(*terms, **CLOSE)
        for optimizer, term in zip(optimizers, terms, strict=True):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
        for hook in ours.after_update:
            hook(replace(step, index=update))
        if kind == "adalora":
            theirs.base_model.update_and_allocate(update)
            for name, (a, b) in pairs.items():
                if name.endswith(".E"):
                    assert torch.equal(a == 0, b.flatten() == 0), (name, update)
    for name, (a, b) in pairs.items():  # Adam carries rounding on, by the processor: lr is 1e-3
        torch.testing.assert_close(
            a, b.view_as(a), rtol=1e-5, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert any((a - start[n]).abs().max() > 1e-3 for n, (a, _) in pairs.items())


@torch.no_grad()
def test_pissa_holds_the_principal_part() -> None:
    """Against numpy: W - s B0 A0 has lost exactly the largest singular values."""
    for niter, close in ((None, 1e-5), (16, 1e-4)):
        body = body_of("bert")
        weight = body.bert.encoder.layer[1].attention.self.value.weight.double().numpy()
        adapt(PiSSA(4, 6.0, niter=niter), body)
        pair = body.bert.encoder.layer[1].attention.self.value.lora["value"]
        rest = weight - 1.5 * (pair.delta_B0 @ pair.delta_A0).double().numpy()
        found = np.linalg.svd(rest, compute_uv=False)
        expected = np.linalg.svd(weight, compute_uv=False)[4:]
        np.testing.assert_allclose(found[: len(expected)], expected, atol=close)
        balance = pair.A.square().sum(1), pair.B.square().sum(0)  # both carry sqrt(sigma)
        torch.testing.assert_close(*balance, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_lora_on_embeddings_like_peft() -> None:
    """BART looks words up in two modules with one table; PEFT must be told of both."""
    for family, target in (("bert", "word_embeddings"), ("gpt2", "wte")):
        body = body_of(family)
        made = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6.0, target_modules=[target])
        theirs = peft.get_peft_model(copy.deepcopy(body), made).eval()
        ours = adapt(LoRA(4, 6.0, roles=("embeddings",)), body)
        randomize(ours)
        pair = ours.model.get_input_embeddings().lora["embeddings"]
        assert pair.A.shape == (4, body.config.vocab_size)
        named = {n.replace(".modules_to_save.default", ""): p for n, p in theirs.named_parameters()}
        for name, parameter in named.items():
            if "lora_embedding_A" in name:
                parameter.copy_(pair.A)
            elif "lora_embedding_B" in name:
                parameter.copy_(pair.B)
        mine = ours.model(**_batch(family)).logits
        torch.testing.assert_close(mine, theirs(**_batch(family)).logits, **CLOSE)


def test_lora_on_embeddings_starts_with_random_b_and_zero_a() -> None:
    ours = adapt(LoRA(4, roles=("embeddings",)), body_of("bart"))
    pair = ours.model.get_input_embeddings().lora["embeddings"]
    assert not pair.A.any() and 0.7 < pair.B.std() < 1.3
    assert ours.model(**_batch("bart")).logits.sum().backward() is None
    assert pair.A.grad.any() and not pair.B.grad.any()


def test_embeddings_that_are_the_output_map_are_refused() -> None:
    model = tiny_model("bert")
    model.get_output_embeddings = lambda: model.get_input_embeddings()
    with pytest.raises(AdaptError, match="output map"):
        adapt(LoRA(roles=("embeddings",)), model)


# ---- DoRA, by hand ----


@torch.no_grad()
def test_dora_on_fused_and_bare_maps_is_its_formula() -> None:
    """m (W + s B A) / ||W + s B A|| over the rows of the role, the bias as it was."""
    for family in ("gpt2", "gpt_neox", "xlnet", "modernbert"):
        body = body_of(family)
        before = copy.deepcopy(body)
        ours = adapt(DoRA(4, 6.0, roles=("query", "output")), body)
        randomize(ours)
        stems = {n.partition(".lora.")[0] for n in ours.trainable if ".lora." in n}
        tensors = dict(before.named_parameters())
        for stem in stems:
            for role in ("query", "output"):
                found = {n: p for n, p in ours.trainable.items() if f"{stem}.lora.{role}." in n}
                if not found:
                    continue
                a, b, m = (found[f"{stem}.lora.{role}.{k}"] for k in ("A", "B", "magnitude"))
                name = stem.replace(".parametrizations", "").removesuffix(".0")
                name = name if family == "xlnet" else f"{name}.weight"
                change(tensors[name], family, role, a, b, m)
        mine = ours.model(**_batch(family)).logits
        torch.testing.assert_close(mine, before(**_batch(family)).logits, rtol=1e-4, atol=1e-5)


def change(weight: Tensor, family: str, role: str, a: Tensor, b: Tensor, m: Tensor) -> None:
    """Write DoRA's weight in place, from the definition."""
    flat = weight.t() if family == "gpt2" else weight.reshape(len(weight), -1)
    turned = family == "gpt2" or (family == "xlnet" and role == "query")
    flat = flat.t() if family == "xlnet" and turned else flat
    width = flat.shape[1]
    rows = torch.arange(len(flat))
    if role == "query" and family == "gpt_neox":
        rows = torch.cat([torch.arange(24 * h, 24 * h + 8) for h in range(4)])
    elif role == "query" and family in ("gpt2", "modernbert"):
        rows = torch.arange(width)
    wanted = flat[rows] + 1.5 * b @ a
    full = flat.clone()
    full[rows] = m.unsqueeze(1) * wanted / wanted.norm(dim=1, keepdim=True)
    full = full.t() if turned else full
    weight.copy_(full.reshape(weight.shape))


def test_dora_sends_no_gradient_through_the_norm() -> None:
    """The derivative with respect to B is that of (m / n) s B A x with n held fixed."""
    body = body_of("bert")
    ours = adapt(DoRA(4, 6.0), body)
    randomize(ours)
    linear = body.bert.encoder.layer[0].attention.self.query
    update = linear.lora["query"]
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    linear(x).square().sum().backward()
    grads = [p.grad.clone() for p in (update.A, update.B, update.magnitude)]
    a, b, m = (p.detach().clone().requires_grad_() for p in (update.A, update.B, update.magnitude))
    whole = linear.weight.detach() + 1.5 * b @ a
    n = whole.norm(dim=1, keepdim=True).detach()
    ((x @ (m.unsqueeze(1) * whole / n).t() + linear.bias.detach()).square().sum()).backward()
    for mine, by_hand in zip(grads, (a, b, m), strict=True):
        torch.testing.assert_close(mine, by_hand.grad, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dora_norm_is_exact() -> None:
    for size in (1e-3, 0.3, 30.0):  # from small updates to such that dwarf the weight
        body = body_of("llama")
        ours = adapt(DoRA(8, 16.0, roles=("down",)), body)
        randomize(ours, size)
        linear = body.model.layers[0].mlp.down_proj
        update = linear.lora["down"]
        direct = (linear.weight.double() + 2.0 * update.B.double() @ update.A.double()).norm(dim=1)
        torch.testing.assert_close(update.norm(linear.weight).double(), direct, rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "xlnet"])
def test_dora_of_an_output_without_weights_leaves_it(family: str) -> None:
    """A row of zeros has no direction: ||W|| = 0 must not divide."""
    body = body_of(family)
    site = anatomy.sites(body, ("query",))[0]
    tensor = body.get_submodule(site.module)
    tensor = getattr(tensor, site.parameter) if site.parameter else tensor.weight
    if family == "gpt2":
        tensor[:, 3] = 0
    elif family == "xlnet":
        tensor[:, 0, 3] = 0
    else:
        tensor[3] = 0
    before = body(**_batch(family)).logits
    ours = adapt(DoRA(4, 6.0), body)
    torch.testing.assert_close(ours.model(**_batch(family)).logits, before, rtol=0, atol=1e-6)
    for name, parameter in ours.trainable.items():
        if name.endswith(".B"):
            parameter.add_(0.1)
    assert ours.model(**_batch(family)).logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("dora_first", [True, False])
def test_dora_of_weights_that_learn_follows_them(family: str, dora_first: bool) -> None:
    parts = (DoRA(4, 6.0), PTuning(3, tune_body=True))
    body = body_of(family)
    ours = adapt(Chain(parts if dora_first else parts[::-1]), body)
    site = anatomy.sites(body, ("value",))[0]
    linear = body.get_submodule(site.module)
    randomize(ours)
    linear.weight.mul_(2)
    update, x = linear.lora["value"], torch.randn(5, site.fan_in)
    weight = linear.weight.t() if family == "gpt2" else linear.weight
    rows = list(site.rows or range(site.fan_out))
    whole = weight[rows] + 1.5 * update.B @ update.A
    direction = whole / whole.norm(dim=1, keepdim=True)
    wanted = x @ (update.magnitude.unsqueeze(1) * direction).t() + linear.bias[rows]
    torch.testing.assert_close(linear(x)[:, rows], wanted, rtol=1e-4, atol=1e-5)
    change = update.matrix(weight[rows])
    by_hand = update.magnitude.unsqueeze(1) * direction - weight[rows]
    torch.testing.assert_close(change, by_hand, rtol=1e-4, atol=1e-5)


# ---- LoRA's options ----


def test_ranks_by_role_scale_by_their_own_rank() -> None:
    method = LoRA(8, 16.0, roles=("query", "ffn"), ranks={"down": 2})
    body = body_of("bert")
    adapt(method, body)
    layer = body.bert.encoder.layer[0]
    down, query = layer.output.dense.lora["down"], layer.attention.self.query.lora["query"]
    assert (down.A.shape, down.scale) == ((2, 64), 8.0)
    assert (query.A.shape, query.scale) == ((8, 32), 2.0)
    assert LoRA(alpha=4.0, rank_stabilised=True).scale(16) == 1.0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ranks": {"up": 4}}, "method.ranks"), ({"ranks": {"quer": 4}}, "method.ranks"),
        ({"ranks": {"query": 0}}, "method.ranks.query"), ({"b_lr_ratio": 0.0}, "b_lr_ratio"),
        ({"ranks": {"query": 2.5}}, "method.ranks.query"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict, field: str) -> None:
    with pytest.raises(AdaptError, match=field):
        LoRA(**options)


def test_a_rank_that_does_not_fit_names_its_field() -> None:
    with pytest.raises(AdaptError, match=r"method\.ranks\.value=33: exceeds the rank 32"):
        adapt(LoRA(ranks={"value": 33}), body_of("bert"))


def test_lora_plus_speeds_up_b_alone() -> None:
    ours = adapt(LoRA(b_lr_ratio=16.0), body_of("t5"))
    factors = {name: ours.factor(name) for name in ours.trainable}
    assert {f for n, f in factors.items() if n.endswith(".B")} == {16.0}
    assert {f for n, f in factors.items() if not n.endswith(".B")} == {1.0}
    chained = adapt(Chain((LoRA(b_lr_ratio=4.0), DoRA(roles=("output",)))), body_of("bert"))
    assert chained.factor("bert.encoder.layer.0.attention.output.dense.lora.output.B") == 1.0
    assert chained.factor("bert.encoder.layer.0.attention.self.query.lora.query.B") == 4.0


# ---- VeRA ----


def test_vera_projections_never_change() -> None:
    """What a saved run relies on: numpy's frozen stream, seeded by (seed, which, shape)."""
    body = body_of("bert")
    ours = adapt(VeRA(40, roles=("all",), projection_seed=5), body)
    layer = body.bert.encoder.layer
    query, down = layer[0].attention.self.query.lora["query"], layer[0].output.dense.lora["down"]
    state = np.random.RandomState([5, 0, 40, 32])
    expected = state.uniform(-math.sqrt(6 / 32), math.sqrt(6 / 32), (40, 32)).astype("float32")
    np.testing.assert_array_equal(query.low.numpy(), expected)
    assert query.low[0, 0].item() == expected[0, 0]
    same = layer[2].attention.self.value.lora["value"]
    assert same.low.data_ptr() == query.low.data_ptr() and same.up.data_ptr() == query.up.data_ptr()
    assert down.low.shape == (40, 64) and down.up.data_ptr() == query.up.data_ptr()
    assert (query.d == 0.1).all() and not query.b.any()
    assert {n.rpartition(".")[2] for n in ours.delta() if ".lora." in n} == {"d", "b"}


# ---- AdaLoRA ----


def steps_of(method: AdaLoRA, updates: int, made: int | None = None) -> tuple[Adaptation, list]:
    """Train and return the adaptation and the number of triplets alive after every update."""
    ours = adapt(method, body_of("bert"), updates)
    alive = []
    for _ in run_updates(ours, updates if made is None else made, updates):
        alive.append(kept(ours))
    return ours, alive


def run_updates(ours: Adaptation, last: int, total: int, first: int = 1) -> Iterator[int]:
    batch, labels = _batch("bert"), torch.arange(len(SENTENCES)) % CLASSES
    optimizer = torch.optim.SGD(ours.trainable.values(), lr=0.3)
    for update in range(first, last + 1):
        loss = cross_entropy(ours.model.eval()(**batch).logits, labels)
        for penalty in ours.penalty.values():
            loss = loss + penalty(ours.model, batch, None, Step(update - 1, total, 0.3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for hook in ours.after_update:
            hook(Step(update, total, 0.3))
        yield update


def kept(ours: Adaptation) -> int:
    return sum(int((p != 0).sum()) for n, p in ours.trainable.items() if n.endswith(".E"))


MAPS = 6  # query and value of three layers


def test_adalora_follows_the_cubic_schedule() -> None:
    method = AdaLoRA(4, 2, roles=QV, t_init=3, t_final=5, every=1)
    ours, alive = steps_of(method, 18)

    def budget(t: int) -> int:
        if t <= 3:
            return 4 * MAPS
        return int(2 * MAPS + 2 * MAPS * (1 - min(1, (t - 3) / 10)) ** 3)

    assert alive == [budget(t) for t in range(1, 19)]
    for last in ours.finish:
        last()
    assert kept(ours) == 2 * MAPS


@pytest.mark.parametrize("updates", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(("rank", "target"), [(3, 2), (2, 2), (3, 1)])
def test_adalora_ends_at_its_budget(updates: int, rank: int, target: int) -> None:
    ours, _ = steps_of(AdaLoRA(rank, target, roles=QV), updates)
    for last in ours.finish:
        last()
    assert kept(ours) == target * MAPS


def test_adalora_that_stopped_early_or_kept_old_weights_ends_at_its_budget() -> None:
    early, alive = steps_of(AdaLoRA(3, 2, roles=QV), 40, made=3)
    assert alive[-1] == 3 * MAPS
    old = {n: t.clone() for n, t in early.delta().items()}
    for last in early.finish:
        last()
    assert kept(early) == 2 * MAPS
    late, _ = steps_of(AdaLoRA(3, 2, roles=QV), 10)
    late.load_delta(old)
    for last in late.finish:
        last()
    assert kept(late) == 2 * MAPS


def test_adalora_pruned_triplets_stay_zero_in_the_final_phase() -> None:
    ours = adapt(AdaLoRA(4, 2, roles=QV, t_init=0, t_final=0.5, every=2), body_of("bert"), 12)
    dead = None
    for update in run_updates(ours, 12, 12):
        es = torch.cat([p.detach() for n, p in ours.trainable.items() if n.endswith(".E")])
        if update == 6:
            dead = es == 0
        elif update > 6:
            assert torch.equal(es == 0, dead)
    assert dead.sum() == 2 * MAPS


def test_adalora_resumes_exactly() -> None:
    method = AdaLoRA(4, 2, roles=QV, t_init=1, t_final=2, every=2)
    whole, _ = steps_of(method, 10)
    for cut in (4, 9):  # within pruning; in the final phase
        first, _ = steps_of(method, 10, made=cut)
        delta = {n: t.clone() for n, t in first.delta().items()}
        ((name, hook),) = first.stateful().items()
        state = {k: t.clone() for k, t in hook.state_dict().items()}
        second = adapt(method, body_of("bert"), 10, seed=9)
        second.load_delta(delta)
        second.stateful()[name].load_state_dict(state)
        assert list(run_updates(second, 10, 10, first=cut + 1))
        for name, tensor in whole.delta().items():
            assert torch.equal(second.delta()[name], tensor), name


def test_adaloras_importance_is_its_formula() -> None:
    """beta1 smooths |w dL/dw|, beta2 its distance from the smoothed value."""
    beta1, beta2 = 0.6, 0.9
    ours = adapt(AdaLoRA(3, 2, roles=QV, t_init=8, beta1=beta1, beta2=beta2), body_of("bert"))
    (budget,) = ours.after_update
    numbers = {n: p for n, p in ours.trainable.items() if ".lora." in n}
    mean = {n: torch.zeros_like(p) for n, p in numbers.items()}
    spread = {n: torch.zeros_like(p) for n, p in numbers.items()}
    for _ in run_updates(ours, 4, 20):
        for name, p in numbers.items():
            now = (p * p.grad).abs().detach()
            mean[name] = beta1 * mean[name] + (1 - beta1) * now
            spread[name] = beta2 * spread[name] + (1 - beta2) * (now - mean[name]).abs()
    stems = [n.removesuffix(".E") for n in numbers if n.endswith(".E")]
    worth = {n: mean[n] * spread[n] for n in numbers}
    expected = [worth[f"{n}.E"] + worth[f"{n}.A"].mean(1) + worth[f"{n}.B"].mean(0) for n in stems]
    ours_sorted, table = budget.scores().sort(0).values, torch.stack(expected)
    assert table.min() > 0
    # Sorted, because the hook goes role by role.
    torch.testing.assert_close(ours_sorted, table.sort(0).values, rtol=1e-4, atol=0)


def test_adaloras_penalty_is_its_formula() -> None:
    ours = adapt(AdaLoRA(3, 2, roles=QV, orthogonality=0.3), body_of("gpt2"))
    randomize(ours)
    named = {n: p.detach().double().numpy() for n, p in ours.trainable.items() if ".lora." in n}
    far = [np.linalg.norm(p @ p.T - np.eye(3)) for n, p in named.items() if n.endswith(".A")]
    far += [np.linalg.norm(p.T @ p - np.eye(3)) for n, p in named.items() if n.endswith(".B")]
    found = ours.penalty["orthogonality"](ours.model, {}, None, Step(0, 1, 0.0))
    assert found.item() == pytest.approx(0.3 * sum(far) / len(far), rel=1e-5)
    free = adapt(AdaLoRA(3, 2, roles=QV, orthogonality=0.0), body_of("gpt2"))
    assert free.penalty["orthogonality"](free.model, {}, None, Step(0, 1, 0.0)) == 0


def test_adalora_without_penalty_moves_e_alone_at_first() -> None:
    ours = adapt(AdaLoRA(3, 2, roles=QV), body_of("bert"))
    ours.model(**_batch("bert")).logits.square().sum().backward()
    for name, parameter in ours.body_trainable().items():
        assert parameter.grad.any() == name.endswith(".E")


# ---- IA3, and chains ----


@torch.no_grad()
def test_ia3_on_fused_and_bare_maps_is_its_formula() -> None:
    for family, key, value, down in (
        ("gpt2", range(32, 64), range(64, 96), "transformer.h.0.mlp.c_proj.weight"),
        ("gpt_neox", [24 * h + 8 + i for h in range(4) for i in range(8)],
         [24 * h + 16 + i for h in range(4) for i in range(8)],
         "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"),
        ("xlnet", None, None, "transformer.layer.0.ff.layer_2.weight"),
    ):  # fmt: skip
        body = body_of(family)
        before = copy.deepcopy(body)
        ours = adapt(IA3(), body)
        randomize(ours, 0.5)
        tensors = dict(before.named_parameters())
        for name, vector in ours.body_trainable().items():
            stem, _, role = name.removesuffix(".scale").partition(".ia3.")
            if ".parametrizations." in stem:
                weight = tensors[stem.replace(".parametrizations", "").removesuffix(".0")]
                weight.copy_(weight * vector.view(weight.shape[1:]))
                continue
            weight = tensors[f"{stem}.weight"]
            weight = weight.t() if family == "gpt2" else weight
            if role == "down":
                weight.copy_(weight * vector)
                continue
            rows_ = list(key if role == "key" else value)
            weight[rows_] = weight[rows_] * vector.unsqueeze(1)
            tensors[f"{stem}.bias"][rows_] *= vector
        assert down in tensors
        mine = ours.model(**_batch(family)).logits
        torch.testing.assert_close(mine, before(**_batch(family)).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet", "llama"])
def test_chains_on_one_map_merge(family: str) -> None:
    parts = (
        LoRA(2, roles=("value", "down")), DoRA(2, roles=("key",)), VeRA(3, roles=("query",)),
        IA3(),
    )  # fmt: skip
    body = body_of(family)
    names = {n for n, _ in body.named_parameters()}
    ours = adapt(Chain(parts), body)
    randomize(ours, 0.3)
    apart = ours.model(**_batch(family)).logits
    ours.merge()
    torch.testing.assert_close(ours.model(**_batch(family)).logits, apart, rtol=1e-4, atol=1e-5)
    assert {n for n, _ in body.named_parameters()} == names
    hooks = [m for m in body.base_model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet"])
@pytest.mark.parametrize(
    "parts",
    [
        (LoRA(2), DoRA(2)), (PiSSA(2), PiSSA(2)), (IA3(), IA3()),
        (IA3(), LoRA(2)), (IA3(), VeRA(2, roles=("value",))),
        (LoRA(2), Full()), (Full(), LoRA(2)), (LoRA(2, bias="all"), BitFit()),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(parts: tuple, family: str) -> None:
    with pytest.raises(AdaptError) as info:
        adapt(Chain(parts), body_of(family))
    assert len(str(info.value)) < 300


# ---- counts that were published, or counted on models of full size ----


@cache
def planned(*overrides: str) -> plan.Plan:
    settings = config.settings(compose.compose(["task=sst2", *overrides]))
    return plan.plan(settings, "fp32", memory=False)


COUNTS = [
    ("model=roberta-base", "method=dora", 313_344),
    ("model=bert-base", "method=dora", 313_344),
    ("model=t5-small", "method=dora", 313_344),
    ("model=bart-base", "method=dora", 470_016),
    ("model=roberta-base", "method=vera method.rank=1024", 43_008),  # paper: .043M
    ("model=roberta-large", "method=vera", 61_440),  # paper: .061M
    ("model=t5-small", "method=vera", 27_648),
    ("model=bart-base", "method=vera", 36_864),
    ("model=bert-base", "method=adalora method.roles=[query,value]", 442_656),
    ("model=bart-base", "method=adalora method.roles=[query,key,value,output,up,down]", 2_434_176),
    ("model=t5-small", "method=adalora", 1_623_168),
    ("model=roberta-base", "method=adalora", 1_991_520),
    ("model=bert-base", "method=ia3", 55_296),
    ("model=t5-small", "method=ia3", 43_008),
    ("model=t5-base", "method=ia3", 129_024),
    ("model=bert-large", "method=ia3", 147_456),
    ("model=xlnet-base", "method=lora", 294_912),
    ("model=bert-base", "method=lora +method.ranks.value=4", 294_912 * 3 // 4),
    ("model=bert-base", "method=lora method.roles=[embeddings]", 8 * (30_522 + 768)),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("model", "method", "count"), COUNTS)
def test_counts(model: str, method: str, count: int) -> None:
    found = planned(model, *method.split())
    assert found.params.body_trainable == count
    named = {role for role in found.roles if role != "head"}
    assert named <= {"query", "key", "value", "output", "up", "gate", "down", "embeddings"}
    assert sum(found.roles.values()) == found.params.trainable


def test_pissa_saves_its_start_as_well() -> None:
    found = planned("model=bert-base", "method=pissa").params
    assert found.body_trainable == 294_912
    assert found.stored == found.trainable + 294_912


# ---- learning ----


@pytest.mark.parametrize(
    ("method", "lr"),
    [
        (DoRA(4), 1e-2), (PiSSA(4), 1e-2), (VeRA(64), 5e-2), (IA3(), 5e-2),
        (AdaLoRA(4, 2, every=2), 1e-2), (LoRA(4, roles=("embeddings",)), 1e-2),
        (LoRA(4, b_lr_ratio=8.0), 1e-3),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_training_lowers_the_loss(method: Any, lr: float) -> None:
    ours = adapt(method, body_of("roberta"), updates=30)
    tokenizer, table = tiny_tokenizer("roberta"), rows(32)
    texts = [row["sentence"] for row in table]
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    labels = torch.tensor([row["label"] for row in table])
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": lr * ours.factor(n)} for n, p in ours.body_trainable().items()]
    )  # not the head: what the method adds must learn
    losses = []
    for update in range(1, 31):
        loss = cross_entropy(ours.model.eval()(**batch).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for hook in ours.after_update:
            hook(Step(update, 30, lr))
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * 3 * losses[0]


@pytest.mark.parametrize("method", [DoRA(4), PiSSA(4), VeRA(8), IA3(), AdaLoRA(4, 2)])
def test_half_format_bodies(method: Any) -> None:
    """Frozen matrices in bf16: what learns stays fp32, and the start is near the body."""
    from adaptkit.training import precision

    bodies = [body_of("llama"), body_of("llama")]
    frozen = Adaptation.of(bodies[0], head_names(bodies[0])).only(lambda name: False)
    ours = adapt(method, bodies[1])
    precision.cast(frozen, "bf16")
    precision.cast(ours, "bf16")
    assert {p.dtype for p in ours.trainable.values()} == {torch.float32}
    with precision.autocast("bf16", torch.device("cpu")):
        expect = frozen.model(**_batch("llama")).logits.detach()
        found = ours.model(**_batch("llama")).logits
        found.float().sum().backward()
    torch.testing.assert_close(found, expect, rtol=0.02, atol=0.02)
    assert all(torch.isfinite(p.grad).all() for p in ours.trainable.values())
