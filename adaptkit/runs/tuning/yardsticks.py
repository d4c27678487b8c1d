"""What a race is measured by: the length of a run, and the score that tells something."""

from __future__ import annotations

import math
from collections.abc import Collection

from adaptkit.config.settings import Settings
from adaptkit.metrics.bootstrap import NUMBERS
from adaptkit.runs.prepare import count_examples
from adaptkit.runs.tuning.racing import NO_FLOOR, Floor
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.reading.holdout import held_apart
from adaptkit.tasks.task import LABEL

UNLIKELY = math.log(100)  # by how much luck may raise a log likelihood, once in a hundred times


def floor_of(base: Settings, tried: Collection[str] = ()) -> Floor:
    """Return what a candidate must exceed to have learned something; `tried`: what varies.

    Of the score: that of the trivial answer on the n held-out rows (of a correlation 0), and the
    less of two standard errors and half of what is left up to 1. A standard error: 1 / sqrt n, of a
    correlation of 0; 1 / (2 sqrt n), of an accuracy of 1/2 and of any other score. Two of them,
    since the best of several candidates is more often lucky than one; twice as much is sure.

    Of the loss: what one answer to all rows has at best, if a head for classes is trained by one
    loss. A plain cross-entropy that is less by ln(100) / n is sure: it makes the rows a hundred
    times as likely. Luck does so for one model in a hundred at most, since the likelihood ratio of
    rows that a model has not seen has a mean of 1 (Markov's inequality).

    There is no floor without a trivial answer, or without a score before the last update.
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
    if not task.larger_is_better:
        return Floor(chance - value)
    left = max(0.0, 1 - value)
    score, sure = value + min(chance, left / 2), value + min(2 * chance, left * 3 / 4)
    form = task.posed
    if not (isinstance(form, HeadForm) and form.classes) or any(
        key.startswith("task.") for key in tried
    ):
        return Floor(score)
    blind = form.blind_loss(rows[LABEL][:])
    likelihood = not form.weights and not form.smoothing
    return Floor(score, -blind, sure, blind - UNLIKELY / len(rows) if likelihood else -math.inf)


def own_length(base: Settings) -> int:
    """Return the number of updates that a run on the rows which are not held out makes."""
    if base.trainer.max_steps is not None:
        return base.trainer.max_steps
    splits = held_apart(base.task.load(base.data, base.seed))
    return base.trainer.updates(count_examples(base.bind(splits.task), splits.train, 0), 1)
