"""Child-Tuning as a method: full fine-tuning of a part of the network, see the regularizer.

Count: all that trains; D changes round(p N) of the N weights in the layers, and all others:
25,516,339 + 24,427,776 in BERT-base with p = 0.3, the head not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context, no_op
from adaptkit.regularizers.child_tuning import ChildTuning as Regularizer


@dataclass(frozen=True)
class ChildTuning(Regularizer):
    """Train everything, with masked gradients."""

    where: ClassVar[str] = "method"

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Train everything, and add the hooks that mask gradients."""
        return super().adapt(replace(start, merge=no_op), context)
