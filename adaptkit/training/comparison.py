"""By which score the evaluations of a run are compared, and which of them generate answers.

Generating takes many calls of the model per answer. With `trainer.generate_every` other than 1 not
every evaluation does it, so that all are compared by the held-out loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.tasks.task import Form, Task


@dataclass(frozen=True)
class Comparison:
    """A score, its direction, and how often answers are generated."""

    name: str
    larger_is_better: bool
    every: int = 1  # evaluations; 0: in none of them

    @classmethod
    def of(cls, task: Task, form: Form, generate_every: int) -> Comparison:
        """Return the task's headline, or the loss if it is not known after every evaluation."""
        if form.generates and generate_every != 1:
            return cls("loss", False, generate_every)
        return cls(task.headline, task.larger_is_better)

    def generates(self, number: int) -> bool:
        """Tell whether the evaluation with this number, counted from 1, generates."""
        return bool(self.every) and number % self.every == 0

    def value(self, score: float) -> float:
        """Return a score so that more is better."""
        return score if self.larger_is_better else -score
