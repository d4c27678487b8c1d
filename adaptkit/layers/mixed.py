"""Mixout: parameters of which a random part is replaced by what they were at the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.models.body import is_conv1d


class Unscaled(torch.autograd.Function):
    """w, whose gradient is multiplied by (1 - p) on the way back."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, p: float) -> Tensor:
        """Return w."""
        ctx.p = p
        return w.view_as(w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return (1 - p) times the gradient."""
        return grad * (1 - ctx.p), None


def mixed(w: Tensor, u: Tensor, kept: Tensor, p: float) -> Tensor:
    """Return (M w + (1 - M) u - p u) / (1 - p), whose mean over M ~ Bernoulli(1 - p) is w."""
    return (torch.where(kept, w, u) - p * u) / (1 - p)


class Mixing:
    """What `substitute` asks for: mixed parameters in training, nothing in evaluation."""

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], p: float,
        element: bool, exact: bool,
    ) -> None:  # fmt: skip
        self.model, self.parameters, self.p = model, parameters, p
        self.exact = exact
        self.start = {name: w.detach().clone() for name, w in parameters.items()}
        self.shapes: dict[str, Callable[[Tensor], tuple[int, ...]]] = {}
        for name, w in parameters.items():
            owner, _, own = name.rpartition(".")
            turned = own == "weight" and is_conv1d(model.get_submodule(owner))
            whole = element or w.dim() < 2
            self.shapes[name] = _same if whole else (_lines if turned else _columns)

    def __call__(self) -> dict[str, Tensor]:
        """Return the parameters of one call, by name."""
        if not self.model.training:
            return {}
        found = {}
        for name, w in self.parameters.items():
            kept = torch.rand(self.shapes[name](w), device=w.device) >= self.p
            value = w if self.exact else Unscaled.apply(w, self.p)
            # Weights that were read in a half format have been cast to fp32 since.
            start = self.start[name] = self.start[name].to(w.dtype)
            found[name] = mixed(value, start, kept, self.p)
        return found


def _same(w: Tensor) -> tuple[int, ...]:
    return tuple(w.shape)


def _columns(w: Tensor) -> tuple[int, ...]:
    return (*(1 for _ in w.shape[:-1]), w.shape[-1])


def _lines(w: Tensor) -> tuple[int, ...]:
    return (w.shape[0], *(1 for _ in w.shape[1:]))
