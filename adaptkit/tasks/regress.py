"""Regression of one text or a pair: Pearson and Spearman correlation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, one_of
from adaptkit.tasks.classify import check_texts
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Splits
from adaptkit.tasks.template import columns_of

if TYPE_CHECKING:
    from datasets import Dataset

PLAIN = r"\s*[-+.0-9eE]+\s*"  # the signs of a number in a text


@dataclass(frozen=True)
class Regress(TableTask):
    """One number per row."""

    # one column, or [first,second] for a pair; each may be a template with {column}
    text: tuple[str, ...] = ()
    metric: str = "correlations"  # Pearson and Spearman correlation

    answer = "a number"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("correlations",))
        super().__post_init__()
        check_texts(self.text)

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return ("pearson", "spearmanr")

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns."""
        return columns_of(self.text, "task.text")

    @property
    def posed(self) -> HeadForm:
        """A sequence classifier with one output."""
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
        """Return the correlations of numbers."""
        from adaptkit.metrics.glue import Glue

        glue = Glue(config_name=self.metric, keep_in_memory=True)
        return glue.compute(predictions=list(answers), references=rows[LABEL][:])

    def baseline(self, splits: Splits) -> tuple[str, float]:
        """Name the mean, whose correlation with anything is undefined."""
        return "mean", math.nan


def number_in(value: Any) -> float:
    """Return the number that a file holds, or nan: truth values and 1_000 are not numbers."""
    odd = isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(PLAIN, value))
    try:
        return math.nan if odd else float(value)
    except (TypeError, ValueError):
        return math.nan
