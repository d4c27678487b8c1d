"""What all kinds of task share: a data set's name, splits and columns, read and checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, at_least, did_you_mean, unknown
from adaptkit.tasks import trivial
from adaptkit.tasks.data import Data
from adaptkit.tasks.labels import check_stored
from adaptkit.tasks.notes import notes_on
from adaptkit.tasks.reading import grouping, one_file, source
from adaptkit.tasks.reading.few import training_rows
from adaptkit.tasks.reading.ids import chosen, with_ids
from adaptkit.tasks.task import ID, LABEL, Answer, Form, Splits
from adaptkit.tasks.template import hold_texts

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TableTask(ABC):
    """Rows of a table, and which scores compare runs. Fields are keys of a task's YAML.

    A kind of task adds its columns, `scores`, `form`, `read_labels`, `score` and
    `trivial_answers`; a kind with classes also `bind`.
    """

    name: str  # name in results and folders
    version: int = 1  # of what is asked and scored
    path: str | None = None  # folder, file, or hub id
    subset: str | None = None  # a hub data set's configuration
    revision: str | None = None  # branch, tag or commit; null: main
    id: str | None = None  # column of the rows' own ids, if there is one; null: row numbers
    label: str = "label"  # column of the answers
    train: str = "train"  # names of the splits
    validation: str = "validation"  # the split whose score decides
    also: dict[str, str] = field(default_factory=dict)  # more scored splits: +task.also.NAME=SPLIT
    # only rows with these values in these columns: {column: value}
    where: dict[str, str] = field(default_factory=dict)
    metric: str = ""  # how answers are scored
    best: str = ""  # the score by which runs are compared; empty: the metric's first
    max_length: int = 128  # tokens, special ones included

    def __post_init__(self) -> None:
        at_least("task.max_length", self.max_length, 4)
        at_least("task.version", self.version, 1)
        names = (*self.scores(), "loss")
        further = [f"{score}_{split}" for score in names for split in self.also]
        if self.best and self.best not in (*names, *further):
            raise unknown("task.best", self.best, (*names, *further))

    @abstractmethod
    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores, the deciding one first."""

    @property
    def headline(self) -> str:
        """Name of the score by which runs and checkpoints are compared."""
        return self.best or self.scores()[0]

    @property
    def larger_is_better(self) -> bool:
        """Direction of the headline score: of all but the loss more is better."""
        return not self.headline.startswith("loss")

    @property
    def split(self) -> str:
        """Name of the validation split that decides."""
        return self.validation

    def spec(self, data: Data) -> source.DatasetSpec:
        """Return the data set that this task reads."""
        return source.DatasetSpec(
            self.name, self.path, self.subset, self.revision, data.root, data.source
        )

    def origin(self, data: Data) -> source.DataSource:
        """Return where the rows will come from."""
        origin = source.find(self.spec(data))
        if origin.kind == "hub":
            return origin
        splits = (self.train, *self.scored().values())
        found = (source.file_of(Path(origin.path), split) for split in splits)
        return replace(origin, files=tuple(sorted({file for file in found if file})))

    def scored(self) -> dict[str, str]:
        """Return the splits a run is scored on, by the suffix of their scores."""
        return {"": self.validation, **self.also}

    def read(
        self, data: Data, split: str, origin: source.DataSource, columns: Sequence[str]
    ) -> Dataset:
        """Return the raw rows of one split, with the column `id`, and `columns` known to be there.

        Raises:
            AdaptError: no such split or column, no rows, or two rows with one id.
        """
        wanted = {*columns, *self.where, *([self.id] if self.id else [])}
        rows, there = source.read(self.spec(data), origin, split, wanted)
        self.check_columns(there, split, (*columns, *self.where))
        if len(rows) == 0:
            raise AdaptError(f"task {self.name}, split {split}: has no rows.")
        if self.label in self.columns:
            raise AdaptError(
                f"task.label={self.label}: this column is read as input as well, so the answer "
                "would be known. Name another column."
            )
        for taken, own in ((ID, self.id), (LABEL, self.label)):
            if taken in columns and taken != own:
                raise AdaptError(
                    f"task {self.name}: the column {taken!r} cannot be a text, because adaptkit "
                    f"keeps the rows' {taken}s under that name. Rename it in the file."
                )
        place = f"task {self.name}, split {split}"
        return chosen(with_ids(rows, self.id, place), self.where, place)

    def check_columns(self, there: Sequence[str], split: str, columns: Sequence[str]) -> None:
        """Check that a split has the columns.

        Raises:
            AdaptError: one is missing; the message names those that are like it.
        """
        for column in columns:
            if column not in there:
                raise AdaptError(
                    f"task {self.name}, split {split}: no column {column!r}; "
                    f"{did_you_mean(column, there)}"
                    f"columns: {', '.join(there)}. Set {self.option_of(column)}."
                )
        near = did_you_mean(self.id or "", [name for name in there if name not in columns])
        if self.id and self.id not in there and (near or self.id == ID):
            raise AdaptError(
                f"task.id={self.id}: split {split} has no such column; {near}Set task.id, or "
                "task.id=null to number the rows."
            )

    def option_of(self, column: str) -> str:
        """Return the option that names a column, for messages."""
        for name, value in vars(self).items():
            texts = tuple(value) if isinstance(value, tuple | dict) else (value,)
            if column in texts or any(f"{{{column}}}" in str(text) for text in texts):
                return f"task.{name}"
        return "the columns in task.*"

    # ---- what a kind of task must say ----

    @property
    @abstractmethod
    def answer(self) -> str:
        """What an answer is, in words."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a row to predict must have."""

    @property
    @abstractmethod
    def posed(self) -> Form:
        """The form of a bound task."""

    @abstractmethod
    def read_labels(self, rows: Dataset, split: str) -> list[Any]:
        """Return the label of every row, of the same form as an answer.

        Raises:
            AdaptError: a value is not a label; the message names the row.
        """

    @abstractmethod
    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the task's metrics of one answer per row."""

    @abstractmethod
    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return a trivial predictor's name, and lists of answers to `rows`: the best counts."""

    def baseline(self, splits: Splits) -> tuple[str, float]:
        """Return the name of a trivial predictor, and its headline score; nan if it has none."""
        return trivial.baseline(self, splits)

    # ---- what it may change ----

    @property
    def read_columns(self) -> tuple[str, ...]:
        """Names of the columns that a labelled row must have."""
        return (*self.columns, *([self.label] if self.label else []))

    @property
    def bound(self) -> bool:
        """True if nothing has to be read off the data any more."""
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none for numbers and texts."""
        return ()

    def bind(self, rows: Dataset, split: str) -> TableTask:
        """Return the task with what must be read off the rows (its classes) filled in."""
        return self

    def stored_names(self, rows: Dataset) -> tuple[str, ...] | None:
        """Return the names that a file gives its numbers of classes, if it does."""
        return None

    def with_classes(self, classes: tuple[str, ...]) -> TableTask:
        """Return the task with its classes in another order; a kind with classes must say how."""
        if classes != self.classes:
            raise NotImplementedError(f"{type(self).__name__}.with_classes")
        return self

    def fitted(self, train: Dataset | None, seed: int) -> TableTask:
        """Return the task with what its loss takes from the training rows filled in."""
        return self

    def strata(self, labels: Sequence[Any]) -> list[str] | None:
        """Return what a subset keeps the proportions of, one value per row; None: nothing."""
        return None

    def row_scores(self, answers: Sequence[Answer], rows: Dataset) -> list[float] | None:
        """Return a score per row of which the headline is the mean; None if it is not a mean."""
        return None

    def parts(
        self, answers: Sequence[Answer], rows: Dataset
    ) -> tuple[list[float], list[float]] | None:
        """Return two numbers per group of rows, the headline is sum by sum; None if it is not."""
        return None

    def details(self, answers: Sequence[Mapping[str, Any]], rows: Dataset) -> dict[str, Any]:
        """Return what the record holds about detailed answers next to the scores."""
        return {}

    def check(self, rows: Dataset, split: str) -> None:
        """Check that the columns hold texts.

        Raises:
            AdaptError: a value is not a text; the message names row and column.
        """
        self.check_texts(rows, split, self.columns)

    def groups(self, rows: Dataset) -> list[Hashable] | None:
        """Return what belongs together and is never parted, one value per row; None: nothing."""
        return None

    def load(self, data: Data, seed: int, train: bool = True, every_row: bool = False) -> Splits:
        """Read, check and sample the splits.

        `every_row`: if all rows are in one file, score them all, and hold none out.

        Raises:
            AdaptError: a split, column or value is missing or wrong; the message names it.
        """
        origin, columns = self.origin(data), self.read_columns
        if origin.one_file:
            return one_file.load(self, origin, data, seed, train, every_row)
        names = dict.fromkeys([*self.scored().values(), *([self.train] if train else [])])
        raw = {name: self.read(data, name, origin, columns) for name in names}
        first = self.train if train else self.validation
        task = self.bind(raw[first], first)
        for name, rows in raw.items() if not self.bound else ():
            where = f"task {self.name}, split {name}"
            check_stored(task.classes, self.stored_names(rows), where)
        kept = {name: task.labelled(rows, name) for name, rows in raw.items()}
        validation = {
            suffix: task.some(kept[name], data.eval_rows, seed)
            for suffix, name in self.scored().items()
        }
        rows = training_rows(task, kept[self.train], data, seed) if train else None
        notes = notes_on(self.id, raw, kept)
        notes += source.empty_texts(raw.get(self.train) if train else None, self.columns)
        return Splits(task.fitted(rows, seed), rows, validation, origin, notes)

    def labelled(self, rows: Dataset, split: str) -> Dataset:
        """Return checked rows with `id`, the task's columns and `label`."""
        self.check(rows, split)
        labels = self.read_labels(rows, split)
        inputs = (column for column in self.read_columns if column != self.label)
        kept = list(dict.fromkeys([ID, *inputs, LABEL]))
        return source.with_column(rows, LABEL, labels).select_columns(kept)

    def some(self, rows: Dataset, count: int | None, seed: int) -> Dataset:
        """Return at most `count` of checked rows, seeded; what belongs together stays so."""
        if (groups := self.groups(rows)) is not None:
            return grouping.subset(rows, count, seed, groups)
        return source.subset(rows, count, seed, self.strata(rows[LABEL][:]))

    def check_texts(self, rows: Dataset, split: str, columns: Sequence[str]) -> None:
        """Check that columns hold texts; see `hold_texts`."""
        options = str([*vars(self).values()])
        inside = [column for column in columns if f"{{{column}}}" in options]
        hold_texts(rows, columns, f"task {self.name}, split {split}", inside)
