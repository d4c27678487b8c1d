"""R3F and R4F: predictions must not change under noise (Aghajanyan et al. 2021, arXiv:2008.03156).

    penalty = lambda D(f(x), f(x + e)),   e uniform in +-eps, or normal, on the word embeddings
    D(p, q) = KL(p || q) + KL(q || p)     of numbers (p - q)^2; a mean over rows, words or tokens

Gradients flow through both passes. With `dropout=independent` they draw their own dropout masks, as
in the authors' code. D is then mostly their difference: with eps 1e-5 the noise itself adds next to
nothing. `dropout=shared` uses the masks of the first pass again and keeps the effect of the noise.
Noise is added in fp32: in bf16 it would be rounded away.

R4F bounds the head as well: `bounded` divides its last linear map, or all of them, by the largest
singular value. The weights that are saved are divided already.

Deviation: the authors' code sends no gradient of the second pass into the word embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptkit.adaptation import Adaptation, Batch, Context, Step
from adaptkit.errors import AdaptError, at_least
from adaptkit.regularizers.passes import form_of

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class R3F:
    """Keep predictions the same under noise on the embeddings."""

    strength: float = 1.0  # lambda of the formula
    noise: float = 1e-5  # eps of the formula
    kind: Literal["uniform", "normal"] = "uniform"  # distribution of the noise
    dropout: Literal["independent", "shared"] = "independent"  # masks of the second pass

    name: ClassVar[str] = "r3f"

    def __post_init__(self) -> None:
        at_least(f"regularizer.{self.name}.strength", self.strength, 0)
        at_least(f"regularizer.{self.name}.noise", self.noise, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the penalty: one more pass per batch.

        Raises:
            AdaptError: the model reads features that are computed once, so there is no embedding.
        """
        form = form_of(self.name, start, context)
        if context.stage == "restore":
            return start
        from adaptkit.layers.consistency import Draws, Noise, distance

        model = start.model
        noise, draws = Noise(model, self.noise, self.kind), Draws(model)

        def penalty(forward: Callable[..., Any], batch: Batch, outputs: Any, step: Step) -> Tensor:
            """Return the scalar of the formula."""
            device = next(model.parameters()).device
            with ExitStack() as during:
                during.enter_context(noise.on(device))
                if self.dropout == "shared":
                    during.enter_context(draws.again(device))
                other = forward()
            views = form.compared(outputs, batch), form.compared(other, batch)
            return self.strength * distance(*views, form.squared)

        return replace(start, passes=start.passes + 1).plus(penalty={self.name: penalty})


@dataclass(frozen=True)
class R4F(R3F):
    """R3F with a bounded head."""

    bounded: Literal["last", "all"] = "last"  # which linear maps of the head

    name: ClassVar[str] = "r4f"

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the penalty, and bound the head.

        Raises:
            AdaptError: as R3F, or the head has no new linear map.
        """
        maps = linear_maps(start)
        if not maps:
            raise AdaptError(
                "regularizer=r4f: bounds a new head, and this task has a pretrained one. Use "
                "regularizer=r3f."
            )
        adapted = super().adapt(start, context)
        if context.stage == "restore":  # saved as divided
            return adapted
        from adaptkit.layers.consistency import Bounded

        for module in maps if self.bounded == "all" else maps[-1:]:
            adapted = adapted.plus(finish=Bounded(module).fold)
        return adapted


def linear_maps(start: Adaptation) -> list[nn.Linear]:
    """Return the head's linear maps that train, in the order of the model."""
    from torch import nn

    return [
        module for name, module in start.model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in start.head & start.trainable.keys()
    ]  # fmt: skip
