"""Files of rows: Parquet, JSON lines, JSON arrays, CSV, TSV, CoNLL; all but Parquet also as .gz.

A file that is broken is an error that names the row. Of a file only the columns that a task asks
for are looked at: what the others hold does not matter.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adaptkit.errors import AdaptError, first_line
from adaptkit.tasks.reading import conll

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, Features

TEXT_FORMATS = ("jsonl", "json", "csv", "tsv")
EXTENSIONS = ("parquet", *TEXT_FORMATS, *(f"{name}.gz" for name in TEXT_FORMATS))
ENDINGS = (
    ".parquet, .jsonl, .json, .csv, .tsv or .conll (text also as .gz)"  # of them, for messages
)
LONGEST_CELL = 1 << 30  # characters; Python's own limit is below that of a long text

Row = dict[str, Any]


class Table(NamedTuple):
    """Rows with the columns asked for, and the names of all columns that the file has."""

    rows: Dataset
    columns: list[str]


def read_file(file: Path, columns: Collection[str] | None = None) -> Table:
    """Return the rows of a file; `columns`: only those of these that it has.

    Raises:
        AdaptError: the format is not known, a row is broken, or there are no rows.
    """
    kind = kind_of(file.name)
    if kind is None:
        raise AdaptError(f"task.path={file}: must end in {ENDINGS}.")
    table = _parquet(file, columns) if kind == "parquet" else _text_rows(file, kind, columns)
    if len(table.rows) == 0 and (table.rows.column_names or not table.columns):
        raise AdaptError(f"{file}: has no rows. An empty split cannot be used.")
    return table


def kind_of(name: str) -> str | None:
    """Return the format that the ending of a file's name says, or None."""
    kinds = (*EXTENSIONS, *conll.FORMATS)
    return next((kind for kind in kinds if name.lower().endswith(f".{kind}")), None)


