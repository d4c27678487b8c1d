"""LoRA: low-rank updates of frozen matrices (Hu et al. 2021, arXiv:2106.09685).

    y = W x + b + s B A dropout(x),   A [r, in], B [out, r],   s = alpha / r

A starts Kaiming-uniform (a = sqrt 5, as in the authors' loralib; the paper says Gaussian), B at
zero, so that training starts from the body. `ranks` gives single roles a rank of their own, which
their s follows. If query, key and value are one fused map, each gets a pair of its own.
`embeddings` is the table of words: A [r, V] starts at zero and B [d, r] normal there.

Rank-stabilised: s = alpha / sqrt r (Kalajdzievski 2023, arXiv:2312.03732). LoRA+: the rate of B is
`b_lr_ratio` times that of A; 16 with half the usual rate (Hayou et al. 2024, arXiv:2402.12354).

Count: the sum of r (in + out) over the adapted maps; 4 H r L for query and value of an encoder;
r (V + d) for the embeddings.

    >>> import torch
    >>> from transformers import GPT2Config, GPT2ForSequenceClassification
    >>> from adaptkit.counts import count
    >>> from adaptkit.models.loading import head_names
    >>> size = dict(vocab_size=20, n_embd=8, n_layer=1, n_head=2)
    >>> model = GPT2ForSequenceClassification(GPT2Config(**size))
    >>> context = Context(None, torch.Generator().manual_seed(0), total_updates=10)
    >>> adapted = LoRA(rank=2).adapt(Adaptation.of(model, head_names(model)), context)
    >>> count(adapted).body_trainable  # query and value share a map, each has a pair of its own
    64
    >>> adapted.merge()  # folded into the weights: nothing is left of the pairs
    >>> [name for name, _ in model.named_parameters() if "lora" in name]
    []
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least, invalid, one_of
from adaptkit.methods.checks import check_low_rank
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import ROLES, expand, is_bias, sites, word_embeddings
from adaptkit.models.body import device_of
from adaptkit.models.other_maps import required_other_maps

if TYPE_CHECKING:
    from adaptkit.layers.embedding_pair import EmbeddingPair
    from adaptkit.layers.low_rank import Pair
    from adaptkit.models.anatomy import Site

EXTRA = ("embeddings", "other")  # roles beyond those of a layer's maps


@dataclass(frozen=True)
class LoRA:
    """Add a trainable pair of rank `rank` to the maps named by `roles`; the rest is frozen."""

    sized_by: ClassVar[Size] = Size("rank")
    rank: int = 8  # rank of the update
    alpha: float = 8.0  # scale of the update: alpha / rank
    dropout: float = 0.0  # on the input of the low-rank branch; not for the embeddings
    roles: tuple[str, ...] = ("query", "value")  # maps that are adapted
    ranks: dict[str, int] = field(default_factory=dict)  # of single roles: +method.ranks.value=16
    rank_stabilised: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank
    b_lr_ratio: float = 1.0  # rate of B / that of A; LoRA+: 16, with half the learning rate
    bias: Literal["none", "lora_only", "all"] = "none"  # which biases are trained too

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.alpha, self.dropout, self.roles, extra=EXTRA)
        above("method.b_lr_ratio", self.b_lr_ratio, 0)
        for role, rank in self.ranks.items():
            self._check_rank_of(role, rank)

    def _check_rank_of(self, role: str, rank: int) -> None:
        one_of("method.ranks", role, (*ROLES, *EXTRA))
        if role not in (*expand(self.roles), *self.roles):
            raise invalid("method.ranks", role, "is not among method.roles", "Add it there")
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise invalid(f"method.ranks.{role}", rank, "must be a whole number")
        at_least(f"method.ranks.{role}", rank, 1)

    def scale(self, rank: int) -> float:
        """Return the factor s before B A x."""
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach a low-rank pair to every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family, the rank exceeds a matrix's, or the
                embeddings are the output map as well.
        """
        from adaptkit.layers.embedding_pair import EmbeddingPair
        from adaptkit.layers.low_rank import Pair, attach_updates, check_rank

        model, generator, device = start.model, context.generator, device_of(start.model)
        adapted = sites(model, self.roles)
        if "other" in self.roles:
            adapted += required_other_maps(model, start.loaded)
        if "embeddings" in self.roles:
            adapted.append(word_embeddings(model))

        def build(site: Site) -> Pair | EmbeddingPair:
            field = f"method.ranks.{site.role}" if site.role in self.ranks else "method.rank"
            rank = check_rank(self.ranks.get(site.role, self.rank), site, field)
            if site.role == "embeddings":
                return EmbeddingPair(site, rank, self.scale(rank), generator, device)
            return Pair(site, rank, self.scale(rank), self.dropout, generator, device)

        merge = attach_updates(model, adapted, build)
        hosts = {site.module for site in adapted}
        pairs = start.only(lambda name: ".lora." in name or self._trains_bias(name, hosts))
        new = [n for n in pairs.trainable if n.endswith(".B") and n not in start.trainable]
        rates = dict.fromkeys(new, self.b_lr_ratio) if self.b_lr_ratio != 1 else {}
        return replace(pairs.plus(lr_scale=rates), merge=merge)

    def _trains_bias(self, name: str, adapted: set[str]) -> bool:
        if self.bias == "none" or not is_bias(name):
            return False
        return self.bias == "all" or name.rpartition(".")[0] in adapted
