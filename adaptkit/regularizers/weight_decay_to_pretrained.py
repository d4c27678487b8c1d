"""Decoupled weight decay towards the pretrained weights (Lee et al. 2020, arXiv:1909.11299).

    after each update:  w <- w - lr * strength * (w - w0)

lr is the rate of this update and of this parameter; w0 is the value before training: the pretrained
weights, or what a method or a regularizer before this one began with. Only the base model's trained
part is pulled; `optimizer.weight_decay` pulls towards zero as well and can be set to 0. `l2_sp` is
the coupled form, in the loss: Adam divides its gradient by its own size, so that w moves by lr
however small the penalty is.

Example: w = 1, w0 = 0.2, lr = 0.1, strength 0.01, no other gradient: 0.9992; by `l2_sp`: 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.adaptation import Adaptation, Context, Step
from adaptkit.errors import AdaptError, at_least


@dataclass(frozen=True)
class WeightDecayToPretrained:
    """Let the trained part of the body decay towards its start."""

    strength: float = 0.01  # of the decay, times the learning rate; 0: none

    def __post_init__(self) -> None:
        at_least("regularizer.weight_decay_to_pretrained.strength", self.strength, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the hook; it keeps a copy of the body's trainable part.

        Raises:
            AdaptError: nothing of the body is trained, or (while training) an update would go past
                the start: the learning rate times the strength is 1 or more.
        """
        if context.stage == "restore":  # nothing will be trained
            return start
        body = start.body_trainable()
        if not body:
            raise AdaptError(
                "regularizer=weight_decay_to_pretrained: pulls the base model back to its start, "
                "and this method trains nothing of it. Leave it out."
            )
        if not self.strength:
            return start
        anchor = {name: weight.detach().clone() for name, weight in body.items()}

        def decay(step: Step) -> None:
            for name, weight in body.items():
                share = step.rate(name) * self.strength
                if share >= 1:
                    raise AdaptError(
                        f"regularizer.weight_decay_to_pretrained.strength={self.strength}: times "
                        f"the learning rate it is {share:.3g}, and must be below 1. Lower one of "
                        "the two."
                    )
                # Weights that were read in a half format have been cast to fp32 since.
                weight.detach().lerp_(anchor[name].to(weight.dtype), share)

        return start.plus(after_update=decay)
