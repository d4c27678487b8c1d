"""Principal singular values and vectors as a low-rank pair (Meng et al. 2024, 2404.02948)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptkit.layers.low_rank import Pass


class Principal(nn.Module):
    """s (B A - B0 A0) x: the change of B A since it was the principal part of W.

    A, A0 [r, in], B, B0 [out, r]; the start A0, B0 is frozen and saved. Count: r (in + out).
    """

    delta_A0: Tensor
    delta_B0: Tensor

    def __init__(self, low: Tensor, up: Tensor, scale: float, dropout: float) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(low), nn.Parameter(up)
        self.register_buffer("delta_A0", low.clone())
        self.register_buffer("delta_B0", up.clone())
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, at: Pass) -> Tensor:
        """Return s (B A dropout(x) - B0 A0 x), [..., out]."""
        if self.training and self.dropout.p:
            new = F.linear(F.linear(self.dropout(at.x), self.A), at.spread(self.scale * self.B))
            old = F.linear(F.linear(at.x, self.delta_A0), at.spread(self.scale * self.delta_B0))
            return new - old
        # The same as B0 (A - A0) + (B - B0) A: exactly zero at the start, no difference of large
        # outputs (in bf16 little would be left of it), and two products instead of four.
        low = F.linear(at.x, torch.cat([self.A - self.delta_A0, self.A]))
        up = torch.cat([self.delta_B0, self.B - self.delta_B0], 1)
        return F.linear(low, at.spread(self.scale * up))

    def matrix(self, weight: Tensor) -> Tensor:
        """Return s (B A - B0 A0), [out, in]."""
        return self.scale * (self.B @ self.A - self.delta_B0 @ self.delta_A0)


def principal_part(
    weight: Tensor, rank: int, rounds: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank] with B A the best approximation of W by that rank.

    weight: W [out, in]. rounds: None for the exact decomposition; else that many rounds of subspace
    iteration from a random start (Halko et al. 2011, arXiv:0909.4061), faster for large matrices.
    """
    if rounds is None:
        up, values, low = torch.linalg.svd(weight, full_matrices=False)
    else:
        width = min(2 * rank + 10, *weight.shape)  # more columns than needed: the error is smaller
        start = torch.randn(weight.shape[1], width, generator=generator).to(weight.device)
        basis = torch.linalg.qr(weight @ start).Q
        for _ in range(rounds):
            basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.t() @ basis).Q).Q
        up, values, low = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
        up = basis @ up
    root = values[:rank].sqrt()
    return (root.unsqueeze(1) * low[:rank]).contiguous(), (up[:, :rank] * root).contiguous()
