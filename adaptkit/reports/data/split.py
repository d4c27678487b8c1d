"""One split, looked at: which rows show what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.reports.data import texts, tokens
from adaptkit.tasks.forms.span import SpanForm
from adaptkit.tasks.seq2seq import Seq2Seq
from adaptkit.tasks.span import Span, without_place
from adaptkit.tasks.task import ID, LABEL, Reader, Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Split:
    """What was found in one split. Lists hold numbers of rows, counted from 0."""

    name: str  # train, validation, validation (mismatched) ...
    ids: list[str]
    keys: list[bytes]  # of the rows' texts
    classes: dict[str, int]  # rows or words of each class
    near_empty: list[str]  # classes with too few
    numbers: tuple[float, float, float] | None  # least, mean and largest label
    repeats: list[int]  # the text of an earlier row
    contradictions: list[int]  # the text occurs with several labels
    seen: list[int]  # the text is in the training rows as well
    empty: list[int]  # an input column holds no text
    broken: list[int]  # characters of a broken encoding
    absent: list[int]  # no right answer is in the text (spans)
    crowded: list[int]  # the question leaves no room for the text (spans)
    measured: list[int]  # the rows that `read` is about, in its order: all but the crowded ones
    read: tokens.Read | None  # None: the rows cannot be put to this model
    rejected: str  # why

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        total = max(1, sum(self.classes.values()))
        numbers = self.numbers and dict(
            zip(("least", "mean", "largest"), self.numbers, strict=True)
        )
        lists = ("repeats", "contradictions", "seen", "empty", "broken", "absent", "crowded")
        return {
            "rows": len(self.ids),
            "classes": {
                name: {
                    "count": count,
                    "share": count / total,
                    "near_empty": name in self.near_empty,
                }
                for name, count in self.classes.items()
            },
            "numbers": numbers,
            **{name: len(getattr(self, name)) for name in lists},
            "tokens": self.read.rows.as_dict() if self.read else None,
            "targets": self.read.targets.as_dict() if self.read and self.read.targets else None,
        }


def look_at(task: Task, rows: Dataset, name: str, reader: Reader, train: Split | None) -> Split:
    """Look at a split; `train` is what was found in the training rows, if there are any."""
    keys, counts = texts.keys_of(task, rows), texts.class_counts(task, rows)
    values, known = rows[LABEL][:], {*(train.keys if train else ())}
    are_numbers = not task.classes and all(isinstance(value, float) for value in values)
    several = isinstance(task, Seq2Seq) and task.grouped  # references of one item
    crowded = crowded_rows(task, rows, reader)
    fitting = sorted({*range(len(rows))} - {*crowded})
    limit = reader.length(task.max_length)
    read, rejected = None, "no question leaves room for its context." if crowded else ""
    try:
        if fitting:
            part = rows.select(fitting) if crowded else rows
            read, rejected = tokens.read(task.posed, part, reader, limit), ""
    except AdaptError as problem:
        rejected = str(problem)
    return Split(
        name, rows[ID][:], keys, counts, texts.near_empty(task, counts),
        (min(values), sum(values) / len(values), max(values)) if are_numbers else None,
        texts.repeats(keys),
        [] if several else texts.contradictions(keys, texts.labels_of(task, rows)),
        [row for row, key in enumerate(keys) if key in known],
        texts.empty(task, rows), texts.broken(task, rows),
        without_place(rows) if isinstance(task, Span) else [], crowded, fitting, read, rejected,
    )  # fmt: skip


def crowded_rows(task: Task, rows: Dataset, reader: Reader) -> list[int]:
    """Return the rows whose question leaves no more of the window than two windows overlap by."""
    form = task.posed
    if not isinstance(form, SpanForm):
        return []
    rooms = form.rooms(rows[form.question][:], reader)
    return [row for row, (_, room) in enumerate(rooms) if room <= form.stride]
