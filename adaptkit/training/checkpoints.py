"""Checkpoints on disk: which are whole, which belong to a run, and which may go. No torch here.

A checkpoint counts once its last file, `complete`, is there: it holds the number of the update, the
identity of the run and a digest of every other file, all of which are on the disk by then. The
number in its name orders checkpoints, never a date: clocks are set back, and files are copied.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from adaptkit.errors import machine_failures
from adaptkit.storage.files import digest, sync, write_text

PREFIX, REJECTED = "checkpoint-", "rejected-"
COMPLETE = "complete"  # written last
KEPT = 2  # the newest may turn out to be damaged


def folder_of(checkpoints: Path, update: int) -> Path:
    """Return where the checkpoint of an update lies."""
    return checkpoints / f"{PREFIX}{update}"


def newest_first(checkpoints: Path) -> list[Path]:
    """Return all checkpoints, those that were cut short included."""
    found = [p for p in checkpoints.glob(f"{PREFIX}*") if p.name[len(PREFIX) :].isdecimal()]
    return sorted(found, key=number, reverse=True)


def number(folder: Path) -> int:
    """Return the update after which a checkpoint was made."""
    return int(folder.name[len(PREFIX) :])


def last_sealed(checkpoints: Path) -> int | None:
    """Return the update of the newest checkpoint that was written to its end, if there is one."""
    sealed = [folder for folder in newest_first(checkpoints) if (folder / COMPLETE).is_file()]
    return number(sealed[0]) if sealed else None


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Let a checkpoint be written; a failure of the disk or the memory leaves nothing of it.

    Raises:
        MachineError: the disk is full or cannot be written. Earlier checkpoints are as they were.
    """
    try:
        with machine_failures(folder):
            yield
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)  # what is left over may fill the disk
        raise


def seal(folder: Path, run: str) -> None:
    """Write the checksums of a checkpoint's files once these are on the disk; remove old ones."""
    files = {path.name: digest([path]) for path in sorted(folder.iterdir())}
    for path in (*(folder / name for name in files), folder, folder.parent):
        sync(path)
    facts = {"update": number(folder), "run": run, "files": files}
    write_text(folder / COMPLETE, json.dumps(facts, indent=1))
    for older in newest_first(folder.parent)[KEPT:]:
        (older / COMPLETE).unlink(missing_ok=True)  # a kill leaves no half that looks whole
        shutil.rmtree(older, ignore_errors=True)


def fault_of(folder: Path, run: str) -> str:
    """Return why a sealed checkpoint cannot be trusted, or nothing."""
    try:
        facts = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        files, origin = dict(facts["files"]), (facts["update"], facts["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"its file {COMPLETE} is damaged"
    for name, expected in files.items():
        try:
            found = digest([folder / name])
        except OSError:
            return f"{name} is missing or cannot be read"
        if found != expected:
            return f"{name} is damaged"
    return "" if origin == (number(folder), run) else "another run wrote it"


def choose(checkpoints: Path, run: str) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint of a run, and a remark on each that was passed over.

    Those that were cut short are removed. Those that cannot be trusted are set aside: their numbers
    come again.
    """
    remarks: list[str] = []
    for folder in newest_first(checkpoints):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
        elif not (fault := fault_of(folder, run)):
            return folder, remarks
        else:
            aside = folder.with_name(REJECTED + folder.name)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            remarks.append(f"{folder} is not used: {fault} (now {aside.name})")
    if remarks:
        remarks.append("no whole checkpoint of this run is left: training starts again")
    return None, remarks
