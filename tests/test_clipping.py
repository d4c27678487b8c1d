"""Clipping of gradients against its definition, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from commandline import call, tiny, write
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer

from adaptkit.training.clipping import clip, total_norm
from adaptkit.training.trainer import AdaptTrainer

SHAPES = [(7, 5), (5,), (1,), (), (2, 3, 4), (0, 4), (300, 1)]


def parameters(scale: float, shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for one in made:
        one.grad = torch.randn(one.shape, generator=generator) * scale
    return [*made, nn.Parameter(torch.zeros(3))]  # the last has no gradient


def norm(gradients: list[Any]) -> float:
    return sum(float(one.double().square().sum()) for one in gradients if one is not None) ** 0.5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_definition(scale):
    given = parameters(scale, SHAPES)
    before = [None if one.grad is None else one.grad.clone() for one in given]
    whole = norm(before)
    found = clip(given, 1.0)
    assert found.shape == () and float(found) == pytest.approx(whole, rel=1e-6)
    for one, was in zip(given, before, strict=True):
        if was is None:
            assert one.grad is None
        elif whole + 1e-6 <= 1:
            assert torch.equal(one.grad, was)
        else:
            torch.testing.assert_close(one.grad, was / (whole + 1e-6))
    assert norm([one.grad for one in given]) <= 1 + 1e-6


def test_a_large_table_is_exact():
    [table, _] = parameters(1e-3, [(30_522, 96)])
    whole = norm([table.grad])
    assert float(total_norm([table.grad])) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_visible(bad):
    given = parameters(1.0, SHAPES)
    given[0].grad[2, 3] = bad
    theirs = parameters(1.0, SHAPES)
    theirs[0].grad[2, 3] = bad
    found = clip(given, 1.0)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert torch.equal(found.isnan(), expected.isnan()) and not found.isfinite()
    for one, other in zip(given, theirs, strict=True):
        assert one.grad is None or torch.equal(one.grad.isnan(), other.grad.isnan())


def test_nothing_to_clip():
    assert float(clip([nn.Parameter(torch.ones(2))], 1.0)) == 0


def test_a_run_clips_so(checkpoints, tmp_path, monkeypatch):
    """Weights are those of the Trainer's own clipping, on a model too small for a difference."""
    rows = [{"text": "a good film" if n % 2 else "bad", "label": n % 2} for n in range(16)]
    for split in ("train", "validation"):
        write(tmp_path / "rows" / f"{split}.jsonl", rows)
    words = ["train", *tiny(checkpoints["bert"]), "task=classify", f"task.path={tmp_path / 'rows'}",
             "task.text=text", "method=full", "trainer.max_grad_norm=0.05", "trainer.max_steps=4",
             "trainer.precision=fp32", "trainer.device=cpu"]  # fmt: skip
    used: list[float] = []

    def noted(self: Any, model: nn.Module) -> Any:
        used.append(norm([one.grad for one in model.parameters()]))
        found = own(self, model)
        assert float(found) == pytest.approx(used[-1], rel=1e-6)
        assert norm([one.grad for one in model.parameters()]) == pytest.approx(0.05, rel=1e-4)
        return found

    own = AdaptTrainer._clip_grad_norm
    monkeypatch.setattr(AdaptTrainer, "_clip_grad_norm", noted)
    assert call(*words, f"output_dir={tmp_path / 'own'}").status == 0 and min(used) > 0.06
    monkeypatch.setattr(AdaptTrainer, "_clip_grad_norm", Trainer._clip_grad_norm)
    assert call(*words, f"output_dir={tmp_path / 'theirs'}").status == 0
    one, other = (load_file(tmp_path / name / "delta.safetensors") for name in ("own", "theirs"))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
