"""R-Drop: two dropout masks, one prediction (Liang et al. 2021, arXiv:2106.14448).

    loss = (L(f1(x)) + L(f2(x))) / 2 + alpha / 2 (KL(p1 || p2) + KL(p2 || p1))

f1 and f2 are the model with two draws of its dropout, p1 and p2 what it predicts; of numbers the
distance is (p1 - p2)^2. The paper's formula sums both losses; the authors' code takes their mean,
as here. The penalty is all of this but L(f1(x)), which the trainer adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptkit.adaptation import Adaptation, Batch, Context, Step
from adaptkit.errors import AdaptError, at_least
from adaptkit.regularizers.passes import form_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RDrop:
    """Keep predictions the same under another dropout mask."""

    alpha: float = 0.5  # weight of the divergence

    def __post_init__(self) -> None:
        at_least("regularizer.r_drop.alpha", self.alpha, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the penalty: one more pass per batch.

        Raises:
            AdaptError: the model has no dropout, or reads features that are computed once.
        """
        form = form_of("r_drop", start, context)
        if context.stage == "restore":
            return start
        from adaptkit.layers.consistency import distance
        from adaptkit.models.body import draws_dropout

        if not draws_dropout(start.model):
            raise AdaptError(
                "regularizer=r_drop: compares two dropout masks, and this model has no dropout. "
                "Use regularizer=r3f."
            )

        def penalty(forward: Callable[..., Any], batch: Batch, outputs: Any, step: Step) -> Tensor:
            """Return the scalar of the formula, without the loss of the first pass."""
            other = forward()
            views = form.compared(outputs, batch), form.compared(other, batch)
            losses = form.loss(other, batch) - form.loss(outputs, batch)
            apart = distance(*views, form.squared)
            return losses / max(batch.weight, 1) / 2 + self.alpha / 2 * apart

        return replace(start, passes=start.passes + 1).plus(penalty={"r_drop": penalty})
