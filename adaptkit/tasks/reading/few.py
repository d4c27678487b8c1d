"""Few-shot splits: k training rows of each class, in five fixed draws that anybody can repeat.

    digest(row)    SHA-256 of its columns but the id, as JSON in the order of their names
    draw f         of each class the k rows with the smallest SHA-256 of "<seed f>:<digest>"

Neither the order of the file nor a library's random numbers matter. Rows that are alike count once.
The seeds are those of Gao et al. 2021 (arXiv:2012.15723).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError, invalid
from adaptkit.tasks.data import FOLDS, Data
from adaptkit.tasks.task import ID, LABEL

if TYPE_CHECKING:
    from datasets import Dataset

    from adaptkit.tasks.table import TableTask


def digests(rows: Dataset) -> list[str]:
    """Return the digest of every row."""
    names = sorted(set(rows.column_names) - {ID})
    lines = (json.dumps(values, sort_keys=True) for values in rows.select_columns(names))
    return [_sha(line) for line in lines]


def drawn(rows: Dataset | None, data: Data) -> dict[str, list[str]]:
    """Return the entry of the record: the digests of a few-shot draw, to be compared with."""
    return {} if data.per_class is None or rows is None else {"train_sha256": digests(rows)}


def training_rows(task: TableTask, rows: Dataset, data: Data, seed: int) -> Dataset:
    """Return the rows to train on: k of each class, at most `train_rows`, or all.

    Raises:
        AdaptError: the task has no classes, or one has too few rows.
    """
    if data.per_class is None:
        return task.some(rows, data.train_rows, seed)
    where = f"data.per_class={data.per_class}"
    classes = task.strata(rows[LABEL][:])
    if classes is None:
        raise invalid("data.per_class", data.per_class, "needs a task whose rows have classes",
                      "Set data.train_rows instead")  # fmt: skip
    found = digests(rows)
    by_class: dict[str, dict[str, int]] = defaultdict(dict)
    for number, (name, digest) in enumerate(zip(classes, found, strict=True)):
        by_class[name].setdefault(_sha(f"{FOLDS[data.fold]}:{digest}"), number)
    kept: list[int] = []
    for name, drawn in by_class.items():
        if len(drawn) < data.per_class:
            raise AdaptError(
                f"{where}: the class {name!r} has {len(drawn)} different training rows. Lower it."
            )
        kept += [drawn[key] for key in sorted(drawn)[: data.per_class]]
    return rows.select(sorted(kept))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
