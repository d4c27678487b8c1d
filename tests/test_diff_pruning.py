"""Diff pruning: gates and penalties in numbers, budgets, the two stages, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, data_root, tiny
from runs import carry_out, configure, sentiment
from safetensors.torch import load_file
from torch import nn

from adaptkit.adaptation import Adaptation, Context, Step
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.layers.diff import Diff, Fixing, active, gate
from adaptkit.methods.diff_pruning import DiffPruning
from adaptkit.runs.delta import load_run
from adaptkit.runs.prepare import restored


@pytest.mark.parametrize(
    ("alpha", "closed", "open_", "mean"),
    [(5, 0.006693, 0.967408, 0.984815), (0, 0.5, 0.166667, 0.333333),
     (-5, 0.993307, 0.001346, 0.003573), (1, 0.268941, 0.352187, 0.564774)],
)  # fmt: skip
def test_the_distribution_of_a_gate(alpha, closed, open_, mean):
    generator = torch.Generator().manual_seed(0)
    z = gate(torch.full((400_000,), float(alpha)), torch.rand(400_000, generator=generator))
    assert float((z == 0).float().mean()) == pytest.approx(closed, abs=3e-3)
    assert float((z == 1).float().mean()) == pytest.approx(open_, abs=3e-3)
    assert float(z.mean()) == pytest.approx(mean, abs=3e-3)
    assert float(active(torch.tensor(float(alpha)))) == pytest.approx(1 - closed, abs=1e-6)


def test_the_gradient_of_a_gate_is_the_authors():
    """dz / d alpha = (r - l) s (1 - s) where 0 < z < 1, else 0."""
    alpha = torch.randn(1000, requires_grad=True)
    noise = torch.rand(1000)
    z = gate(alpha, noise)
    z.sum().backward()
    u = noise.clamp(1e-4, 0.9999)
    s = (u.log() - (1 - u).log() + alpha.detach()).sigmoid()
    inside = ((z > 0) & (z < 1)).float()
    torch.testing.assert_close(alpha.grad, inside * 3 * s * (1 - s))


def diff_of(alpha: list[float], group: float | None = None, density: float = 0.34) -> Diff:
    diff = Diff({"w": nn.Parameter(torch.zeros(3))}, density, 5.0, group is not None)
    diff.alpha["w"].data.copy_(torch.tensor(alpha))
    if group is not None:
        diff.group.data.fill_(group)
    return diff


def test_the_three_penalties():
    alpha = [5.0, 0.0, -2.0]
    assert diff_of(alpha).expected(True).item() * 3 == pytest.approx(1.612510, abs=1e-5)
    structured = diff_of(alpha, 1.0)
    assert structured.expected(True).item() * 3 == pytest.approx(1.178839, abs=1e-5)
    assert structured.expected(False).item() * 3 == pytest.approx(2.343569, abs=1e-5)


def trained_diff(structured: bool) -> Diff:
    base = {"a": nn.Parameter(torch.randn(6, 5)), "b": nn.Parameter(torch.randn(7))}
    diff = Diff(base, 0.3, 0.5, structured)
    for parameter in [*diff.w.values(), *diff.alpha.values()]:
        parameter.data.add_(torch.randn_like(parameter))
    return diff


@pytest.mark.parametrize("structured", [False, True])
def test_the_budget_is_exact_and_the_largest_are_kept(structured):
    diff = trained_diff(structured).eval()
    before = {name: tensor.detach().clone() for name, tensor in diff.tensors().items()}
    changes = torch.cat([(before[n] - p).flatten() for n, p in diff.base.items()])
    diff.fix()
    kept = round(0.3 * 37)
    assert sum(int(mask.sum()) for mask in diff.masks) == kept == 11
    after = diff.tensors()
    now = torch.cat([(after[n] - p).flatten() for n, p in diff.base.items()])
    chosen = changes.abs().topk(kept).indices
    torch.testing.assert_close(now[chosen], changes[chosen])
    assert int((now != 0).sum()) == kept
    # Stage 2 trains those alone, without noise and without a penalty.
    diff.train()
    assert all(torch.equal(one, other) for one, other in
               zip(diff.tensors().values(), after.values(), strict=True))  # fmt: skip
    sum(tensor.sum() for tensor in diff.tensors().values()).backward()
    assert all(
        torch.equal(w.grad != 0, mask) for w, mask in zip(diff.w.values(), diff.masks, strict=True)
    )
    assert all(alpha.grad is None for alpha in diff.alpha.values())
    assert diff.expected(True).item() == 0
    frozen = {name: tensor.detach().clone() for name, tensor in diff.tensors().items()}
    diff.freeze()
    assert diff.delta_indices.dtype == torch.int32 and len(diff.delta_values) == kept
    again = diff.tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in frozen.items())
    assert again is diff.tensors()  # put together once
    diff.merge()
    assert all(torch.equal(p, frozen[name]) for name, p in diff.base.items())


def test_behind_closed_gates_the_largest_fill_the_budget():
    diff = trained_diff(False).eval()
    with torch.no_grad():
        for alpha in diff.alpha.values():
            alpha.fill_(-9.0)
        diff.alpha["a"][0, 0] = 9.0
        diff.w["a"][0, 0] = 1e-6  # small, but through an open gate
    every = torch.cat([w.detach().flatten() for w in diff.w.values()]).abs()
    diff.fix()
    kept = torch.cat([mask.flatten() for mask in diff.masks])
    assert set(kept.nonzero().squeeze(-1).tolist()) == {0, *every.topk(10).indices.tolist()}
    assert int(kept.sum()) == 11


def test_the_mask_is_fixed_at_its_share_of_the_updates_and_survives():
    diff, other = trained_diff(False), trained_diff(False)
    hook = Fixing(diff, 0.5)
    for index in range(1, 5):
        assert diff.masks is None
        hook(Step(index, 10, 0.0))
    hook(Step(5, 10, 0.0))
    masks = diff.masks
    hook(Step(6, 10, 0.0))
    assert diff.masks is masks
    Fixing(other, 0.5).load_state_dict(hook.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(masks, other.masks, strict=True))
    Fixing(other, 0.5).load_state_dict({})
    assert other.masks is None


def test_a_run_is_sparse_on_disk_and_exact_when_loaded(checkpoints: Any, tmp_path: Path):
    data = sentiment(tmp_path / "data")
    run = configure(tmp_path / "run", checkpoints["bert"], data, "method=diff_pruning",
                    **{"method.density": 0.01})  # fmt: skip
    record, _ = carry_out(run)  # proves that what is saved gives the same logits
    saved = load_file(tmp_path / "run" / "delta.safetensors")
    body = record["params"]["body_trainable"] // 2
    assert len(saved["diff.delta_values"]) == round(0.01 * body)
    assert record["params"]["stored"] == 2 * round(0.01 * body) + record["params"]["head_trainable"]
    prepared = restored(load_run(tmp_path / "run"))
    model = prepared.adaptation.model.eval()
    changed = {n: t - model.get_parameter(n) for n, t in model.diff.tensors().items()}
    flat = torch.cat([c.flatten() for c in changed.values()])
    assert torch.equal(flat.nonzero().squeeze(-1).int(), saved["diff.delta_indices"])
    flat_base = torch.cat([model.get_parameter(n).flatten() for n in changed])
    theta = torch.cat([t.flatten() for t in model.diff.tensors().values()])
    index = saved["diff.delta_indices"].long()
    assert torch.equal(theta[index], flat_base[index] + saved["diff.delta_values"])


def test_a_merged_model_has_the_same_names_as_the_base(checkpoints: Any, tmp_path: Path):
    run = tmp_path / "run"
    words = [*tiny(checkpoints["bert"]), "task=sst2", f"data.root={data_root(tmp_path)}",
             "method=diff_pruning", "method.density=0.02"]  # fmt: skip
    done = call("train", *words, f"output_dir={run}")
    assert done.status == 0, done.err
    made = call("export", run, "--format", "merged", "--out", tmp_path / "merged")
    assert made.status == 0, made.err
    names = load_file(tmp_path / "merged" / "model.safetensors")
    assert not any(name.startswith("diff.") for name in names)
    plain = call("eval", run, f"--output={tmp_path / 'again'}")
    assert plain.status == 0, plain.err
    record = json.loads((run / "result.json").read_text())
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["scores"]["loss"] == pytest.approx(record["scores"]["loss"], rel=1e-6)


def test_small_changes_of_bf16_weights_are_not_lost():
    base = {"w": nn.Parameter(torch.full((4,), 1.0, dtype=torch.bfloat16))}
    diff = Diff(base, 0.5, 9.0, False).eval()
    diff.w["w"].data.fill_(1e-4)
    assert torch.allclose(diff.tensors()["w"], torch.tensor(1.0001), atol=1e-6)
    diff.freeze()
    assert sorted(diff.tensors()["w"].tolist()) == pytest.approx([1.0, 1.0, 1.0001, 1.0001])


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("density=0", "above 0"), ("density=1.5", "at most 1"), ("stage=1", "below 1"),
        ("penalty=additive", "belongs to method.structured=true"),
        ("stage=0.5 trainer.keep=best", "before the mask"),
    ],
)  # fmt: skip
def test_bad_options(typed, why):
    with pytest.raises(ConfigError, match=why):
        settings(compose(["method=diff_pruning", *f"method.{typed}".split()]))


def test_what_is_rejected(checkpoints: Any, tmp_path: Path):
    data = sentiment(tmp_path / "data")
    run = configure(tmp_path / "run", checkpoints["bert"], data, "method=diff_pruning",
                    **{"method.density": 1e-9})  # fmt: skip
    with pytest.raises(AdaptError, match="keeps none of"):
        carry_out(run)
    model: Any = nn.Module()
    model.w = nn.Parameter(torch.zeros(2))
    start = Adaptation.of(model, frozenset()).only(lambda name: True)
    with pytest.raises(AdaptError, match="cannot follow another"):
        DiffPruning().adapt(start, Context(None, torch.Generator(), 1))


@pytest.mark.parametrize("name", ["mixout", "weight_decay_to_pretrained", "l2_sp"])
def test_regularizers_of_what_trains_let_a_run_be_loaded(name: str, checkpoints: Any, tmp_path):
    """A sparse run has nothing to train any more when it is loaded."""
    data = sentiment(tmp_path / "data")
    run = configure(tmp_path / "run", checkpoints["bert"], data, "method=diff_pruning",
                    f"regularizer=[{name}]", **{"trainer.max_steps": 2})  # fmt: skip
    carry_out(run)  # proves that what is saved gives the same logits
    restored(load_run(tmp_path / "run"))
