"""Trivial answers, and their score: the one, on the split, that decides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adaptkit.tasks.task import Splits

if TYPE_CHECKING:
    from adaptkit.tasks.table import TableTask

STOPS = (". ", "? ", "! ", "\n")


def baseline(task: TableTask, splits: Splits) -> tuple[str, float]:
    """Return the name of a trivial predictor, and its headline score; nan if it has none."""
    scores = {
        f"{score}_{suffix}": (score, suffix) for score in task.scores() for suffix in task.also
    }
    score, suffix = scores.get(task.headline, (task.headline, ""))
    rows = splits.validation[suffix]
    name, lists = task.trivial_answers(splits, rows)
    best = max if task.larger_is_better else min
    return name, best(task.score(answers, rows).get(score, math.nan) for answers in lists)


def lead(text: str, count: int) -> str:
    """Return the first sentences of a text: up to a full stop, or the end of a line."""
    end = 0
    for _ in range(count):
        ends = [place + 1 for stop in STOPS if (place := text.find(stop, end)) >= 0]
        if not ends:
            return text
        end = min(ends)
    return text[:end].strip()
