"""What the rows themselves say, before any tokenizer: classes, repeated, empty and broken texts.

Two texts are the same if they are equal after white space is collapsed and case folded. The text of
a row is what all of its input columns hold.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.tasks.choice import Choice
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.dependency import Dependency
from adaptkit.tasks.reading.source import has_text
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.seq2seq import Seq2Seq
from adaptkit.tasks.tag import Tag
from adaptkit.tasks.task import LABEL, Task
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset

FEW, SMALL = 10, 0.01  # rows, and share of the rows, of a class that is near-empty
# The sign of undecodable bytes; UTF-8 that was read as Latin-1; control characters of Latin-1.
BROKEN = re.compile("\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|[\u0080-\u009f]")


def same(value: Any) -> Any:
    """Return a text, or the texts of a list, in the form in which they are compared."""
    if isinstance(value, list):
        return [same(one) for one in value]
    return " ".join(str(value).split()).casefold()


def keys_of(task: Task, rows: Dataset) -> list[bytes]:
    """Return a digest per row; equal ones have the same text.

    Of texts to generate that have several references the target belongs to the text.
    """
    columns = [rows[name][:] for name in task.columns]
    if isinstance(task, Seq2Seq) and task.grouped:
        columns.append(rows[LABEL][:])
    lines = (json.dumps([same(value) for value in row]) for row in zip(*columns, strict=True))
    return [hashlib.blake2b(line.encode(), digest_size=16).digest() for line in lines]


def labels_of(task: Task, rows: Dataset) -> list[frozenset[str]]:
    """Return all right answers of every row, in the form in which they are compared."""
    return [frozenset(map(json.dumps, _right(task, label))) for label in rows[LABEL][:]]


def _right(task: Task, label: Any) -> list[Any]:
    if isinstance(label, Mapping):  # of a span; without a text there is no answer
        return same(label["text"]) or [""]
    # A list of tags or heads is one answer.
    several = isinstance(label, list) and not isinstance(task, Tag | Dependency)
    return same(label) if several else [label]


def repeats(keys: Sequence[bytes]) -> list[int]:
    """Return the rows whose text an earlier row has."""
    first: dict[bytes, int] = {}
    return [row for row, key in enumerate(keys) if first.setdefault(key, row) != row]


def contradictions(keys: Sequence[bytes], labels: Sequence[frozenset[str]]) -> list[int]:
    """Return the rows whose text occurs with labels that have no right answer in common."""
    common: dict[bytes, frozenset[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        common[key] = common.get(key, label) & label
    return [row for row, key in enumerate(keys) if not common[key]]


def empty(task: Task, rows: Dataset) -> list[int]:
    """Return the rows in which a text that the model reads holds nothing but blanks."""
    columns = {name: [has_text(value) for value in rows[name][:]] for name in task.columns}
    texts = [zip(*(columns[name] for name in text), strict=True) for text in _texts(task)]
    return [row for row, parts in enumerate(zip(*texts, strict=True)) if not all(map(any, parts))]


def _texts(task: Task) -> list[tuple[str, ...]]:
    """Return the columns of each text: a template may have some that are often empty."""
    if isinstance(task, Classify | Regress):
        return [Template(text, "task.text").columns for text in task.text]
    return [task.columns] if isinstance(task, Seq2Seq) else [(name,) for name in task.columns]


def broken(task: Task, rows: Dataset) -> list[int]:
    """Return the rows whose input, or text to write, holds characters of a broken encoding."""
    names = [*task.columns, *([] if task.classes else [LABEL])]
    columns = zip(*(rows[name][:] for name in names), strict=True)
    return [row for row, values in enumerate(columns) if any(map(_is_broken, values))]


def _is_broken(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_is_broken, value))
    return isinstance(value, str) and BROKEN.search(value) is not None


def class_counts(task: Task, rows: Dataset) -> dict[str, int]:
    """Return how many rows (words, if they have tags) each class has; choices by their number."""
    labels = rows[LABEL][:]
    if isinstance(task, Choice):
        counts = Counter(map(str, labels))
        return {str(number): counts[str(number)] for number in range(max(labels, default=-1) + 1)}
    if not task.classes:
        return {}
    listed = (label if isinstance(label, list) else [label] for label in labels)
    counts = Counter(name for names in listed for name in names)
    return {name: counts[name] for name in task.classes}


def near_empty(task: Task, counts: Mapping[str, int]) -> list[str]:
    """Return the classes with fewer than 10 rows, or with under 1 % of all rows.

    Of more than ten classes it is a tenth of an equal share instead of 1 %. Tags are counted in
    words and differ by nature: of them, those with fewer than 10 words.
    """
    share = 0.0 if isinstance(task, Tag) else min(SMALL, 0.1 / max(len(counts), 1))
    least = max(FEW, share * sum(counts.values()))
    return [name for name, count in counts.items() if count < least]
