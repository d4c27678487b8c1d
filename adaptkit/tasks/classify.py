"""Classification of one text or a pair: accuracy and its relatives.

The loss of a batch is the sum over its rows of the cross-entropy with weights w and smoothing e,

    (1 - e) w[y] (-log p[y])  +  e / C  sum_c w[c] (-log p[c]),

as torch.nn.CrossEntropyLoss defines it. That of an update is the sum of its batches divided by the
number of rows. Torch's own mean would divide by the sum of w[y], so that the weight of a row would
depend on the rows it happens to meet, and an update on how it is cut into batches and processes.
The balanced weights have the mean 1 over the training rows: they leave the size of the loss alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.errors import AdaptError, invalid, one_of, within
from adaptkit.tasks.cells import accuracy_by
from adaptkit.tasks.forms.cloze import ClozeForm
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.forms.options import OptionsForm
from adaptkit.tasks.labels import Namer, classes_in, names_in, numbered, whole
from adaptkit.tasks.task import ID, LABEL, Answer, Form, Splits
from adaptkit.tasks.weights import (
    BALANCED,
    Weights,
    balanced,
    check_unweighted,
    check_weights,
    in_order,
    no_training_rows,
    reordered,
)
from adaptkit.tasks.worded import Worded

if TYPE_CHECKING:
    from datasets import Dataset

METRICS = {  # name -> scores; the first is the one that runs are compared by
    "accuracy": ("accuracy",),
    "accuracy_and_f1": ("f1", "accuracy"),
    "macro_f1": ("macro_f1", "accuracy"),
    "weighted_f1": ("weighted_f1", "accuracy"),
    "matthews": ("matthews_correlation",),
    "multirc": ("f1a", "exact_match"),
    "gender_parity": ("accuracy", "gender_parity"),
}
TWO = ("accuracy_and_f1", "multirc")  # of these, F1 is that of the second of two classes
GROUPED, AVERAGES = ("multirc", "gender_parity"), ("macro_f1", "weighted_f1")
HIDDEN = -1  # what a benchmark writes for a label that it does not tell


@dataclass(frozen=True)
class Classify(Worded):
    """One of C classes per row. `labels` names them in the order of their numbers."""

    # class names in the order of their numbers; empty: read from the data
    labels: tuple[str | int, ...] = ()
    # of the loss: balanced, numbers in the order of the labels, or {class: number}
    class_weights: Weights = None
    label_smoothing: float = 0.0  # share of the target that all classes get in the loss
    group: tuple[str, ...] = ()  # columns whose values say which rows belong together
    # accuracy is recorded for every value of these columns and every right class
    by: tuple[str, ...] = ()
    # class of a run with other classes -> the class here that it counts as
    map_answers: dict[str, str] = field(default_factory=dict)
    unlabelled: Literal["error", "drop"] = "error"  # rows with the label -1; drop: leave them out
    metric: str = "accuracy"  # how answers are scored

    answer = "a class"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, METRICS)
        super().__post_init__()
        if len(self.labels) == 1:
            raise AdaptError(f"task.labels={list(self.labels)}: name two classes or more.")
        within("task.label_smoothing", self.label_smoothing, 0, 1)
        check_weights(self.class_weights, self.classes)
        if self.form == "text":
            check_unweighted(self.class_weights, self.label_smoothing)
        if self.metric == "multirc" and not self.group:
            raise invalid("task.group", [], "must say which rows belong to one question, because "
                          "of task.metric=multirc")  # fmt: skip

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return METRICS[self.metric]

    @property
    def read_columns(self) -> tuple[str, ...]:
        """Names of the columns that a labelled row must have."""
        return (*self.columns, *self.group, *self.by, self.label)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers."""
        return tuple(str(label) for label in self.labels)

    @property
    def bound(self) -> bool:
        """True if the classes are known."""
        return bool(self.labels)

    @property
    def worded(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    @property
    def posed(self) -> Form:
        """A sequence classifier with one output per class, or words for the classes."""
        loss: dict[str, Any] = {"weights": self.weights, "smoothing": self.label_smoothing}
        if self.form == "cloze":
            return ClozeForm(
                self.wordings(), self.classes, self.max_length, **loss,
                aggregate=self.aggregate, pieces=self.pieces, calibration=self.calibration,
            )  # fmt: skip
        if self.form == "text":
            return OptionsForm(
                self.wordings(), self.classes, self.max_length, self.decode, self.normalise
            )
        return HeadForm(self.text, self.classes, self.max_length, **loss)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the classes, in their order; none if they are all 1, or not known yet."""
        return in_order(self.class_weights, self.classes)

    def with_classes(self, classes: tuple[str, ...]) -> Classify:
        """Return the task with its classes, and their weights, in another order."""
        weights = reordered(self.class_weights, self.classes, classes)
        return replace(self, labels=classes, class_weights=weights)

    def fitted(self, train: Dataset | None, seed: int) -> Classify:
        """Return the task with balanced weights in numbers, and the rows that are shown.

        Raises:
            AdaptError: there are no training rows, or too few of a class.
        """
        task = replace(self, demonstrations=self.chosen_shots(train, seed))
        if self.class_weights != BALANCED:
            return task
        if train is None:
            raise no_training_rows()
        return replace(task, class_weights=balanced(self.classes, train[LABEL][:]))

    def bind(self, rows: Dataset, split: str) -> Classify:
        """Return the task with the classes that the label column holds, if it names none itself.

        Raises:
            AdaptError: the column holds no classes, or too many for the metric.
        """
        task = self
        if not self.labels:
            where = f"task {self.name}: column {self.label!r}"
            stored = names_in(rows, self.label)
            values = enumerate(rows[self.label][:], 1)
            known = ((row, value) for row, value in values if not self.dropped(value))
            found = classes_in(known, stored, where)
            if len(found) < 2:
                raise self._one_class(len(rows), found[0], split)
            task = replace(self, labels=found)
        if self.metric in TWO and (count := len(task.labels)) != 2:
            raise AdaptError(f"task.metric={self.metric}: needs two classes, not {count}.")
        return task

    def stored_names(self, rows: Dataset) -> tuple[str, ...] | None:
        """Return the names that a file gives its numbers of classes, if it does."""
        return names_in(rows, self.label)

    def dropped(self, value: Any) -> bool:
        """Tell whether a row with this value is left out."""
        return self.unlabelled == "drop" and whole(value) == HIDDEN

    def labelled(self, rows: Dataset, split: str) -> Dataset:
        """Return checked rows, without those that are left out.

        Raises:
            AdaptError: no row is left.
        """
        found = super().labelled(rows, split)
        known = [i for i, name in enumerate(found[LABEL][:]) if name is not None]
        if not known:
            raise AdaptError(
                f"task {self.name}, split {split}: no row has a label; score on another split."
            )
        return found if len(known) == len(found) else found.select(known)

    def groups(self, rows: Dataset) -> list[Hashable] | None:
        """Return which rows belong together: by their columns, or pairs by their numbers.

        Raises:
            AdaptError: rows of pairs have ids that are not numbers.
        """
        if self.group:
            return list(zip(*(map(json.dumps, rows[name][:]) for name in self.group), strict=True))
        if self.metric != "gender_parity":
            return None
        if not all(name.isdecimal() for name in rows[ID][:]):
            raise AdaptError(
                f"task {self.name}: the rows 2k and 2k + 1 are a pair, so that their ids must be "
                "numbers. Set task.id=null to number them."
            )
        return [int(name) // 2 for name in rows[ID][:]]

    def read_labels(self, rows: Dataset, split: str) -> list[str | None]:
        """Return the class of every row, or None if it is left out.

        Raises:
            AdaptError: a value is not one of the classes, the file names other classes, or all
                rows of the training split have one class.
        """
        where = f"task {self.name}, split {split}"
        namer = Namer(self.classes, names_in(rows, self.label), where)
        names = [
            None if self.dropped(value) else namer.name(value, row)
            for row, value in enumerate(rows[self.label][:], 1)
        ]
        kinds = {name for name in names if name is not None}
        if split == self.train and len(kinds) == 1:
            raise self._one_class(len(rows), kinds.pop(), split)
        return names

    def _one_class(self, rows: int, name: str, split: str) -> AdaptError:
        said = f"all rows ({rows}) have the label {name!r}; there is nothing to tell apart."
        return AdaptError(f"task {self.name}, split {split}: {said}")

    def strata(self, labels: Sequence[str]) -> list[str]:
        """Return the classes."""
        return list(labels)

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the task's metrics; None is a wrong answer, and `unparsed` the share of them."""
        found = self._score(answers, rows)
        if self.form != "text" or self.decode != "generate":
            return found
        return {**found, "unparsed": sum(name is None for name in answers) / len(answers)}

    def _score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        numbers = self.numbers(answers, rows)
        if self.metric in GROUPED:
            from adaptkit.metrics.super_glue import SuperGlue

            metric = SuperGlue(config_name=self.metric, keep_in_memory=True)
            return metric.compute(**numbers, groups=self.groups(rows))
        if self.metric in AVERAGES:
            from adaptkit.metrics.classes import Classes

            metric = Classes(config_name=self.metric, keep_in_memory=True)
            return metric.compute(**numbers, classes=len(self.classes))
        from adaptkit.metrics.glue import Glue

        return Glue(config_name=self.metric, keep_in_memory=True).compute(**numbers)

    def numbers(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, list[int]]:
        """Return the numbers of the classes that were answered, and of those that are right.

        In the F1 of two classes no answer counts as the wrong class: T5's rule.
        """
        return numbered(answers, rows[LABEL][:], self.classes, self.metric in TWO)

    def details(self, answers: Sequence[Mapping[str, Any]], rows: Dataset) -> dict[str, Any]:
        """Return averages, each class's precision, recall, F1 and AUROC, and the confusions."""
        from adaptkit.metrics.classes import report

        numbers = self.numbers([one["answer"] for one in answers], rows)
        sure = None
        if all("probabilities" in one for one in answers):
            sure = [[one["probabilities"][name] for name in self.classes] for one in answers]
        found = report(**numbers, names=self.classes, probabilities=sure)
        cells = accuracy_by(self.by, [one["answer"] for one in answers], rows)
        return found | ({"by": cells} if cells else {})

    def parts(
        self, answers: Sequence[Answer], rows: Dataset
    ) -> tuple[list[float], list[float]] | None:
        """Return the headline as sums over groups of rows; None if no rows belong together."""
        from adaptkit.metrics.super_glue import PARTS, parts

        groups = self.groups(rows)
        if groups is None or self.headline not in PARTS:
            return None
        return parts(self.headline, **self.numbers(answers, rows), groups=groups)

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the commonest class of the training rows; of equally common ones the best.

        MultiRC counts right answers only: there the best class of all.
        """
        seen, where = splits.seen()
        counts = Counter(seen[LABEL][:])
        every = self.metric == "multirc"
        least = 1 if every else max(counts.values())
        name = "best class" if every else "majority class"
        return f"{name}{where}", [[c] * len(rows) for c in counts if counts[c] >= least]
