"""PiSSA: train the principal part of each matrix (Meng et al. 2024, arXiv:2404.02948).

    y = (W - s B0 A0) x + b + s B A x,   s B0 A0 the part of W with the r largest singular values,
    A [r, in] and B [out, r] start at A0 and B0,   s = alpha / r

Computed as y = W x + b + s (B A - B0 A0) x, which is the same: W stays as it is, training starts
from the body to the bit, and the saved delta needs no residual body, because it holds A0 and B0.
Dropout acts on the input of B A only. If query, key and value are one fused map, each has a
principal part of its own.

Count: the sum of r (in + out) over the adapted maps is trained; twice that is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least
from adaptkit.methods.checks import check_low_rank
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import sites

if TYPE_CHECKING:
    from adaptkit.layers.pissa import Principal
    from adaptkit.models.anatomy import Site


@dataclass(frozen=True)
class PiSSA:
    """Train the principal part of rank `rank` of the maps named by `roles`."""

    sized_by: ClassVar[Size] = Size("rank")
    rank: int = 8  # rank of the part that is trained
    alpha: float = 8.0  # scale of the update: alpha / rank
    dropout: float = 0.0  # on the input of the low-rank branch
    roles: tuple[str, ...] = ("query", "value")  # maps that are adapted
    niter: int | None = None  # null: exact decomposition; else rounds of a faster, randomised one

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.alpha, self.dropout, self.roles)
        if self.niter is not None:
            at_least("method.niter", self.niter, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Decompose every map in `roles` and train its principal part.

        Raises:
            AdaptError: a role matches nothing in this family, or the rank exceeds a matrix's.
        """
        import torch

        from adaptkit.layers.low_rank import attach_updates, check_rank, weight_at
        from adaptkit.layers.pissa import Principal, principal_part

        model, scale = start.model, self.alpha / self.rank

        def build(site: Site) -> Principal:
            weight, rank = weight_at(model, site), check_rank(self.rank, site)
            if context.stage != "train":
                low, up = weight.new_zeros(rank, site.fan_in), weight.new_zeros(site.fan_out, rank)
            else:
                with torch.no_grad():
                    low, up = principal_part(weight / scale, rank, self.niter, context.generator)
            return Principal(low, up, scale, self.dropout)

        return start.added(".lora.", attach_updates(model, sites(model, self.roles), build))
