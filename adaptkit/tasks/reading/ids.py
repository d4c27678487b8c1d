"""The rows' own ids, and rows chosen by what stands in a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.storage.files import to_json
from adaptkit.tasks.reading import source
from adaptkit.tasks.task import ID, SHOWN

if TYPE_CHECKING:
    from datasets import Dataset


NUMBERED = "Rows without ids of their own."  # what a table's description then says


def with_ids(rows: Dataset, column: str | None, where: str) -> Dataset:
    """Return rows with the column `id`, as text: the values of `column`, or numbers from 0.

    Raises:
        AdaptError: a row has no id, or two rows have one; `where` names task and split.
    """
    ids, own = [str(number) for number in range(len(rows))], column in rows.column_names
    if own:
        values = rows[column][:]
        if empty := [i for i, value in enumerate(values) if value is None or value == ""]:
            raise AdaptError(
                f"{where}, row {empty[0] + 1}: {column} (task.id) is empty. Fill it in."
            )
        ids = [id_text(value) for value in values]
    value, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise AdaptError(
            f"{where}: {times} rows have the id {value!r}. An id names one row; set task.id=null "
            "to number the rows."
        )
    return add_ids(rows, ids, own)


def add_ids(rows: Dataset, ids: Sequence[str], own: bool) -> Dataset:
    """Return rows with the column `id`; `own`: False if the ids are numbers that count from 0."""
    rows = source.with_column(rows, ID, ids)
    rows.info.description = "" if own else NUMBERED
    return rows


def numbered(rows: Dataset) -> bool:
    """Tell whether the ids are not the rows' own, but count them from 0."""
    return rows.info.description == NUMBERED


def id_text(value: Any) -> str:
    """Return an id as a text; an object, as SuperGLUE has them, as JSON."""
    return to_json(value) if isinstance(value, Mapping) else str(value)


def chosen(rows: Dataset, values: Mapping[str, str], where: str) -> Dataset:
    """Return the rows with these values in these columns, compared as text.

    Raises:
        AdaptError: no row has them; the message names values that are there.
    """
    for column, value in values.items():
        there = [str(one) for one in rows[column][:]]
        kept = [i for i, one in enumerate(there) if one == value]
        if not kept:
            others = ", ".join(name for name, _ in Counter(there).most_common(SHOWN))
            raise AdaptError(
                f"{where}: no row has {value!r} in {column!r} (task.where); there are: {others}."
            )
        rows = rows.select(kept)
    return rows


def row_name(rows: Dataset, index: int) -> str:
    """Return how a message names a row: by its own id, or by its number in the file, from 1."""
    if ID not in rows.column_names:
        return f"row {index + 1}"
    name = rows[ID][index]
    numbered = rows.info.description == NUMBERED
    return f"row {int(name) + 1}" if numbered else f"the row with id {name!r}"
