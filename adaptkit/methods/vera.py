"""VeRA: shared random projections, learnt scaling vectors (Kopiczko et al. 2023, arXiv:2310.11454).

    y = W x + bias + b * (B (d * (A x))),   A [r, in], B [out, r] random and frozen,
    d [r] starts at 0.1, b [out] at zero, so that training starts from the body

A is shared by all maps with the same number of inputs, B by all with the same number of outputs: a
single pair where all adapted maps have one shape, as in the paper. They are drawn anew from
`projection_seed` whenever they are needed and are never saved.

Count: the sum of r + out over the adapted maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, each_of, within
from adaptkit.models.anatomy import ROLES, sites

CHOICES = (*ROLES, "ffn", "all")


@dataclass(frozen=True)
class VeRA:
    """Scale random projections of rank `rank` beside the maps named by `roles`."""

    rank: int = 256
    roles: tuple[str, ...] = ("query", "value")
    d_initial: float = 0.1
    projection_seed: int = 0

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        above("method.d_initial", self.d_initial, 0)
        within("method.projection_seed", self.projection_seed, 0, 2**32)
        each_of("method.roles", self.roles, CHOICES)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put the vectors beside every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family.
        """
        from adaptkit.layers.low_rank import beside
        from adaptkit.layers.vera import Projections, Scaled

        model = start.model
        shared = Projections(self.projection_seed, self.rank, next(model.parameters()).device)
        merge = beside(
            model,
            sites(model, self.roles),
            lambda site: Scaled(shared.low(site.fan_in), shared.up(site.fan_out), self.d_initial),
        )
        return start.added(".lora.", merge)
