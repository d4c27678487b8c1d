"""All rows in one file: a tenth of each class is held out to be scored, the rest is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError
from adaptkit.tasks.data import Data
from adaptkit.tasks.notes import notes_on
from adaptkit.tasks.reading import grouping
from adaptkit.tasks.reading.few import training_rows
from adaptkit.tasks.reading.source import DataSource, empty_texts, held_out
from adaptkit.tasks.task import LABEL, Splits

if TYPE_CHECKING:
    from adaptkit.tasks.table import TableTask


def load(
    task: TableTask, origin: DataSource, data: Data, seed: int, train: bool, every_row: bool
) -> Splits:
    """Read and check one file; hold out a tenth of it, or score `every_row`.

    Rows are checked before they are cut, so that messages number them as the file does.

    Raises:
        AdaptError: a split, column or value is missing or wrong, or nothing can be held out.
    """
    check_names(task, origin, train)
    split = task.train if train else task.validation
    raw = task.read(data, split, origin, task.read_columns)
    task = task.bind(raw, split)
    rows = task.labelled(raw, split)
    notes = notes_on(task.id, {split: raw}, {split: rows})
    notes += empty_texts(raw if train else None, task.columns)
    if every_row:
        return Splits(
            task.fitted(None, seed),
            None,
            {"": task.some(rows, data.eval_rows, seed)},
            origin,
            notes,
        )
    where, strata = f"task.path={origin.path}", task.strata(rows[LABEL][:])
    groups = task.groups(rows)
    share = "a tenth of each class" if strata else "a tenth"
    if groups is not None:
        learnt, held = grouping.held_out(groups, where)
        share = "a tenth of what belongs together"
    else:
        learnt, held = held_out(strata or [""] * len(rows), where)
    note = (
        f"{where} is one file: {len(held)} of its {len(rows)} rows ({share}) are held out as the "
        "validation split, and never trained on"
    )
    parts = {"train": rows.select(learnt), "validation": rows.select(held)}
    trained = training_rows(task, parts["train"], data, seed) if train else None
    scored = {
        suffix: task.some(parts[split], data.eval_rows, seed)
        for suffix, split in task.scored().items()
    }
    return Splits(task.fitted(trained, seed), trained, scored, origin, (note, *notes))


def check_names(task: TableTask, origin: DataSource, train: bool) -> None:
    """Check that a file is asked for its own parts: what is held out decides, both may be scored.

    Raises:
        AdaptError: another split is asked for.
    """
    asked = [("task.validation", task.validation, {"validation"})]
    asked += [(f"task.also.{n}", split, {"train", "validation"}) for n, split in task.also.items()]
    asked += [("task.train", task.train, {"train"})] if train else []
    for option, split, known in asked:
        if split not in known:
            names = " or ".join(sorted(known))
            raise AdaptError(
                f"{option}={split}: {origin.path} is one file. A tenth of its rows is held out as "
                f"validation, the rest is train, so that {option} must be {names}. "
                "For other splits give a folder with a file of each."
            )
