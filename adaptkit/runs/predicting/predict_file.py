"""Files of answers: the rows of a file, of standard input, or of a split go through a run.

Rows are read, answered and kept by parts of a fixed number of rows, so that neither the rows nor
the answers need fit into memory, and a killed command goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from adaptkit import __version__
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.evaluating.evaluate import as_recorded, asked_in, changed, with_classes_of
from adaptkit.runs.predicting.answer_file import Line, check_output, write_answers
from adaptkit.runs.predicting.partial import Partial, partial_of
from adaptkit.runs.predicting.parts import parts_of
from adaptkit.runs.predicting.predictor import Predictor
from adaptkit.runs.predicting.rows import STREAM, Rows, rows_of, split_of
from adaptkit.runs.predicting.submission import (
    Submission,
    file_for,
    remark_on,
    submission_of,
    write_submission,
)
from adaptkit.storage.files import to_json

PART = 512  # rows that are answered and kept together
GENERATED = 64  # the same if answers are generated, which takes long
MANY = 1_000_000  # rows whose ids are compared

Count = Callable[[int, int | None], None]  # rows that are done, of how many, if that is known
Answered = Callable[[int], Iterator[list[Line]]]  # the parts after so many rows


@dataclass(frozen=True)
class Wanted:
    """What to answer, and where to."""

    directory: Path  # of the run
    overrides: Sequence[str]
    input: Path | None  # STREAM: JSON lines of standard input
    split: str | None  # of the task's own data, instead of an input
    output: Path  # STREAM: JSON lines to standard output
    glue: bool = False  # write the benchmark's submission file
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """What was written."""

    rows: int
    before: int  # of them by an earlier command
    seconds: float  # of the others
    output: Path
    notes: tuple[str, ...]


def predict_file(
    wanted: Wanted, stdin: BinaryIO, emit: Callable[[str], object], count: Count
) -> Written:
    """Answer rows and write the answers; `emit` takes lines for standard output.

    Raises:
        AdaptError: a row, a column, the run or the output cannot be used; nothing is written.
    """
    check_options(wanted.overrides)
    saved = as_recorded(load_run(wanted.directory))
    run = run_of(saved, wanted.overrides)
    submission = submission_of(run.task) if wanted.glue else None
    output = file_for(submission, wanted.output, wanted.split) if submission else wanted.output
    if output != STREAM:
        check_output(output, wanted.overwrite)
    if wanted.split is None:
        rows = rows_of(run, wanted.input or STREAM, stdin)
    else:
        rows = split_of(run, wanted.split)
    predictor = Predictor(run, asked_in(run, saved, wanted.overrides))
    size = GENERATED if predictor.prepared.form.generates else PART
    answered = partial(parts_of, predictor, rows, size, submission)
    if output == STREAM:
        return streamed(answered, rows, emit, count)
    owner = owner_of(saved, wanted, rows)
    with partial_of(output, owner, size, wanted.overwrite, fresh=not rows.digest) as kept:
        return filed(answered, rows, kept, output, run.task.classes, submission, count)


def run_of(saved: SavedRun, overrides: Sequence[str]) -> Settings:
    """Return a run's settings with other options, and the classes that it was trained on."""
    run, own = changed(saved, overrides), saved.settings.task
    if not run.task.bound and type(run.task) is type(own):
        run = replace(run, task=run.task.with_classes(own.classes))
    return replace(run, task=with_classes_of(own, run.task))


def streamed(
    answered: Answered, rows: Rows, emit: Callable[[str], object], count: Count
) -> Written:
    """Emit answers as JSON lines."""
    started, done = time.monotonic(), 0
    for lines in answered(0):
        emit("".join(f"{to_json(line)}\n" for line in lines))
        done += len(lines)
        count(done, rows.total)
    return Written(done, 0, time.monotonic() - started, STREAM, rows.notes)


def filed(
    answered: Answered, rows: Rows, kept: Partial, output: Path, classes: Sequence[str],
    submission: Submission | None, count: Count,
) -> Written:  # fmt: skip
    """Keep answers by parts, and write the file once all are there."""
    started, before = time.monotonic(), kept.done
    for lines in answered(before):
        kept.append(lines)
        count(kept.done, rows.total)
    seconds = time.monotonic() - started
    notes = rows.notes
    if submission:
        write_submission(output, kept.rows(), submission)
        notes += remark_on(submission, output, kept.done)
    else:
        write_answers(output, kept.rows, classes)
    notes += repeated(kept.rows()) if rows.key else ()
    return Written(kept.done, before, seconds, output, notes)


def repeated(rows: Iterable[Line]) -> tuple[str, ...]:
    """Return a remark if one of the first million rows has the id of another one."""
    seen: set[str] = set()
    for row in islice(rows, MANY):
        if row["id"] in seen:
            return (f"several rows have the id {row['id']!r}: their answers cannot be told apart",)
        seen.add(row["id"])
    return ()


def check_options(overrides: Sequence[str]) -> None:
    """Reject options that choose rows: all rows are answered.

    Raises:
        AdaptError: there is one.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.startswith(("data.eval_rows", "data.train_rows", "task.where")):
            raise AdaptError(
                f"{key}: predict answers all rows that it is given. Leave it out, and give a file "
                "with the rows that you want."
            )


def owner_of(saved: SavedRun, wanted: Wanted, rows: Rows) -> dict[str, Any]:
    """Return what answers depend on. Device and batch size change no more than their rounding."""
    return {
        "adaptkit": __version__,
        "run": saved.result.delta_sha256 if saved.result else "",
        "options": [word for word in wanted.overrides if not word.startswith("trainer")],
        "input": rows.digest or rows.name,
    }
