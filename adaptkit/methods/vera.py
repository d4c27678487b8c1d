"""VeRA: frozen random projections, trained scales (Kopiczko et al. 2023, arXiv:2310.11454).

    y = W x + bias + b * (B (d * (A x))),   A [r, in], B [out, r] random and frozen,
    d [r] starts at 0.1, b [out] at zero, so that training starts from the body

A is shared by all maps with the same number of inputs, B by all with the same number of outputs: a
single pair if all adapted maps have one shape, as in the paper. They are drawn again from
`projection_seed` whenever they are needed and are never saved.

Count: the sum of r + out over the adapted maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, within
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import check_roles, sites
from adaptkit.models.body import device_of

if TYPE_CHECKING:
    from adaptkit.layers.vera import Scaled
    from adaptkit.models.anatomy import Site


@dataclass(frozen=True)
class VeRA:
    """Train the scales of random projections of rank `rank` next to the maps named by `roles`."""

    sized_by: ClassVar[Size] = Size("rank")
    rank: int = 256  # rank of the frozen projections
    roles: tuple[str, ...] = ("query", "value")  # maps that are adapted
    d_initial: float = 0.1  # start of the trained vector d
    projection_seed: int = 0  # seed of the frozen projections

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        above("method.d_initial", self.d_initial, 0)
        within("method.projection_seed", self.projection_seed, 0, 2**32)
        check_roles(self.roles)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach the vectors to every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family.
        """
        from adaptkit.layers.low_rank import attach_updates
        from adaptkit.layers.vera import Projections, Scaled

        device, empty = device_of(start.model), context.stage == "plan"
        shared = Projections(self.projection_seed, self.rank, device, empty)

        def build(site: Site) -> Scaled:
            return Scaled(shared.low(site.fan_in), shared.up(site.fan_out), self.d_initial)

        merge = attach_updates(start.model, sites(start.model, self.roles), build)
        return start.added(".lora.", merge)
