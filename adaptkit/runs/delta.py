"""delta.safetensors: what a run trained, and a finished run read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs import heap
from adaptkit.runs.directory import ADDED, CONFIG, DELTA, RESULT, UNLIKE, flat, read_config
from adaptkit.runs.record import RunResult
from adaptkit.storage.files import is_main_process, save_tensors

FORMAT = "2"
AGAIN = "Copy the run again from where it was made, or repeat it with trainer.resume=never."


@dataclass(frozen=True)
class SavedRun:
    """A finished run read from its directory."""

    directory: Path
    settings: Settings
    result: RunResult | None
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def save_delta(
    directory: Path, tensors: Mapping[str, Tensor], run: Settings, fingerprint: str
) -> int:
    """Write what was trained; return the file's size in bytes.

    Raises:
        AdaptError: a number is not finite: training has diverged.
    """
    check_finite(tensors, str(directory), "Lower optimizer.lr, or use trainer.precision=fp32.")
    metadata = {
        "adaptkit_format": FORMAT,
        "method": run.method_name,
        "body": run.model.path,
        "revision": run.model.revision or "",
        "fingerprint": fingerprint,
    }
    heap.give_back()  # what is free since training; the file takes its size in memory again
    save_tensors(directory / DELTA, tensors, metadata)
    return (directory / DELTA).stat().st_size if is_main_process() else 0


def digest(directory: Path) -> str:
    """Return the SHA-256 of a run's tensors, by which damage is found later."""
    sha = hashlib.sha256()
    with safe_open(directory / DELTA, framework="np") as file:  # the file's own order varies
        sha.update(json.dumps(file.metadata() or {}, sort_keys=True).encode())
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            sha.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            sha.update(tensor.tobytes())
    return sha.hexdigest()


def check_finite(tensors: Mapping[str, Tensor], where: str, way_out: str) -> None:
    """Reject tensors that nothing sensible can be computed with.

    Raises:
        AdaptError: a number is not finite; the message names the tensor.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise AdaptError(f"{where}: {name} holds numbers that are not finite. {way_out}")


def load_run(directory: Path) -> SavedRun:
    """Read a finished run whose tensors are those that it wrote.

    Raises:
        AdaptError: it is not a run directory, the run is not finished, or a file is damaged.
    """
    result = RunResult.read(directory)
    if not (directory / CONFIG).is_file() or result is None:
        state = "is not finished" if (directory / CONFIG).is_file() else "is not a run directory"
        raise AdaptError(
            f"{directory} {state}: a finished run holds {CONFIG}, {DELTA} and {RESULT}."
        )
    if result.status != "done":
        raise AdaptError(f"{directory}: the run failed ({result.error}). Repeat it first.")
    saved = read_delta(read_config(directory), directory, result)
    check_config(saved, result)
    if digest(directory) != result.delta_sha256:
        raise AdaptError(
            f"{directory / DELTA} is not the file that the run wrote: its SHA-256 differs from "
            f"delta_sha256 in {RESULT}. {AGAIN}"
        )
    return saved


def check_config(saved: SavedRun, result: RunResult) -> None:
    """Check that a run's config.yaml says what its record says; where things lie may change.

    Raises:
        AdaptError: an option is another one.
    """
    filled_in = {name: ADDED[name] for name in UNLIKE}  # by `read_config`
    now, before = flat(saved.settings.plain), {**filled_in, **result.settings}
    other = [
        key for key in sorted({*now, *before})
        if key.rpartition(".")[2] not in ("path", "root", "from_run", "output_dir")
        and not key.startswith("tracker")
        and (key not in now or key not in before or now[key] != before[key])
    ]  # fmt: skip
    if other:
        raise AdaptError(
            f"{saved.directory / CONFIG} was edited: {', '.join(other[:5])} differs from "
            f"{RESULT}. Undo that, or repeat the run."
        )


def read_delta(
    run: Settings, directory: Path | None = None, result: RunResult | None = None
) -> SavedRun:
    """Read what a run trained; `directory`: where it lies now, if it was moved.

    Raises:
        AdaptError: the file is missing, damaged, of another format, or holds numbers that are not
            finite.
    """
    directory = directory or run.output_dir
    try:
        with safe_open(directory / DELTA, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise AdaptError(
            f"{directory / DELTA} is missing or damaged: {error}. The command "
            "of the run with trainer.resume=never trains it again."
        ) from error
    version = metadata.get("adaptkit_format")
    if version != FORMAT:
        raise AdaptError(
            f"{directory / DELTA}: has format {version!r}, this version reads {FORMAT}."
        )
    check_finite(tensors, str(directory / DELTA), AGAIN)
    return SavedRun(directory, run, result, tensors, metadata)


def check_body(saved: SavedRun, fingerprint: str) -> None:
    """Reject a delta that was trained for another base model.

    Raises:
        AdaptError: the fingerprints differ; both base models are named.
    """
    parent = saved.settings.model.from_run
    if saved.metadata["fingerprint"] != fingerprint:
        raise AdaptError(
            f"{saved.directory}: was trained for the base model {saved.metadata['body']} with "
            f"fingerprint {saved.metadata['fingerprint'][:12]}, but {saved.settings.model.path} "
            f"has {fingerprint[:12]}. Give the folder or revision it was trained with "
            "(model.path=...)."
            + (" Or the run it started from (model.from_run) was repeated." if parent else "")
        )
