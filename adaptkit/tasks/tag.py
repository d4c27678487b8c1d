"""Tagging: one label per word, as for parts of speech and entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, one_of
from adaptkit.tasks import source
from adaptkit.tasks.forms.tag import TagForm
from adaptkit.tasks.labels import Namer, classes_in
from adaptkit.tasks.table import TableTask, with_column
from adaptkit.tasks.task import LABEL, Answer, Splits

if TYPE_CHECKING:
    from datasets import Dataset

METRICS = {"accuracy": ("accuracy",), "entities": ("f1", "precision", "recall", "accuracy")}


@dataclass(frozen=True)
class Tag(TableTask):
    """One of C tags per word. `labels` names them in the order of their numbers."""

    words: str = "tokens"  # column of lists of words
    label: str = "tags"  # column of lists of tags
    labels: tuple[str | int, ...] = ()  # empty: taken from the data
    metric: str = "accuracy"  # accuracy | entities

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, METRICS)
        super().__post_init__()

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
    def form(self) -> TagForm:
        """A token classifier."""
        return TagForm(self.words, self.classes, self.max_length)

    def with_classes(self, classes: tuple[str, ...]) -> Tag:
        """Return the task with its tags in another order."""
        return replace(self, labels=classes)

    def check(self, rows: Dataset, split: str) -> None:
        """Check that every row holds a list of words."""
        for number, words in enumerate(rows[self.words][:], 1):
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise AdaptError(
                    f"task {self.name}, split {split}, row {number}: {self.words} is "
                    f"{str(words)[:60]}, not a list of words."
                )

    def load(self, data: source.Data, seed: int, train: bool = True) -> Splits:
        """Read, check and sample the splits; the column `label` holds lists of the tags' names.

        Raises:
            AdaptError: a missing column or split, or a row with more or fewer tags than words.
        """
        origin, columns = self.origin(data), (self.words, self.label)
        raw = {s: self.read(data, name, origin, columns) for s, name in self.scored().items()}
        raw_train = self.read(data, self.train, origin, columns) if train else None
        seen = raw[""] if raw_train is None else raw_train
        task = self if self.labels else replace(self, labels=self._classes(seen))
        validation = {
            suffix: task.named(rows, self.scored()[suffix], data.eval_rows, seed)
            for suffix, rows in raw.items()
        }
        rows = None
        if raw_train is not None:
            rows = task.named(raw_train, self.train, data.train_rows, seed)
        return Splits(task, rows, validation, origin)

    def _classes(self, rows: Dataset) -> tuple[str, ...]:
        values = (tag for tags in rows[self.label][:] for tag in tags)
        where = f"task {self.name}: column {self.label!r}"
        return classes_in(values, self._stored(rows), where)

    def _stored(self, rows: Dataset) -> tuple[str, ...] | None:
        names = getattr(getattr(rows.features[self.label], "feature", None), "names", None)
        return tuple(names) if names else None

    def named(self, rows: Dataset, split: str, count: int | None, seed: int) -> Dataset:
        """Return checked rows, at most `count`, with the tags' names as labels.

        Raises:
            AdaptError: a row has more or fewer tags than words, or a tag that is none.
        """
        self.check(rows, split)
        where = f"task {self.name}, split {split}"
        namer, labels = Namer(self.classes, self._stored(rows), where), []
        columns = zip(rows[self.words][:], rows[self.label][:], strict=True)
        for number, (words, tags) in enumerate(columns, 1):
            if not isinstance(tags, list) or len(tags) != len(words):
                raise AdaptError(
                    f"{where}, row {number}: {len(words)} words, but {self.label} is "
                    f"{str(tags)[:60]}. Every word needs one tag."
                )
            labels.append([namer.name(tag, number) for tag in tags])
        labelled = with_column(rows, LABEL, labels).select_columns(["id", self.words, LABEL])
        return source.subset(labelled, count, seed)

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the metric of lists of tags."""
        from adaptkit.metrics.tagging import Tagging

        return Tagging(config_name=self.metric, keep_in_memory=True).compute(
            predictions=[[tag or "" for tag in tags] for tags in answers],
            references=rows[LABEL][:],
        )

    def baseline(self, splits: Splits) -> tuple[str, float]:
        """Score the commonest tag of the training rows, given to every word."""
        rows = splits.validation[""]
        seen = rows if splits.train is None else splits.train
        counts: Counter[Any] = Counter(tag for tags in seen[LABEL][:] for tag in tags)
        (name, _), *_ = counts.most_common(1)
        scores = self.score([[name] * len(tags) for tags in rows[LABEL][:]], rows)
        return "majority tag", scores.get(self.headline, float("nan"))
