"""Classification of one text or a pair: cross-entropy, accuracy and its relatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, one_of
from adaptkit.tasks import source
from adaptkit.tasks.text import Splits, TextTask

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

METRICS = {  # name -> scores; the first is the one that runs are compared by
    "accuracy": ("accuracy",),
    "accuracy_and_f1": ("f1", "accuracy"),
    "matthews": ("matthews_correlation",),
}


@dataclass(frozen=True)
class Classify(TextTask):
    """One of C classes per row. `labels` names them in the order of their numbers."""

    labels: tuple[str | int, ...] = ()  # empty: taken from the data
    metric: str = "accuracy"  # accuracy | accuracy_and_f1 | matthews
    best: str = ""  # empty: the metric's first score

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
        one_of("task.metric", self.metric, METRICS)
        if len(self.labels) == 1:
            raise AdaptError(f"task.labels={list(self.labels)}: name two classes or more.")
        self._check_best(METRICS[self.metric])

    def with_labels(self, labels: tuple[str, ...]) -> Classify:
        """Return this task with the classes a run was trained on, where it names none itself."""
        return self if self.labels else replace(self, labels=labels)

    def load(self, data: Any, seed: int, train: bool = True) -> Splits:
        """Read, check, number and sample the splits.

        Raises:
            AdaptError: a missing column or split, labels that are no classes, or only one class.
        """
        origin = self.origin(data)
        raw = {suffix: self.read(data, name, origin) for suffix, name in self.scored().items()}
        raw_train = self.read(data, self.train, origin) if train else None
        classes = self.labels or self._classes(raw_train if train else raw[""])
        if self.metric == "accuracy_and_f1" and len(classes) != 2:
            raise AdaptError(f"task.metric={self.metric}: needs two classes, not {len(classes)}.")
        validation = {
            suffix: self._sample(
                self._number(rows, classes, self.scored()[suffix]), data.eval_rows, seed
            )
            for suffix, rows in raw.items()
        }
        rows = None
        if raw_train is not None:
            rows = self._number(raw_train, classes, self.train)
            if len(set(rows["labels"][:])) < 2:
                raise AdaptError(
                    f"task {self.name}, split {self.train}: all {len(rows)} rows have the label "
                    f"{classes[rows['labels'][0]]!r}; there is nothing to tell apart."
                )
            rows = self._sample(rows, data.train_rows, seed)
        return Splits(rows, validation, origin, classes)

    def _classes(self, rows: Dataset) -> tuple[str, ...]:
        feature = rows.features[self.label]
        if getattr(feature, "names", None):
            return tuple(feature.names)
        values = set(rows[self.label][:])
        if not all(isinstance(v, int | str | bool) for v in values) or len(values) > 1000:
            raise AdaptError(
                f"task {self.name}: column {self.label!r} holds no classes (for example "
                f"{next(iter(values))!r}; {len(values)} different values). "
                "For scores use task=regress."
            )
        if all(isinstance(v, str) and v.isdecimal() for v in values):
            values = {int(v) for v in values}  # CSV has no numbers
        if not all(isinstance(v, int) for v in values):
            return tuple(sorted(str(v) for v in values))
        if min(values) == 0 and max(values) < 1000:
            return tuple(str(i) for i in range(max(values) + 1))
        return tuple(str(v) for v in sorted(values))

    def _number(self, rows: Dataset, classes: tuple[str, ...], split: str) -> Dataset:
        """Add the column `labels` with class numbers; say which row has no such class."""
        # Where the file stores names, its numbers are places in that list, whatever the names are.
        stored = getattr(rows.features[self.label], "names", None)
        numbers = {} if stored else {name: i for i, name in enumerate(classes)}
        # Classes that are called 1, 2, ... are meant by name, never by their place in the list.
        by_place = stored or not all(name.lstrip("-").isdecimal() for name in classes)
        labels = []
        for row, value in enumerate(rows[self.label][:], 1):
            digits = isinstance(value, str) and value.isdecimal()
            known = int(value) if digits or isinstance(value, bool) else value
            place = known if by_place and isinstance(known, int) else None
            number = numbers.get(str(value), numbers.get(str(known), place))
            if number is None or not 0 <= number < len(classes):
                hidden = " The labels of this split are withheld; score on another." * (value == -1)
                raise AdaptError(
                    f"task {self.name}, split {split}, row {row}: label {value!r} is none of the "
                    f"{len(classes)} classes {', '.join(classes[:8])}.{hidden}"
                )
            labels.append(int(number))
        kept = rows.remove_columns([c for c in rows.column_names if c == "labels"])
        return kept.add_column("labels", labels)

    def _sample(self, rows: Dataset, count: int | None, seed: int) -> Dataset:
        return source.subset(
            rows, count, seed, dict(enumerate(rows["labels"][:])) if count else None
        )

    def outputs(self, labels: tuple[str, ...]) -> int:
        """Return the width of the head."""
        return len(labels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits [B, C] against class numbers [B]."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), labels)

    def reduce(self, logits: Tensor) -> Tensor:
        """Return the predicted class numbers [B]."""
        return logits.argmax(-1)
