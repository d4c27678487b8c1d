"""Files of answers: the rows of a file, of standard input, or of a split go through a run.

Rows are read, answered and kept by parts of a fixed number of rows, so that neither the rows nor
the answers need fit into memory, and a killed command goes on where it stopped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from adaptkit import __version__
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs.answer_file import check_output, write_answers
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.evaluate import as_recorded, asked_in, changed, with_classes_of
from adaptkit.runs.partial import Line, partial_of
from adaptkit.runs.predict import Predictor
from adaptkit.runs.submission import (
    check_index,
    file_for,
    remark_on,
    submission_of,
    write_submission,
)
from adaptkit.storage.files import digest, to_json
from adaptkit.tasks.files import Row
from adaptkit.tasks.notes import notes_on
from adaptkit.tasks.source import file_of
from adaptkit.tasks.stream import count_in, decoded, json_lines, rows_in
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import ID

PART = 512  # rows that are answered and kept together
MANY = 1_000_000  # rows whose ids are compared
GENERATED = 64  # the same if answers are generated, which takes long
STREAM = Path("-")

Count = Callable[[int, int | None], None]  # rows that are done, of how many, if that is known


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


@dataclass(frozen=True)
class Rows:
    """Rows to answer, which can be read once."""

    name: str  # for messages
    rows: Iterable[Row]
    first: Row
    key: str | None  # column of the ids; None: rows are numbered from 0
    total: int | None
    digest: str  # empty: nobody can say whether they are the same another time
    notes: tuple[str, ...] = ()


def predict_file(
    wanted: Wanted, stdin: BinaryIO, emit: Callable[[str], object], count: Count
) -> Written:
    """Answer rows and write the answers; `emit` takes lines for standard output.

    Raises:
        AdaptError: a row, a column, the run or the output cannot be used; nothing is written.
    """
    check_options(wanted.overrides)
    saved = as_recorded(load_run(wanted.directory))
    run, own = changed(saved, wanted.overrides), saved.settings.task
    if not run.task.bound and type(run.task) is type(own):
        run = replace(run, task=run.task.with_classes(own.classes))
    run = replace(run, task=with_classes_of(own, run.task))
    submission = submission_of(run.task) if wanted.glue else None
    output = file_for(submission, wanted.output, wanted.split) if submission else wanted.output
    if output != STREAM:
        check_output(output, wanted.overwrite)
    rows = rows_of(wanted, run, stdin)
    predictor = Predictor(run, asked_in(run, saved, wanted.overrides))
    size = GENERATED if predictor.prepared.form.generates else PART
    answered = partial(parts_of, predictor, rows, size, wanted.glue)
    started = time.monotonic()
    if output == STREAM:
        done = 0
        for lines in answered(0):
            emit("".join(f"{to_json(line)}\n" for line in lines))
            done += len(lines)
            count(done, rows.total)
        return Written(done, 0, time.monotonic() - started, output, rows.notes)
    with partial_of(
        output, owner_of(saved, wanted, rows), size, wanted.overwrite, fresh=not rows.digest
    ) as kept:
        before = kept.done
        for lines in answered(before):
            kept.append(lines)
            count(kept.done, rows.total)
        seconds = time.monotonic() - started
        if submission:
            write_submission(output, kept.rows(), submission)
        else:
            write_answers(output, kept.rows, run.task.classes)
        notes = [*rows.notes, *(remark_on(output, kept.done) if submission else ())]
        notes += repeated(kept.rows()) if rows.key else ()
    return Written(kept.done, before, seconds, output, tuple(notes))


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


def owner_of(saved: SavedRun, wanted: Wanted, rows: Rows) -> Line:
    """Return what answers depend on. Device and batch size change no more than their rounding."""
    return {
        "adaptkit": __version__,
        "run": saved.result.delta_sha256 if saved.result else "",
        "options": [word for word in wanted.overrides if not word.startswith("trainer")],
        "input": rows.digest or rows.name,
    }


def rows_of(wanted: Wanted, run: Settings, stdin: BinaryIO) -> Rows:
    """Return the rows to answer, the first of which was read.

    Raises:
        AdaptError: there are none, or the first is broken.
    """
    task, file = run.task, wanted.input
    key = task.id if isinstance(task, TableTask) else None
    if wanted.split is not None:
        return split_of(run, wanted.split)
    if file is None or file == STREAM:
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
        notes = (f"task.id={key}: there is no such column, so rows are numbered from 0",)
        key = None
    return Rows(name, chain([first], rows), first, key, total, identity, notes)


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
    return Rows(f"split {split}", rows, rows[0], ID, len(rows), f"{split} {identity}", notes)


def parts_of(
    predictor: Predictor, rows: Rows, size: int, index: bool, done: int
) -> Iterator[list[Line]]:
    """Yield the answers to the rows behind the first `done`, by parts of `size`.

    `index`: the ids must be whole numbers.

    Raises:
        AdaptError: a row cannot be answered; the message names it.
    """
    rest = islice(rows.rows, done, None)
    while part := list(islice(rest, size)):
        try:
            table = predictor.table(part)
        except AdaptError as error:
            raise fault_of(predictor, rows, part, done) from error
        names = [identity(rows, row, number) for number, row in enumerate(part, done)]
        for name in names if index else ():
            check_index(name)
        table = table if ID in table.column_names else table.add_column(ID, names)
        answers = predictor.answers(table, details=True)
        yield [line_of(name, one) for name, one in zip(names, answers, strict=True)]
        done += len(part)


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
    return str(value)


def line_of(identity: str, answer: dict[str, Any]) -> Line:
    """Return what is written of one row."""
    rest = {name: value for name, value in answer.items() if name != "answer"}
    return {"id": identity, "prediction": answer["answer"], **rest}


def fault_of(predictor: Predictor, rows: Rows, part: list[Row], done: int) -> AdaptError:
    """Return what is wrong with a part, with the row's number among all."""
    above = [rows.first] if done else []  # was answered: it shows which type of value is right
    try:
        predictor.table([*above, *part])
    except AdaptError as error:
        start = done - len(above)
        counted = re.sub(
            r"\brow (\d+)", lambda found: f"row {int(found[1]) + start}", str(error), count=1
        )
        return AdaptError(f"{rows.name}: {counted}")
    return AdaptError(f"{rows.name}: rows {done + 1} to {done + len(part)} cannot be read.")
