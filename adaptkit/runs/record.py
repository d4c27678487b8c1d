"""RunResult: the record of a run, result.json, written and read here and nowhere else.

No torch at import time: a finished run is known without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, MachineError, first_line
from adaptkit.runs.directory import LOG, RESULT, flat
from adaptkit.runs.foreign import check_record
from adaptkit.runs.selection import of_older
from adaptkit.storage.files import finite, is_main_process, processes, write_json
from adaptkit.tasks.reading.few import drawn
from adaptkit.tasks.task import Splits

if TYPE_CHECKING:
    import torch

    from adaptkit.runs.plan import Plan
    from adaptkit.training.scorer import Scored

log = logging.getLogger("adaptkit")
log.propagate = False  # libraries give the root logger handlers that print


@dataclass(frozen=True)
class RunResult:
    """One flat record of a run. Units are in the names; numbers that are not finite are null."""

    task: str
    task_version: int
    model: str
    method: str
    regularizers: list[str]
    variant: str
    seed: int
    metric: str  # name of the score that decides
    split: str
    settings: dict[str, Any]  # all hyperparameters, flat: {"optimizer.lr": 0.0005}
    status: str  # done | failed
    started_at: str
    finished_at: str
    error: str | None = None
    score: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    score_interval: list[float] | None = None  # 95 %, over the rows
    details: dict[str, Any] = field(default_factory=dict)  # by split: classes, confusion, ...
    baseline: dict[str, Any] = field(default_factory=dict)  # name, value
    remarks: list[str] = field(default_factory=list)  # what a reader of the score should know
    description: dict[str, Any] = field(default_factory=dict)  # runs/description.py: code length
    labels: list[str] = field(default_factory=list)  # names of the classes
    data: dict[str, Any] = field(default_factory=dict)  # source, path, rows, fingerprint, notes
    made_of: dict[str, Any] = field(default_factory=dict)  # runs/identity.py
    lengths: dict[str, Any] = field(default_factory=dict)  # limit in tokens, rows that are cut
    head: str = ""  # its values before training: kept | reordered | replaced | new
    params: dict[str, Any] = field(default_factory=dict)
    delta_bytes: int = 0
    delta_sha256: str = ""
    updates: int = 0
    best_update: int = 0
    select_on: str = "none"  # runs/selection.py: rows that chose the update
    selection_rows: int = 0  # how many
    epochs: float = 0.0
    time: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)
    rows_per_pass: dict[str, int] = field(default_factory=dict)  # in the end: training, scoring
    precision: str = ""
    device: str = ""
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    imported_from: str | None = None  # an adapter of another library
    from_runs: list[dict[str, Any]] = field(default_factory=list)  # parents, the nearest first
    evaluated_run: str | None = None  # a finished run on other data
    ood: dict[str, Any] = field(default_factory=dict)  # runs/evaluating/suite.py: other sets, drops
    after: dict[str, Any] = field(default_factory=dict)  # runs/evaluating/protocol.py: by protocol

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @property
    def indistinct(self) -> bool:
        """True if the score's interval holds that of the trivial answer; an undefined one is 0."""
        low, high = self.score_interval or (1.0, 0.0)
        return low <= (self.baseline.get("value") or 0.0) <= high

    @property
    def below_trivial(self) -> bool:
        """True if the whole interval lies on the wrong side of the trivial answer's score."""
        trivial = self.baseline.get("value") or 0.0
        return self.score_interval is not None and self.score_interval[1] < trivial

    def write(self, directory: Path) -> None:
        """Write result.json."""
        write_json(directory / RESULT, self.as_dict())

    @classmethod
    def read(cls, directory: Path) -> RunResult | None:
        """Return the record in a directory, or None if there is none; unknown keys are ignored.

        Raises:
            AdaptError: the file is damaged.
        """
        path = directory / RESULT
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            check_record(plain, cls)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise AdaptError(f"{path} is damaged: {first_line(error)}.") from error
        plain = {**of_older(plain), **plain}
        return cls(**{f.name: plain[f.name] for f in fields(cls) if f.name in plain})


