"""What forms share whose loss reads logits of the vocabulary at the tokens that have a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.task import Form

if TYPE_CHECKING:
    from torch import Tensor


class VocabularyForm(Form):
    """A target [B, T] per token, IGNORED where there is none."""

    outputs: ClassVar[None] = None

    def read_at(self, batch: Batch) -> Tensor:
        """Return where there is a target: rows and columns [2, N]."""
        return batch.targets["kept"]

    def summed_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the tokens that have a target."""
        from adaptkit.models.vocabulary_loss import vocabulary_loss

        rows, columns = kept = self.read_at(batch)  # fewer by far than all, where answers are read
        return vocabulary_loss(logits_at(outputs, kept), batch.targets["target"][rows, columns])

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the logits [N, V] of the tokens that have a target."""
        return logits_at(outputs, self.read_at(batch))


def logits_at(outputs: Any, kept: Tensor) -> Tensor:
    """Return the logits [N, V] in the rows and columns kept [2, N], which are in order.

    There may be no others: in training the model computes them alone (`models.places`).
    """
    logits, (rows, columns) = outputs.logits, kept
    return logits[0] if logits.shape[:2] == (1, len(rows)) else logits[rows, columns]
