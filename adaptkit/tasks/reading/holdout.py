"""A tenth of the training rows that is not trained on: to be scored, or to choose by.

data.holdout=true            it is scored in the place of the validation rows
trainer.select_on=holdout    it chooses among the evaluations, so that the validation rows do not

With both, the first tenth is scored, and a tenth of what is left chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.tasks.reading import grouping
from adaptkit.tasks.reading.source import held_out
from adaptkit.tasks.task import LABEL, Splits

if TYPE_CHECKING:
    from datasets import Dataset

WHERE, SELECT = "data.holdout=true", "trainer.select_on=holdout"
FEWEST = 10  # rows: by fewer, a choice is left to chance
NO_CHOICE = (
    "Choose nothing (trainer.keep=last, no trainer.early_stopping_patience), or choose on the rows "
    "that are reported: trainer.select_on=validation."
)


def divided(run: Any, splits: Splits) -> Splits:
    """Return the splits of a run: of its training rows, those it scores or chooses by set apart.

    Raises:
        AdaptError: there are no training rows, or too few.
    """
    splits = held_apart(splits) if run.data.holdout else splits
    return with_selection(splits) if run.trainer.chosen_on == "holdout" else splits


def held_apart(splits: Splits) -> Splits:
    """Return splits that are scored on a tenth of the training rows, which are not trained on.

    Of each class a tenth; rows that belong together stay together. The same rows for every run with
    these training rows.

    Raises:
        AdaptError: there are no training rows, or too few.
    """
    rows = training_rows(splits, WHERE)
    learnt, held = parted(splits.task, rows, WHERE)
    note = (f"{WHERE}: scored on {len(held)} of the {len(rows)} training rows, which are not "
            "trained on")  # fmt: skip
    return replace(splits, train=rows.select(learnt), validation={"": rows.select(held)},
                   notes=(*splits.notes, note))  # fmt: skip


def with_selection(splits: Splits) -> Splits:
    """Return splits that choose by a tenth of the training rows, drawn as in `held_apart`.

    Raises:
        AdaptError: there are no training rows, or too few to choose by.
    """
    rows, task = training_rows(splits, SELECT), splits.task
    least = max(FEWEST, len({*strata_of(task, rows)}))
    enough = len(rows) >= 10 * least
    learnt, held = parted(task, rows, SELECT) if enough else ([], [])
    if len(held) < least:
        raise AdaptError(f"{SELECT}: a tenth of {len(rows)} training rows is too little to choose "
                         f"by; {FEWEST} rows are needed, and one of each class. "
                         f"{NO_CHOICE}")  # fmt: skip
    note = (f"{SELECT}: an evaluation is chosen by {len(held)} of the {len(rows)} training rows, "
            "which are not trained on")  # fmt: skip
    return replace(splits, train=rows.select(learnt), selection=rows.select(held),
                   notes=(*splits.notes, note))  # fmt: skip


def training_rows(splits: Splits, where: str) -> Dataset:
    """Return the training rows of which a part can stand for the scored rows.

    Raises:
        AdaptError: there are none, the deciding score is of another split, or all rows are shown.
    """
    task = splits.task
    if any(suffix and task.headline.endswith(f"_{suffix}") for suffix in splits.validation):
        raise AdaptError(f"{where}: task.best={task.headline} is a score of another split, and the "
                         "held-out rows are one split. Leave task.best out.")  # fmt: skip
    if any("all training rows are shown" in note for note in splits.notes):
        raise AdaptError(f"{where}: all training rows are shown with their answers, so that none "
                         "is left to be held out. Lower task.shots.")  # fmt: skip
    if splits.train is None:
        raise AdaptError(f"{where}: task {task.name} has no training rows.")
    return splits.train


def check_parents(run: Any, parents: Sequence[Mapping[str, Any]]) -> None:
    """Reject held-out rows that a run's parent has been trained on.

    Raises:
        AdaptError: a parent is of the same task.
    """
    if not any(parent["task"] == run.task.name for parent in parents):
        return
    said = (f"the run that model.from_run names was trained on rows of {run.task.name}, perhaps on "
            "those that would be held out.")  # fmt: skip
    if run.data.holdout:
        raise AdaptError(f"{WHERE}: {said} Name a run on another task, or leave data.holdout out.")
    if run.trainer.chosen_on == "holdout":
        raise AdaptError(f"{SELECT}: {said} {NO_CHOICE}")


def parted(task: Any, rows: Dataset, where: str) -> tuple[list[int], list[int]]:
    """Return the numbers of the rows to train on, and of those to hold out."""
    groups = task.groups(rows) if hasattr(task, "groups") else None
    if groups is not None:
        return grouping.held_out(groups, where)
    return held_out(strata_of(task, rows), where)


def strata_of(task: Any, rows: Dataset) -> Sequence[str]:
    """Return the class of every row; one for all where there are none."""
    strata = task.strata(rows[LABEL][:]) if hasattr(task, "strata") else None
    return strata or [""] * len(rows)
