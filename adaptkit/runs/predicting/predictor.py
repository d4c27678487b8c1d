"""A finished run as a predictor of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, first_line
from adaptkit.runs.delta import load_run
from adaptkit.runs.evaluating.evaluate import as_recorded
from adaptkit.runs.prepare import feed_of, restored, scorer_of
from adaptkit.tasks.reading.files import odd_one
from adaptkit.tasks.task import Answer
from adaptkit.training.scorer import Prepared


class Predictor:
    """A finished run, loaded once, that answers rows."""

    def __init__(self, settings: Settings, prepared: Prepared) -> None:
        self.settings, self.prepared = settings, prepared

    def predict(self, rows: Iterable[Mapping[str, Any]], details: bool = False) -> list[Answer]:
        """Return one answer per row; a row holds the task's columns, and needs no label.

        `details`: an answer is an object, {"answer": ...}, with probabilities or a score if the
        task has them.

        Raises:
            AdaptError: a column is missing, or a value is of the wrong kind; the message names row
                and column.
        """
        if not isinstance(rows, Iterable) or isinstance(rows, Mapping | str):
            raise AdaptError(f"rows to predict: {rows!r:.60} is not a list of rows (mappings).")
        rows = list(rows)
        return self.answers(self.table(rows), details) if rows else []

    def table(self, rows: Sequence[Mapping[str, Any]]) -> Dataset:
        """Return checked rows with the columns that the task reads.

        Raises:
            AdaptError: a column is missing, or a value is of the wrong kind; the message names row
                and column.
        """
        columns = self.settings.task.columns
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise AdaptError(f"row {number} is {row!r:.60}, not a mapping of columns.")
            if missing := [column for column in columns if column not in row]:
                raise AdaptError(
                    f"row {number} lacks the column {missing[0]!r}; task "
                    f"{self.settings.task.name} reads {', '.join(columns)}."
                )
        try:
            table = Dataset.from_dict({c: [row[c] for row in rows] for c in columns})
        except Exception as error:  # pyarrow raises several kinds for mixed types
            fault = odd_one(rows, columns) or first_line(error)
            raise AdaptError(f"rows to predict: {fault}.") from error
        self.settings.task.check(table, "rows to predict")
        return table

    def answers(self, table: Dataset, details: bool = False) -> list[Answer]:
        """Return one answer per row of a checked table; see `predict`."""
        feed = feed_of(self.settings, self.prepared, table)
        return scorer_of(self.settings, self.prepared).answers(feed, details)


def load(directory: str | Path) -> Predictor:
    """Load a finished run.

    Raises:
        AdaptError: it is not a finished run, or its base model is not there any more.
    """
    saved = as_recorded(load_run(Path(directory)))
    return Predictor(replace(saved.settings, output_dir=saved.directory), restored(saved))
