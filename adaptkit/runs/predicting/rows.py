"""The rows to answer: of a file, of standard input, or of a split; read one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.storage.files import digest
from adaptkit.tasks.notes import no_ids, notes_on
from adaptkit.tasks.reading.files import Row
from adaptkit.tasks.reading.ids import id_text, numbered
from adaptkit.tasks.reading.source import file_of
from adaptkit.tasks.reading.stream import count_in, decoded, json_lines, rows_in
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import ID

STREAM = Path("-")  # standard input or output


@dataclass(frozen=True)
class Rows:
    """Rows to answer, which can be read once."""

    name: str  # for messages
    rows: Iterable[Row]
    first: Row
    key: str | None  # column of the ids; None: they are numbers from 0
    own: bool  # the ids are not numbers that were given to the rows
    total: int | None
    digest: str  # empty: nobody can say whether they are the same another time
    notes: tuple[str, ...] = ()


def rows_of(run: Settings, file: Path, stdin: BinaryIO) -> Rows:
    """Return the rows of a file, or of standard input (STREAM), the first of which was read.

    Raises:
        AdaptError: there are none, or the first is broken.
    """
    task = run.task
    key = task.id if isinstance(task, TableTask) else None
    if file == STREAM:
        name, total, identity = "standard input", None, ""
        rows: Iterator[Row] = json_lines(decoded(stdin, Path(name)), Path(name))
    else:
        columns = {*task.columns, *([key] if key else [])}
        name, total, identity = str(file), count_in(file), digest([file], part=True)
        rows = rows_in(file, columns)
    first = next(rows, None)
    if first is None:
        raise AdaptError(f"{name}: has no rows.")
    notes: tuple[str, ...] = ()
    if key and key not in first:
        notes = (no_ids(key),)
        key = None
    return Rows(name, chain([first], rows), first, key, bool(key), total, identity, notes)


def split_of(run: Settings, split: str) -> Rows:
    """Return the rows of a split of the task's own data; its labels are not looked at.

    Raises:
        AdaptError: there is no such split.
    """
    task = run.task
    if not isinstance(task, TableTask):
        raise AdaptError(
            f"--split={split}: {task.name} has no table of rows. Give them with --input."
        )
    origin = task.origin(run.data)
    if origin.one_file:
        raise AdaptError(
            f"--split={split}: {origin.path} is one file, of which a part was held out. Answer all "
            f"of it with --input {origin.path}."
        )
    rows = task.read(run.data, split, origin, task.columns)
    file = None if origin.kind == "hub" else file_of(Path(origin.path), split)
    identity = digest([file], part=True) if file else f"{origin.path} {task.revision} {len(rows)}"
    notes = notes_on(task.id, {split: rows}, {split: rows})
    own = not numbered(rows)
    return Rows(f"split {split}", rows, rows[0], ID, own, len(rows), f"{split} {identity}", notes)


def identity(rows: Rows, row: Row, number: int) -> str:
    """Return the id of a row: its own, or its number, counted from 0.

    Raises:
        AdaptError: its own is missing.
    """
    value = number if rows.key is None else row.get(rows.key)
    if value is None or value == "":
        raise AdaptError(
            f"{rows.name}: row {number + 1}: {rows.key} (task.id) is empty. Fill it in, or set "
            "task.id=null to number the rows."
        )
    return id_text(value)
