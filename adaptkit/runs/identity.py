"""What a run is made of, to notice that something changed since. No torch.

    data        SHA-256 of the files that hold the splits; null for hub data (task.revision)
    model       SHA-256 of the model's folder, or the commit of a hub model
    parent      delta_sha256 of the run that it starts from (model.from_run)
    processes   that share the run
    versions    of adaptkit, torch and transformers

A finished run is done only if data, model and parent are the same. An interrupted one goes on only
if all are: another order of sums or another kernel would end elsewhere than the uninterrupted run.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptkit import __version__
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, first_line
from adaptkit.runs.directory import CHECKPOINTS
from adaptkit.runs.record import RunResult
from adaptkit.storage import bundled, hub
from adaptkit.storage.files import digest, processes, write_json
from adaptkit.tasks.reading.source import DataSource

FILE = "made_of.json"  # next to the checkpoints
WORDS = {"data": "the data files", "model": "the model's files", "processes": "processes",
         "parent": "the run it starts from", "versions": "versions"}  # fmt: skip
MODEL_FILES = (".safetensors", ".json", ".txt", ".model")


def made_of(settings: Settings, origin: DataSource) -> dict[str, Any]:
    """Return what a run would be made of now."""
    return {
        "data": digest(origin.files) if origin.files else None,
        "model": model_digest(settings.model.path, settings.model.revision),
        "parent": parent_digest(settings.model.from_run),
        "processes": processes(),
        # Of a checkout, the installed metadata may be those of an older version.
        "versions": {
            "adaptkit": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
    }


def model_digest(path: str, revision: str | None) -> str | None:
    """Identify the files of a model; None: a hub model that is not in the cache yet."""
    folder = bundled.model(path) or Path(path).expanduser()
    if not folder.is_dir():
        return hub.commit(path, revision)
    files = [file for file in folder.iterdir() if file.suffix in MODEL_FILES and file.is_file()]
    return digest(files, part=True)


def parent_digest(directory: str | None) -> str | None:
    """Identify the tensors of the run that this one starts from; None without one.

    Raises:
        AdaptError: its record is damaged.
    """
    parent = RunResult.read(Path(directory)) if directory else None
    return parent.delta_sha256 if parent else None


def changes(before: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """Say what differs; what one side does not know is not compared."""
    said = []
    for name in names:
        old, new = before.get(name), now.get(name)
        if old is None or new is None or old == new:
            continue
        if name == "versions":
            pairs = {key: (old.get(key), new[key]) for key in new if old.get(key) != new[key]}
            said += [f"{key} {was} is now {new}" for key, (was, new) in pairs.items()]
        else:
            counts = f" ({old}, now {new})" if name == "processes" else ""
            said.append(f"{WORDS[name]}{counts}")
    return said


def check_same(directory: Path, now: Mapping[str, Any]) -> None:
    """Reject going on with an interrupted run that was made of something else.

    Raises:
        AdaptError: something changed; the message says what.
    """
    path = directory / CHECKPOINTS / FILE
    if not any(path.parent.glob("checkpoint-*")):
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict) or not isinstance(before.get("versions", {}), dict):
            raise ValueError("it does not say what the run is made of")
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise AdaptError(
            f"{path} is damaged: {first_line(error)}. Start again with trainer.resume=never."
        ) from error
    if changed := changes(before, now, tuple(WORDS)):
        raise AdaptError(
            f"{directory} holds an interrupted run, and this has changed since: "
            f"{', '.join(changed)}. Undo that to go on, or start again with trainer.resume=never."
        )


def note(directory: Path, now: Mapping[str, Any]) -> None:
    """Note next to the checkpoints what the run is made of."""
    write_json(directory / CHECKPOINTS / FILE, now)
