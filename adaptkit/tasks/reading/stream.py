"""Rows of files that need not fit into memory, one after the other.

Lines of JSONL, rows of CSV, and of TSV without quotes are read as they come, Parquet by its groups
of rows. A JSON array, tagged words, and TSV with quotes (which can be meant in two ways), are read
at once.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from adaptkit.errors import AdaptError, first_line
from adaptkit.tasks.reading import conll
from adaptkit.tasks.reading.files import (
    ENDINGS,
    Row,
    _json,
    _object,
    _plain,
    cells,
    kind_of,
    read_file,
)

GROUP = 256  # rows of Parquet that are made Python objects at once


def rows_in(file: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a file, in order; of Parquet only `columns`, as far as it has them.

    Raises:
        AdaptError: the format is not known, or a row is broken; the message names it.
    """
    kind = kind_of(file.name)
    if kind is None:
        raise AdaptError(f"--input={file}: must end in {ENDINGS}.")
    if kind == "parquet":
        return _of_parquet(file, columns)
    quotes = kind.startswith("tsv") and any('"' in line for line in _text_of(file))
    if quotes or kind in conll.FORMATS:
        return iter(cast("Iterable[Row]", read_file(file, columns).rows))
    if kind.startswith(("csv", "tsv")):
        # Only here may a line end in a carriage return alone.
        lines = (part for line in _text_of(file) for part in io.StringIO(line, newline=""))
        return cells(lines, file, "," if kind.startswith("csv") else "\t", columns)
    begin = next((line.lstrip() for line in _text_of(file) if line.strip()), "")
    if begin.startswith("["):
        return iter(cast("Iterable[Row]", read_file(file, columns).rows))
    return json_lines(_text_of(file), file)


def count_in(file: Path) -> int | None:
    """Return the number of rows, if it is known without reading them."""
    if kind_of(file.name) != "parquet":
        return None
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as stored:
            return cast("int", stored.metadata.num_rows)
    except (pyarrow.ArrowException, OSError):
        return None  # reading it says what is wrong


def json_lines(lines: Iterable[str], file: Path) -> Iterator[Row]:
    """Yield the objects of lines; empty lines are left out.

    Raises:
        AdaptError: a line is not a JSON object; the message names it.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _object(_json(line, file, number), file, number)


def decoded(lines: Iterable[bytes], file: Path) -> Iterator[str]:
    """Yield lines as text, without the byte order mark that spreadsheets write.

    Raises:
        AdaptError: one is not UTF-8; the message names it.
    """
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _not_text(file, number, line[error.start]) from error
        if "\0" in text:
            raise _not_text(file, number, 0)
        yield text


def _not_text(file: Path, number: int, byte: int) -> AdaptError:
    return AdaptError(
        f"{file}: line {number} is not UTF-8 text (byte 0x{byte:02x}). Convert the file, for "
        "example by: iconv -f cp1252 -t utf-8 OLD > NEW (from UTF-16: -f utf-16)."
    )


def _text_of(file: Path) -> Iterator[str]:
    compressed = file.name.lower().endswith(".gz")
    try:
        with cast("BinaryIO", gzip.open(file) if compressed else file.open("rb")) as content:
            yield from decoded(content, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AdaptError(f"{file}: is not a readable gzip file: {first_line(error)}.") from error


def _of_parquet(file: Path, columns: Collection[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as stored:
            names = stored.schema_arrow.names
            wanted = [name for name in names if name in columns] or names[:1]  # rows, in any case
            for batch in stored.iter_batches(GROUP, columns=wanted):
                yield from _plain(pyarrow.Table.from_batches([batch])).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise AdaptError(f"{file}: is not a readable Parquet file: {first_line(error)}.") from error
