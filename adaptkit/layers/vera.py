"""Frozen random projections with trained scaling vectors (Kopiczko et al. 2023, 2310.11454)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptkit.layers.low_rank import Pass


class Projections:
    """The frozen matrices: one A [r, in] per width in, one B [out, r] per width out.

    All maps of these widths share them. Kaiming-uniform, U(-sqrt(6/n), sqrt(6/n)) with n columns,
    from numpy's RandomState, whose stream is frozen for ever: seed and shape are all it takes to
    draw them again, so they are not saved. `empty`: for plans, which need no numbers.
    """

    def __init__(self, seed: int, rank: int, device: torch.device, empty: bool = False) -> None:
        self.seed, self.rank, self.device, self.empty = seed, rank, device, empty
        self.matrices: dict[tuple[int, int, int], Tensor] = {}

    def low(self, fan_in: int) -> Tensor:
        """Return A [r, in] of all maps with this many inputs."""
        return self._matrix(0, self.rank, fan_in)

    def up(self, fan_out: int) -> Tensor:
        """Return B [out, r] of all maps with this many outputs."""
        return self._matrix(1, fan_out, self.rank)

    def _matrix(self, stream: int, rows: int, columns: int) -> Tensor:
        key = stream, rows, columns
        if self.empty and key not in self.matrices:
            self.matrices[key] = torch.empty(rows, columns, device=self.device)
        if key not in self.matrices:
            bound = math.sqrt(6 / columns)
            state = np.random.RandomState([self.seed, *key])
            drawn = state.uniform(-bound, bound, (rows, columns)).astype(np.float32)
            # A copy, because NumPy's memory begins anywhere: see `precision.cast`.
            self.matrices[key] = torch.from_numpy(drawn).to(self.device, copy=True)
        return self.matrices[key]


class Scaled(nn.Module):
    """b * (B (d * (A x))): A [r, in], B [out, r] frozen, d [r] and b [out] trained, b from zero.

    Count: r + out.
    """

    low: Tensor
    up: Tensor

    def __init__(self, low: Tensor, up: Tensor, d_initial: float) -> None:
        super().__init__()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self.d = nn.Parameter(torch.full((up.shape[1],), d_initial, device=up.device))
        self.b = nn.Parameter(torch.zeros(up.shape[0], device=up.device))

    def forward(self, at: Pass) -> Tensor:
        """Return b * (B (d * (A x))), [..., out]."""
        low = self.d * F.linear(at.x, self.low)
        return at.spread(self.b) * F.linear(low, at.spread(self.up))

    def matrix(self, weight: Tensor) -> Tensor:
        """Return diag(b) B diag(d) A, [out, in]."""
        return (self.b.unsqueeze(1) * self.up * self.d) @ self.low
