"""Published scores: what a recipe reached, and how single runs were spread. No torch.

    place   (score - mean) / deviation;  100 (runs below + half of the equal ones) / runs, if the
            score of every run is published

A run is compared only if base model, task, metric, training rows and scored rows are the same.
Zhang et al. (2021) scored half of the validation rows, and so does `score_of`: the rows of each
class, in the order of the file and shuffled by numpy's RandomState(1), from the middle on.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError
from adaptkit.runs.predictions import read_predictions
from adaptkit.runs.record import RunResult

TABLE = Path(__file__).with_name("published.json")
HALF = "second half of each class"  # of the validation rows
SIZES = (0.95, 1.25)  # a method adds parameters, and T5's files may hold a table that `plan` ties
EQUAL = 1e-6  # scores that differ by less are the same one


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was measured, and on what."""

    model: str  # hub id
    parameters: int | None  # in all, as `plan` counts them offline; null: not checked
    task: str
    metric: str
    runs: int | None  # null: not said
    source: str
    rows: dict[str, int]  # of the splits train and validation, before any part is taken
    part: str | None  # of the validation rows that are scored; null: all
    starts_from: str | None = None  # task of the run that it went on from


@dataclass(frozen=True, kw_only=True)
class Figure(Published):
    """What a recipe reached."""

    value: float
    statistic: str  # of the runs: mean, median or max
    spread: float | None  # as published, after the sign +-
    tolerance: float  # how far away ours may be
    tolerance_source: str
    differs: str | None  # why no run of ours measures the same


@dataclass(frozen=True, kw_only=True)
class Distribution(Published):
    """How the scores of single runs were spread."""

    mean: float
    deviation: float
    min: float | None
    max: float | None
    scores: list[float] | None = field(default=None, repr=False)  # of every run, if published


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@functools.cache
def figures() -> dict[str, Figure]:
    """Return the figure of every recipe, by its name in experiment=paper/NAME."""
    return {name: Figure(**plain) for name, plain in _table()["figures"].items()}


@functools.cache
def distributions() -> list[Distribution]:
    """Return the published distributions."""
    return [Distribution(**plain) for plain in _table()["distributions"]]


def same_model(path: str, published: str) -> bool:
    """Tell whether a path names a published model: its hub id, or a folder of that name."""
    return path == published or Path(path).name.lower() == published.rpartition("/")[2].lower()


def other_model(path: str, published: str) -> list[str]:
    """Return the sentence that a base model is another one than the published; none: it is not."""
    if same_model(path, published):
        return []
    return [f"the base model is {path}, neither {published} nor a folder of its name"]


def obstacles(result: RunResult, published: Published) -> list[str]:
    """Return why the score of a run cannot stand next to a published one; empty: it can."""
    settings, rows = result.settings, result.data.get("rows", {})
    found = []
    if result.status != "done" or result.evaluated_run or result.imported_from:
        found.append("it was not trained to its end by adaptkit")
    if result.task != published.task:
        found.append(f"the task is {result.task}, not {published.task}")
    found += other_model(str(settings.get("model.path")), published.model)
    total = result.params.get("total", 0)
    if published.parameters and not SIZES[0] <= total / published.parameters <= SIZES[1]:
        found.append(f"the model has {total:,} parameters, not about {published.parameters:,}")
    if settings.get("model.random_weights") or settings.get("model.quantization"):
        found.append("the base model's weights were drawn anew, or packed")
    if result.data.get("source") == "sample":
        found.append("the rows are the bundled SAMPLE")
    elif settings.get("data.holdout"):
        found.append("held-out training rows were scored")
    else:
        for split, count in published.rows.items():
            if rows.get(split) != count:
                found.append(f"{rows.get(split, 0):,} rows of the split {split}, not {count:,}")
    parents = [run.get("task") for run in result.from_runs[:1]]
    if parents != [published.starts_from] * bool(published.starts_from):
        found.append(no_start(published))
    return found


def no_start(published: Published) -> str:
    """Return the sentence that a run did not start from what the published one started from."""
    wanted = f"a run on {published.starts_from}" if published.starts_from else "the base model"
    return f"training did not start from {wanted} (model.from_run)"


def score_of(result: RunResult, directory: Path, published: Published) -> float | None:
    """Return a run's score by the published metric, on the rows that were scored there.

    None: it has no such score, or the rows cannot be told.
    """
    if published.part is None:
        return result.scores.get(published.metric)
    try:
        predictions = read_predictions(directory)
    except AdaptError:
        return None
    main = dict([*predictions.items()][: result.data.get("rows", {}).get("validation", 0)])
    ids = [int(name) for name in main if name.isdecimal()]
    told = len(ids) == len(main) and ids == sorted(ids)  # the order of the file
    if not told or published.part != HALF:
        return None
    answers, labels = [a for a, _ in main.values()], [label for _, label in main.values()]
    return score_on(second_half(labels), answers, labels, result.labels, published.metric)


def second_half(labels: Sequence[Any]) -> list[int]:
    """Return the numbers of the rows in the second half of each class."""
    import numpy as np

    chosen: list[int] = []
    for label in dict.fromkeys(labels):
        members = np.array([i for i, one in enumerate(labels) if one == label])
        np.random.RandomState(1).shuffle(members)
        chosen += members[len(members) // 2 :].tolist()
    return sorted(chosen)


def score_on(
    rows: Sequence[int], answers: Sequence[Any], labels: Sequence[Any], classes: Sequence[Any],
    metric: str,
) -> float:  # fmt: skip
    """Return a score of classes on some rows; `classes`: in the order of their numbers."""
    import numpy as np

    from adaptkit.metrics.bootstrap import of_counts

    pairs = [(answers[i], labels[i]) for i in rows]
    true, said, right = (np.array([sum(test(a, t, c) for a, t in pairs) for c in classes])
                         for test in (lambda a, t, c: t == c, lambda a, t, c: a == c,
                                      lambda a, t, c: a == t == c))  # fmt: skip
    return float(of_counts(metric, true, said, right))


def places(result: RunResult, directory: Path) -> list[str]:
    """Say where a run stands among published ones that measured the same; mostly nothing."""
    found = []
    for one in distributions():
        if (result.task, result.settings.get("model.random_weights")) != (one.task, False):
            continue
        if obstacles(result, one) or one.metric != result.metric:
            continue
        score = score_of(result, directory, one)
        if score is not None and math.isfinite(score):
            part = f", {one.metric} {score:.4f} on the same half of the rows" if one.part else ""
            found.append(f"{place(score, one)} ({one.source}{part})")
    return found


def place(score: float, among: Distribution) -> str:
    """Say where a score stands: by rank if the single scores are published, else in deviations."""
    runs = f"{among.runs} published runs"
    if among.scores:
        below = sum(one < score - EQUAL for one in among.scores)
        above = sum(one > score + EQUAL for one in among.scores)
        if below in (0, len(among.scores)) and above in (0, len(among.scores)):
            return f"{'below' if above else 'above'} all {runs}"
        equal = len(among.scores) - below - above
        share = round(100 * (below + equal / 2) / len(among.scores))
        return f"at the {ordinal(share)} percentile of {runs}"
    apart = (score - among.mean) / among.deviation
    if abs(apart) < 0.05:
        return f"at the mean of {runs}"
    side = "above" if apart > 0 else "below"
    unit = "deviation" if f"{abs(apart):.1f}" == "1.0" else "deviations"
    return f"{abs(apart):.1f} standard {unit} {side} the mean of {runs}"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th ..."""
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
