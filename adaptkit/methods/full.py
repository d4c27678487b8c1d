"""Full fine-tuning: every parameter of body and head is trained (the identity among methods).

Count: all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, no_op


@dataclass(frozen=True)
class Full:
    """Train everything."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Return `start`, in which everything is trained."""
        return replace(start, merge=no_op)  # all of it is in the body's own weights
