"""Diff pruning: a sparse difference to the pretrained weights (Guo et al. 2021, arXiv:2012.07463).

    theta = theta0 + z w,   z: hard-concrete gates, see `layers.diff`
    loss + strength / N * sum_i P(z_i != 0)         over all N numbers of the base model

Stage 1, the first `stage` of all updates, learns w and the gates. Then exactly round(density N)
numbers are kept, those whose difference is largest, and stage 2 trains them with the mask fixed.
The head is trained as usual and never pruned. `structured` multiplies every gate by a gate of its
tensor. Its penalty takes P of the product, and that of `penalty=additive` (the authors' code) the
sum of both P.

`strength` is the authors' 1.25e-7 per number times the N = 3.34e8 of their BERT-large: 42.

Deviations: the authors' stages are two runs with an optimizer and a schedule each, here they are
one run. Their gates have a constant rate, here it follows the schedule. They clip the gradients of
w and of the gates apart, here they are clipped together. They evaluate stage 1 with the last sample
of the gates, here the gates have no noise.

Count: 2 N during training (one more per tensor if structured). K = round(density N) values and as
many indices are stored, K = 547,411 at 0.5 % of BERT-base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.adaptation import Adaptation, Batch, Context, Step
from adaptkit.errors import AdaptError, above, at_least, invalid, share_of_one, within

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DiffPruning:
    """Learn which few weights of the base model change, and how."""

    density: float = 0.005  # share of the base model's numbers that change
    structured: bool = False  # also a gate for every tensor
    penalty: Literal["product", "additive"] = "product"  # structured: what is penalised
    strength: float = 42.0  # of the penalty
    alpha: float = 5.0  # gates at the start: they are open with the probability sigmoid(alpha)
    gate_lr_ratio: float = 300.0  # rate of the gates / that of the differences
    stage: float = 0.5  # share of all updates after which the mask is fixed

    def __post_init__(self) -> None:
        share_of_one("method.density", self.density)
        at_least("method.strength", self.strength, 0)
        within("method.alpha", self.alpha, -20, 20)
        above("method.gate_lr_ratio", self.gate_lr_ratio, 0)
        within("method.stage", self.stage, 0, 1)
        if self.penalty == "additive" and not self.structured:
            raise invalid("method.penalty", self.penalty, "belongs to method.structured=true",
                          "Leave it out")  # fmt: skip

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Freeze the base model and add a difference and a gate to each of its numbers.

        Raises:
            AdaptError: another method of a chain has changed the model, or nothing would be kept.
        """
        from adaptkit.layers.diff import Diff, Fixing
        from adaptkit.models.substitute import substitute

        model = start.model
        base = {n: p for n, p in model.named_parameters() if n not in start.head}
        if base.keys() - start.loaded or start.narrowed:
            raise AdaptError(
                "method=diff_pruning: changes the whole base model, so it cannot follow another "
                "method in a chain. Use it alone."
            )
        diff = Diff(base, self.density, self.alpha, self.structured)
        if diff.kept == 0:
            raise invalid("method.density", self.density, f"keeps none of {diff.count:,} numbers",
                          "Raise it")  # fmt: skip
        model.add_module("diff", diff)
        end = substitute(model, diff.tensors)

        def merge() -> None:
            diff.merge()
            end()
            del model.diff

        if context.stage == "restore":
            diff.freeze(values=False)
            return replace(start.only(lambda name: False), merge=merge)
        chosen = start.only(lambda name: name.startswith("diff."))

        def penalty(forward: Callable[..., Any], batch: Batch, outputs: Any, step: Step) -> Tensor:
            """Return the penalty of the formula; it looks at the gates only."""
            return self.strength * diff.expected(self.penalty == "product")

        adapted = chosen.plus(
            penalty={"diff_pruning": penalty},
            after_update=Fixing(diff, self.stage),
            finish=lambda: diff.freeze(values=context.stage != "plan"),
            lr_scale={"diff.alpha.*": self.gate_lr_ratio, "diff.group": self.gate_lr_ratio},
        )
        return replace(adapted, merge=merge)
