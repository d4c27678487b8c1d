"""LoRA: low-rank updates beside frozen matrices (Hu et al. 2021, arXiv:2106.09685).

    y = W x + b + s B A dropout(x),   A [r, in], B [out, r],   s = alpha / r

A starts Kaiming-uniform (a = sqrt 5, as in the authors' loralib; the paper says Gaussian), B at
zero, so that training starts from the body. Rank-stabilised: s = alpha / sqrt r (Kalajdzievski
2023, arXiv:2312.03732). Where query, key and value are one fused map, each gets a pair of its own.

Count: the sum of r (in + out) over the adapted maps; 4 H r L for query and value of an encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, invalid, one_of, within
from adaptkit.models.anatomy import ROLES, expand, is_bias, sites

CHOICES = (*ROLES, "ffn", "all")


@dataclass(frozen=True)
class LoRA:
    """Add a trainable pair of rank `rank` to the maps named by `roles`; the rest is frozen."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0  # on the input of the low-rank branch
    roles: tuple[str, ...] = ("query", "value")
    rank_stabilised: bool = False
    bias: Literal["none", "lora_only", "all"] = "none"  # which biases learn as well

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        above("method.alpha", self.alpha, 0)
        within("method.dropout", self.dropout, 0, 1)
        for role in self.roles or ("",):
            one_of("method.roles", role, CHOICES)

    @property
    def scale(self) -> float:
        """The factor s before B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put a low-rank pair beside every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family, or the rank exceeds a matrix's.
        """
        from adaptkit.layers.low_rank import LowRank, Pair

        maps, device = [], next(start.model.parameters()).device
        for site in sites(start.model, expand(self.roles)):
            low = min(site.fan_in, site.fan_out)
            if self.rank > low:
                raise invalid("method.rank", self.rank, f"exceeds the rank {low} of {site.name}")
            pair = Pair(site.fan_in, site.fan_out, self.rank, context.generator, device)
            maps.append(LowRank.beside(start.model, site, pair, self.scale, self.dropout))
        maps = list(dict.fromkeys(maps))  # a fused map carries several pairs
        adapted = {name for name, module in start.model.named_modules() if module in maps}
        chosen = start.only(lambda name: ".lora." in name or self._bias_learns(name, adapted))

        def merge() -> None:
            for low_rank in maps:
                low_rank.merge(start.model)

        return replace(chosen, merge=merge)

    def _bias_learns(self, name: str, adapted: set[str]) -> bool:
        if self.bias == "none" or not is_bias(name):
            return False
        return self.bias == "all" or name.rpartition(".")[0] in adapted
