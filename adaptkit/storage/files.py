"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, MachineError

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`; rename it to `path` once it is complete.

    Raises:
        MachineError: the disk is full or cannot be written; `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~umask())  # safetensors writes files for the owner alone
        sync(temporary)  # or a loss of power could leave the new name with nothing in it
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:  # an interruption, too, leaves nothing behind
        temporary.unlink(missing_ok=True)
        # safetensors reports a full disk with an exception of its own.
        if isinstance(error, OSError) or "SafetensorError" in type(error).__name__:
            raise MachineError(f"{path} cannot be written: {error}.") from error
        raise


def umask() -> int:
    """Return which permissions new files are not given; there is no way to ask but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest(files: Iterable[Path], part: bool = False) -> str:
    """Return the SHA-256 of files: sizes, content, and names if there are several.

    `part`: of a file above 64 MiB only 64 evenly spaced pieces of 1 MiB are read. That notices
    other weights and a cut or damaged end, but not every change of single numbers.
    """
    whole, piece, paths = hashlib.sha256(), 1 << 20, sorted(files)
    for path in paths:
        size = path.stat().st_size
        whole.update(f"{path.name if len(paths) > 1 else ''} {size} ".encode())
        step = max(piece, size // 64) if part else piece
        with path.open("rb") as file:
            for start in (*range(0, size, step), max(0, size - piece)):
                file.seek(start)
                whole.update(file.read(piece))
    return whole.hexdigest()


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk itself."""
    folder = path.is_dir()
    # Some systems cannot do it for folders; what lies in them is written all the same.
    with contextlib.suppress(OSError) if folder else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_parents(place: Path, option: str) -> None:
    """Refuse a place within a file.

    Raises:
        AdaptError: a part of its path is a file.
    """
    if file := next((one for one in place.parents if one.is_file()), None):
        raise AdaptError(f"{option}={place}: {file} is a file. Name another place.")


def check_free(folder: Path, option: str) -> None:
    """Refuse a place where something lies already.

    Raises:
        AdaptError: it is a file or within one, or a folder that is not empty.
    """
    check_parents(folder, option)
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        what = "is a folder that is not empty" if folder.is_dir() else "is a file"
        raise AdaptError(f"{option}={folder}: {what}; nothing was changed. Give a new folder.")


@contextlib.contextmanager
def making_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder next to `folder`; rename it to `folder` once it is complete.

    Raises:
        MachineError: the disk is full or cannot be written; nothing is left.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)  # an empty folder may be there
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) or "SafetensorError" in type(error).__name__:
            raise MachineError(f"{folder} cannot be written: {error}.") from error
        raise


def is_main_process() -> bool:
    """Tell whether this is the process of a distributed run that writes (torchrun sets RANK)."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Return how many processes a distributed run has (torchrun sets WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; the other processes of a distributed run write nothing."""
    if not is_main_process():
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines atomically."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that every parser reads: NaN and infinity become null."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """Return plain data in which NaN and infinity are None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors atomically; see `write_text`."""
    if not is_main_process():
        return
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata={"format": "pt", **(metadata or {})})
