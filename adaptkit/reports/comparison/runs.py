"""The runs below some folders: read, the damaged ones named, the same measurement once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError
from adaptkit.runs.directory import ADDED, RESULT
from adaptkit.runs.predictions import read_predictions
from adaptkit.runs.record import RunResult
from adaptkit.runs.selection import of_settings

LOWER = ("loss", "perplexity", "bits")  # parts of the names of scores that should be small
HISTORY = "history.jsonl"
RACE = "race.json"  # lies next to the candidates of a race, which report nothing
# Settings in which repetitions of one measurement may differ.
REPEATED = ("seed", "data.fold", "task.demonstrations", "task.control_shares")
# Settings that say where something lies, or how a run is watched.
ASIDE = ("trainer.log_every", "trainer.jobs", "trainer.resume", "trainer.checkpoint_every",
         "trainer.features", "trainer.find_batch_size", "data.root", "data.source",
         "model.revision", "model.name", "model.path")  # fmt: skip


@dataclass(frozen=True)
class Column:
    """What scores can stand next to each other: one task, the same rows, the same metric."""

    task: str
    version: int
    metric: str
    split: str
    rows: str  # digest of the ids and labels that were scored
    source: str

    @property
    def sample(self) -> bool:
        """True for bundled rows, whose scores say nothing about the real task."""
        return self.source == "sample"

    @property
    def larger_is_better(self) -> bool:
        """Direction of the metric."""
        return not any(part in self.metric for part in LOWER)


@dataclass(frozen=True)
class Run:
    """A finished or failed run."""

    directory: Path
    result: RunResult

    @property
    def repetition(self) -> tuple[Any, ...]:
        """Return what tells it from other repetitions: the seed and the draw of the rows."""
        settings = self.result.settings
        return (self.result.seed, settings.get("data.fold", 0),
                str(settings.get("task.control_shares")))  # fmt: skip

    @property
    def score(self) -> float | None:
        """Return the score; None if there is none, or it is not a number."""
        score = self.result.score
        return None if score is None or not math.isfinite(score) else score

    @property
    def trivial(self) -> float | None:
        """Return the score of the trivial answer."""
        return self.result.baseline.get("value")

    def collapsed(self, larger_is_better: bool) -> bool:
        """Tell whether the score is no better than that of the trivial answer."""
        if self.score is None or self.trivial is None:
            return False
        return self.score <= self.trivial if larger_is_better else self.score >= self.trivial

    @cached_property
    def predictions(self) -> dict[str, tuple[Any, Any]]:
        """Return {id: (answer, label)}; nothing if the file is missing or damaged."""
        try:
            return read_predictions(self.directory)
        except AdaptError:
            return {}

    @cached_property
    def main(self) -> dict[str, tuple[Any, Any]]:
        """Return the predictions on the split that decides."""
        count = self.result.data.get("rows", {}).get("validation", 0)
        return dict(list(self.predictions.items())[:count])

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Return the lines of the log of training; nothing if it is missing or damaged."""
        try:
            lines = (self.directory / HISTORY).read_text(encoding="utf-8").splitlines()
            return [entry for line in lines if isinstance(entry := json.loads(line), dict)]
        except (OSError, ValueError):
            return []


@dataclass(frozen=True)
class Found:
    """What lies below the folders."""

    runs: list[Run]
    remarks: list[str] = field(default_factory=list)  # what was left out, and why


def collect(folders: Sequence[Path]) -> Found:
    """Read every run below the folders; of one measurement that is there twice the newest.

    Raises:
        AdaptError: a folder is missing, or there is no run at all.
    """
    runs: dict[Any, Run] = {}
    remarks: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise AdaptError(f"{folder}: is not a folder. Name folders that hold runs.")
        for file in sorted(folder.rglob(RESULT)):
            if inner(file.parent):
                continue
            try:
                result = RunResult.read(file.parent)
            except AdaptError as error:
                remarks.append(f"left out: {error}")
                continue
            if result is None or result.evaluated_run:
                continue
            run = Run(file.parent, result)
            same = runs.get(identity(run))
            if same and same.directory.resolve() != run.directory.resolve():
                older, run = sorted((same, run), key=lambda one: one.result.finished_at)
                remarks.append(f"left out: {older.directory} has the settings and the seed of "
                               f"{run.directory}, which is newer.")  # fmt: skip
            runs[identity(run)] = run
    if not runs:
        raise nothing_in(folders, remarks)
    if all(run.score is None for run in runs.values()):
        failed = [f"left out: {run.directory} has no score" for run in runs.values()]
        raise nothing_in(folders, [*remarks, *failed])
    scored = {identity(run)[:-1] for run in runs.values() if run.score is not None}
    repeated = [run for run in runs.values() if run.score is None and identity(run)[:-1] in scored]
    remarks += [f"left out: {run.directory} failed, and was repeated" for run in repeated]
    return Found([run for run in runs.values() if run not in repeated], remarks)


def nothing_in(folders: Sequence[Path], remarks: Sequence[str]) -> AdaptError:
    """Return the error for folders without a score; `remarks`: what was left out, and why."""
    named = ", ".join(map(str, folders[:3])) + (" ..." if len(folders) > 3 else "")
    why = f" ({'; '.join(remark.rstrip('.') for remark in remarks[:3])})" if remarks else ""
    return AdaptError(
        f"{named}: there is no finished run below{why}. Train some first, for example with "
        "adaptkit train -m method=lora,bitfit seed=0,1,2."
    )


def inner(folder: Path) -> bool:
    """Tell whether a record lies in another run (an evaluation), or among the runs of a race."""
    above = [*folder.parents][:3]
    return (folder.parent / RACE).is_file() or any((one / RESULT).is_file() for one in above)


def identity(run: Run) -> tuple[Any, ...]:
    """Return what two records of one measurement share; last what a failed one does not know."""
    result = run.result
    settings = tuple(sorted((k, str(v)) for k, v in settings_of(run, ASIDE).items()))
    rows = None if run.score is None else (column_of(run).rows, result.data.get("source"))
    return (result.task, result.task_version, result.model, result.made_of.get("model"),
            result.method, run.repetition, settings, rows)  # fmt: skip


def settings_of(run: Run, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings of a run; those that came later as older runs had them.

    `trainer.select_on` is none where nothing was chosen, whatever was set.
    """
    flat = run.result.settings
    every = {**ADDED, **flat, "trainer.select_on": of_settings(flat)}
    return {k: v for k, v in every.items() if k not in without}


def column_of(run: Run) -> Column:
    """Return the column in which the score of a run stands."""
    result = run.result
    rows = rows_of(run.main)
    if all(label is None for _, label in run.main.values()):  # none, or texts without labels
        count = result.data.get("rows", {}).get("validation")  # of the files: seeds train on others
        rows = f"{rows} {result.made_of.get('data')} {count}"
    return Column(result.task, result.task_version, result.metric, result.split, rows,
                  result.data.get("source", ""))  # fmt: skip


def rows_of(predictions: Mapping[str, tuple[Any, Any]]) -> str:
    """Return a digest of ids and labels; nothing if there are none."""
    if not predictions:
        return ""
    plain = json.dumps([[i, label] for i, (_, label) in predictions.items()], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]
