"""Classification of one text or a pair: accuracy and its relatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError, one_of
from adaptkit.tasks import source
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.labels import Namer, classes_in
from adaptkit.tasks.table import TableTask, with_column
from adaptkit.tasks.task import LABEL, Answer, Splits

if TYPE_CHECKING:
    from datasets import Dataset

METRICS = {  # name -> scores; the first is the one that runs are compared by
    "accuracy": ("accuracy",),
    "accuracy_and_f1": ("f1", "accuracy"),
    "matthews": ("matthews_correlation",),
}


@dataclass(frozen=True)
class Classify(TableTask):
    """One of C classes per row. `labels` names them in the order of their numbers."""

    text: tuple[str, ...] = ()  # one column, or two for a pair
    labels: tuple[str | int, ...] = ()  # empty: taken from the data
    metric: str = "accuracy"  # accuracy | accuracy_and_f1 | matthews

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, METRICS)
        super().__post_init__()
        check_texts(self.text)
        if len(self.labels) == 1:
            raise AdaptError(f"task.labels={list(self.labels)}: name two classes or more.")

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return METRICS[self.metric]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers."""
        return tuple(str(label) for label in self.labels)

    @property
    def bound(self) -> bool:
        """True if the classes are known."""
        return bool(self.labels)

    def with_classes(self, classes: tuple[str, ...]) -> Classify:
        """Return the task with its classes in another order."""
        return replace(self, labels=classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns."""
        return self.text

    def check(self, rows: Dataset, split: str) -> None:
        """Check that the texts are texts."""
        self.texts(rows, split, self.text)

    @property
    def form(self) -> HeadForm:
        """A sequence classifier with one output per class."""
        return HeadForm(self.text, self.classes, self.max_length)

    def load(self, data: source.Data, seed: int, train: bool = True) -> Splits:
        """Read, check and sample the splits; the column `label` holds the classes' names.

        Raises:
            AdaptError: a missing column or split, labels that are no classes, or only one class.
        """
        origin, columns = self.origin(data), (*self.text, self.label)
        raw = {
            suffix: self.read(data, name, origin, columns) for suffix, name in self.scored().items()
        }
        raw_train = self.read(data, self.train, origin, columns) if train else None
        seen = raw[""] if raw_train is None else raw_train
        task = self if self.labels else replace(self, labels=self._classes(seen))
        if self.metric == "accuracy_and_f1" and len(task.labels) != 2:
            raise AdaptError(
                f"task.metric={self.metric}: needs two classes, not {len(task.labels)}."
            )
        validation = {
            suffix: task.named(rows, self.scored()[suffix], data.eval_rows, seed)
            for suffix, rows in raw.items()
        }
        rows = None
        if raw_train is not None:
            task.check_several(raw_train)
            rows = task.named(raw_train, self.train, data.train_rows, seed)
        return Splits(task, rows, validation, origin)

    def _classes(self, rows: Dataset) -> tuple[str, ...]:
        where = f"task {self.name}: column {self.label!r}"
        return classes_in(rows[self.label][:], names_in(rows, self.label), where)

    def check_several(self, rows: Dataset) -> None:
        """Reject a split in which all rows have one label.

        Raises:
            AdaptError: they have; there is nothing to learn.
        """
        names = set(self.class_names(rows, self.train))
        if len(names) < 2:
            raise AdaptError(
                f"task {self.name}, split {self.train}: all {len(rows)} rows have the label "
                f"{names.pop()!r}; there is nothing to tell apart."
            )

    def named(self, rows: Dataset, split: str, count: int | None, seed: int) -> Dataset:
        """Return checked rows, at most `count`, with the classes' names as labels."""
        self.check(rows, split)
        names = self.class_names(rows, split)
        labelled = with_column(rows, LABEL, names)
        keep = ["id", *self.text, LABEL]
        labelled = labelled.select_columns(list(dict.fromkeys(keep)))
        return source.subset(labelled, count, seed, names)

    def class_names(self, rows: Dataset, split: str) -> list[str]:
        """Return the class of every row.

        Raises:
            AdaptError: a value is none of the classes, or the file names other classes.
        """
        stored = names_in(rows, self.label)
        namer = Namer(self.classes, stored, f"task {self.name}, split {split}")
        return [namer.name(value, row) for row, value in enumerate(rows[self.label][:], 1)]

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the task's metrics of the classes' names."""
        from adaptkit.metrics.glue import Glue

        numbers = {name: i for i, name in enumerate(self.classes)}
        return Glue(config_name=self.metric, keep_in_memory=True).compute(
            predictions=[numbers[name] for name in answers],
            references=[numbers[name] for name in rows[LABEL][:]],
        )

    def baseline(self, splits: Splits) -> tuple[str, float]:
        """Score the commonest class of the training rows."""
        rows = splits.validation[""]
        seen = rows if splits.train is None else splits.train
        (name, _), *_ = Counter(seen[LABEL][:]).most_common(1)
        return "majority class", self.score([name] * len(rows), rows).get(
            self.headline, float("nan")
        )


def names_in(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Return the classes' names that a file stores with a column of numbers."""
    names = getattr(rows.features[column], "names", None)
    return tuple(names) if names else None


def check_texts(text: tuple[str, ...]) -> None:
    """Check that one or two columns are named.

    Raises:
        AdaptError: none, or more.
    """
    if len(text) not in (1, 2):
        raise AdaptError(f"task.text={list(text)}: name one column, or two for a pair of texts.")
