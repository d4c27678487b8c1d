"""Files of answers: JSON lines, CSV, TSV or Parquet, by the ending of the name.

A row has `id` and `prediction`. The probabilities of a task's classes are an object in JSON, and
columns of their own (probability_CLASS) elsewhere; those of a row's own candidates are JSON text
there. A list is JSON text in CSV and TSV, and a list in Parquet.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError
from adaptkit.storage.files import check_parents, replacing, to_json

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
Line = Mapping[str, Any]  # what is written of one row
Read = Callable[[], Iterable[Line]]  # gives all rows from the beginning, any number of times
GROUP = 10_000  # rows of Parquet that are written together


def check_output(output: Path, overwrite: bool) -> None:
    """Check that a file can be written: its ending, and that nothing lies there.

    Raises:
        AdaptError: it cannot.
    """
    if output.suffix.lower() not in ENDINGS:
        raise AdaptError(f"--output={output}: must end in {', '.join(ENDINGS)}, or be -.")
    check_parents(output, "--output")
    if output.is_dir():
        raise AdaptError(f"--output={output}: is a folder. Name a file.")
    if output.exists() and not overwrite:
        raise AdaptError(
            f"--output={output}: this file exists; nothing was changed. Give another name, or add "
            "--overwrite."
        )


def write_answers(output: Path, read: Read, classes: Sequence[str] = ()) -> None:
    """Write rows to a file, atomically; `classes`: those of the task."""
    kind = output.suffix.lower()
    write = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}[kind]

    def columns() -> Iterator[Line]:
        return (flat(row, classes) for row in read())

    with replacing(output) as temporary:
        write(temporary, read if kind == ".jsonl" else columns, output)


def flat(row: Line, classes: Sequence[str]) -> dict[str, Any]:
    """Return a row with its classes' probabilities as columns."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if name != "probabilities" or not isinstance(value, dict):
            columns[name] = value
        elif list(value) == list(classes):
            columns |= {f"probability_{key}": share for key, share in value.items()}
        else:  # other names in every row
            columns[name] = to_json(value)
    return columns


def _jsonl(temporary: Path, read: Read, output: Path) -> None:
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{to_json(row)}\n" for row in read())


def _csv(temporary: Path, read: Read, output: Path) -> None:
    tabs = output.suffix.lower() == ".tsv"
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if tabs else ",", lineterminator="\n")
        for number, row in enumerate(read()):
            if number == 0:
                writer.writerow(row)
            writer.writerow(to_json(v) if isinstance(v, list | dict) else v for v in row.values())


def _parquet(temporary: Path, read: Read, output: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    # Lists of one group may all be empty: the type of a column shows in the whole file only.
    schemas = [pyarrow.Table.from_pylist(rows).schema for rows in _groups(read())]
    schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
    with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for rows in _groups(read()):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _groups(rows: Iterable[Line]) -> Iterator[list[Any]]:
    rest = iter(rows)
    while group := list(islice(rest, GROUP)):
        yield group
