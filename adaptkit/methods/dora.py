"""DoRA: LoRA for the direction, a vector for the magnitude (Liu et al. 2024, arXiv:2402.09353).

    W' = m (W + s B A) / ||W + s B A||,   A [r, in], B [out, r], m [out],   s = alpha / r

The norm is taken over the inputs of each output, no gradient flows through it, and m starts at
||W||, so that training starts from the body. The bias is left as it is.

Count: the sum of r (in + out) + out over the adapted maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.methods.checks import check_low_rank
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import sites
from adaptkit.models.body import device_of
from adaptkit.models.other_maps import required_other_maps

if TYPE_CHECKING:
    from adaptkit.models.anatomy import Site


@dataclass(frozen=True)
class DoRA:
    """Train direction (rank `rank`) and magnitude of the maps named by `roles`."""

    sized_by: ClassVar[Size] = Size("rank")
    rank: int = 8  # rank of the update
    alpha: float = 16.0  # scale of the update: alpha / rank
    dropout: float = 0.0  # on the input; costs another pass through the frozen maps
    roles: tuple[str, ...] = ("query", "value")  # maps that are adapted

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.alpha, self.dropout, self.roles, extra=("other",))

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach a decomposed update to every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family, or the rank exceeds a matrix's.
        """
        from adaptkit.layers.dora import Decomposed
        from adaptkit.layers.low_rank import attach_updates, check_rank, weight_at

        model, device, scale = start.model, device_of(start.model), self.alpha / self.rank

        def build(site: Site) -> Decomposed:
            weight, rank = weight_at(model, site), check_rank(self.rank, site)
            return Decomposed(weight, site, rank, scale, self.dropout, context.generator, device)

        adapted = sites(model, self.roles)
        if "other" in self.roles:
            adapted += required_other_maps(model, start.loaded)
        return start.added(".lora.", attach_updates(model, adapted, build))
