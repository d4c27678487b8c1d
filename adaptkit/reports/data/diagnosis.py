"""`adaptkit data`: read a task's rows, look at every split, and say what was found.

The JSON object has these keys; a share is between 0 and 1, and what does not apply is null.

    task, kind, model     names
    source                {kind: hub | local | sample, path}
    notes                 how the rows were read, in words
    splits                {name: split}; "train" first, if there are training rows
    padding               {batch_size, shuffled, by_length}: share of padding in training batches
    baselines             [{name, metric, score}] on the deciding validation split
    findings              [{name, split, count, rows: ids of the first five, text, advice}]

A split:

    rows                  their number
    classes               {name: {count, share, near_empty}}; counts are words if words have tags
    numbers               {least, mean, largest} label of a regression
    repeats ... crowded   numbers of rows; see `Split`
    tokens, targets       {median, p95, longest, limit, cut, cut_share, lost_tokens, windows}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.models import loading
from adaptkit.reports.data.bag import bag_of_words
from adaptkit.reports.data.checks import Finding, Seen, findings_of
from adaptkit.reports.data.split import Split, look_at
from adaptkit.reports.data.tokens import padding
from adaptkit.runs.lengths import by_split
from adaptkit.runs.prepare import reader_of
from adaptkit.tasks.reading.source import file_of
from adaptkit.tasks.span import Span
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import Splits


@dataclass(frozen=True)
class Baseline:
    """What a model must beat."""

    name: str
    metric: str
    score: float  # nan: undefined


@dataclass(frozen=True)
class Diagnosis:
    """What `adaptkit data` shows."""

    kind: str
    model: str
    loaded: Splits
    splits: tuple[Split, ...]
    batch_size: int
    padding: dict[str, float]  # shuffled, by_length; empty: there are no training rows
    baselines: tuple[Baseline, ...]
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as the module's docstring says."""
        source = self.loaded.source
        return {
            "task": self.loaded.task.name,
            "kind": self.kind,
            "model": self.model,
            "source": {"kind": source.kind, "path": source.path},
            "notes": list(self.loaded.notes),
            "splits": {split.name: split.as_dict() for split in self.splits},
            "padding": {"batch_size": self.batch_size, **self.padding} if self.padding else None,
            "baselines": [vars(baseline) for baseline in self.baselines],
            "findings": [finding.as_dict() for finding in self.findings],
        }


def diagnose(run: Settings) -> Diagnosis:
    """Look at the rows of a run's task as its model would read them; no weights are loaded.

    Raises:
        AdaptError: the rows that are scored, or the model's tokenizer, cannot be read.
    """
    loaded, unread = load(run)
    task = loaded.task
    run = run.bind(task)
    config = loading.load_config(run.model, run.head, task.posed.outputs, offline=True)
    reader = reader_of(config, loading.load_tokenizer(run.model, config), 0)
    train = None
    if loaded.train is not None:
        train = look_at(task, loaded.train, "train", reader, None)
    scored = by_split(loaded.validation)
    others = [look_at(task, rows, name, reader, train) for name, rows in scored.items()]
    splits = (*([train] if train else []), *others)
    waste, size = {}, run.trainer.batch_size
    if train and train.read:
        kinds = {"shuffled": False, "by_length": True}
        waste = {k: padding(train.read.examples, size, run.seed, by) for k, by in kinds.items()}
    found = [task.baseline(loaded), bag_of_words(loaded, run.seed)]
    baselines = tuple(Baseline(one[0], task.headline, one[1]) for one in found if one)
    findings = tuple(findings_of(Seen(task, reader, splits, unread)))
    kind = run.plain["task"]["kind"]
    return Diagnosis(kind, run.model.name, loaded, splits, size, waste, baselines, findings)


def load(run: Settings) -> tuple[Splits, str]:
    """Return the splits, without training rows if they cannot be read, and why they cannot.

    Raises:
        AdaptError: the rows that are scored cannot be read.
    """
    if not may_be_trained(run):
        splits = _load(run, train=False)
        return replace(splits, notes=(*splits.notes, "there are no training rows")), ""
    try:
        return _load(run, train=True), ""
    except AdaptError as problem:
        return _load(run, train=False), str(problem)


def may_be_trained(run: Settings) -> bool:
    """Tell whether there may be training rows: not if no local file is named like their split."""
    task = run.task
    if not isinstance(task, TableTask):
        return True
    origin = task.origin(run.data)
    return origin.kind == "hub" or file_of(Path(origin.path), task.train) is not None


def _load(run: Settings, train: bool) -> Splits:
    task = run.task
    if isinstance(task, Span):  # its own way to load rejects rows that are to be found here
        return TableTask.load(task, run.data, run.seed, train)
    return task.load(run.data, run.seed, train)
