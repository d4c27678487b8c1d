"""DoRA: LoRA for the direction, a vector for the magnitude (Liu et al. 2024, arXiv:2402.09353).

    W' = m (W + s B A) / ||W + s B A||,   A [r, in], B [out, r], m [out],   s = alpha / r

The norm is taken over the inputs of each output, no gradient flows through it, and m starts at
||W||, so that training starts from the body. The bias is left as it is.

Count: the sum of r (in + out) + out over the adapted maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, each_of, within
from adaptkit.models.anatomy import ROLES, sites

CHOICES = (*ROLES, "ffn", "all")


@dataclass(frozen=True)
class DoRA:
    """Learn direction (rank `rank`) and magnitude of the maps named by `roles`."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0  # on the input; costs another pass through the frozen maps
    roles: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        above("method.alpha", self.alpha, 0)
        within("method.dropout", self.dropout, 0, 1)
        each_of("method.roles", self.roles, CHOICES)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put a decomposed update beside every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family, or the rank exceeds a matrix's.
        """
        from adaptkit.layers.dora import Decomposed
        from adaptkit.layers.low_rank import beside, fitting, weight_at

        model, scale = start.model, self.alpha / self.rank
        device = next(model.parameters()).device
        found = sites(model, self.roles)
        merge = beside(
            model,
            found,
            lambda site: Decomposed(
                weight_at(model, site), site, fitting(self.rank, site), scale, self.dropout,
                context.generator, device,
            ),
        )  # fmt: skip
        return start.added(".lora.", merge)
