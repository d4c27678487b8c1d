"""Is a finished run whole? Rebuilt from disk it must give the same answers and scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from adaptkit.config.settings import Settings
from adaptkit.runs.delta import load_run
from adaptkit.runs.evaluating.evaluate import as_recorded, score
from adaptkit.runs.predictions import identities, read_predictions, same
from adaptkit.runs.prepare import restored
from adaptkit.tasks.reading.holdout import held_apart
from adaptkit.tasks.task import LABEL, Splits
from adaptkit.training.scorer import flat_scores


def verify(directory: Path) -> str:
    """Rebuild a run from disk; return what differs, or nothing.

    Raises:
        AdaptError: it is not a finished run, its tensors are not those that it wrote, or its base
            model is not there any more.
    """
    saved = as_recorded(load_run(directory))
    run = replace(saved.settings, output_dir=directory)
    before = read_predictions(directory)
    scored = score(run, restored(saved), scored_splits(run))
    after = {
        identity: (answer, label)
        for suffix, part in scored.items()
        for identity, answer, label in zip(
            identities(suffix, part), part.answers, part.rows[LABEL][:], strict=True
        )
    }
    if len(before) != len(after):
        return f"{len(before)} predictions were saved, {len(after)} rows are there now"
    if other := [key for key in after if key not in before]:
        return f"the row with id {other[0]!r} was not scored: the data files changed"
    if changed := [key for key in before if not same(before[key][1], after[key][1])]:
        label = after[changed[0]][1]
        return f"the label of the row with id {changed[0]!r} is {label!r} now, not as it was saved"
    different = [key for key in before if not same(before[key][0], after[key][0])]
    if different:
        return (
            f"{len(different)} of {len(before)} predictions differ, the first in the row with id "
            f"{different[0]!r}"
        )
    if saved.result is None:
        return ""
    recorded, name = saved.result.scores, run.task.headline
    if saved.result.score != recorded.get(name):
        return f"score is {saved.result.score} in the record, but {name} {recorded.get(name)}"
    return different_scores(recorded, flat_scores(scored))


def scored_splits(run: Settings) -> Splits:
    """Return the rows that a finished run was scored on, as they are now.

    Raises:
        AdaptError: they cannot be read.
    """
    splits = run.task.load(run.data, run.seed, train=run.data.holdout)
    return held_apart(splits) if run.data.holdout else splits


def different_scores(recorded: dict[str, float | None], scores: dict[str, float]) -> str:
    """Return which score differs from the record, or nothing."""
    for name, value in recorded.items():
        score = scores.get(name, math.nan)
        if value is None or not math.isfinite(score):  # not finite: recorded as null
            alike = value is None and not math.isfinite(score)
        else:
            alike = math.isclose(value, score, rel_tol=1e-3, abs_tol=1e-5)
        if not alike:
            return f"{name} is {score}, but {value} was recorded"
    return ""
