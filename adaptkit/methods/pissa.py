"""PiSSA: learn the principal part of each matrix (Meng et al. 2024, arXiv:2404.02948).

    y = (W - s B0 A0) x + b + s B A x,   s B0 A0 the part of W with the r largest singular values,
    A [r, in] and B [out, r] start at A0 and B0,   s = alpha / r

Computed as y = W x + b + s (B A - B0 A0) x, which is the same: W stays as it is, training starts
from the body to the bit, and the saved delta needs no residual body, because it holds A0 and B0.
Dropout acts on the input of B A alone. Where query, key and value are one fused map, each has a
principal part of its own.

Count: the sum of r (in + out) over the adapted maps learns; twice that is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, each_of, within
from adaptkit.models.anatomy import ROLES, sites

if TYPE_CHECKING:
    from adaptkit.layers.pissa import Principal
    from adaptkit.models.anatomy import Site

CHOICES = (*ROLES, "ffn", "all")


@dataclass(frozen=True)
class PiSSA:
    """Let the principal part of rank `rank` learn in the maps named by `roles`."""

    rank: int = 8
    alpha: float = 8.0  # the paper: the same as rank
    dropout: float = 0.0
    roles: tuple[str, ...] = ("query", "value")
    niter: int | None = None  # None: exact decomposition; else rounds of a faster, randomised one

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        above("method.alpha", self.alpha, 0)
        within("method.dropout", self.dropout, 0, 1)
        if self.niter is not None:
            at_least("method.niter", self.niter, 0)
        each_of("method.roles", self.roles, CHOICES)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Decompose every map in `roles` and let its principal part learn.

        Raises:
            AdaptError: a role matches nothing in this family, or the rank exceeds a matrix's.
        """
        import torch

        from adaptkit.layers.low_rank import beside, fitting, weight_at
        from adaptkit.layers.pissa import Principal, principal_part

        model, scale = start.model, self.alpha / self.rank

        def build(site: Site) -> Principal:
            weight, rank = weight_at(model, site), fitting(self.rank, site)
            if context.stage != "train":
                low, up = weight.new_zeros(rank, site.fan_in), weight.new_zeros(site.fan_out, rank)
            else:
                with torch.no_grad():
                    low, up = principal_part(weight / scale, rank, self.niter, context.generator)
            return Principal(low, up, scale, self.dropout)

        merge = beside(model, sites(model, self.roles), build)
        return start.added(".lora.", merge)
