"""P-tuning v2: prefixes in every layer under a classifier (Liu et al. 2021, arXiv:2110.07602).

    softmax(q [P_K; K]^T / sqrt(s)) [P_V; V]   in every attention, the body frozen

Prefix tuning for understanding: keys and values are trained directly, start N(0, 1) and are dropped
out in training. `projection` puts an MLP of that inner width before them; only its result is kept.
The answer comes from the task's head over the text, without verbaliser: linear if the body has a
pretrained pooler or uses none. A dense map that the checkpoint lacks (RoBERTa) is trained with it;
the authors' code freezes it as it was drawn. Positions are not shifted (the
authors' code shifts them by P), and the body's own dropout stays as the model has it.

Count: 2 P w L per kind of attention, w the width of its keys (of all key-value heads); with the
MLP (P d + d m + m) + (m + 1) 2 w L, d the width of the layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least, within
from adaptkit.methods.size import Size


@dataclass(frozen=True)
class PTuningV2:
    """Train `length` keys and values in front of every attention; the body is frozen."""

    sized_by: ClassVar[Size] = Size("length")
    length: int = 20  # trained positions in every layer
    projection: int | None = None  # inner width of the MLP that generates the prefix; null: no MLP
    dropout: float = 0.1  # on keys and values

    def __post_init__(self) -> None:
        at_least("method.length", self.length, 1)
        at_least("method.projection", self.projection or 0, 0)
        within("method.dropout", self.dropout, 0, 1)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put a prefix before every attention.

        Raises:
            AdaptError: the family computes attention in its own way.
        """
        from adaptkit.layers.prefix import Shape, attach_prefixes

        shape = Shape(self.length, self.projection or 0)
        return attach_prefixes(start, context, shape, self.dropout, scale=1.0)
