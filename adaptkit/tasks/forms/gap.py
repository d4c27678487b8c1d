"""The gap form: every candidate is put into the gap of a text, and the best reading wins.

    score_k = head(context, text with candidate k),   loss = -log of the share of all right ones

Several candidates may be right (two names of one person). A row with none that is right has no
loss. The sequences are those of the choice form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.choice import ChoiceForm
from adaptkit.tasks.task import ID, LABEL, Answer, Form, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

FILLED = "filled"  # column of the texts without a gap


@dataclass(frozen=True)
class GapForm(Form):
    """A context, a text with a gap and candidates in, one of the candidates out."""

    context: str  # column
    query: str  # column of the texts with a gap
    gap: str  # what stands in its place
    candidates: str  # column of lists
    max_length: int  # tokens of context and text, special ones included

    head: ClassVar[str] = "sequence"
    votes: ClassVar[bool] = True
    outputs: ClassVar[int] = 1
    sequences: ClassVar[int] = 10  # about: candidates of a row

    @property
    def choice(self) -> ChoiceForm:
        """The form of the sequences."""
        return ChoiceForm(self.context, (FILLED,), self.max_length)

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return one example per row: the token ids of the context with each filled text.

        Raises:
            AdaptError: a filled text alone is longer than the model reads.
        """
        from datasets import Dataset

        names = [distinct(every) for every in rows[self.candidates][:]]
        filled = [
            [query.replace(self.gap, name) for name in every]
            for query, every in zip(rows[self.query][:], names, strict=True)
        ]
        kept = [name for name in (ID, self.context) if name in rows.column_names]
        found = self.choice.encode(rows.select_columns(kept).add_column(FILLED, filled), reader)
        columns = {**found.to_dict(), "candidates": names}
        if LABEL in rows.column_names:
            columns["right"] = [
                [float(name in right) for name in every]
                for every, right in zip(names, rows[LABEL][:], strict=True)
            ]
        return Dataset.from_dict(columns)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [sum of K, T], the candidates, and if known which are right [B, K]."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        batch = self.choice.collate(examples, reader)
        targets = {**batch.targets, "candidates": [one["candidates"] for one in examples]}
        if "right" not in examples[0]:
            return batch._replace(targets=targets)
        rights = [torch.tensor(one["right"]) for one in examples]
        known = [row for row, one in enumerate(rights) if one.any()]
        targets["right"] = pad_sequence(rights, batch_first=True)
        targets["known"] = torch.tensor(known, dtype=torch.long)
        return batch._replace(targets=targets, weight=len(known))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the sum of -log(share of the right candidates) over the rows that have one."""
        import torch

        scores, right = self.choice.scores(outputs, batch), batch.targets["right"] > 0
        good, known = scores.masked_fill(~right, -torch.inf), batch.targets["known"]
        return (scores[known].logsumexp(-1) - good[known].logsumexp(-1)).sum()

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the scores of the candidates [B, K]."""
        return self.choice.scores(outputs, batch)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return pairs: the best candidate, of equal scores the first, and the shares of all."""
        every = batch.targets["candidates"]
        best = self.choice.predict(model, outputs, batch, reader)
        return [
            (names[k], dict(zip(names, shares, strict=True)))
            for names, (k, shares) in zip(every, best, strict=True)
        ]

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the best candidates."""
        return [name for name, _ in predicted]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the best candidates with the probability of every candidate."""
        return [{"answer": name, "probabilities": shares} for name, shares in predicted]


def distinct(names: Sequence[str]) -> list[str]:
    """Return the candidates, each once."""
    return list(dict.fromkeys(names))
