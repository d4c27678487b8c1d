"""Child-Tuning: update a part of the network (Xu et al. 2021, arXiv:2109.05687).

    F   g <- g M / p,   M ~ Bernoulli(p) for every number of every update, of all that trains
    D   g <- g M,       M fixed: the share p of all weights in the layers whose Fisher information
                        is largest; embeddings, pooler and head are trained as usual
    p                   `share`

Gradients are masked after they are clipped, as in the authors' code. In F a masked weight still
moves by Adam's momentum. The Fisher information is the mean squared gradient over the training rows
at the start; `fisher=batch` is the authors' code, `fisher=example` the paper. Exactly round(p N)
weights are chosen, of equal ones the first.

Deviation: outside D's child network weights keep their values exactly; in the authors' code weight
decay moves them (`decay`). `outside=zero` sets them to zero, the paper's comparison with pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from adaptkit.adaptation import Adaptation, Context, Step
from adaptkit.errors import AdaptError, invalid, share_of_one
from adaptkit.models.depth import layer_numbers


@dataclass(frozen=True)
class ChildTuning:
    """Mask gradients at random (F), or outside the weights that matter most (D)."""

    # F: a new random mask in every update, D: one by Fisher information
    mode: Literal["F", "D"] = "D"
    share: float = 0.3  # of the weights that are updated
    fisher: Literal["batch", "example"] = "batch"  # D: what the squared gradients are of
    outside: Literal["frozen", "zero"] = "frozen"  # D: what the other weights of the layers are
    decay: bool = False  # D: the other weights decay as well

    where: ClassVar[str] = "regularizer.child_tuning"

    def __post_init__(self) -> None:
        share_of_one(f"{self.where}.share", self.share)
        if self.mode == "D":
            return
        plain = ChildTuning()
        for name in ("fisher", "outside", "decay"):
            if (value := getattr(self, name)) != getattr(plain, name):
                raise invalid(f"{self.where}.{name}", value, "belongs to mode D", "Leave it out")

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the hooks that mask gradients; D passes over the training rows once.

        Raises:
            AdaptError: D, and nothing in the layers trains, or nothing of it would be kept.
        """
        if self.mode == "D":
            return self._fixed(start, context)
        if context.stage != "train":  # a plan has no numbers
            return start
        import torch

        from adaptkit.layers.child import mask_at_random

        seed = int(torch.randint(2**62, (), generator=context.generator))

        def mask(step: Step) -> None:
            mask_at_random(start.trainable, self.share, seed + step.index)

        return start.plus(before_update=mask)

    def _fixed(self, start: Adaptation, context: Context) -> Adaptation:
        body = start.body_trainable()
        inside = layer_numbers(start.model, body) if body else {}
        if not inside:
            raise AdaptError(
                f"{self.where.split('.')[0]}=child_tuning: mode D chooses weights inside the "
                "layers, and this method trains none there. Choose another method, or "
                f"{self.where}.mode=F."
            )
        count = sum(start.trainable[name].numel() for name in inside)
        if round(self.share * count) == 0:
            raise invalid(f"{self.where}.share", self.share, f"keeps none of {count:,} numbers",
                          "Raise it")  # fmt: skip
        if context.stage != "train":
            return start
        from adaptkit.layers.child import Child, fisher, largest

        parameters = {name: start.trainable[name] for name in inside}
        scores = fisher(start.model, parameters, context, self.fisher == "example")
        masks = largest(scores, self.share)
        child = Child(parameters, masks, self.outside == "zero", self.decay)
        return start.plus(before_update=child, after_update=child.after)
