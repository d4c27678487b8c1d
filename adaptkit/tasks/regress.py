"""Regression of one text or a pair: Pearson and Spearman correlation."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.errors import AdaptError, above, invalid, one_of
from adaptkit.tasks.forms.cloze import ClozeForm
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.forms.number import NumberForm
from adaptkit.tasks.task import LABEL, Answer, Form, Splits
from adaptkit.tasks.worded import Worded

if TYPE_CHECKING:
    from datasets import Dataset

UNPARSED = -1.0  # what a text counts as that is not a number: T5's rule
STEP = 0.2  # of the numbers that T5 writes
PLAIN = r"\s*[-+.0-9eE]+\s*"  # the signs of a number in a text


@dataclass(frozen=True)
class Regress(Worded):
    """One number per row."""

    metric: str = "correlations"  # Pearson and Spearman correlation
    step: float = STEP  # text: numbers are rounded to its multiples

    answer = "a number"
    reads: ClassVar[dict[str, tuple[str, ...]]] = {**Worded.reads, "text": ("template",)}

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("correlations",))
        above("task.step", self.step, 0)
        super().__post_init__()
        if self.form != "text" and self.step != STEP:
            raise invalid("task.step", self.step, f"is not read with task.form={self.form}",
                          "Set task.form=text")  # fmt: skip
        if self.shots:
            raise invalid("task.shots", self.shots, "shows rows of each class; numbers have none",
                          "Use 0")  # fmt: skip

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return ("pearson", "spearmanr")

    @property
    def worded(self) -> tuple[str, ...]:
        """The two numbers that words stand for, the lower one first."""
        if self.form != "cloze":
            return ()
        named = self.words or next((dict(t).get("words", {}) for t in self.templates.values()), {})
        numbers = {str(name): number_in(str(name)) for name in named}
        if len(numbers) != 2 or not all(map(math.isfinite, numbers.values())):
            raise invalid("task.words", dict(named), "must name two numbers, and a word for each",
                          "For example {0: no, 5: yes}")  # fmt: skip
        return tuple(sorted(numbers, key=numbers.__getitem__))

    @property
    def posed(self) -> Form:
        """A sequence classifier with one output, two words, or a number that is written."""
        if self.form == "cloze":
            low, high = map(float, self.worded)
            return ClozeForm(
                self.wordings(), (), self.max_length, (low, high),
                aggregate=self.aggregate, pieces=self.pieces, calibration=self.calibration,
            )  # fmt: skip
        if self.form == "text":
            return NumberForm(self.wordings(), self.max_length, self.step)
        return HeadForm(self.text, (), self.max_length)

    def read_labels(self, rows: Dataset, split: str) -> list[float]:
        """Return the number of every row.

        Raises:
            AdaptError: a value is not a finite number.
        """
        numbers = []
        for row, value in enumerate(rows[self.label][:], 1):
            number = number_in(value)
            if not math.isfinite(number):
                raise AdaptError(
                    f"task {self.name}, split {split}, row {row}: label {value!r} is not a number."
                )
            numbers.append(number)
        return numbers

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the correlations of numbers, and the share `unparsed` of texts that are none."""
        from adaptkit.metrics.glue import Glue

        glue = Glue(config_name=self.metric, keep_in_memory=True)
        numbers = [UNPARSED if answer is None else answer for answer in answers]
        found = glue.compute(predictions=numbers, references=rows[LABEL][:])
        if self.form != "text":
            return found
        return {**found, "unparsed": sum(one is None for one in answers) / len(answers)}

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the mean of the training rows, whose correlation with anything is undefined."""
        seen, where = splits.seen()
        return f"mean{where}", [[statistics.fmean(seen[LABEL][:])] * len(rows)]


def number_in(value: Any) -> float:
    """Return the number that a file holds, or nan: truth values and 1_000 are not numbers."""
    odd = isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(PLAIN, value))
    try:
        return math.nan if odd else float(value)
    except (TypeError, ValueError):
        return math.nan
