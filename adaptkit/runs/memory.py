"""How much memory a run takes: of the process, and of its device."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from adaptkit.runs import heap

if TYPE_CHECKING:
    from adaptkit.runs.plan import Plan


STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # proc(5)


class Begun(NamedTuple):
    """When something began, and what `restart` returned then."""

    at: datetime
    earlier: int | None

    @classmethod
    def now(cls) -> Begun:
        """Return this moment; memory is counted from here."""
        return cls(datetime.now(timezone.utc), restart())


def restart() -> int | None:
    """Count memory anew; return the highest use so far where that is not possible, else None.

    A process may carry out several runs. On Linux, what the earlier ones have freed is given back
    to the system.
    """
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
    heap.give_back()
    try:
        RESET.write_text("5", encoding="ascii")
        high_water()
    except (OSError, StopIteration):
        return high()
    return None


def own(device: torch.device, earlier: int | None) -> dict[str, int | None]:
    """Return the highest memory use since `restart`, which returned `earlier`; None: not known."""
    found = peak(device)
    if earlier is not None and found["peak_rss_bytes"] == earlier:  # it may be another run's
        found["peak_rss_bytes"] = None
    return found


def since(memory: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the entries about memory with the process's peak as it is by now, if it was known."""
    known = memory["peak_rss_bytes"] is not None
    return {**memory, **({"peak_rss_bytes": high()} if known else {})}


def reset_peak(device: torch.device) -> None:
    """Start counting device memory again."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, int | None]:
    """Return the highest memory use so far, of the process and of the device."""
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": high(), "peak_device_bytes": on_device}


def high() -> int | None:
    """Return the highest memory use of the process so far, where the system tells."""
    with suppress(OSError, StopIteration):
        return high_water()
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def high_water() -> int:
    """Return the highest memory use of this process on Linux; `getrusage` adds its parent's."""
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def resident() -> int | None:
    """Return the bytes that the process holds in memory now, where the system tells."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return high()
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(
    device: torch.device, before: int | None, earlier: int | None, costs: Plan
) -> dict[str, int | None]:
    """Return the entries about memory: planned, and by how much it grew.

    before: what the process held before training; earlier: what `restart` returned then.
    """
    highest = own(device, earlier)
    grown = highest["peak_device_bytes"]
    if device.type == "cpu" and highest["peak_rss_bytes"] is not None and before is not None:
        grown = highest["peak_rss_bytes"] - before
    planned = costs.memory.total if costs.memory else None
    return {"planned_bytes": planned, "measured_bytes": grown, **highest}
