"""A tenth of the training rows in the place of the validation rows, which then cannot choose."""

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

WHERE = "data.holdout=true"


def held_apart(splits: Splits) -> Splits:
    """Return splits that are scored on a tenth of the training rows, which are not trained on.

    Of each class a tenth; rows that belong together stay together. The same rows for every run with
    these training rows.

    Raises:
        AdaptError: there are no training rows, or too few.
    """
    rows, task = splits.train, splits.task
    if any(suffix and task.headline.endswith(f"_{suffix}") for suffix in splits.validation):
        raise AdaptError(f"{WHERE}: task.best={task.headline} is a score of another split, and the "
                         "held-out rows are one split. Leave task.best out.")  # fmt: skip
    if any("all training rows are shown" in note for note in splits.notes):
        raise AdaptError(f"{WHERE}: all training rows are shown with their answers, so that none "
                         "is left to be held out. Lower task.shots.")  # fmt: skip
    if rows is None:
        raise AdaptError(f"{WHERE}: task {task.name} has no training rows.")
    learnt, held = parted(task, rows)
    note = (f"{WHERE}: scored on {len(held)} of the {len(rows)} training rows, which are not "
            "trained on")  # fmt: skip
    return replace(splits, train=rows.select(learnt), validation={"": rows.select(held)},
                   notes=(*splits.notes, note))  # fmt: skip


def check_parents(run: Any, parents: Sequence[Mapping[str, Any]]) -> None:
    """Reject held-out rows that a run's parent has been trained on.

    Raises:
        AdaptError: a parent is of the same task.
    """
    if run.data.holdout and any(parent["task"] == run.task.name for parent in parents):
        raise AdaptError(f"{WHERE}: the run that model.from_run names was trained on rows of "
                         f"{run.task.name}, perhaps on those that would be held out. Name a run on "
                         "another task, or leave data.holdout out.")  # fmt: skip


def parted(task: Any, rows: Dataset) -> tuple[list[int], list[int]]:
    """Return the numbers of the rows to train on, and of those to score."""
    groups = task.groups(rows) if hasattr(task, "groups") else None
    if groups is not None:
        return grouping.held_out(groups, WHERE)
    strata = task.strata(rows[LABEL][:]) if hasattr(task, "strata") else None
    return held_out(strata or [""] * len(rows), WHERE)
