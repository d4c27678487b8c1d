"""Accuracy in cells: by the value of a column and the right class.

An inference model that always answers "entailment" is right in half of the rows of HANS (McCoy et
al. 2019), and in none of those in which its heuristic fails. Only the cells tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.tasks.task import LABEL, Answer

if TYPE_CHECKING:
    from datasets import Dataset

Cells = dict[str, dict[str, dict[str, Any]]]  # value of the column -> right class -> cell


def accuracy_by(
    columns: Sequence[str], answers: Sequence[Answer], rows: Dataset
) -> dict[str, Cells]:
    """Return, of every column, the rows and the accuracy of each cell: {rows, accuracy}."""
    return {name: cells_of(rows[name][:], rows[LABEL][:], answers) for name in columns}


def cells_of(values: Sequence[Any], labels: Sequence[Answer], answers: Sequence[Answer]) -> Cells:
    """Return the cells of one column, in the order of their names."""
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for value, label, answer in zip(values, labels, answers, strict=True):
        right[str(value), label].append(answer == label)
    found: Cells = {}
    for value, label in sorted(right):
        hits = right[value, label]
        cell = {"rows": len(hits), "accuracy": sum(hits) / len(hits)}
        found.setdefault(value, {})[label] = cell
    return found
