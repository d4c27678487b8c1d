"""Answers by parts of a fixed number of rows, so that not all rows need fit into memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from adaptkit.errors import AdaptError
from adaptkit.runs.predicting.answer_file import Line
from adaptkit.runs.predicting.predictor import Predictor
from adaptkit.runs.predicting.rows import Rows, identity
from adaptkit.runs.predicting.submission import Submission
from adaptkit.tasks.reading.files import Row
from adaptkit.tasks.reading.ids import add_ids
from adaptkit.tasks.task import ID


def parts_of(
    predictor: Predictor, rows: Rows, size: int, submission: Submission | None, done: int
) -> Iterator[list[Line]]:
    """Yield the answers to the rows after the first `done`, by parts of `size`.

    `submission`: the ids must be those of its server.

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
        if submission:
            for name in names:
                submission.index(name)
        table = table if ID in table.column_names else add_ids(table, names, rows.own)
        answers = predictor.answers(table, details=True)
        yield [line_of(name, one) for name, one in zip(names, answers, strict=True)]
        done += len(part)


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
