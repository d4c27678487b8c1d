"""Numbers as texts: "3.8" is learnt as a target, and read from the text that is generated.

    target     y to the nearest multiple of a step, of two equally near ones the even one (T5: 0.2)
    answer     the text as a number; none if it is not one, which is scored as -1

Source: Raffel et al. 2020 (arXiv:1910.10683), whose task mixture writes STS-B in this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from math import isfinite
from typing import TYPE_CHECKING, Any

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.text import Generation, TextForm
from adaptkit.tasks.forms.written import WrittenForm
from adaptkit.tasks.pattern import Wording, ending
from adaptkit.tasks.task import LABEL, Answer, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

ROOM = 16  # tokens of a number, its end included


@dataclass(frozen=True)
class NumberForm(WrittenForm):
    """A row in a pattern, a number written after it."""

    wordings: tuple[Wording, ...]  # without a style: the one for two stacks, that for causal models
    max_length: int  # tokens of the source, special ones included
    step: float = 0.2

    def inner(self, reader: Reader) -> TextForm:
        """Return the form of source and target."""
        source = ending(self.wordings, reader.causal).pattern.before()
        return TextForm(source, self.max_length, ROOM, Generation(max_new_tokens=ROOM))

    def targets(self, rows: Dataset, reader: Reader) -> list[str]:
        """Return the numbers as texts."""
        return [written(number, self.step) for number in rows[LABEL][:]]

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return pairs of a number and the text that was read as it."""
        texts = self.inner(reader).predict(model, outputs, batch, reader)
        return [(read(text), text) for text in texts]

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the numbers; None for a text that is none."""
        return [number for number, _ in predicted]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the numbers with the texts."""
        return [{"answer": number, "text": text} for number, text in predicted]


def written(number: float, step: float) -> str:
    """Return a number as a text, rounded to a multiple of `step`, half to even."""
    unit = Decimal(str(step))
    times = (Decimal(str(number)) / unit).to_integral_value(ROUND_HALF_EVEN)
    return f"{times * unit + 0:f}"  # + 0: no -0.0


def read(text: str) -> float | None:
    """Return the number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
