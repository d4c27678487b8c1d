"""Weight-decomposed low-rank update: a direction and a magnitude (Liu et al. 2024, 2402.09353)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptkit.layers.low_rank import Pair, Pass
from adaptkit.models.anatomy import Site


class Decomposed(Pair):
    """W' = m (W + s B A) / ||W + s B A||, row by row; m [out] starts at ||W||.

    The output gains (m/n - 1) W x + (m/n) s B A x with n = ||W + s B A|| [out], through which no
    gradient flows (section 4.3 of the paper). ||W||^2 is computed once, as long as W is frozen; the
    rest of n^2 = ||W||^2 + 2 s <W, B A> + s^2 ||B A||^2 needs products with r columns only. An
    output whose row of W is zero has no direction, and stays as it is. Dropout acts on x in both
    terms. Count: r (in + out) + out.
    """

    square: Tensor

    def __init__(
        self,
        weight: Tensor,
        site: Site,
        rank: int,
        scale: float,
        dropout: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__(site, rank, scale, dropout, generator, device)
        self.register_buffer("square", squares(weight), persistent=False)  # ||W||^2 [out]
        self.magnitude = nn.Parameter(self.square.sqrt())

    def forward(self, at: Pass) -> Tensor:
        """Return (m/n - 1) W x + (m/n) s B A x, [..., out]."""
        low = self.dropout(at.x)
        known = None if at.weight.requires_grad else self.square
        gain = self.magnitude / self.norm(at.weight, at.rows, known)
        up = at.spread(gain.unsqueeze(1) * (self.scale * self.B))
        more = at.spread(gain - 1)
        if low is at.x:  # W x is y - b, and b goes into the small product: no other pass over y
            output, shift = at.y, None if at.bias is None else -more * at.bias
        else:
            output, shift = F.linear(low, at.weight), None
        return torch.addcmul(F.linear(F.linear(low, self.A), up, shift), output, more)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return W' - W, [out, in]."""
        gain = (self.magnitude / self.norm(weight)).unsqueeze(1)
        return (gain - 1) * weight + gain * super().matrix(weight)

    @torch.no_grad()
    def norm(
        self, weight: Tensor, rows: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Return ||W + s B A|| of every output, [out], in fp32; 1 if it is 0.

        weight: W [out, in]. rows: the outputs of this role. known: ||W||^2 [out], if it need not
        be computed again.
        """
        with torch.autocast(weight.device.type, enabled=False):
            own = slice(None) if rows is None else rows
            across = F.linear(weight.float(), self.A)[own]  # W A^T, [out, r]
            square = squares(weight.float())[own] if known is None else known
            twice = 2 * across + self.scale * F.linear(self.B, self.A @ self.A.t())
            norm = (square + self.scale * (self.B * twice).sum(1)).clamp(min=0).sqrt()
            return norm.masked_fill(norm == 0, 1.0)


def squares(weight: Tensor) -> Tensor:
    """Return ||W||^2 of every row, [out]."""
    return weight.square().sum(1)
