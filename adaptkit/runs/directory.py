"""The run directory: what a run leaves behind, how it is found again, and whether it is whole.

config.yaml          the resolved config: enough to rebuild the run
delta.safetensors    what was learnt, names as in the adapted model
result.json          one flat record
history.jsonl        one line per logged step
predictions.jsonl    the scored split: id, prediction, label
train.log            the log
checkpoints/         training state, removed when the run is done
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptkit.config.compose import load_plain, to_yaml
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError, ConfigError, MachineError
from adaptkit.storage.files import is_main_process, save_tensors, write_lines, write_text

FORMAT = "1"
DELTA, RESULT, CONFIG = "delta.safetensors", "result.json", "config.yaml"
HISTORY, PREDICTIONS, CHECKPOINTS = "history.jsonl", "predictions.jsonl", "checkpoints"
FILES = (DELTA, RESULT, CONFIG, HISTORY, PREDICTIONS)
# Say where or how a run is carried out, not what it computes.
IRRELEVANT = ("output_dir", "trainer.resume", "trainer.log_every", "tracker.name")


@dataclass(frozen=True)
class SavedRun:
    """A finished run read from its directory."""

    directory: Path
    settings: Settings
    result: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def save_delta(
    directory: Path, tensors: Mapping[str, Tensor], run: Settings, fingerprint: str
) -> int:
    """Write what was learnt; return the file's size in bytes."""
    metadata = {
        "adaptkit_format": FORMAT,
        "method": run.method_name,
        "body": run.model.path,
        "revision": run.model.revision or "",
        "fingerprint": fingerprint,
    }
    save_tensors(directory / DELTA, tensors, metadata)
    return (directory / DELTA).stat().st_size if is_main_process() else 0


def digest(directory: Path) -> str:
    """Return the SHA-256 of a run's learnt tensors, by which damage is found later."""
    if not is_main_process():
        return ""
    found = hashlib.sha256()
    with safe_open(directory / DELTA, framework="np") as file:  # the file's own order varies
        found.update(json.dumps(file.metadata() or {}, sort_keys=True).encode())
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            found.update(tensor.tobytes())
    return found.hexdigest()


def load_run(directory: Path) -> SavedRun:
    """Read a finished run.

    Raises:
        AdaptError: it is no run directory, the run is not finished, or a file is damaged.
    """
    result = read_result(directory)
    if not (directory / CONFIG).is_file() or result is None:
        state = "is not finished" if (directory / CONFIG).is_file() else "is no run directory"
        raise AdaptError(
            f"{directory} {state}: a finished run holds {CONFIG}, {DELTA} and {RESULT}."
        )
    if result["status"] != "done":
        raise AdaptError(f"{directory}: the run failed ({result['error']}). Repeat it first.")
    try:
        run = settings(load_plain(directory / CONFIG))
    except ConfigError as error:
        raise AdaptError(f"{directory / CONFIG} is damaged or was edited. {error}") from error
    return read_delta(run, directory, result)


def read_delta(
    run: Settings, directory: Path | None = None, result: dict[str, Any] | None = None
) -> SavedRun:
    """Read what a run learnt; `directory`: where it lies now, if it was moved.

    Raises:
        AdaptError: the file is missing, damaged, or of another format.
    """
    directory = directory or run.output_dir
    try:
        with safe_open(directory / DELTA, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise AdaptError(f"{directory / DELTA} is missing or damaged: {error}.") from error
    found = metadata.get("adaptkit_format")
    if found != FORMAT:
        raise AdaptError(f"{directory / DELTA}: has format {found!r}, this version reads {FORMAT}.")
    return SavedRun(directory, run, result or {}, tensors, metadata)


def read_result(directory: Path) -> dict[str, Any] | None:
    """Return result.json, or None where there is none.

    Raises:
        AdaptError: the file is damaged.
    """
    try:
        return json.loads((directory / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdaptError(f"{directory / RESULT} is damaged: {error}.") from error


def check_body(saved: SavedRun, fingerprint: str) -> None:
    """Refuse a delta that was learnt for another body.

    Raises:
        AdaptError: the fingerprints differ; both bodies are named.
    """
    if saved.metadata["fingerprint"] != fingerprint:
        raise AdaptError(
            f"{saved.directory}: was learnt for the body {saved.metadata['body']} with fingerprint "
            f"{saved.metadata['fingerprint'][:12]}, but {saved.settings.model.path} has "
            f"{fingerprint[:12]}. Give the folder or revision it was trained with (model.path=...)."
        )


def differences(directory: Path, plain: Mapping[str, Any]) -> list[str]:
    """Return the options in which a directory's config differs from this run's."""
    before, now = flat(load_plain(directory / CONFIG)), flat(plain)
    return sorted(
        key
        for key in before.keys() | now.keys()
        if key not in IRRELEVANT and before.get(key) != now.get(key)
    )


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as {dotted.key: value}."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    below = [flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in node.items()]
    return {key: value for part in below for key, value in part.items()}


def write_config(directory: Path, plain: Mapping[str, Any]) -> None:
    """Write the resolved config."""
    write_text(directory / CONFIG, to_yaml(plain))


def write_predictions(directory: Path, parts: Mapping[str, Any]) -> None:
    """Write one line per scored row; rows of further splits carry the split's name."""
    lines = []
    for suffix, scored in parts.items():
        for row, (made, label) in enumerate(zip(scored.predictions, scored.labels, strict=True)):
            identity = f"{suffix}/{row}" if suffix else str(row)
            entry = {"id": identity, "prediction": number(made), "label": number(label)}
            lines.append(json.dumps(entry))
    write_lines(directory / PREDICTIONS, lines)


def read_predictions(directory: Path) -> dict[str, float]:
    """Return {id: prediction}.

    Raises:
        AdaptError: the file is missing or damaged.
    """
    try:
        lines = (directory / PREDICTIONS).read_text(encoding="utf-8").splitlines()
        return {row["id"]: row["prediction"] for row in map(json.loads, lines)}
    except (OSError, ValueError, KeyError) as error:
        raise AdaptError(f"{directory / PREDICTIONS} is missing or damaged: {error}.") from error


def number(value: np.generic) -> int | float:
    """Return a plain number whose text gives back the same value."""
    return value.item()


def empty(directory: Path) -> bool:
    """Tell whether a run failed before it had learnt anything that was saved."""
    result = read_result(directory)
    failed = bool(result) and result["status"] == "failed"
    return failed and not (directory / DELTA).exists() and not (directory / CHECKPOINTS).exists()


def clear(directory: Path) -> None:
    """Remove what a run wrote, and nothing else that lies in its directory."""
    for name in (*FILES, "train.log"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Remove files whose writing was cut short by a kill."""
    for name in FILES:
        for partial in directory.glob(f".{name}.*.tmp"):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Make a directory and hold it for one process; where nothing is written, remove it again.

    Raises:
        AdaptError: another process is at work there, or a file is in the way.
        MachineError: the directory cannot be written.
    """
    if not is_main_process():
        yield
        return
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        with locked(directory):
            sweep(directory)
            yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of however the process ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except (FileExistsError, NotADirectoryError) as error:
        raise AdaptError(
            f"output_dir={directory}: a file is in the way. Give a folder, or a new name."
        ) from error
    except OSError as error:
        raise MachineError(
            f"output_dir={directory}: cannot be written ({error}). Give another folder."
        ) from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has no such lock
            pass
        except OSError as error:
            raise AdaptError(
                f"{directory}: another process is running here. Wait for it, or set output_dir."
            ) from error
        try:
            yield
        finally:
            (directory / ".lock").unlink(missing_ok=True)
