"""How many rows a forward pass has: as set, or fewer once memory ran out. No torch here.

A step's rows are then cut into pieces. An update sums over all of them, so that it stays the update
of one big batch (see `trainer`); only the rounding differs, and the draws of dropout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from adaptkit.errors import out_of_memory
from adaptkit.storage.files import write_json
from adaptkit.training.settings import TrainerSettings

FILE = "rows.json"  # next to the checkpoints: a resumed run goes on with the same pieces
Made = TypeVar("Made")


class TooManyRows(Exception):
    """Memory ran out in a training step; fewer rows are noted, and training can go on."""


@dataclass
class Rows:
    """The rows of a forward pass in training and in scoring."""

    training: int
    scoring: int
    tokens: int | None = None  # the most in a forward pass, padding included: trainer.max_tokens
    finds: bool = False  # trainer.find_batch_size: halved when memory runs out
    file: Path | None = None  # keeps them

    @classmethod
    def of(cls, trainer: TrainerSettings, folder: Path | None = None) -> Rows:
        """Return those of the settings, or what an interrupted run has noted in `folder`."""
        rows = cls(
            trainer.batch_size, trainer.eval_batch_size, trainer.max_tokens, trainer.find_batch_size
        )
        if rows.finds and folder is not None:
            rows.file = folder / FILE
            with suppress(OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
                noted = json.loads(rows.file.read_text(encoding="utf-8"))
                for name, largest in rows.as_dict().items():
                    if noted[name] in range(1, largest):
                        setattr(rows, name, noted[name])
        return rows

    def as_dict(self) -> dict[str, int]:
        """Return plain data."""
        return {"training": self.training, "scoring": self.scoring}

    @contextmanager
    def training_step(self, rows: int) -> Iterator[None]:
        """Let a step over pieces of up to `rows` rows be made.

        Raises:
            TooManyRows: memory ran out, and fewer rows are possible. Other exceptions pass.
        """
        try:
            yield
        except Exception as error:
            if not self._halved("training", rows, error):
                raise
            raise TooManyRows(
                f"out of memory: a forward pass now has {self.training} rows instead of {rows}; "
                "updates stay the same"
            ) from error

    def scored(
        self, batches: Iterable[list[int]], work: Callable[[list[int]], Made]
    ) -> Iterator[tuple[list[int], Made]]:
        """Yield batches with what `work` makes of them, cut where memory runs out."""
        todo = [piece for batch in batches for piece in cut(batch, self.scoring)][::-1]
        while todo:
            piece, made = list(todo.pop()), None
            try:
                made = work(piece)
            except Exception as error:
                if not self._halved("scoring", len(piece), error):
                    raise
            if made is None:  # out here, what the exception holds is let go
                todo = [part for rest in (*todo, piece) for part in cut(rest, self.scoring)[::-1]]
            else:
                yield piece, made

    def _halved(self, kind: str, rows: int, error: Exception) -> bool:
        """If `error` says that memory ran out, and `rows` are two or more, note half of them."""
        if not self.finds or rows < 2 or not out_of_memory(error):
            return False
        setattr(self, kind, math.ceil(rows / 2))
        if self.file is not None:
            write_json(self.file, self.as_dict())
        return True


def cut(rows: Sequence[int], most: int) -> list[Sequence[int]]:
    """Return rows in as few pieces of at most `most` as possible, all about as large."""
    count = max(1, math.ceil(len(rows) / most))
    size = max(1, math.ceil(len(rows) / count))
    return [rows[start : start + size] for start in range(0, max(1, len(rows)), size)]
