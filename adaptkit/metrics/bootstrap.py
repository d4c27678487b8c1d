"""The 95 % interval of a score: percentile bootstrap over the rows (Efron & Tibshirani 1993).

    score of n rows drawn with replacement, 1,000 times: its 2.5 % and 97.5 % quantiles

For classes a draw of rows is a multinomial draw of the cells of the confusion matrix, which costs
the same for any number of rows. Rows that belong together are drawn together. Ranks (Spearman) are
those of all rows, not of each draw.

`draws`, `mean_draws` and `ratio_draws` return the redrawn scores themselves. Those of two sets of
rows are independent if their seeds differ; the interval of a difference is that of the differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMES = 1000
CLASSES = ("accuracy", "f1", "macro_f1", "weighted_f1", "matthews_correlation")
NUMBERS = ("pearson", "spearmanr")
Array = NDArray[Any]


def interval(
    name: str, answers: Sequence[Any], labels: Sequence[Any], classes: Sequence[Hashable] = ()
) -> tuple[float, float] | None:
    """Return the interval of the score `name`; None if rows cannot be drawn for it.

    `classes`: in the order of their numbers; F1 is that of number 1.
    """
    return quantiles(draws(name, answers, labels, classes))


def of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of the mean of one value per row."""
    return quantiles(mean_draws(values))


def of_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of sum / sum of two values per group of rows; groups are drawn."""
    return quantiles(ratio_draws(above, below))


def draws(
    name: str,
    answers: Sequence[Any],
    labels: Sequence[Any],
    classes: Sequence[Hashable] = (),
    seed: int = 0,
) -> Array | None:
    """Return the redrawn scores [times] of `name`; see `interval`."""
    if len(labels) < 2:
        return None
    random = np.random.default_rng(seed)
    if name in CLASSES and all(isinstance(answer, Hashable) for answer in answers):
        return of_classes(name, answers, labels, classes, random)
    if name in NUMBERS:
        return of_numbers(name, np.asarray(answers, float), np.asarray(labels, float), random)
    return None


def mean_draws(values: Sequence[float], seed: int = 0) -> Array | None:
    """Return the redrawn means [times] of one value per row."""
    rows = np.asarray(values, float)
    if len(rows) < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = (rows[random.integers(0, len(rows), len(rows))].mean() for _ in range(TIMES))
    return np.fromiter(drawn, float, TIMES)


def ratio_draws(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Array | None:
    """Return the redrawn ratios [times] of sum / sum of two values per group of rows."""
    count = len(above)
    if count < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), TIMES)
    top, bottom = drawn @ np.asarray(above, float), drawn @ np.asarray(below, float)
    return np.divide(top, bottom, out=np.zeros(TIMES), where=bottom > 0)


def quantiles(scores: Array | None) -> tuple[float, float] | None:
    """Return the 2.5 % and 97.5 % quantiles of redrawn scores, undefined ones left out."""
    if scores is None or not np.isfinite(scores).any():
        return None
    low, high = np.nanquantile(scores, (0.025, 0.975))
    return float(low), float(high)


def of_classes(
    name: str,
    answers: Sequence[Any],
    labels: Sequence[Any],
    classes: Sequence[Hashable],
    random: np.random.Generator,
) -> Array:
    """Return the scores [times] of redrawn confusion matrices, of which most cells are empty."""
    order = {c: i for i, c in enumerate(dict.fromkeys([*classes, *labels, *answers]))}
    n, cells = len(labels), Counter(zip(labels, answers, strict=True))
    drawn = random.multinomial(n, np.fromiter(cells.values(), float) / n, TIMES)
    pairs = np.asarray([(order[label], order[answer]) for label, answer in cells])
    of_label, of_answer = np.eye(len(order))[pairs.T]  # [cells, classes]
    right, said, true = (drawn @ of for of in (of_label * of_answer, of_answer, of_label))
    return of_counts(name, true, said, right)


def of_counts(name: str, true: Array, said: Array, right: Array) -> Array:
    """Return the scores [...] of counts per class [..., C]."""
    n = true.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "accuracy":
            return right.sum(-1) / n
        if name.endswith("f1"):
            f1 = np.where(said + true == 0, 0.0, 2 * right / (said + true))
            if name == "weighted_f1":
                return (f1 * true).sum(-1) / n
            return f1.mean(-1) if name == "macro_f1" else f1[..., 1]
        above = right.sum(-1) * n - (said * true).sum(-1)
        # Gorodkin 2004; no correlation counts as 0, as in scikit-learn.
        below = np.sqrt((n**2 - (said**2).sum(-1)) * (n**2 - (true**2).sum(-1)))
        return np.where(below == 0, 0.0, above / below)


def of_numbers(name: str, answers: Array, labels: Array, random: np.random.Generator) -> Array:
    """Return the correlations [times] of redrawn pairs."""
    if name == "spearmanr":
        from scipy.stats import rankdata

        answers, labels = rankdata(answers), rankdata(labels)
    scores = np.empty(TIMES)
    for time in range(TIMES):
        rows = random.integers(0, len(labels), len(labels))
        x, y = answers[rows] - answers[rows].mean(), labels[rows] - labels[rows].mean()
        size = np.sqrt((x * x).sum() * (y * y).sum())
        scores[time] = (x * y).sum() / size if size > 0 else np.nan
    return scores
