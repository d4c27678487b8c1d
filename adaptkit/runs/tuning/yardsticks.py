"""What a race is measured by: the length of a run, and the score that tells something."""

from __future__ import annotations

import math

from adaptkit.config.settings import Settings
from adaptkit.metrics.bootstrap import NUMBERS
from adaptkit.runs.prepare import count_examples
from adaptkit.runs.tuning.racing import NO_FLOOR, Score
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.reading.holdout import held_apart
from adaptkit.tasks.task import LABEL


def floor_of(base: Settings) -> Score:
    """Return what a score, and minus a loss, must exceed to tell something: see `racing`.

    Of the score: that of the trivial answer on the n held-out rows (of a correlation 0), and the
    less of two standard errors and half of what is left up to 1. A standard error: 1 / sqrt n, of a
    correlation of 0; 1 / (2 sqrt n), of an accuracy of 1/2 and of any other score. Two of them,
    since the best of several candidates is more often lucky than one. Of the loss: what one answer
    to all rows has at best. Minus infinity if there is no such score, or none before the last
    update, and for the loss of other forms than a classifier.
    """
    splits = held_apart(base.task.load(base.data, base.seed))
    task, rows = base.bind(splits.task).task, splits.validation[""]
    if task.posed.generates:
        return NO_FLOOR
    value = task.baseline(splits)[1]
    if math.isnan(value) and task.headline in NUMBERS:
        value = 0.0
    if not math.isfinite(value):
        return NO_FLOOR
    correlation = task.headline in (*NUMBERS, "matthews_correlation")
    chance = (2 if correlation else 1) / math.sqrt(len(rows))
    form = task.posed
    loss = -form.blind_loss(rows[LABEL][:]) if isinstance(form, HeadForm) else -math.inf
    if not task.larger_is_better:
        return chance - value, loss
    return value + (min(chance, (1 - value) / 2) if value < 1 else 0.0), loss


def own_length(base: Settings) -> int:
    """Return the number of updates that a run on the rows which are not held out makes."""
    if base.trainer.max_steps is not None:
        return base.trainer.max_steps
    splits = held_apart(base.task.load(base.data, base.seed))
    return base.trainer.updates(count_examples(base.bind(splits.task), splits.train, 0), 1)
