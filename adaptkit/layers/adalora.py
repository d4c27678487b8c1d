"""Triplets of a singular value and two vectors, and the budget they share (Zhang et al. 2023).

Formulas: arXiv:2303.10512, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptkit.adaptation import Batch, Penalty, Step
from adaptkit.layers.low_rank import Pass
from adaptkit.models.anatomy import Site


class Triplets(nn.Module):
    """s B diag(E) A dropout(x): B [out, r], A [r, in] ~ N(0, 0.02^2), E [r] zero.

    The paper writes P Lambda Q. Count: r (in + out + 1).
    """

    def __init__(
        self,
        site: Site,
        rank: int,
        scale: float,
        dropout: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        low, up = torch.empty(rank, site.fan_in), torch.empty(site.fan_out, rank)
        self.A = nn.Parameter(low.normal_(0, 0.02, generator=generator).to(device))
        self.B = nn.Parameter(up.normal_(0, 0.02, generator=generator).to(device))
        self.E = nn.Parameter(torch.zeros(rank, device=device))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, at: Pass) -> Tensor:
        """Return s B diag(E) A dropout(x), [..., out]."""
        low = F.linear(self.dropout(at.x), self.A)
        return F.linear(self.scale * self.E * low, at.spread(self.B))

    def matrix(self, weight: Tensor) -> Tensor:
        """Return s B diag(E) A, [out, in]."""
        return (self.scale * self.B * self.E) @ self.A


def orthogonality(maps: Sequence[Triplets], strength: float) -> Penalty:
    """Return the penalty strength / (2 maps) * sum(||A A^T - I|| + ||B^T B - I||), a scalar.

    It looks at the triplets only, not at the arguments of a penalty.
    """

    def penalty(forward: Callable[..., Any], batch: Batch, outputs: Any, step: Step) -> Tensor:
        first = maps[0].A
        one = torch.eye(len(first), device=first.device)
        with torch.autocast(first.device.type, enabled=False):
            distances = [torch.linalg.norm(m.A @ m.A.t() - one) for m in maps]
            distances += [torch.linalg.norm(m.B.t() @ m.B - one) for m in maps]
            return strength * torch.stack(distances).mean()

    return penalty


@dataclass(frozen=True)
class Schedule:
    """How many triplets of all maps together are kept after `step` updates."""

    initial: int
    target: int
    start: int  # updates before anything is pruned
    end: int  # after this update the allocation is final
    every: int  # updates between allocations

    def __call__(self, step: int) -> int:
        """Return target + (initial - target) (1 - progress)^3."""
        if step >= self.end:
            return self.target
        if step <= self.start:
            return self.initial
        left = 1 - (step - self.start) / (self.end - self.start)
        return int(self.target + (self.initial - self.target) * left**3)

    def due(self, step: int) -> bool:
        """Tell whether triplets are chosen again after this update."""
        return step == self.end or (self.start < step < self.end and step % self.every == 0)


class Budget:
    """The hook after every update: it scores the triplets and sets E of the least important to 0.

    Importance of a number w: the running mean I of |w dL/dw|, times the running mean U of the
    distance between |w dL/dw| and I. Of a triplet: that of E_i, plus the means over row A_i and
    over column B_i. beta1 smooths I, beta2 smooths U.
    """

    def __init__(
        self, maps: Sequence[Triplets], schedule: Schedule, beta1: float, beta2: float
    ) -> None:
        self.maps, self.schedule = maps, schedule
        self.beta1, self.beta2 = beta1, beta2
        self.numbers: list[Tensor] = [p for m in maps for p in (m.E, m.A, m.B)]
        self.sensitivity = [torch.zeros_like(p) for p in self.numbers]
        self.uncertainty = [torch.zeros_like(p) for p in self.numbers]
        self.mask = torch.ones(len(maps), len(maps[0].E), device=maps[0].E.device)
        self.final = False

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        """Take in the gradients of the update just made; prune if it is due."""
        if not self.final and (step.index < self.schedule.end or step.index == 1):
            self._observe()
        if self.schedule.due(step.index):
            self._allocate(self.schedule(step.index))
            self._prune()
            self.final = step.index == self.schedule.end
        elif self.final:
            self._prune()

    @torch.no_grad()
    def finish(self) -> None:
        """Leave exactly `target` triplets, also if training ended early or older weights won."""
        if not self.final:
            self._allocate(self.schedule.target)
            self.final = True
        self._prune()

    def _observe(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.numbers]
        now = torch._foreach_abs(torch._foreach_mul(self.numbers, gradients))
        torch._foreach_mul_(self.sensitivity, self.beta1)
        torch._foreach_add_(self.sensitivity, now, alpha=1 - self.beta1)
        off = torch._foreach_abs(torch._foreach_sub(now, self.sensitivity))
        torch._foreach_mul_(self.uncertainty, self.beta2)
        torch._foreach_add_(self.uncertainty, off, alpha=1 - self.beta2)

    def scores(self) -> Tensor:
        """Return the importance of every triplet, [maps, r]."""
        each = torch._foreach_mul(self.sensitivity, self.uncertainty)
        rows = zip(each[::3], each[1::3], each[2::3], strict=True)
        return torch.stack([e + a.mean(1) + b.mean(0) for e, a, b in rows])

    def _allocate(self, kept: int) -> None:
        order = self.scores().flatten().argsort(descending=True, stable=True)  # exact for ties
        mask = torch.zeros_like(self.mask).flatten()
        self.mask = mask.index_fill(0, order[:kept], 1.0).view_as(self.mask)

    def _prune(self) -> None:
        for triplets, kept in zip(self.maps, self.mask, strict=True):
            triplets.E.mul_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running means, the mask, and whether it is final."""
        state = {"mask": self.mask, "final": torch.tensor(self.final)}
        for i, tensors in enumerate(zip(self.sensitivity, self.uncertainty, strict=True)):
            state |= {f"sensitivity.{i}": tensors[0], f"uncertainty.{i}": tensors[1]}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""
        self.mask = state["mask"]
        self.final = bool(state["final"])
        for i in range(len(self.numbers)):
            self.sensitivity[i].copy_(state[f"sensitivity.{i}"])
            self.uncertainty[i].copy_(state[f"uncertainty.{i}"])
