"""A run that is asked to end saves a checkpoint, says so, and goes on to the bit when repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import at, carry_out, command, configure, outcome, sentiment, shallow

from adaptkit.errors import Interrupted
from adaptkit.terminal.console import raising_signals
from adaptkit.training.checkpoints import COMPLETE, last_sealed

EPOCHS = {"trainer.epochs": 3, "trainer.log_every": 4}  # six updates an epoch
STEPS = {"trainer.eval_every": 4, "trainer.checkpoint_every": 3, "trainer.epochs": 2}
ACCUMULATION = {**EPOCHS, "trainer.gradient_accumulation": 2}  # three updates an epoch
PENALTY = {**EPOCHS, "regularizer.l2_sp.alpha": 0.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Path:
    folder = tmp_path_factory.mktemp("interruption")
    shallow(checkpoints["bert"], folder / "bert")
    sentiment(folder / "data")
    return folder


def settings(place: Path, directory: Path, changes: dict):
    groups = ("method=full", "regularizer=[l2_sp]") if changes is PENALTY else ("method=lora",)
    return configure(directory, place / "bert", place / "data", *groups, **changes)


@pytest.fixture(scope="module")
def whole(place):
    done: dict[int, dict] = {}

    def made(changes: dict) -> dict:
        if id(changes) not in done:
            directory = place / f"whole{len(done)}"
            carry_out(settings(place, directory, changes))
            done[id(changes)] = outcome(directory)
        return done[id(changes)]

    return made


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("changes", "event", "update", "saved"),
    [
        (EPOCHS, "on_step_begin", 0, 1),
        (EPOCHS, "on_step_begin", 1, 2),  # between two entries of the log
        (EPOCHS, "on_step_begin", 6, 7),
        (EPOCHS, "on_step_end", 8, 9),
        (EPOCHS, "on_step_end", 12, 12),  # the evaluation of the epoch comes before the save
        (EPOCHS, "on_prediction_step", 12, 12),
        (EPOCHS, "on_save", 12, 13),
        pytest.param(EPOCHS, "on_step_end", 18, 18, marks=pytest.mark.slow),
        (EPOCHS, "on_save", 18, 18),
        pytest.param(STEPS, "on_step_end", 4, 5, marks=pytest.mark.slow),
        (STEPS, "on_prediction_step", 8, 9),
        pytest.param(STEPS, "on_step_end", 6, 6, marks=pytest.mark.slow),
        (STEPS, "on_save", 12, 12),
        (ACCUMULATION, "on_substep_end", 4, 5),
        (ACCUMULATION, "on_step_end", 5, 6),
        (PENALTY, "on_step_end", 8, 9),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_run_goes_on(changes, event, update, saved, place, whole, tmp_path):
    number = signal.SIGINT if event == "on_step_begin" else signal.SIGTERM
    run = settings(place, tmp_path / "run", changes)
    with raising_signals(), pytest.raises(Interrupted) as stop:
        carry_out(run, at(event, update, lambda: signal.raise_signal(number)))
    assert stop.value.status == 128 + number
    assert last_sealed(tmp_path / "run" / "checkpoints") == saved
    assert not (tmp_path / "run" / "result.json").exists()
    _, said = carry_out(run)
    assert f"resuming from update {saved}" in said
    assert outcome(tmp_path / "run") == whole(changes)


@pytest.mark.usefixtures("ctrl_c")
def test_second_ctrl_c_ends_at_once(place, tmp_path):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # the second of another kind changes nothing
        assert not (tmp_path / "run" / "checkpoints" / "checkpoint-2").exists()
        signal.raise_signal(signal.SIGINT)

    with raising_signals(), pytest.raises(Interrupted, match="SIGINT"):
        carry_out(settings(place, tmp_path / "run", EPOCHS), at("on_step_begin", 1, twice))
    assert last_sealed(tmp_path / "run" / "checkpoints") is None


def test_ignored_signal_stays_ignored(place, tmp_path, whole):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising_signals():
            hang_up = at("on_step_begin", 3, lambda: signal.raise_signal(signal.SIGHUP))
            carry_out(settings(place, tmp_path / "run", EPOCHS), hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outcome(tmp_path / "run") == whole(EPOCHS)


# ---- the command, and a sweep's child ----


def words(place: Path, directory: str, *more: str) -> list[str]:
    return [
        "train", "model=auto", f"model.path={place / 'bert'}", "task=sst2",
        f"task.path={place / 'data'}", "method=lora", "trainer.device=cpu",
        "trainer.precision=fp32", "trainer.batch_size=1",
        "trainer.epochs=4000", "trainer.checkpoint_every=20",
        f"output_dir={directory}", *more,
    ]  # fmt: skip


def wait_for_checkpoint(process: subprocess.Popen, directory: Path) -> None:
    limit = time.monotonic() + 120
    while not list(directory.glob(f"checkpoints/checkpoint-*/{COMPLETE}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


OTHERS = pytest.mark.reliability


@pytest.mark.parametrize(
    ("sweep", "number"),
    [
        pytest.param(True, signal.SIGTERM, id="sweep, kill", marks=OTHERS),
        pytest.param(True, signal.SIGINT, id="sweep, ctrl-c", marks=OTHERS),
        pytest.param(False, signal.SIGTERM, id="run, kill"),
        pytest.param(False, signal.SIGINT, id="run, ctrl-c", marks=OTHERS),
    ],
)
def test_command_that_is_asked_to_end(sweep, number, place, tmp_path):
    """A checkpoint, one sentence and the status of the signal; a sweep's child ends as well."""
    name = "run-${seed}" if sweep else "run-0"
    more = ["seed=0,1", "-m"] if sweep else []
    process = command(*words(place, str(tmp_path / name), *more), group=True)
    wait_for_checkpoint(process, tmp_path / "run-0")
    if number == signal.SIGINT:  # a terminal sends it to all processes of the command
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    update = last_sealed(tmp_path / "run-0" / "checkpoints")
    assert f"the same command resumes from update {update} ({tmp_path / 'run-0'})" in err
    assert "saving a checkpoint" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run-1").exists()


@pytest.mark.reliability
def test_child_ends_with_a_killed_sweep(place, tmp_path):
    process = command(*words(place, str(tmp_path / "run-${seed}"), "seed=0,1", "-m"))
    wait_for_checkpoint(process, tmp_path / "run-0")
    process.kill()
    process.communicate(timeout=60)  # the child holds the other ends of the pipes
    made = last_sealed(tmp_path / "run-0" / "checkpoints")
    time.sleep(0.5)
    assert last_sealed(tmp_path / "run-0" / "checkpoints") == made
    assert not (tmp_path / "run-1").exists()


@pytest.mark.reliability
def test_the_cursor_comes_back(place, tmp_path):
    """On a terminal, the bar hides it; whatever ends the run, it is shown again."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    process = command(*words(place, str(tmp_path / "run-0")), group=True, stderr=slave)
    os.close(slave)
    printed = bytearray()
    wait_for_checkpoint(process, tmp_path / "run-0")
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(OSError):  # Linux ends a terminal without a reader this way
        while block := os.read(master, 1 << 16):
            printed += block
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert printed.rfind(b"\x1b[?25h") > printed.rfind(b"\x1b[?25l") > -1
    assert b"the same command resumes" in printed
