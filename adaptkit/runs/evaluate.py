"""What is done with finished runs: score them on other data, and check that they are whole."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptkit.config.compose import compose, options
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.models import loading
from adaptkit.runs import directory as checkpoint
from adaptkit.runs.prepare import Prepared, encode, restored, trainer_of
from adaptkit.storage.files import finite, write_json
from adaptkit.training.scores import Scored, flat_scores


def score(run: Any, prepared: Prepared, splits: Any) -> dict[str, Scored]:
    """Score every validation split."""
    trainer = trainer_of(prepared, run, None, {})
    return {
        suffix: trainer.score(encode(run, prepared, rows))
        for suffix, rows in splits.validation.items()
    }


def verify(directory: Path) -> str:
    """Rebuild a run from disk; return what differs, or nothing.

    Raises:
        AdaptError: it is no finished run, or its body is not there any more.
    """
    saved = as_recorded(checkpoint.load_run(directory))
    if checkpoint.digest(directory) != saved.result["delta_sha256"]:
        return f"{checkpoint.DELTA} is not the file that the run wrote"
    run = replace(saved.settings, output_dir=directory)
    before = checkpoint.read_predictions(directory)
    task = run.task.with_labels(labels_of(saved))
    splits = task.load(run.data, run.seed, train=False)
    scored = score(run, restored(saved, splits.labels), splits)
    after = {
        f"{suffix}/{row}" if suffix else str(row): checkpoint.number(value)
        for suffix, part in scored.items()
        for row, value in enumerate(part.predictions)
    }
    if before.keys() != after.keys():
        return f"{len(before)} predictions were saved, {len(after)} rows are there now"
    different = [k for k in before if not np.isclose(before[k], after[k], rtol=1e-4, atol=1e-5)]
    if different:
        return (
            f"{len(different)} of {len(before)} predictions differ, the first at row {different[0]}"
        )
    recorded, scores = saved.result["scores"], flat_scores(scored)
    for name, value in recorded.items():
        before_score = np.nan if value is None else value  # not finite: recorded as null
        after_score = scores[name] if np.isfinite(scores[name]) else np.nan
        if not np.isclose(before_score, after_score, rtol=1e-3, atol=1e-5, equal_nan=True):
            return f"{name} is {scores[name]}, but {value} was recorded"
    return ""


def evaluate(directory: Path, overrides: list[str], output: Path | None) -> dict[str, Any]:
    """Score a finished run with some settings changed; write the record and the predictions.

    Raises:
        AdaptError: the other task has other classes, or something cannot be read.
    """
    saved = as_recorded(checkpoint.load_run(directory))
    own = labels_of(saved)
    run = changed(saved, overrides)
    if run.task.name == saved.settings.task.name:
        run = replace(run, task=run.task.with_labels(own))
    splits = run.task.load(run.data, run.seed, train=False)
    order = matching(own, splits.labels, run.task.name)
    prepared = restored(saved, own)
    scored = {
        suffix: relabelled(part, order, run.task)
        for suffix, part in score(run, prepared, splits).items()
    }
    place = output or directory / "eval" / f"{run.task.name}-{run.task.validation}"
    scores = flat_scores(scored)
    record = {
        "run": str(directory),
        "task": run.task.name,
        "split": run.task.validation,
        "metric": run.task.best,
        "score": scores[run.task.best],
        "scores": scores,
        "data": {
            "source": splits.origin.source,
            "path": splits.origin.path,
            "rows": len(splits.validation[""]),
        },
        "directory": str(place),
        "versions": loading.versions(),
    }
    checkpoint.write_predictions(place, scored)
    record = finite(record)
    write_json(place / checkpoint.RESULT, record)
    return record


def changed(saved: checkpoint.SavedRun, overrides: list[str]) -> Any:
    """Return the run's settings with task, data and evaluation options replaced.

    Raises:
        AdaptError: an override would change what was learnt.
    """
    touched = [o.partition("=")[0].lstrip("+~") for o in overrides]
    fixed = [key for key in touched if key.partition(".")[0] not in ("task", "data", "trainer")]
    if fixed:
        raise AdaptError(
            f"{fixed[0]}: a finished run keeps its model and method; "
            "only task, data and trainer options can change here."
        )
    plain = copy.deepcopy(saved.settings.plain)
    task = [] if "task" in touched else [f"task={task_option(plain)}"]
    composed = compose([*task, *overrides])
    if plain["data"]["root"] is None:  # the environment may name one now
        touched.append("data.root")
    for key in touched:
        group, _, option = key.partition(".")
        if option:
            plain[group][option] = composed[group][option]
        else:
            plain[group] = composed[group]
    return replace(settings(plain), output_dir=saved.directory)


def task_option(plain: dict[str, Any]) -> str:
    """Return the option of the group `task` whose keys fit a saved task."""
    name, kind = plain["task"]["name"], plain["task"]["kind"]
    return name if name in options("task") else kind


def as_recorded(saved: checkpoint.SavedRun) -> checkpoint.SavedRun:
    """Return a run in the number format it was trained in, which `auto` chose by the machine."""
    trainer = replace(saved.settings.trainer, precision=saved.result["precision"])
    return replace(saved, settings=replace(saved.settings, trainer=trainer))


def labels_of(saved: checkpoint.SavedRun) -> tuple[str, ...]:
    """Return the classes a run was trained on."""
    return tuple(saved.result["labels"])


def matching(own: tuple[str, ...], other: tuple[str, ...], task: str) -> list[int] | None:
    """Return for every class of the run its number in the other task.

    Raises:
        AdaptError: the classes have other names.
    """
    if own == other:
        return None
    if set(own) != set(other):
        raise AdaptError(
            f"task {task} has the classes {', '.join(other)}, the run was trained on "
            f"{', '.join(own)}. Name them alike, in the order of their numbers: "
            f"task.labels=[{','.join(own)}]."
        )
    return [other.index(name) for name in own]


def relabelled(part: Scored, order: list[int] | None, task: Any) -> Scored:
    """Translate the run's class numbers into the other task's, and score again."""
    if order is None:
        return part
    predictions = np.asarray(order)[part.predictions]
    return Scored(predictions, part.labels, task.score(predictions, part.labels))
