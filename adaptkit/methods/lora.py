"""LoRA: low-rank updates beside frozen matrices (Hu et al. 2021, arXiv:2106.09685).

    y = W x + b + s B A dropout(x),   A [r, in], B [out, r],   s = alpha / r

A starts Kaiming-uniform (a = sqrt 5, as in the authors' loralib; the paper says Gaussian), B at
zero, so that training starts from the body. `ranks` gives single roles a rank of their own, which
their s follows. Where query, key and value are one fused map, each gets a pair of its own.
`embeddings` is the table of words: A [r, V] starts at zero and B [d, r] normal there.

Rank-stabilised: s = alpha / sqrt r (Kalajdzievski 2023, arXiv:2312.03732). LoRA+: B learns
`b_lr_ratio` times as fast as A; 16 with half the usual rate (Hayou et al. 2024, arXiv:2402.12354).

Count: the sum of r (in + out) over the adapted maps; 4 H r L for query and value of an encoder;
r (V + d) for the embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, each_of, invalid, one_of, within
from adaptkit.models.anatomy import ROLES, expand, is_bias, sites, word_embeddings

if TYPE_CHECKING:
    from adaptkit.layers.low_rank import EmbeddingPair, Pair
    from adaptkit.models.anatomy import Site

CHOICES = (*ROLES, "ffn", "all", "embeddings")


@dataclass(frozen=True)
class LoRA:
    """Add a trainable pair of rank `rank` to the maps named by `roles`; the rest is frozen."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0  # on the input of the low-rank branch; the embeddings' has none
    roles: tuple[str, ...] = ("query", "value")
    ranks: dict[str, int] = field(default_factory=dict)  # role -> rank, where not `rank`
    rank_stabilised: bool = False
    b_lr_ratio: float = 1.0  # learning rate of B / that of A; above 1: LoRA+
    bias: Literal["none", "lora_only", "all"] = "none"  # which biases learn as well

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        above("method.alpha", self.alpha, 0)
        above("method.b_lr_ratio", self.b_lr_ratio, 0)
        within("method.dropout", self.dropout, 0, 1)
        each_of("method.roles", self.roles, CHOICES)
        for role, rank in self.ranks.items():
            one_of("method.ranks", role, (*ROLES, "embeddings"))
            if role not in (*expand(self.roles), *self.roles):
                raise invalid("method.ranks", role, "is not among method.roles", "Add it there")
            if not isinstance(rank, int) or isinstance(rank, bool):
                raise invalid(f"method.ranks.{role}", rank, "must be a whole number")
            at_least(f"method.ranks.{role}", rank, 1)

    def scale(self, rank: int) -> float:
        """Return the factor s before B A x."""
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put a low-rank pair beside every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family, the rank exceeds a matrix's, or the
                embeddings serve as output map as well.
        """
        from adaptkit.layers.low_rank import EmbeddingPair, Pair, beside, fitting

        model, generator = start.model, context.generator
        device = next(model.parameters()).device
        found = sites(model, self.roles)
        found += [word_embeddings(model)] if "embeddings" in self.roles else []
        made: list[Pair | EmbeddingPair] = []

        def build(site: Site) -> Pair | EmbeddingPair:
            where = f"method.ranks.{site.role}" if site.role in self.ranks else "method.rank"
            rank = fitting(self.ranks.get(site.role, self.rank), site, where)
            if site.role == "embeddings":
                pair = EmbeddingPair(site, rank, self.scale(rank), generator, device)
            else:
                pair = Pair(site, rank, self.scale(rank), self.dropout, generator, device)
            made.append(pair)
            return pair

        merge = beside(model, found, build)
        adapted = {site.module for site in found}
        chosen = start.only(lambda name: ".lora." in name or self._bias_learns(name, adapted))
        return replace(chosen.plus(lr_scale=self._faster(chosen, made)), merge=merge)

    def _faster(self, chosen: Adaptation, made: list[Pair | EmbeddingPair]) -> dict[str, float]:
        ours = {id(pair.B) for pair in made} if self.b_lr_ratio != 1 else set()
        return {n: self.b_lr_ratio for n, p in chosen.trainable.items() if id(p) in ours}

    def _bias_learns(self, name: str, adapted: set[str]) -> bool:
        if self.bias == "none" or not is_bias(name):
            return False
        return self.bias == "all" or name.rpartition(".")[0] in adapted
