"""What forms share whose loss reads logits of the vocabulary at the tokens that have a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.padding import IGNORED
from adaptkit.tasks.task import Form

if TYPE_CHECKING:
    from torch import Tensor


class VocabularyForm(Form):
    """A target [B, T] per token, IGNORED where there is none."""

    outputs: ClassVar[None] = None

    def read_at(self, batch: Batch) -> Tensor:
        """Return where there is a target, [B, T]."""
        return batch.targets["target"] != IGNORED

    def summed_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the tokens that have a target."""
        from adaptkit.models.vocabulary_loss import vocabulary_loss

        kept = self.read_at(batch)  # fewer by far than all logits, where only answers are read
        return vocabulary_loss(logits_at(outputs, kept), batch.targets["target"][kept])

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the logits [N, V] of the tokens that have a target."""
        return logits_at(outputs, self.read_at(batch))


def logits_at(outputs: Any, mask: Tensor) -> Tensor:
    """Return the logits [N, V] where mask [B, T] is true.

    There may be no others: in training the model computes them alone (`models.places`).
    """
    logits = outputs.logits
    return logits[mask] if logits.shape[:2] == mask.shape else logits[0]
