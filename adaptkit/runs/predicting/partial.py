"""Answers on their way to a file: a command that was killed goes on where it stopped.

Beside OUTPUT lies .OUTPUT.partial: a line that says whose answers they are, then one JSON object
per row, appended by whole parts. What follows the last whole part is computed again, so that
every part is always the same rows, and the end is the same to the byte.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adaptkit.errors import AdaptError
from adaptkit.runs.predicting.answer_file import Line
from adaptkit.storage.files import to_json


@dataclass
class Partial:
    """The rows that are answered so far, in an open file."""

    path: Path
    file: BinaryIO
    done: int  # rows

    def append(self, rows: Sequence[Line]) -> None:
        """Write a part to the disk itself."""
        self.file.write("".join(f"{to_json(row)}\n" for row in rows).encode())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.done += len(rows)

    def rows(self) -> Iterator[Line]:
        """Yield what was written, from the beginning.

        Raises:
            AdaptError: the file is damaged.
        """
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise AdaptError(
                        f"{self.path} is damaged. Delete it, and repeat the command."
                    ) from error


@contextlib.contextmanager
def partial_of(
    output: Path, owner: Mapping[str, Any], part: int, again: bool, fresh: bool = False
) -> Iterator[Partial]:
    """Open what an earlier command left, cut to whole parts of `part` rows, or begin anew.

    At the end of the block the file is removed; an exception leaves it, unless it has no rows.

    `owner`: what the answers depend on. `again`: those of another owner may be thrown away; without
    it that is an error. `fresh`: begin anew in any case.

    Raises:
        AdaptError: the rows are those of another owner, or another process writes them.
    """
    path = output.with_name(f".{output.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = to_json(owner).encode() + b"\n"
    with path.open("a+b") as file:
        _hold(file, path)
        done, end = _whole(file, part, header)
        if done < 0 and not again:
            raise AdaptError(
                f"{path}: holds answers of another command (run, input, or version). Repeat "
                "that command to finish it, or discard its answers with --overwrite."
            )
        if done <= 0 or fresh:
            done, end = 0, 0
        file.truncate(end)
        if not end:
            file.write(header)
        partial = Partial(path, file, done)
        try:
            yield partial
        except BaseException:
            if not partial.done:
                path.unlink()
            raise
        path.unlink()


def _hold(file: BinaryIO, path: Path) -> None:
    """Keep other processes out until the file is closed."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows has no such lock
        pass
    except OSError as error:
        raise AdaptError(
            f"{path}: another process is writing it. Wait for it, or give another --output."
        ) from error


def _whole(file: BinaryIO, part: int, header: bytes) -> tuple[int, int]:
    """Return the rows in whole parts and where they end; -1 rows if they have another owner."""
    file.seek(0)
    found = file.readline()
    done, end, at = 0, len(found), len(found)
    for number, line in enumerate(file, 1):
        at += len(line)
        if not number % part and line.endswith(b"\n"):
            done, end = number, at
    return (-1 if done and found != header else done), end
