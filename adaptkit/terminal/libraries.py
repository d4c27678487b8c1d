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
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
SAMPLE_SECONDS = 0.1  # how long we look at what other processes do, at least
RECENT = 5.0  # seconds; an older look says little about now
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
    if ours > 1 and (
        ours > (quota or ours) or ours + busy(cores, since=recent()) > len(cores) + SPARE
    ):
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


@dataclass(frozen=True)
class Look:
    """The seconds that our cores have worked up to a moment, and how many of them for us."""

    used: float
    own: float
    moment: float
    process: int


def look(cores: set[int], stat: Path = STAT) -> Look | None:
    """Look at the cores; None where there is no /proc, or another one."""
    own = sum(os.times()[:4])  # programs that we have run included
    try:
        return Look(used(stat.read_text(), cores), own, time.monotonic(), os.getpid())
    except (OSError, ValueError):
        return None


def busy(cores: set[int], stat: Path = STAT, since: Look | None = None) -> float:
    """Return how many of `cores` other processes use; without /proc, the load average.

    `since`: an earlier look; without it we wait for SAMPLE_SECONDS.
    """
    before = since or look(cores, stat)
    if before:
        time.sleep(max(0.0, before.moment + SAMPLE_SECONDS - time.monotonic()))
    after = look(cores, stat)
    if not before or not after:
        return os.getloadavg()[0] if sys.platform != "win32" else 0.0
    ours = after.own - before.own
    return max(0.0, after.used - before.used - ours) / (after.moment - before.moment)


def used(stat: str, cores: set[int]) -> float:
    """Return the seconds that `cores` have worked since the machine was started."""
    ticks = 0
    for line in stat.splitlines():
        name, *times = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            user, nice, system, _idle, _io, irq, softirq, *_ = map(int, times)
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


AT_START = look(affinity())  # while the command is read and composed, we see what others do


def recent() -> Look | None:
    """Return the look at the start, if it tells what others do now.

    Processes of one run (torchrun) start together, and are not others. Nor is a parent.
    """
    alone = os.environ.get("LOCAL_WORLD_SIZE", "1") == "1"
    if AT_START and alone and AT_START.process == os.getpid():
        return AT_START if time.monotonic() - AT_START.moment < RECENT else None
    return None


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
