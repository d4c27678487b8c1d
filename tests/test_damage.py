"""Damaged, foreign and outdated checkpoints are never loaded: an older one is, or none.

44 rows in batches of 8 are six updates an epoch; the run was killed after update 16 of 18, so that
its checkpoints are those of the updates 6 and 12.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import Killed, at, carry_out, configure, outcome, sentiment, shallow

from adaptkit.training.checkpoints import COMPLETE, KEPT, newest_first, number

FILES = (
    "adaptkit.json", "best.safetensors", COMPLETE, "delta.safetensors", "hooks.safetensors",
    "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
)  # fmt: skip


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    shallow(checkpoints["bert"], folder / "bert")
    sentiment(folder / "data")
    return folder


def settings(place: Path, directory: Path, **changes):
    best = {"trainer.keep": "best", "trainer.select_on": "validation"}  # a file more to damage
    return configure(directory, place / "bert", place / "data", "method=lora", **best, **changes)


@pytest.fixture(scope="module")
def whole(place) -> dict:
    carry_out(settings(place, place / "whole"))
    return outcome(place / "whole")


@pytest.fixture(scope="module")
def killed(place) -> Path:
    with pytest.raises(Killed):
        carry_out(settings(place, place / "killed"), at("on_step_end", 16, kill))
    return place / "killed"


@pytest.fixture
def run(killed, tmp_path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


def numbers(run: Path) -> list[int]:
    return [number(folder) for folder in newest_first(run / "checkpoints")]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:  # what a loss of power leaves of a file that was not synced
    path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "bit": flip, "byte": shorten, "empty": empty, "missing": Path.unlink,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}  # fmt: skip
CASES = [
    pytest.param(
        name, harm, id=f"{name} {harm}",
        marks=() if harm == ("bit" if i % 2 else "missing") else pytest.mark.reliability,
    )
    for i, name in enumerate(FILES) for harm in DAMAGE
]  # fmt: skip


def test_these_are_all_files(killed):
    assert numbers(killed) == [12, 6]
    for folder in newest_first(killed / "checkpoints"):
        assert {path.name for path in folder.iterdir()} == set(FILES)


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "harm"), CASES)
def test_older_checkpoint_serves(name, harm, place, whole, run):
    newest = run / "checkpoints" / "checkpoint-12"
    DAMAGE[harm](newest / name)
    _, said = carry_out(settings(place, run))
    assert "resuming from update 6" in said
    told = [line for line in said if line.startswith(f"{newest} is not used: ")]
    if (name, harm) == (COMPLETE, "missing"):  # a save that was cut short, nothing to speak of
        assert not told
    else:
        assert name == COMPLETE or name in told[0]  # a flipped bit there spoils another's checksum
        assert len(told) == 1
    assert outcome(run) == whole


def test_no_checkpoint_is_whole(place, whole, run):
    flip(run / "checkpoints" / "checkpoint-12" / "optimizer.pt")
    (run / "checkpoints" / "checkpoint-6" / "rng_state.pth").unlink()
    _, said = carry_out(settings(place, run))
    assert sum("is not used" in line for line in said) == 2
    assert "no whole checkpoint of this run is left: training starts again" in said
    assert not any(line.startswith("resuming") for line in said)
    assert outcome(run) == whole


@pytest.mark.parametrize("change", [{"seed": 1}, {"optimizer.lr": 2e-3}], ids=["seed", "rate"])
def test_another_runs_checkpoint(change, place, whole, run, tmp_path):
    """Whole, but copied from a run with other settings."""
    with pytest.raises(Killed):
        carry_out(settings(place, tmp_path / "other", **change), at("on_step_end", 16, kill))
    mine, other = (folder / "checkpoints" / "checkpoint-12" for folder in (run, tmp_path / "other"))
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    _, said = carry_out(settings(place, run))
    assert "resuming from update 6" in said
    assert any("another run wrote it" in line for line in said)
    assert outcome(run) == whole


def test_renamed_checkpoint(place, whole, run):
    """Its number says after which update it was made."""
    (run / "checkpoints" / "checkpoint-12").rename(run / "checkpoints" / "checkpoint-15")
    _, said = carry_out(settings(place, run))
    assert "resuming from update 6" in said
    assert outcome(run) == whole


def test_dates_do_not_matter(place, whole, run):
    """The clock was set back by a day, or the files were copied: old checkpoints look newer."""
    for folder in newest_first(run / "checkpoints"):
        future = folder.stat().st_mtime + 86400
        os.utime(folder, (future, future))
    with pytest.raises(Killed):
        carry_out(settings(place, run), at("on_train_end", 18, kill))
    assert numbers(run) == [18, 12]
    _, said = carry_out(settings(place, run))
    assert "resuming from update 18" in said
    assert outcome(run) == whole


def test_numbers_are_numbers(place, run, tmp_path):
    """Ten comes after nine, and two are kept."""
    steps = {"trainer.checkpoint_every": 1, "trainer.max_steps": 12}
    with pytest.raises(Killed):
        carry_out(settings(place, tmp_path / "steps", **steps), at("on_step_end", 11, kill))
    assert numbers(tmp_path / "steps") == [10, 9]
    assert KEPT == 2


def test_kill_while_an_old_checkpoint_is_removed(place, whole, run, monkeypatch):
    """What is half removed does not look whole."""

    def half(folder: Path, ignore_errors: bool) -> None:
        (folder / "optimizer.pt").unlink()
        kill()

    with monkeypatch.context() as once:
        once.setattr("adaptkit.training.checkpoints.shutil.rmtree", half)
        with pytest.raises(Killed):
            carry_out(settings(place, run))
    assert numbers(run) == [18, 12, 6]
    assert not (run / "checkpoints" / "checkpoint-6" / COMPLETE).exists()
    carry_out(settings(place, run))
    assert outcome(run) == whole


def test_kill_behind_the_record(place, tmp_path, monkeypatch):
    """The run is done; its checkpoints go with the next command."""
    made = settings(place, tmp_path / "run", **{"trainer.checkpoint_every": 18})
    with monkeypatch.context() as once:
        once.setattr("adaptkit.runs.run.shutil.rmtree", lambda *_, **__: kill())
        with pytest.raises(Killed):
            carry_out(made)
    assert (tmp_path / "run" / "result.json").exists()
    assert numbers(tmp_path / "run") == [18]
    _, said = carry_out(made)
    assert said[-1].startswith("done before")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_all_is_on_the_disk_before_a_checkpoint_counts(place, tmp_path, monkeypatch):
    """A loss of power: files are synced before `complete` is there, and so is the folder."""
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    def seen() -> None:
        folder = tmp_path / "run" / "checkpoints" / "checkpoint-6"
        files = {str(folder / name) for name in FILES if name != COMPLETE}
        at_last = next(i for i, path in enumerate(synced) if f".{COMPLETE}." in path)
        assert files | {str(folder), str(folder.parent)} <= set(synced[:at_last])
        assert synced[at_last + 1 :] == [str(folder)]
        kill()

    monkeypatch.setattr("adaptkit.storage.files.os.fsync", note)
    with pytest.raises(Killed):
        carry_out(settings(place, tmp_path / "run"), at("on_save", 6, seen))
