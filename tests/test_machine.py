"""A full disk, too little memory, a tracker that fails: a sentence, and a run that goes on."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import call, data_root, tiny
from runs import carry_out, configure, outcome, sentiment, shallow

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings as typed
from adaptkit.errors import AdaptError, ConfigError, MachineError, machine_failures
from adaptkit.runs import memory
from adaptkit.runs import run as pipeline
from adaptkit.runs.directory import read_config
from adaptkit.training import trackers
from adaptkit.training.trainer import AdaptTrainer


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    shallow(checkpoints["bert"], folder / "bert")
    sentiment(folder / "data")
    return folder


def settings(place: Path, directory: Path, **changes):
    return configure(directory, place / "bert", place / "data", "method=full", **changes)


def test_a_run_does_not_take_the_memory_of_the_one_before(place, tmp_path):
    if memory.restart() is not None:
        pytest.skip("memory cannot be counted anew here")
    large = torch.ones(100_000_000)
    reached = memory.peak(torch.device("cpu"))["peak_rss_bytes"]
    del large
    result, _ = carry_out(settings(place, tmp_path / "run"))
    assert 10**8 < result["memory"]["peak_rss_bytes"] < reached - 3 * 10**8
    assert memory.own(torch.device("cpu"), memory.restart())["peak_rss_bytes"] > 10**8


def test_the_proof_counts_as_well(place, tmp_path, monkeypatch):
    """Of full fine-tuning it takes more memory than training."""
    prove = pipeline.verify_saved

    def proof(*arguments: object) -> None:
        torch.ones(100_000_000)
        prove(*arguments)

    monkeypatch.setattr(pipeline, "verify_saved", proof)
    before = memory.own(torch.device("cpu"), memory.restart())["peak_rss_bytes"]
    result, _ = carry_out(settings(place, tmp_path / "run"))
    assert result["memory"]["peak_rss_bytes"] > before + 3 * 10**8
    assert memory.since({"peak_rss_bytes": None, "measured_bytes": 3}) == {
        "peak_rss_bytes": None, "measured_bytes": 3}  # fmt: skip


def test_a_peak_that_may_be_another_runs_is_not_known(monkeypatch):
    cpu, free = torch.device("cpu"), Path("/no/such/file")
    monkeypatch.setattr(memory, "RESET", free)
    earlier = memory.restart()
    assert earlier is not None
    for peak, known in ((earlier, None), (earlier + 1, earlier + 1)):
        monkeypatch.setattr(memory, "high_water", lambda peak=peak: peak)
        assert memory.own(cpu, earlier)["peak_rss_bytes"] == known
    monkeypatch.undo()
    monkeypatch.setattr(memory, "STATUS", free)  # of a system that tells nothing
    assert memory.peak(cpu)["peak_rss_bytes"] >= 10**8


def test_the_memory_of_a_parent_is_not_that_of_its_child():
    """What a process held before it became this one is in `getrusage`."""
    child = ("import torch; from adaptkit.runs import memory; "
             "print(memory.peak(torch.device('cpu'))['peak_rss_bytes'])")  # fmt: skip
    script = ("import subprocess, sys; x = bytearray(10**9); x[::4096] = bytes(len(x[::4096]));"
              f"subprocess.run([sys.executable, '-c', {child!r}])")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 10**9 or not Path("/proc/self/status").exists()


@pytest.fixture(scope="module")
def whole(place) -> dict:
    carry_out(settings(place, place / "whole"))
    return outcome(place / "whole")


# ---- disk ----


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def sizes(place) -> dict[str, int]:
    """Bytes of the files of a checkpoint."""
    seen: dict[str, int] = {}
    save = AdaptTrainer._save_checkpoint

    def look(self: AdaptTrainer, *arguments) -> None:
        save(self, *arguments)
        for path in next(self.checkpoints.glob("checkpoint-*")).iterdir():
            seen[path.name] = path.stat().st_size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptTrainer, "_save_checkpoint", look)
        carry_out(settings(place, place / "sizes"))
    return seen


DISK = [
    0,
    100,
    "trainer_state.json",
    "rng_state.pth",
    "delta.safetensors",
    0.4,
    0.7,
    "optimizer.pt",
]


@pytest.mark.parametrize("limit", DISK, ids=str)
def test_disk_takes_no_more(limit, place, whole, sizes, tmp_path, capfd):
    """One sentence at every size; once there is room, the run ends as if nothing had been."""
    largest = sizes["optimizer.pt"]
    below = {str: lambda: sizes[limit] - 1, float: lambda: int(largest * limit), int: lambda: limit}
    run = settings(place, tmp_path / "run")
    with largest_file(below[type(limit)]()), pytest.raises(MachineError) as told:
        carry_out(run)
    assert str(tmp_path / "run") in str(told.value)
    assert "\n" not in str(told.value)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert not list((tmp_path).glob("run/checkpoints/checkpoint-*"))
    carry_out(run)
    assert outcome(tmp_path / "run") == whole


@pytest.mark.reliability
@pytest.mark.parametrize("kilobytes", [4, 12, 100, 300, 450, 600, 800, 1100])
def test_full_disk(kilobytes, place, whole, tmp_path, capfd):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        run = settings(place, disk / "run")
        with pytest.raises(MachineError):
            carry_out(run)
        assert "Traceback" not in capfd.readouterr().err
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        carry_out(run)
        assert outcome(disk / "run") == whole
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# ---- memory ----


def too_much_memory() -> None:
    torch.empty(1 << 58)


def too_much_memory_in_numpy() -> None:
    np.zeros(1 << 58)


def too_much_on_a_device() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.19 GiB "
        "of which 8.06 MiB is free. If reserved but unallocated memory is large try setting ..."
    )


@pytest.mark.parametrize(
    ("allocate", "amount"),
    [
        (too_much_memory, "1152921504606846976 bytes"),
        (too_much_memory_in_numpy, "2.00 EiB"),
        (too_much_on_a_device, "20.00 MiB"),
    ],
)
def test_out_of_memory(allocate, amount, place, tmp_path, monkeypatch):
    monkeypatch.setattr(AdaptTrainer, "training_step", lambda *_: allocate())
    with pytest.raises(MachineError) as told:
        carry_out(settings(place, tmp_path / "run"))
    message = str(told.value)
    assert message.startswith(f"out of memory ({amount} more were wanted). ")
    assert "trainer.batch_size" in message
    assert "trainer.gradient_accumulation" in message
    assert "\n" not in message
    assert json.loads((tmp_path / "run" / "result.json").read_text())["error"] == message


def test_command_out_of_memory(tmp_path, checkpoints, monkeypatch):
    """Also outside of training: one line, status 1."""
    monkeypatch.setattr("adaptkit.runs.run.prepare", lambda *_: too_much_memory())
    root = data_root(tmp_path / "data")
    run = [f"output_dir={tmp_path / 'run'}", f"data.root={root}"]
    answer = call("train", *tiny(checkpoints["bert"], *run))
    assert answer.status == 1
    assert answer.err.splitlines()[-1].startswith("adaptkit: out of memory")
    assert "unexpected" not in answer.err


def test_other_failures_pass(tmp_path):
    """A damaged file is not a full disk, and a user's mistake stays one."""
    for error in (
        RuntimeError("PytorchStreamReader failed reading zip archive"),
        FileNotFoundError("x"),
        ConfigError("the text is: out of memory"),
    ):
        with pytest.raises(type(error)) as told, machine_failures(tmp_path):
            raise error
        assert told.value is error


