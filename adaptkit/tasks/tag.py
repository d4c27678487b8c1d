"""Tagging: one label per word, as for parts of speech and entities.

Weights of the tags and smoothing are those of classification, with words in place of rows.

A control task (`control.py`) has the same words and tags, but every word has one random tag
wherever it stands, drawn with the shares of the tags in training.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, at_least, invalid, one_of, within
from adaptkit.tasks.control import controlled, drawn
from adaptkit.tasks.data import Data
from adaptkit.tasks.forms.tag import TagForm
from adaptkit.tasks.forms.words import check_words
from adaptkit.tasks.labels import Namer, classes_in
from adaptkit.tasks.reading.source import with_column
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Splits
from adaptkit.tasks.weights import (
    BALANCED,
    Weights,
    balanced,
    check_weights,
    in_order,
    no_training_rows,
    reordered,
)

if TYPE_CHECKING:
    from datasets import Dataset

METRICS = {
    "accuracy": ("accuracy",),
    "entities": ("f1", "precision", "recall", "accuracy", "strict_f1", "strict_precision",
                 "strict_recall"),
}  # fmt: skip


@dataclass(frozen=True)
class Tag(TableTask):
    """One of C tags per word. `labels` names them in the order of their numbers."""

    words: str = "tokens"  # column of lists of words
    label: str = "tags"  # column of lists of tags
    labels: tuple[str | int, ...] = ()  # tags in the order of their numbers; empty: from the data
    # of the loss: balanced, numbers in the order of the labels, or {class: number}
    class_weights: Weights = None
    label_smoothing: float = 0.0  # share of the target that all classes get in the loss
    metric: str = "accuracy"  # entities: F1 of whole entities in BIO tags
    control: int | None = None  # seed of a control task: every word has one random tag; null: none
    # of the tags of a control task, in the order of `labels`; filled in from the training rows
    control_shares: tuple[float, ...] = ()

    answer = "a tag per word"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, METRICS)
        super().__post_init__()
        within("task.label_smoothing", self.label_smoothing, 0, 1)
        check_weights(self.class_weights, self.classes)
        if self.control is None:
            return
        at_least("task.control", self.control, 0)
        if self.metric != "accuracy":
            raise invalid("task.control", self.control, "random tags are no entities",
                          "Set task.metric=accuracy")  # fmt: skip

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return METRICS[self.metric]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the tags in the order of their numbers."""
        return tuple(str(label) for label in self.labels)

    @property
    def bound(self) -> bool:
        """True if the tags are known."""
        return bool(self.labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of words."""
        return (self.words,)

    @property
    def posed(self) -> TagForm:
        """A token classifier."""
        weights = in_order(self.class_weights, self.classes)
        return TagForm(self.words, self.classes, self.max_length, weights, self.label_smoothing)

    def with_classes(self, classes: tuple[str, ...]) -> Tag:
        """Return the task with its tags, their weights and shares in another order."""
        weights = reordered(self.class_weights, self.classes, classes)
        named = dict(zip(self.classes, self.control_shares, strict=False))
        shares = tuple(named.get(name, 0.0) for name in classes) if named else ()
        return replace(self, labels=classes, class_weights=weights, control_shares=shares)

    def fitted(self, train: Dataset | None, seed: int) -> Tag:
        """Return the task with balanced weights in numbers, counted in words.

        Raises:
            AdaptError: there are no training rows.
        """
        if self.class_weights != BALANCED:
            return self
        if train is None:
            raise no_training_rows()
        words = [tag for tags in train[LABEL][:] for tag in tags]
        return replace(self, class_weights=balanced(self.classes, words))

    def load(self, data: Data, seed: int, train: bool = True, every_row: bool = False) -> Splits:
        """Read the splits; the tags of a control task take the place of those that were read."""
        splits = super().load(data, seed, train, every_row)
        task = splits.task
        if not isinstance(task, Tag) or task.control is None:
            return splits
        if not task.control_shares:
            if splits.train is None:
                raise AdaptError(f"task.control={task.control}: its tags have the shares of those "
                                 "in training, and no training rows are read.")  # fmt: skip
            counts = Counter(tag for tags in splits.train[LABEL][:] for tag in tags)
            shares = tuple(counts[name] / counts.total() for name in task.classes)
            task = replace(task, control_shares=shares)
        note = f"control task (task.control={task.control}): every word has one random tag"
        return controlled(replace(splits, task=task), task.controlled, note)

    def controlled(self, rows: Dataset) -> Dataset:
        """Return rows with the tags of the control task: equal words have equal tags."""
        # By name: the tags do not depend on the order of the classes.
        shares = dict(sorted(zip(self.classes, self.control_shares, strict=True)))
        names, ends = list(shares), list(accumulate(shares.values()))

        @cache
        def tag(word: str) -> str:
            return names[bisect_right(ends, drawn(self.control or 0, word) * ends[-1])]

        return with_column(rows, LABEL, [[tag(w) for w in words] for words in rows[self.words][:]])

    def check(self, rows: Dataset, split: str) -> None:
        """Check that every row holds a list of words."""
        check_words(rows, self.words, f"task {self.name}, split {split}")

    def bind(self, rows: Dataset, split: str) -> Tag:
        """Return the task with the tags that the label column holds, if it names none itself.

        Raises:
            AdaptError: a row does not hold a list of tags.
        """
        if self.labels:
            return self
        for number, tags in enumerate(rows[self.label][:], 1):
            if not isinstance(tags, list):
                raise AdaptError(
                    f"task {self.name}, split {split}, row {number}: {self.label} is "
                    f"{str(tags)[:60]}, not a list of tags."
                )
        values = ((row, tag) for row, tags in enumerate(rows[self.label][:], 1) for tag in tags)
        where = f"task {self.name}: column {self.label!r}"
        return replace(self, labels=classes_in(values, names_in_lists(rows, self.label), where))

    def stored_names(self, rows: Dataset) -> tuple[str, ...] | None:
        """Return the names that a file gives its numbers of classes, if it does."""
        return names_in_lists(rows, self.label)

    def read_labels(self, rows: Dataset, split: str) -> list[list[str]]:
        """Return the tags of every row.

        Raises:
            AdaptError: a row has more or fewer tags than words, or a tag that is none; no row has a
                word; tags are not BIO although entities are scored.
        """
        where = f"task {self.name}, split {split}"
        if odd := [tag for tag in self.classes if self.metric == "entities" and not is_bio(tag)]:
            raise AdaptError(
                f"task.metric=entities: the tag {odd[0]!r} is not BIO (O, B-TYPE or I-TYPE). Use "
                "task.metric=accuracy."
            )
        namer = Namer(self.classes, names_in_lists(rows, self.label), where)
        labels = []
        columns = zip(rows[self.words][:], rows[self.label][:], strict=True)
        for number, (words, tags) in enumerate(columns, 1):
            if not isinstance(tags, list) or len(tags) != len(words):
                raise AdaptError(
                    f"{where}, row {number}: {len(words)} words, but {self.label} is "
                    f"{str(tags)[:60]}. Every word needs one tag."
                )
            labels.append([namer.name(tag, number) for tag in tags])
        if not any(labels):
            raise AdaptError(f"{where}: no row has a word.")
        return labels

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the metric of lists of tags."""
        from adaptkit.metrics.tagging import Tagging

        return Tagging(config_name=self.metric, keep_in_memory=True).compute(
            predictions=[[tag or "" for tag in tags] for tags in answers],
            references=rows[LABEL][:],
        )

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the commonest tag of the training rows for every word."""
        seen, where = splits.seen()
        counts: Counter[Any] = Counter(tag for tags in seen[LABEL][:] for tag in tags)
        (name, _), *_ = counts.most_common(1)
        return f"majority tag{where}", [[[name] * len(tags) for tags in rows[LABEL][:]]]


def is_bio(tag: str) -> bool:
    """Tell whether a tag says where an entity begins, goes on or is not."""
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def names_in_lists(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Return the tags' names that a file stores with a column of lists of numbers."""
    names = getattr(getattr(rows.features[column], "feature", None), "names", None)
    return tuple(names) if names else None
