"""RecAdam, Mixout and Child-Tuning: the numbers of papers and authors' code, and their limits."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from commandline import call, tiny
from families import tiny_model
from test_forms import KINDS, configured
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaptkit.adaptation import Adaptation, Batch, Context, Step
from adaptkit.config.compose import compose
from adaptkit.config.groups import options
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.layers.child import Child, fisher, largest, mask_at_random
from adaptkit.layers.mixed import Mixing, mixed
from adaptkit.methods.full import Full
from adaptkit.methods.lora import LoRA
from adaptkit.methods.probe import Probe
from adaptkit.methods.prompt import PromptTuning
from adaptkit.models.depth import layer_numbers
from adaptkit.models.substitute import substitute
from adaptkit.regularizers.child_tuning import ChildTuning
from adaptkit.regularizers.mixout import Mixout
from adaptkit.regularizers.recadam import RecAdam
from adaptkit.runs.prepare import feed_of, prepare

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class One(nn.Module):
    """A model with one parameter in its body and one in its head."""

    def __init__(self, body: list[float]) -> None:
        super().__init__()
        self.body, self.head = nn.Parameter(torch.tensor(body)), nn.Parameter(torch.ones(1))


def start_of(model: nn.Module, head: frozenset[str] = frozenset({"head"})) -> Adaptation:
    return Adaptation(model, dict(model.named_parameters()), head)


def context(**more: Any) -> Context:
    return Context(None, torch.Generator().manual_seed(0), 3, **more)


# ---- RecAdam ----


def recadam_by_hand(grads: list[float]) -> Iterator[tuple[float, float]]:
    """Yield lambda and theta as the authors' loop computes them, in Python's own floats."""
    theta, start, m, v = 1.0, 0.4, 0.0, 0.0
    lr, k, t0, gamma = 0.1, 1.0, 2, 0.5
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        share = 1 / (1 + math.exp(-k * (t - t0)))
        step = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        theta -= step * share * m / (math.sqrt(v) + 1e-8)
        theta -= lr * (1 - share) * gamma * (theta - start)
        yield share, theta


def test_recadam_follows_the_trajectory_of_its_code():
    model = One([0.4])
    regularizer = RecAdam(k=1.0, t0=2, gamma=0.5)
    adaptation = regularizer.adapt(start_of(model), context())
    model.body.data.fill_(1.0)  # away from where it started
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    plain = copy.deepcopy(model)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.0)
    wanted = [(0.268941, 0.952157187), (0.5, 0.931307888), (0.731059, 0.904076528)]
    by_hand = list(recadam_by_hand([0.3, -0.2, 0.1]))
    for index, grad in enumerate([0.3, -0.2, 0.1]):
        for each in (model, plain):
            each.body.grad, each.head.grad = torch.tensor([grad]), torch.tensor([grad])
        (before,), (after,) = adaptation.before_update, adaptation.after_update
        before(Step(index, 3, 0.1))
        optimizer.step()
        reference.step()
        after(Step(index + 1, 3, 0.1))
        assert (regularizer.share(index + 1), model.body.item()) == pytest.approx(
            wanted[index], abs=2e-6
        )
        assert by_hand[index] == pytest.approx(wanted[index], abs=1e-6)
        assert torch.equal(model.head, plain.head)  # the optimizer's own


def test_a_constant_share_of_one_is_adamw_bit_for_bit():
    model = One([0.3, -0.7])
    adaptation = RecAdam(anneal="constant").adapt(start_of(model), context())
    plain = copy.deepcopy(model)
    pairs = [
        (m, torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1)) for m in (model, plain)
    ]
    for index in range(5):
        for each, _ in pairs:
            each.body.grad = torch.tensor([0.3, -0.1 * index])
        adaptation.before_update[0](Step(index, 5, 0.01))
        for _, optimizer in pairs:
            optimizer.step()
        adaptation.after_update[0](Step(index + 1, 5, 0.01))
    assert torch.equal(model.body, plain.body)


def test_shares_of_recadam():
    sigmoid = RecAdam(k=0.1, t0=250)
    assert [sigmoid.share(t) for t in (200, 250, 300)] == pytest.approx(
        [0.0067, 0.5, 0.9933], abs=1e-4
    )
    assert RecAdam(k=1.0, t0=1000).share(1) == pytest.approx(0, abs=1e-300)  # no overflow
    assert RecAdam(k=1.0, t0=1).share(10**6) == 1.0
    linear = RecAdam(anneal="linear", t0=4, weight=2.0)
    assert [linear.share(t) for t in (1, 2, 4, 9)] == [0.5, 1.0, 2.0, 2.0]


def test_a_pull_that_overshoots_is_rejected():
    words = ["method=full", "regularizer=[recadam]", "regularizer.recadam.gamma=5000",
             "optimizer.lr=3e-4"]  # fmt: skip
    with pytest.raises(ConfigError, match=r"recadam\.gamma=5000.*below 3333\.33"):
        settings(compose(words))
    settings(compose([*words[:3], "optimizer.lr=1e-4"]))
    decay = "regularizer.weight_decay_to_pretrained.strength"
    words = ["method=full", "regularizer=[weight_decay_to_pretrained]", "optimizer.lr=1e-3"]
    with pytest.raises(ConfigError, match=r"strength=1000\.0.*below 1000, 1 / optimizer\.lr"):
        settings(compose([*words, f"{decay}=1000"]))
    settings(compose([*words, f"{decay}=999"]))


def test_a_pull_that_overshoots_by_a_parameters_own_rate_is_rejected():
    """A rate of 5e-4 is fine for gamma = 1000; 16 times as much (LoRA+) is not."""
    adaptation = RecAdam(gamma=1000.0).adapt(start_of(One([0.4])), context())
    (before,), (after,) = adaptation.before_update, adaptation.after_update
    before(Step(0, 3, 5e-4))
    after(Step(1, 3, 5e-4))
    before(Step(1, 3, 5e-4))
    with pytest.raises(AdaptError, match=r"below 125, as the learning rate of body is 0\.008"):
        after(Step(2, 3, 5e-4, {"body": 16.0}))

    constant = ["method=full", "regularizer=[recadam]", "regularizer.recadam.anneal=constant"]
    settings(compose([*constant, "optimizer.lr=0.1"]))  # it never pulls


@pytest.mark.parametrize("name", ["l2_sp", "mixout", "recadam", "weight_decay_to_pretrained"])
def test_random_weights_are_nothing_to_be_pulled_back_to(name):
    words = ["method=full", f"regularizer=[{name}]"]
    settings(compose(words))
    with pytest.raises(ConfigError, match=f"no pretrained weights, and regularizer={name} pulls"):
        settings(compose([*words, "model.random_weights=true"]))


# ---- Mixout ----


def test_mixed_weights_and_their_two_gradients():
    """w = (1, 2), u = (.2, .4), p = .5, the first input kept."""
    w = torch.tensor([[1.0, 2.0]], requires_grad=True)
    u, kept = torch.tensor([[0.2, 0.4]]), torch.tensor([[True, False]])
    found = mixed(w, u, kept, 0.5)
    torch.testing.assert_close(found, torch.tensor([[1.8, 0.4]]))
    found.sum().backward()
    torch.testing.assert_close(w.grad, torch.tensor([[2.0, 0.0]]))
    assert mixed(torch.tensor(1.0), torch.tensor(0.2), torch.tensor(True), 0.9) == pytest.approx(
        8.2
    )
    assert mixed(torch.tensor(1.0), torch.tensor(0.2), torch.tensor(False), 0.9) == pytest.approx(
        0.2
    )


def mixing(module: nn.Linear, **options: Any) -> Mixing:
    settings_ = {"p": 0.5, "element": False, "exact": True, **options}
    return Mixing(module, dict(module.named_parameters()), **settings_)


@pytest.mark.parametrize("exact", [True, False])
def test_the_official_gradient_lacks_the_scale(exact):
    module, x = nn.Linear(6, 4), torch.randn(3, 6)
    with torch.no_grad():
        start = module.weight.clone()
    make = mixing(module, exact=exact, p=0.8)
    module.weight.data.add_(1.0)
    torch.manual_seed(2)
    made = make()["weight"]
    kept = ((made - (start - 0.8 * start) / 0.2).abs() > 1e-3).float()  # not the start's
    (x @ made.T).sum().backward()
    plain = x.sum(0).expand(4, -1) * kept
    torch.testing.assert_close(module.weight.grad, plain / (0.2 if exact else 1.0))


def test_the_mean_of_mixed_weights_is_the_weight():
    module = nn.Linear(5, 3)
    for element in (True, False):
        make = mixing(module, element=element, p=0.7)
        module.weight.data.add_(torch.randn(3, 5))
        drawn = torch.stack([make()["weight"].detach() for _ in range(5_000)])
        torch.testing.assert_close(drawn.mean(0), module.weight.detach(), rtol=0, atol=0.15)
        ratio = drawn.var(0).div((module.weight - make.start["weight"]).detach() ** 2)
        torch.testing.assert_close(ratio, torch.full((3, 5), 0.7 / 0.3), rtol=0.2, atol=0)
        is_start = (drawn - make.start["weight"]).abs() < 1e-4
        assert bool((is_start == is_start[:, :1]).all()) is not element  # the same in every row
    module.eval()
    assert make() == {}


def test_a_column_is_mixed_as_a_whole_and_a_bias_by_its_numbers():
    module = nn.Linear(50, 3)
    make = mixing(module)
    module.weight.data.add_(1.0)
    module.bias.data.add_(1.0)
    torch.manual_seed(0)
    made = make()
    is_start = (made["weight"] - make.start["weight"]).abs() < 1e-5
    assert bool((is_start == is_start[:1]).all()) and 5 < int(is_start[0].sum()) < 45
    assert made["bias"].shape == (3,)


def test_gpt2s_maps_are_turned(checkpoints):
    run = configured("classify", checkpoints["gpt2"])
    prepared = prepare(replace(run, regularizers={"mixout": Mixout()}), 1, "train")
    model = prepared.adaptation.model
    make = Mixing(model, prepared.adaptation.body_trainable(), 0.5, False, True)
    shapes = {name: shape(model.get_parameter(name)) for name, shape in make.shapes.items()}
    assert shapes["transformer.h.0.mlp.c_fc.weight"] == (32, 1)  # [in, out]
    assert shapes["transformer.h.0.ln_1.weight"] == (32,)


def loss_of(prepared: Any, batch: Any) -> Tensor:
    return prepared.form.loss(prepared.adaptation.model(**batch.inputs), batch)


def reached(prepared: Any, batch: Any) -> set[str]:
    """Return what a loss in training has gradients for."""
    torch.manual_seed(0)
    prepared.adaptation.model.train()
    loss_of(prepared, batch).backward()
    trained = prepared.adaptation.trainable.items()
    return {n for n, w in trained if w.grad is not None and w.grad.abs().sum() > 0}


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet", "t5", "bart", "llama"])
@pytest.mark.parametrize("method", [Full(), LoRA(rank=2)])
def test_mixout_acts_in_training_alone_and_reaches_what_trains(family, method, checkpoints):
    run = replace(configured("classify", checkpoints[family]), method=method)
    plain = prepare(run, 1, "train")
    mixed_ = prepare(
        replace(run, regularizers={"mixout": Mixout(p=0.3, mask="element")}), 1, "train"
    )
    batch = feed_of(run, plain, KINDS["classify"].rows).batch(range(4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in plain.adaptation.trainable.items():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
            mixed_.adaptation.trainable[name].copy_(weight)
    for each in (plain, mixed_):
        each.adaptation.model.eval()
    assert torch.equal(loss_of(plain, batch), loss_of(mixed_, batch))
    assert reached(plain, batch) - reached(mixed_, batch) == set()
    losses = [loss_of(mixed_, batch).item() for _ in range(2)]
    assert losses[0] != losses[1]


def test_a_second_pass_before_the_gradient_does_not_disturb_the_first():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    make = Mixing(model, dict(model.named_parameters()), 0.5, False, True)
    for weight in model.parameters():
        weight.data.add_(0.3)
    substitute(model, make)
    x = torch.randn(2, 3)
    torch.manual_seed(0)
    model(x).sum().backward()
    alone = [w.grad.clone() for w in model.parameters()]
    model.zero_grad()
    torch.manual_seed(0)
    first = model(x)
    model(x)  # other masks
    first.sum().backward()
    for weight, grad in zip(model.parameters(), alone, strict=True):
        torch.testing.assert_close(weight.grad, grad)


# ---- Child-Tuning ----


def test_exactly_the_share_with_the_largest_scores():
    scores = {
        "a": torch.tensor([0.1, 0.4, 0.3, 0.2, 0.05]),
        "b": torch.tensor([0.6, 0, 0, 0, 0.25]),
    }
    found = largest(scores, 0.3)
    assert found["a"].tolist() == [False, True, True, False, False]
    assert found["b"].tolist() == [True, False, False, False, False]
    ties = {"a": torch.zeros(2, 4), "b": torch.tensor([0.0, 1.0])}
    found = largest(ties, 0.3)  # 8 of 10 are 0: the authors' percentile would keep all
    assert int(found["a"].sum()) == 2 and found["b"].tolist() == [False, True]
    assert found["a"].flatten()[:2].all()
    assert not any(mask.any() for mask in largest(ties, 0.0).values())
    assert all(mask.all() for mask in largest(ties, 1.0).values())


def test_three_updates_of_f_as_in_the_authors_optimizer(monkeypatch):
    """A masked number still moves by its momentum."""
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, eps=1e-8)
    masks = iter([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: 1 - torch.tensor(next(masks)))
    wanted = [(0.9, 1.0), (0.8329942, 1.0744136), (0.7811985, 1.1319356)]
    for step in range(3):
        weight.grad = torch.tensor([0.5, -0.2])
        mask_at_random({"w": weight}, 0.3, step)
        optimizer.step()
        assert weight.tolist() == pytest.approx(wanted[step], abs=1e-6)


def test_one_update_of_f_with_decay_everywhere(monkeypatch):
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.01)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: 1 - torch.tensor([1.0, 0.0, 1.0]))
    weight.grad = torch.tensor([0.5, -0.2, 0.3])
    mask_at_random({"w": weight}, 0.3, 0)
    optimizer.step()
    # The authors' code decays behind the step, torch before it: 0.8991 against 0.899.
    assert weight.tolist() == pytest.approx([0.899, 0.999, 0.899], abs=2e-6)


def test_masks_of_f_have_their_share_and_follow_from_the_update():
    weights = {"a": nn.Parameter(torch.zeros(400, 50)), "b": nn.Parameter(torch.zeros(1000))}

    def drawn(seed: int) -> list[Tensor]:
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        mask_at_random(weights, 0.25, seed)
        return [weight.grad.clone() for weight in weights.values()]

    one, again, other = drawn(5), drawn(5), drawn(6)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert set(one[0].unique().tolist()) == {0.0, 4.0}
    assert float((one[0] > 0).float().mean()) == pytest.approx(0.25, abs=0.015)
    assert all(torch.equal(g, torch.ones_like(g)) for g in _all_kept(weights))


def _all_kept(weights: dict[str, nn.Parameter]) -> list[Tensor]:
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    mask_at_random(weights, 1.0, 3)
    return [weight.grad for weight in weights.values()]


@pytest.mark.parametrize(("decay", "zero"), [(False, False), (True, False), (False, True)])
def test_outside_the_child_network_weights_stay(decay, zero):
    weight = nn.Parameter(torch.tensor([0.5, -0.25, 1.0, 2.0]))
    mask = torch.tensor([True, False, True, False])
    child = Child({"w": weight}, {"w": mask}, zero, decay)
    start = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)
    for step in range(4):
        weight.grad = torch.randn(4)
        child(Step(step, 4, 0.1))
        optimizer.step()
        child.after(Step(step + 1, 4, 0.1))
    if zero:
        assert start[~mask].tolist() == [0.0, 0.0]
    assert torch.equal(weight[~mask], start[~mask]) is not decay
    assert not torch.equal(weight[mask], start[mask])


def test_fisher_information_by_hand(checkpoints):
    run = configured("classify", checkpoints["bert"])
    prepared = prepare(run, 1, "train")
    feed = feed_of(run, prepared, KINDS["classify"].rows)
    model, form = prepared.adaptation.model, prepared.form
    name = "bert.encoder.layer.1.output.dense.weight"
    chosen = {name: model.get_parameter(name)}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return form.loss(model(**batch.inputs), batch) / batch.weight

    def batches(size: int = 3) -> Iterator[Batch]:
        yield from (feed.batch(range(i, i + size)) for i in range(0, 9, size))

    seen = context(batches=batches, loss=loss)
    found = fisher(model, chosen, seen, by_example=True)[name]
    model.eval()
    expected = torch.zeros_like(found)
    for row in range(9):
        logits = model(**feed.batch([row]).inputs).logits
        (grad,) = torch.autograd.grad(cross_entropy(logits, feed.batch([row]).targets["target"]),
                                      chosen[name])  # fmt: skip
        expected += grad**2 / 9
    torch.testing.assert_close(found, expected)
    model.train()
    torch.manual_seed(4)
    found = fisher(model, chosen, seen, by_example=False)[name]
    torch.manual_seed(4)
    expected = torch.zeros_like(found)
    for batch in batches():
        (grad,) = torch.autograd.grad(loss(model, batch), chosen[name])
        expected += (grad / grad.norm().clamp(min=1)) ** 2 / 3
    torch.testing.assert_close(found, expected)
    assert model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "layers"),
    [("bert", 3), ("gpt2", 3), ("llama", 3), ("xlnet", 3), ("t5", 3), ("bart", 3), ("albert", 1)],
)
def test_layers_of_parameters(family, layers):
    model = tiny_model(family)
    names = dict(model.named_parameters())
    found = layer_numbers(model, names)
    assert set(found.values()) == set(range(layers))
    rest = {name for name in names if name not in found}
    assert not any(".layer." in n or ".h." in n or ".layers." in n or ".block." in n for n in rest)
    if family in ("t5", "bart"):
        assert any("decoder" in name for name in found)


def test_d_leaves_embeddings_pooler_and_head_alone(checkpoints):
    run = replace(configured("classify", checkpoints["bert"]),
                  regularizers={"child_tuning": ChildTuning(share=0.25)})  # fmt: skip
    rows = KINDS["classify"].rows
    prepared = prepare(run, 1, "train", rows)
    (child,) = prepared.adaptation.before_update
    sizes = {name: mask.numel() for name, mask in child.masks.items()}
    assert all("encoder.layer" in name for name in sizes)
    kept = sum(int(mask.sum()) for mask in child.masks.values())
    assert kept == round(0.25 * sum(sizes.values()))
    again = prepare(run, 1, "train", rows).adaptation.before_update[0]
    assert all(torch.equal(child.masks[n], again.masks[n]) for n in sizes)
    other = prepare(replace(run, seed=1), 1, "train", rows).adaptation.before_update[0]
    other.load_state_dict(child.state_dict())
    assert all(torch.equal(child.masks[n], other.masks[n]) for n in sizes)


@pytest.mark.parametrize(
    ("method", "regularizer", "why"),
    [
        (PromptTuning(length=3), ChildTuning(), "trains none there"),
        (Probe(), Mixout(), "this method trains none"),
        (Probe(), ChildTuning(), "trains none there"),
        (Full(), ChildTuning(share=1e-9), "keeps none of"),
    ],
)
def test_what_is_rejected(method, regularizer, why, checkpoints):
    run = replace(configured("classify", checkpoints["bert"]), method=method)
    with pytest.raises(AdaptError, match=why):
        prepare(replace(run, regularizers={"one": regularizer}), 1, "train", KINDS["classify"].rows)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("share=0", "above 0"), ("share=1.1", "at most 1"),
        ("mode=F regularizer.child_tuning.decay=true", "belongs to mode D"),
    ],
)  # fmt: skip
def test_bad_options_of_child_tuning(words, why):
    first, *more = words.split()
    with pytest.raises(ConfigError, match=why):
        settings(
            compose(["regularizer=[child_tuning]", f"regularizer.child_tuning.{first}", *more])
        )
    with pytest.raises(ConfigError, match=rf"^method\..*{why}"):
        more = [word.replace("regularizer.child_tuning", "method") for word in more]
        settings(compose(["method=child_tuning", f"method.{first}", *more]))


@pytest.mark.parametrize("name", options("regularizer"))
def test_a_checkpoint_in_half_precision_is_pulled_to_as_well(name, checkpoints, tmp_path):
    """Anchors are taken in the checkpoint's format, before what trains is cast to fp32."""
    words = [*tiny(checkpoints["bert"]), "task=sst2", "data.source=sample", "data.train_rows=16",
             "data.eval_rows=8", "method=full", f"regularizer={name}", "model.dtype=bf16",
             "trainer.precision=bf16"]  # fmt: skip
    done = call("train", *words, f"output_dir={tmp_path / 'run'}")
    assert done.status == 0, done.err


def test_mixing_weights_that_were_read_in_half_precision_leaves_them_at_first():
    """At the start w = u, so every mixed weight is w, not w as bf16 rounds p u."""
    model = nn.Linear(16, 16).bfloat16()
    mixing = Mixing(model, dict(model.named_parameters()), 0.3, True, False)
    model.float().train()
    for name, value in mixing().items():
        torch.testing.assert_close(value, model.get_parameter(name), rtol=1e-5, atol=1e-6)
