"""How sure a mean over seeds is, and whether two methods differ.

    s   seeds, S of them; r   rows, R of them; score_s(w)   score of s if row r counts w_r times

    mean       m = 1/S sum_s score_s
    variance   V = var_s(score_s) / S + var_w(1/S sum_s score_s(w)),  w multinomial: rows redrawn
    interval   m +- t(97.5 %, df) sqrt(V),   df by Welch and Satterthwaite from S - 1 and R - 1
    test       t = m / sqrt(V) of the differences on the same seeds and rows; p two-sided

New seeds and new rows are both allowed for. The noise of single rows in single seeds is counted
twice, so the intervals are slightly too wide. A percentile bootstrap over a handful of seeds is far
too narrow: with S seeds its variance is (S - 1) / S of the right one, and it knows no t. Of a score
for which rows cannot be redrawn the second term is left out: the interval is for these rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptkit.metrics.bootstrap import CLASSES, NUMBERS, of_counts

Array = NDArray[Any]
TIMES = 400  # draws of the rows
LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float | None  # None: one seed has no interval
    high: float | None
    p: float | None  # that the mean is 0
    seeds: int
    rows: int  # that were redrawn; 0: the interval speaks of these rows

    @property
    def half(self) -> float | None:
        """Return half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(scores: Sequence[float], redrawn: Array | None = None, rows: int = 0) -> Estimate:
    """Return the mean of one score (or difference) per seed, with its interval.

    redrawn: the mean over the seeds for redrawn rows [times].
    """
    from scipy.stats import t as student

    mean, count = float(np.mean(scores)), len(scores)
    if count < 2:
        return Estimate(mean, None, None, None, count, 0)
    seeds = float(np.var(scores, ddof=1)) / count
    parts = [(seeds, count - 1)]
    if redrawn is not None and rows > 1 and np.isfinite(redrawn).any():
        parts.append((float(np.nanvar(redrawn, ddof=1)), rows - 1))
    variance = sum(one for one, _ in parts)
    if variance <= 0:  # all alike: nothing varies, and nothing can be said of other seeds
        return Estimate(mean, None, None, 1.0 if mean == 0 else None, count, 0)
    freedom = variance**2 / sum(one**2 / df for one, df in parts)
    error = math.sqrt(variance)
    half = float(student.ppf(1 - LEVEL / 2, freedom)) * error
    p = 2 * float(student.sf(abs(mean) / error, freedom))
    return Estimate(mean, mean - half, mean + half, p, count, rows if len(parts) > 1 else 0)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): at most 1, in the same order.

    p_(k) -> max over j <= k of (n - j + 1) p_(j), the smallest first
    """
    order, corrected, highest = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = highest
    return corrected


@lru_cache(maxsize=4)
def weights_of(rows: int, seed: int = 0) -> Array:
    """Return how often each row counts in each draw [times, rows]."""
    random = np.random.default_rng(seed)
    return random.multinomial(rows, np.full(rows, 1 / rows), TIMES).astype(np.float32)


def redrawn_scores(
    metric: str, weights: Array, answers: Sequence[Sequence[Any]], labels: Sequence[Any],
    classes: Sequence[Any], scores: Sequence[float],
) -> Array | None:  # fmt: skip
    """Return the score of each draw for every run [runs, times]; None: rows cannot be redrawn.

    answers: of every run, one per row. classes: names in the order of their numbers; F1 is that of
    number 1. scores: of the rows as they are, which must come out.
    """
    values = [*labels, *(answer for one in answers for answer in one)]
    if metric in CLASSES and classes and all(isinstance(v, str) and v in classes for v in values):
        of = of_cells
    elif metric in NUMBERS and all(isinstance(v, int | float) for v in values):
        of = of_numbers
    else:
        return None
    once = np.ones((1, len(labels)), np.float32)
    whole = of(metric, once, answers, labels, classes)[:, 0]
    right = np.allclose(whole, scores, rtol=0, atol=1e-4)
    return of(metric, weights, answers, labels, classes) if right else None


def of_cells(
    metric: str, weights: Array, answers: Sequence[Sequence[Any]], labels: Sequence[Any],
    classes: Sequence[Any],
) -> Array:  # fmt: skip
    """Return accuracy, F1 or Matthews' correlation of every draw.

    All follow from how often each class is the label, the answer, and both.
    """
    order, size, runs = {c: i for i, c in enumerate(classes)}, len(classes), len(answers)
    true = np.array([order[label] for label in labels])
    said = np.array([[order[answer] for answer in one] for one in answers])
    members = np.zeros((1 + 2 * runs, size, len(labels)), np.float32)
    rows = np.arange(len(labels))
    members[0, true, rows] = 1
    for run, one in enumerate(said):
        members[1 + run, one, rows] = 1
        members[1 + runs + run, one, rows] = true == one
    drawn = members.reshape(-1, len(labels)) @ weights.T  # one product for all runs
    counts = drawn.reshape(1 + 2 * runs, size, -1).astype(float).swapaxes(1, 2)
    return of_counts(metric, counts[0], counts[1 : 1 + runs], counts[1 + runs :])


def of_numbers(
    metric: str, weights: Array, answers: Sequence[Sequence[Any]], labels: Sequence[Any],
    classes: Sequence[Any],
) -> Array:  # fmt: skip
    """Return the correlation of every draw; ranks are those of all rows."""
    from scipy.stats import rankdata

    x, y = np.asarray(answers, float), np.asarray(labels, float)
    if metric == "spearmanr":
        x, y = rankdata(x, axis=1), rankdata(y)
    w = (weights / weights.sum(1, keepdims=True)).T.astype(float)
    mx, my = x @ w, y @ w
    with np.errstate(divide="ignore", invalid="ignore"):
        cov = (x * y) @ w - mx * my
        return cov / np.sqrt(((x * x) @ w - mx**2) * ((y * y) @ w - my**2))
