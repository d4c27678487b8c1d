"""What happens before training: the threads' way to wait, and what needs no torch."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import call, data_root, tiny

from adaptkit.runs import heap
from adaptkit.terminal import libraries

TWO = {0, 1}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Return a function that says how many cores are granted, in use by others, and paid for."""
    for name in (*libraries.WAITING, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def pretend(cores: set[int] = TWO, used: float = 0.0, quota: float | None = None) -> None:
        monkeypatch.setattr(libraries, "affinity", lambda: cores)
        monkeypatch.setattr(libraries, "busy", lambda cores, since: used)
        monkeypatch.setattr(libraries, "cpu_quota", lambda: quota)

    return pretend


@pytest.mark.parametrize(
    ("used", "threads", "passive"),
    [
        (0.0, "", False),  # both cores are ours: spinning gains a third
        (0.2, "", False),
        (1.0, "", True),  # another process holds one: spinning loses half
        (1.0, "1", False),  # one thread waits for nobody
        (0.0, "4", True),  # more threads than cores
        (2.0, "2", True),
    ],
)
def test_threads_wait_as_the_machine_needs(
    machine, used: float, threads: str, passive: bool
) -> None:
    machine(used=used)
    expected = {"OMP_WAIT_POLICY": "PASSIVE"} if passive else {}
    assert libraries.thread_settings(threads) == expected


def test_a_quota_limits_the_threads(machine) -> None:
    """A container with two cores' time on a large machine: torch would start 64 threads."""
    machine(cores=set(range(64)), quota=2.5)
    assert libraries.thread_settings("") == {"OMP_NUM_THREADS": "2"}
    assert libraries.thread_settings("64") == {"OMP_WAIT_POLICY": "PASSIVE"}
    machine(cores=set(range(64)), quota=0.5)
    assert libraries.thread_settings("") == {"OMP_NUM_THREADS": "1"}


def test_processes_of_one_machine_count(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert libraries.thread_settings("1") == {}
    assert libraries.thread_settings("2") == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("name", libraries.WAITING)
def test_what_the_user_set_stays(machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(used=2.0)
    monkeypatch.setenv(name, "ACTIVE")
    assert libraries.thread_settings("2") == {}


def test_quota_of_a_container(tmp_path: Path) -> None:
    assert libraries.cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for text, quota in (("-1\n", None), ("150000\n", 1.5)):  # version 1
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(text)
        assert libraries.cpu_quota(tmp_path) == quota
    for text, quota in (("max 100000\n", None), ("250000 100000\n", 2.5)):  # version 2
        (tmp_path / "cpu.max").write_text(text)
        assert libraries.cpu_quota(tmp_path) == quota


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_use_of_the_cores() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    stat = f"cpu  9 9 9 9 9 9 9 0\ncpu0 {tick} 0 {tick} 500 70 0 0 0\ncpu3 0 0 {tick} 5 7 0 0 0\n"
    assert libraries.used(stat, {0}) == 2
    assert libraries.used(stat, {0, 3}) == 3
    assert 0 <= libraries.busy(libraries.affinity()) <= len(libraries.affinity()) + 1


def test_what_we_did_ourselves_is_not_the_work_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two seconds the cores worked for 2.5 s: 1.5 s for us, so half a core for others."""
    stat, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    stat.write_text(f"cpu0 {10 * tick} 0 0 0 0 0 0 0\ncpu1 {int(2.5 * tick)} 0 0 0 0 0 0 0\n")
    monkeypatch.setattr(libraries.time, "monotonic", lambda: 102.0)
    monkeypatch.setattr(os, "times", lambda: (4.0, 0.25, 0.125, 0.125, 77.0))  # ours and children's
    before = libraries.Look(used=10.0, own=3.0, moment=100.0, process=os.getpid())
    assert libraries.busy(TWO, stat, before) == 0.5
    ours_alone = libraries.Look(used=11.5, own=3.0, moment=100.0, process=os.getpid())
    assert libraries.busy(TWO, stat, ours_alone) == 0


@pytest.mark.parametrize(
    ("age", "processes", "parent", "counts"),
    [
        (1.0, "1", 0, True),
        (60.0, "1", 0, False),
        (1.0, "2", 0, False),  # the other one of a run starts beside us
        (1.0, "1", 1, False),  # we were forked: its work is not that of others
    ],
)
def test_which_look_at_the_cores_counts(
    monkeypatch: pytest.MonkeyPatch, age: float, processes: str, parent: int, counts: bool
) -> None:
    look = libraries.Look(0.0, 0.0, libraries.time.monotonic() - age, os.getpid() - parent)
    monkeypatch.setattr(libraries, "AT_START", look)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert libraries.recent() == (look if counts else None)
    seen = []
    for name in libraries.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(libraries, "affinity", lambda: TWO)
    monkeypatch.setattr(libraries, "cpu_quota", lambda: None)
    monkeypatch.setattr(libraries, "busy", lambda cores, since: seen.append(since) or 0.0)
    libraries.thread_settings(str(2 // int(processes)))
    assert seen == [look if counts else None]


def test_a_strange_proc_is_none(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu0 1 2 3 4\n")
    assert libraries.look(TWO, tmp_path / "stat") is None
    assert libraries.busy(TWO, tmp_path / "stat") == pytest.approx(os.getloadavg()[0], abs=1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_busy_neighbour_is_seen() -> None:
    """A process of another program computes on one of our cores, from before we look."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            libraries.time.sleep(0.2)  # until it computes
            since = libraries.look(libraries.affinity())
            libraries.time.sleep(0.5)
            assert libraries.busy(libraries.affinity(), since=since) > 0.3
        finally:
            neighbour.kill()


PAGES = """
import resource, sys
sys.path.insert(0, {root!r})
from adaptkit.runs import heap
if {keep}:
    heap.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def once():
    bytearray(96 << 20)
once()
before = faults()
for _ in range(5):
    once()
print(faults() - before)
"""


LARGE_PAGES = """
import ctypes, sys
sys.path.insert(0, {root!r})
from adaptkit.runs import heap
{limit}
def large():  # kB in large pages
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))
heap.lends_memory = lambda: {lends}
heap.keep()
heap.give_back()
before, one = large(), bytearray(96 << 20)
print(large() - before)
del one
heap.give_back()
print(large() - before)
two = bytearray(96 << 20)
print(large() - before)
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))"


@pytest.mark.skipif(
    not heap.LARGE_PAGES.is_file() or "[madvise]" not in heap.LARGE_PAGES.read_text(),
    reason="large pages are for all or for none",
)
@pytest.mark.parametrize(
    ("limit", "environment", "lends", "expected"),
    [("", {}, False, True), (LIMIT, {}, False, False),
     ("", {"MALLOC_ARENA_MAX": "2"}, False, False), ("", {}, True, False)],
    ids=["free", "addresses are limited", "set by the user", "memory is lent to the host"],
)  # fmt: skip
def test_memory_comes_in_large_pages(limit, environment, lends, expected) -> None:
    """Whatever has been given back in between: the kernel's own count says so."""
    root = str(Path(libraries.__file__).parents[2])
    code = LARGE_PAGES.format(root=root, limit=limit, lends=lends)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    taken, left, again = map(int, done.stdout.split())
    assert (taken > 16 << 10) == (again > 16 << 10) == expected and left < 8 << 10


def test_a_machine_that_lends_its_memory_is_known(tmp_path: Path) -> None:
    assert not heap.lends_memory(tmp_path / "none")

    def device(kind: str, features: str) -> None:
        (tmp_path / "virtio0").mkdir(exist_ok=True)
        (tmp_path / "virtio0" / "device").write_text(f"{kind}\n")
        (tmp_path / "virtio0" / "features").write_text(f"{features:0<128}\n")

    for kind, features, lends in (("0x0005", "011001", True), ("0x0005", "01100", False),
                                  ("0x0002", "000001", False)):  # fmt: skip
        device(kind, features)
        assert heap.lends_memory(tmp_path) == lends
    device("none", "")
    assert heap.lends_memory(tmp_path)  # in doubt


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="no glibc"
)
def test_freed_memory_is_kept_unless_the_user_has_set_otherwise() -> None:
    """Measured by page faults: memory that was given back is got again page by page."""
    root = str(Path(libraries.__file__).parents[2])

    def count(keep: bool, **environment: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PAGES.format(root=root, keep=keep)], capture_output=True,
            text=True, check=True, env={**os.environ, **environment},
        )  # fmt: skip
        return int(done.stdout)

    stock = count(False)
    assert count(True) < stock / 10
    assert count(True, MALLOC_ARENA_MAX="2") > stock / 2


def test_garbage_collection_comes_back() -> None:
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), libraries.without_garbage_collection():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    import torch  # noqa: F401  # this process belongs to somebody: nothing of it is frozen

    with libraries.without_garbage_collection():
        pass
    assert gc.get_freeze_count() <= frozen  # what was frozen may be gone by now


def test_a_finished_run_is_known_without_torch(
    tmp_path: Path, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_cli import WITHOUT_TORCH, process

    monkeypatch.chdir(tmp_path)
    words = ["train", *tiny(checkpoints["bert"]), f"data.root={data_root(tmp_path / 'data')}"]
    first = call(*words)
    assert first.status == 0, first.err
    again = process(sys.executable, "-c", WITHOUT_TORCH, json.dumps([[words, 0]]))
    assert again.returncode == 0, again.stderr
    assert "done before" in again.stderr
    assert again.stdout == first.out


def test_a_record_is_read_without_torch() -> None:
    """A sweep gets the records of its jobs pickled; torch's version is of a class of torch."""
    from adaptkit.models.loading import versions

    assert {type(version) for version in versions().values()} == {str}
