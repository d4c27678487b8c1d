"""Remarks on how rows were read, for the user and the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def notes_on(
    column: str | None, raw: Mapping[str, Dataset], kept: Mapping[str, Dataset]
) -> tuple[str, ...]:  # fmt: skip
    """Say which splits lost rows, and whether rows are numbered because `column` is not there."""
    notes = [
        f"{len(rows) - len(kept[name])} of the {len(rows)} rows of {name} have no label and are "
        "left out"
        for name, rows in raw.items()
        if len(kept[name]) < len(rows)
    ]
    if column and any(column not in rows.column_names for rows in raw.values()):
        notes.append(no_ids(column))
    return tuple(notes)


def no_ids(column: str) -> str:
    """Say that rows have no ids of their own."""
    return f"task.id={column}: there is no such column, so the ids are numbers from 0"