# ---- trackers ----


class Recorder:
    """Stands in for a tracker's callback: notes events, and where its files would go."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_train_begin(self, *_, **__) -> None:
        self.events.append("on_train_begin")
        self.folder = os.environ.get("WANDB_DIR")

    def on_log(self, *_, logs, **__) -> None:
        self.events.append("on_log")

    def on_save(self, *_, **__) -> None:
        self.events.append("on_save")

    def on_train_end(self, *_, **__) -> None:
        self.events.append("on_train_end")


@pytest.fixture
def stubs(monkeypatch) -> dict[str, Recorder]:
    made: dict[str, Recorder] = {}

    def maker(name: str):
        return lambda: made.setdefault(name, Recorder())

    for name in ("tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(trackers.INTEGRATION_TO_CALLBACK, name, maker(name))
    for variable in ("WANDB_DIR", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return made


def test_several_trackers(place, tmp_path, stubs):
    run = configure(tmp_path / "run", place / "bert", place / "data", "tracker=[wandb,mlflow]")
    carry_out(run)
    assert set(stubs) == {"wandb", "mlflow"}
    for stub in stubs.values():
        assert (stub.events[0], stub.events[-1]) == ("on_train_begin", "on_train_end")
        assert stub.events.count("on_save") == 3
        assert stub.events.count("on_log") > 3


@pytest.mark.parametrize("mine", [None, "elsewhere"])
def test_files_go_to_the_run(mine, place, tmp_path, stubs, monkeypatch):
    """Unless the user chose a place; the variable does not outlive the run."""
    if mine:
        monkeypatch.setenv("WANDB_DIR", mine)
    run = configure(tmp_path / "run", place / "bert", place / "data", "tracker=wandb")
    carry_out(run)
    assert Path(stubs["wandb"].folder) == Path(mine or tmp_path / "run")
    assert os.environ.get("WANDB_DIR") == mine


@pytest.mark.parametrize("event", ["on_train_begin", "on_log"])
def test_tracker_that_fails(event, place, whole, tmp_path, stubs, monkeypatch):
    """A missing key: what it says, and two ways out. Without the tracker the run goes on."""

    def fail(*_, **__) -> None:
        raise RuntimeError("api_key not configured (no-tty)\ncall wandb.login()")

    groups = ("method=full", "tracker=wandb")
    run = configure(tmp_path / "run", place / "bert", place / "data", *groups)
    with monkeypatch.context() as once, pytest.raises(AdaptError) as told:
        once.setattr(Recorder, event, fail)
        carry_out(run)
    message = str(told.value)
    assert message.startswith("tracker=wandb: failed (RuntimeError: api_key not configured")
    assert "WANDB_API_KEY" in message
    assert "tracker=none" in message
    assert "\n" not in message
    carry_out(settings(place, tmp_path / "run"))
    assert outcome(tmp_path / "run") == whole


def test_folder_is_not_a_package(tmp_path, monkeypatch):
    """W&B writes to ./wandb, which Python finds as a package without a file."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tracker = typed(compose(["tracker=wandb"])).tracker
    with pytest.raises(ConfigError, match="needs the package wandb"):
        tracker.check_installed()


def test_runs_are_read_without_their_tracker(place, tmp_path, stubs):
    """Those of version 0.2, too, whose configuration names one tracker."""
    run = configure(tmp_path / "run", place / "bert", place / "data", "tracker=wandb")
    carry_out(run)
    assert read_config(tmp_path / "run").tracker.names == ("wandb",)
    path = tmp_path / "run" / "config.yaml"
    before, after = path.read_text().split("tracker:")
    rest = after.split("\n", 4)[-1]
    path.write_text(f"{before}tracker:\n  name: mlflow\n{rest}")
    assert read_config(tmp_path / "run").tracker.names == ("mlflow",)