def result_of(run: Settings, started: datetime, status: str, **facts: Any) -> RunResult:
    """Return the record of a run that ends now."""
    settings = {
        key: value
        for key, value in flat(run.plain).items()
        if key != "output_dir" and not key.startswith("tracker.")
    }
    return RunResult(
        task=run.task.name,
        task_version=run.task.version,
        model=run.model.name,
        method=run.method_name,
        regularizers=sorted(run.regularizers),
        variant=run.output_dir.parent.name,
        seed=run.seed,
        metric=run.task.headline,
        split="holdout" if run.data.holdout else run.task.split,
        settings=settings,
        status=status,
        started_at=started.isoformat(timespec="seconds"),
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{"select_on": run.trainer.chosen_on, **finite(facts)},
    )


def scoring_facts(
    run: Settings, splits: Splits, scored: Mapping[str, Scored], remarks: Sequence[str | None] = ()
) -> dict[str, Any]:
    """Return the entries about scores and data."""
    from adaptkit.runs.remarks import of_threshold, one_answer, score_interval
    from adaptkit.training.scorer import flat_scores

    name, value = run.task.baseline(splits)
    between, scores = score_interval(run.task, scored[""]), flat_scores(scored)
    return {
        "score_interval": list(between) if between else None,
        "remarks": [
            remark
            for remark in (one_answer(scored[""]), of_threshold(run.task.headline), *remarks)
            if remark
        ],
        "score": scores[run.task.headline],
        "scores": scores,
        "details": {
            f"validation{suffix and f' ({suffix})'}": run.task.details(part.detailed, part.rows)
            for suffix, part in scored.items()
        },
        "baseline": {"name": name, "value": value},
        "labels": list(run.task.classes),
        "data": {
            "source": splits.source.kind,
            "path": splits.source.path,
            "rows": {"train": len(splits.train or ()), "validation": len(splits.validation[""])},
            "fingerprint": splits.fingerprint,
            "notes": list(splits.notes),
            **drawn(splits.train, run.data),
        },
    }


def machine_facts(
    device: torch.device, precision: str, memory: Mapping[str, int | None]
) -> dict[str, Any]:
    """Return the entries about the machine and the libraries."""
    import torch

    from adaptkit.models import loading

    return {
        "memory": memory,
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes(),
        "versions": loading.versions(),
    }


def record_failure(run: Settings, error: Exception, started: datetime) -> None:
    """Leave a record of a failed run; checkpoints stay for another try."""
    expected = isinstance(error, AdaptError)
    if expected:  # the command writes the traceback of what was not
        log.error("%s", error)
    message = str(error) if expected else f"{type(error).__name__}: {first_line(error)}"
    try:
        result_of(run, started, "failed", error=message).write(run.output_dir)
    except MachineError:  # the disk may be what failed
        log.error("the record of the failure could not be written")


class LogFile(logging.FileHandler):
    """A log that cannot be written, on a full disk, neither ends a run nor prints tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the file; what is left in its buffer may not fit on the disk."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_kept() -> Iterator[MemoryHandler]:
    """Keep the log until it is known that a run will be carried out."""
    kept = MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    try:
        yield kept
    finally:
        log.removeHandler(kept)
        kept.close()


@contextmanager
def log_to_file(directory: Path, kept: MemoryHandler) -> Iterator[None]:
    """Append the log to train.log as well, beginning with what was kept."""
    handler: logging.Handler = logging.NullHandler()
    if is_main_process():
        handler = LogFile(directory / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.removeHandler(kept)
    log.addHandler(handler)
    try:
        for record in kept.buffer:
            handler.handle(record)
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def counts_line(costs: Plan) -> str:
    """Say how much trains, as `adaptkit plan` counts it."""
    p = costs.params
    return (
        f"{costs.method} on {costs.model}: {p.body_trainable:,} parameters of the base model train "
        f"and {p.head_trainable:,} of the head, {p.trainable_percent:.3g} % of {p.total:,}"
    )
