"""L2-SP: decay towards the pretrained weights (Li et al. 2018, arXiv:1802.01483).

    penalty = alpha / 2 * sum (w - w0)^2 over the body + beta / 2 * sum v^2 over the head

w0 is the value at the start of training: the pretrained weights under full fine-tuning, the
initial values of the added tensors under a method that adds some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from adaptkit.adaptation import Adaptation, Batch, Context, Step
from adaptkit.errors import at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class L2SP:
    """Pull the trained part of the body back to its start, and the head to zero."""

    alpha: float = 0.01  # pull of the base model towards its pretrained weights
    beta: float = 0.01  # pull of the head towards zero

    def __post_init__(self) -> None:
        at_least("regularizer.l2_sp.alpha", self.alpha, 0)
        at_least("regularizer.l2_sp.beta", self.beta, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the penalty; it keeps a copy of the body's trainable part."""
        if context.stage == "restore":  # nothing will be trained
            return start
        body = start.body_trainable()
        anchor = {name: weight.detach().clone() for name, weight in body.items()}
        head = [start.trainable[name] for name in sorted(start.head & start.trainable.keys())]

        def penalty(forward: Callable[..., Any], batch: Batch, outputs: Any, step: Step) -> Tensor:
            """Return the scalar of the formula; it looks at the weights only."""
            distances = [((w - anchor[n]) ** 2).sum() for n, w in body.items()]
            sizes = [(v**2).sum() for v in head]
            return cast("Tensor", self.alpha / 2 * sum(distances) + self.beta / 2 * sum(sizes))

        return start.plus(penalty={"l2_sp": penalty})
