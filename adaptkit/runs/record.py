"""What a run says of itself: identity, memory, device, the log, and the record of a failure."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, MachineError, first_line
from adaptkit.runs import directory as checkpoint
from adaptkit.runs.plan import Plan
from adaptkit.storage.files import is_main_process, write_json

log = logging.getLogger("adaptkit")


def identity(settings: Settings) -> dict[str, Any]:
    """Return what tells one run from another."""
    return {
        "task": settings.task.name,
        "model": settings.model.name,
        "method": settings.method_name,
        "regularizers": sorted(settings.regularizers),
        "variant": settings.output_dir.parent.name,
        "seed": settings.seed,
        "metric": settings.task.best,
    }


class logged:
    """Context in which the log is also appended to train.log."""

    def __init__(self, directory: Path) -> None:
        self.handler = (
            logging.FileHandler(directory / "train.log", encoding="utf-8")
            if is_main_process()
            else logging.NullHandler()
        )
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> None:
        log.addHandler(self.handler)
        log.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self.handler)
        self.handler.close()


def fail(settings: Settings, error: Exception, started: datetime) -> None:
    """Leave a record of a failed run; checkpoints stay for another try."""
    expected = isinstance(error, AdaptError)
    if expected:  # the command writes the traceback of what was not
        log.error("%s", error)
    record = {
        **identity(settings),
        "status": "failed",
        "error": str(error) if expected else f"{type(error).__name__}: {first_line(error)}",
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    try:
        write_json(settings.output_dir / checkpoint.RESULT, record)
    except MachineError:  # the disk may be what failed
        log.error("the record of the failure could not be written")


def reset_peak(device: torch.device) -> None:
    """Start counting device memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, int | None]:
    """Return the highest memory use so far, of the process and of the device."""
    rss = None
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": rss, "peak_device_bytes": on_device}


def device_name(device: torch.device) -> str:
    """Return 'cpu' or the name of the accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def counts_line(costs: Plan) -> str:
    """Say how much learns, as `adaptkit plan` counts it."""
    p = costs.params
    return (
        f"{costs.method} on {costs.model}: {p.body_trainable:,} of the body learn and "
        f"{p.head_trainable:,} of the head, {p.trainable_percent:.3g} % of {p.total:,}"
    )