def _parquet(file: Path, columns: Collection[str] | None) -> Table:
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    try:
        with pyarrow.parquet.ParquetFile(file) as stored:
            names = stored.schema_arrow.names
            wanted = [name for name in names if columns is None or name in columns]
            check_once(wanted, file)
            table = _plain(stored.read(columns=wanted))
            features = _features(table, file)
        return Table(
            Dataset(table.replace_schema_metadata(None).cast(features.arrow_schema)).cast(features),
            names,
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise AdaptError(f"{file}: is not a readable Parquet file: {first_line(error)}.") from error


def _plain(table: pyarrow.Table) -> pyarrow.Table:
    """Return a table with its categories, as pandas writes them, spelt out."""
    import pyarrow

    for index, column in enumerate(table.schema):
        if pyarrow.types.is_dictionary(column.type):
            values = table.column(index).cast(column.type.value_type)
            table = table.set_column(index, column.name, values)
    return table


def _features(table: pyarrow.Table, file: Path) -> Features:
    """Return the types of the columns, with the class names that the file stores."""
    from datasets import Features

    bare = table.replace_schema_metadata(None).schema
    try:
        stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        types = (stored.get("info") or {}).get("features") or {}
        known = Features.from_dict({name: types[name] for name in bare.names if name in types})
        features = Features.from_arrow_schema(bare)
    except Exception as error:  # whatever a foreign program wrote there
        raise AdaptError(
            f"{file}: the types of its columns cannot be read: {first_line(error)}. Write the "
            "file again, without the metadata 'huggingface'."
        ) from error
    meant = known.arrow_schema  # of a column that was written anew it may be out of date
    kept = {n: known[n] for n in meant.names if meant.field(n).type == bare.field(n).type}
    return Features({**features, **kept})


def _text_rows(file: Path, kind: str, columns: Collection[str] | None) -> Table:
    text = _text(file, compressed=kind.endswith(".gz"))
    if kind.startswith("json"):
        rows = _array(text, file) if text.lstrip().startswith("[") else _lines(text, file)
    elif kind in conll.FORMATS:
        rows = conll.sentences(text, file, kind)
    elif kind.startswith("tsv"):
        rows = _tabbed(text, file, columns)
    else:
        rows = list(cells(io.StringIO(text, newline=""), file, ",", columns))
    return _from_rows(rows, file, columns)


def _text(file: Path, compressed: bool) -> str:
    """Return a file's text, without the byte order mark that spreadsheets write."""
    content = file.read_bytes()
    if compressed:
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise AdaptError(
                f"{file}: is not a readable gzip file: {first_line(error)}."
            ) from error
    try:
        text = content.decode("utf-8-sig")
        broken = content.find(b"\0")
    except UnicodeDecodeError as error:
        broken = error.start
    if broken < 0:
        return text
    line = content.count(b"\n", 0, broken) + 1
    raise AdaptError(
        f"{file}: line {line} is not UTF-8 text (byte 0x{content[broken]:02x}). Convert the file, "
        "for example by: iconv -f cp1252 -t utf-8 OLD > NEW (from UTF-16: -f utf-16)."
    )


def _lines(text: str, file: Path) -> list[Row]:
    lines = enumerate(text.split("\n"), 1)
    return [_object(_json(line, file, n), file, n) for n, line in lines if line.strip()]


def _array(text: str, file: Path) -> list[Row]:
    parts = _json(text, file, 1)
    return [_object(part, file, number) for number, part in enumerate(parts, 1)]


def _json(text: str, file: Path, number: int) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            check_once([name for name, _ in pairs], file, f"row {number} ")
        return row

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:  # broken, or a number of thousands of digits
        raise AdaptError(f"{file}: row {number} is not JSON: {first_line(error)}.") from error
    except RecursionError as error:
        raise AdaptError(f"{file}: row {number} is nested too deeply to be read.") from error


def _object(row: Any, file: Path, number: int) -> Row:
    if not isinstance(row, dict):
        raise AdaptError(f"{file}: row {number} is not an object with columns: {row!r:.60}.")
    return row


def cells(
    lines: Iterable[str], file: Path, delimiter: str, columns: Collection[str] | None
) -> Iterator[Row]:
    """Yield the rows of CSV whose first line is a header."""
    number = 0
    csv.field_size_limit(LONGEST_CELL)
    table = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        header = table.fieldnames or []
        check_once([name for name in header if columns is None or name in columns], file)
        check_separator(header, file)
        for number, row in enumerate(table, 1):
            if None in row or None in row.values():
                raise AdaptError(
                    f"{file}: row {number} has another number of cells than the header."
                )
            yield row
    except csv.Error as error:
        raise AdaptError(f"{file}: row {number + 1} is broken: {error}.") from error


def _tabbed(text: str, file: Path, columns: Collection[str] | None) -> list[Row]:
    """Return the rows of TSV, quoted like CSV, or with quotes that are letters like others.

    Many published files hold texts that begin with a quote and have one row per line.

    Raises:
        AdaptError: a row is broken, or both readings are possible and differ.
    """
    lines = [line.split("\t") for line in re.split("\r\n|\r|\n", text) if line]
    header, *rest = [[_bare(cell) for cell in line] for line in lines] or [[]]
    plain = None
    if all(len(row) == len(header) for row in rest):
        check_once([name for name in header if columns is None or name in columns], file)
        plain = [dict(zip(header, row, strict=True)) for row in rest]
    try:
        quoted = list(cells(io.StringIO(text, newline=""), file, "\t", columns))
    except AdaptError:
        if plain is None:
            raise
        return plain
    if plain is not None and plain != quoted:
        raise AdaptError(
            f"{file}: has {len(plain)} rows if quotes are letters, {len(quoted)} if they hold "
            "cells of several lines together. Save it as CSV or JSONL."
        )
    return quoted


def _bare(cell: str) -> str:
    """Take the quotes off a cell that is quoted as a whole; other quotes are letters."""
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


def check_once(names: Sequence[str], file: Path, where: str = "") -> None:
    """Reject a column that stands twice: which one is meant?

    Raises:
        AdaptError: one does.
    """
    for name, times in Counter(names).items():
        if times > 1:
            raise AdaptError(f"{file}: {where}has {times} columns named {name!r}. Rename one.")


def check_separator(header: Sequence[str], file: Path) -> None:
    """Reject a header that is cut at another character, as spreadsheets of many countries do.

    Raises:
        AdaptError: it is one name that holds a semicolon, a tab or a bar.
    """
    found = [mark for mark in ";\t|" if mark in "".join(header)]
    if len(header) == 1 and found:
        raise AdaptError(
            f"{file}: the header {header[0]!r:.60} is cut at {found[0]!r}, it seems. Cells are cut "
            "at commas in .csv and at tabs in .tsv: save or name the file accordingly."
        )


def _from_rows(rows: list[Row], file: Path, wanted: Collection[str] | None) -> Table:
    from datasets import Dataset

    every = list(dict.fromkeys(name for row in rows for name in row))
    if wanted is None:
        columns = list(rows[0]) if rows else []
    else:
        columns = [name for name in every if name in wanted]
    for number, row in enumerate(rows, 1):
        if absent := [c for c in columns if c not in row]:
            raise AdaptError(f"{file}: row {number} lacks the column {absent[0]!r}.")
    try:
        return Table(Dataset.from_dict({c: [row[c] for row in rows] for c in columns}), every)
    except Exception as error:  # pyarrow raises several kinds for mixed types
        raise AdaptError(f"{file}: {odd_one(rows, columns) or first_line(error)}.") from error


def odd_one(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str | None:
    """Name the first value that is of another type than those above it, or is not a text at all."""
    for column in columns:
        first: type | None = None
        for number, row in enumerate(rows, 1):
            if row[column] is None:
                continue
            kind = type(row[column])
            if kind is str and any("\ud800" <= letter <= "\udfff" for letter in row[column]):
                return f"row {number}: {column} holds half a character (a lone surrogate)"
            first = first or kind
            if kind is not first:
                return (
                    f"row {number}: {column} is {row[column]!r}, but earlier rows "
                    f"hold {first.__name__}; a column holds values of one type"
                )
    return None
