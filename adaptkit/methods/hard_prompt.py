"""Hard prompts: the model is asked in words and nothing is trained.

The task's form says how (task.form=cloze or text, task.template, task.words, task.shots). Rows with
their answers in front of the text are in-context learning (Brown et al. 2020, arXiv:2005.14165).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, no_op
from adaptkit.errors import ConfigError
from adaptkit.models.heads import HEADS


@dataclass(frozen=True)
class HardPrompt:
    """No parameter trains; the pretrained head answers."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Freeze everything.

        Raises:
            ConfigError: the task's head is new, so that it knows nothing without training.
        """
        if HEADS[context.head].new:
            raise ConfigError(
                "method=hard_prompt: trains nothing, and this task has a new head. Set "
                "task.form=text, or task.form=cloze for a class or a number."
            )
        return replace(start.only(lambda name: False), merge=no_op)
