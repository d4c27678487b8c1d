"""Alternatives as texts: the right one is learnt as a target, and the likeliest one is the answer.

    source    "The ground was wet because"      targets   "it had rained.", "it was late."
    answer    argmax over the alternatives of log p(alternative | source), see `options`

The source is the context of the choice form, with its connecting words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.choice import ChoiceForm, alternatives_of
from adaptkit.tasks.forms.options import ROOM, ranked
from adaptkit.tasks.forms.text import Generation, TextForm, losses_of
from adaptkit.tasks.task import ID, LABEL, Answer, Form, Reader
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

SOURCE, OPTIONS = "source", "options"


@dataclass(frozen=True)
class AlternativesForm(Form):
    """A context in, the number of the likeliest of several texts out."""

    choice: ChoiceForm
    normalise: str = "sum"  # what the likelihood is divided by: sum | tokens | characters

    head: ClassVar[str] = "text"
    outputs: ClassVar[None] = None
    generates: ClassVar[bool] = True

    def inner(self, options: Sequence[Sequence[str]], reader: Reader) -> TextForm:
        """Return the form of source and target; targets have room for the longest alternative."""
        source, length = Template(f"{{{SOURCE}}}", "task.text"), self.choice.max_length
        texts = [text for every in options for text in every]
        longest = max(map(len, TextForm(source, length, ROOM).targets(texts, reader)))
        return TextForm(source, length, longest, Generation(max_new_tokens=longest))

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Encode as the text form does; `options` are the alternatives of every row."""
        from datasets import Dataset

        options = [alternatives_of(row, self.choice.choices) for row in rows]
        columns: dict[str, list] = {SOURCE: [self.choice.context_of(row) for row in rows]}
        if ID in rows.column_names:
            columns[ID] = rows[ID][:]
        if LABEL in rows.column_names:
            pairs = zip(options, rows[LABEL][:], strict=True)
            columns[LABEL] = [texts[number] for texts, number in pairs]
        found = self.inner(options, reader).encode(Dataset.from_dict(columns), reader)
        return found.add_column(OPTIONS, options)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Collate as the text form does, with the alternatives."""
        options = [example[OPTIONS] for example in examples]
        batch = self.inner(options, reader).collate(examples, reader)
        return batch._replace(targets={**batch.targets, OPTIONS: options})

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the loss of the text form."""
        return losses_of(outputs, batch).sum()

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return pairs of the number of the likeliest alternative and the shares of all."""
        options = batch.targets[OPTIONS]
        inner = self.inner(options, reader)
        scores = ranked(model, inner, batch, reader, options, self.normalise)
        shares = scores.softmax(-1).tolist()
        best = scores.argmax(-1).tolist()
        return [
            (number, line[: len(texts)])
            for number, line, texts in zip(best, shares, options, strict=True)
        ]

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the numbers of the alternatives."""
        return self.choice.answers(predicted, rows)

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the numbers with the shares of all alternatives."""
        return self.choice.detailed(predicted, rows)
