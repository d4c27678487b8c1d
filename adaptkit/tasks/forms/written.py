"""What forms share whose answer is a text: numbers, words of classes, alternatives of a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.text import TextForm, losses_of
from adaptkit.tasks.forms.vocabulary import VocabularyForm
from adaptkit.tasks.task import LABEL, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor


@dataclass(frozen=True)
class WrittenForm(VocabularyForm):
    """The text form, with answers that are more than texts."""

    head: ClassVar[str] = "text"
    generates: ClassVar[bool] = True

    @abstractmethod
    def inner(self, reader: Reader) -> TextForm:
        """Return the form of source and target."""

    @abstractmethod
    def targets(self, rows: Dataset, reader: Reader) -> list[str]:
        """Return the right answers of labelled rows as texts."""

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Encode as the text form does."""
        if LABEL in rows.column_names:
            targets = self.targets(rows, reader)
            rows = rows.remove_columns(LABEL).add_column(LABEL, targets)
        return self.inner(reader).encode(rows, reader)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Collate as the text form does."""
        return self.inner(reader).collate(examples, reader)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the loss of the text form."""
        return losses_of(outputs, batch).sum()
