"""How torch and its companions are loaded: quickly, with threads that wait as the machine needs.

libgomp reads its environment when torch loads it. Threads that spin while they wait for each other
gain about 30 % where our cores are free, and lose almost half where another process uses one of
them. So the choice is made here, from the cores granted to us and from what runs on them now. What
the user has set is never changed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SAMPLE_SECONDS = 0.1  # how long we look at what other processes do
SPARE = 0.5  # cores in use by others that do not count: shells, editors, interrupts
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def set_environment() -> None:
    """Set what the libraries read when they are loaded, unless the user or a parent has set it."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    if "torch" not in sys.modules:
        os.environ.update(thread_settings(os.environ.get("OMP_NUM_THREADS", "")))


def thread_settings(threads: str, jobs: int = 1) -> dict[str, str]:
    """Return the OpenMP settings for this moment; `threads` is the user's number, or empty.

    A quota below the number of cores limits the threads; torch itself does not see it. They wait
    passively if they would not all have a core of their own.
    """
    cores, quota = affinity(), cpu_quota()
    chosen: dict[str, str] = {}
    if not threads and quota is not None and quota < len(cores):
        threads = chosen["OMP_NUM_THREADS"] = str(max(1, int(quota)))
    if any(name in os.environ for name in WAITING):
        return chosen
    ours = int(threads) if threads.isdecimal() else len(cores)
    ours *= jobs * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun: that many of us
    if ours > 1 and (ours > (quota or ours) or ours + busy(cores) > len(cores) + SPARE):
        chosen["OMP_WAIT_POLICY"] = "PASSIVE"
    return chosen


def affinity() -> set[int]:
    """Return the cores on which this process may run."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many cores' time a container grants (cgroup v2, then v1); None: no limit."""
    with contextlib.suppress(OSError, ValueError):
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):
        limit, period = (
            (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        return int(limit) / int(period) if int(limit) > 0 else None
    return None


def busy(cores: set[int], stat: Path = Path("/proc/stat")) -> float:
    """Return how many of `cores` other processes use now; without /proc, the load average."""
    try:
        before = used(stat.read_text(), cores)
        time.sleep(SAMPLE_SECONDS)  # we ourselves use none
        after = used(stat.read_text(), cores)
    except OSError:
        return os.getloadavg()[0] if sys.platform != "win32" else 0.0
    return (after - before) / SAMPLE_SECONDS


def used(stat: str, cores: set[int]) -> float:
    """Return the seconds that `cores` have worked since the machine was started."""
    ticks = 0
    for line in stat.splitlines():
        name, *times = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            user, nice, system, _idle, _io, irq, softirq, *_ = map(int, times)
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Hold back the collector while libraries are imported: a quarter of the time is its own.

    In a process that has just loaded torch, what is there stays for good and is not looked at
    again. Elsewhere (a notebook), the objects of the user are left alone.
    """
    enabled, ours = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
        if ours:
            gc.freeze()
    finally:
        if enabled:
            gc.enable()
