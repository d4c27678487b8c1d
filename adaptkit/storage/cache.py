"""Computed things in the user's cache folder, under a digest of all that they follow from.

    $XDG_CACHE_HOME/adaptkit/<key>    64 characters: SHA-256 of the rest, in hexadecimals; the rest

An entry is whole or absent, whichever processes write it at a time. One that is damaged is computed
again. The folder holds at most 2 GiB: the entries that were not read for longest are removed. It is
never needed: where it cannot be written, all is computed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import mmap
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from adaptkit.storage.files import digest

LARGEST = 2 << 30  # bytes of all entries together
CHECKSUM = 64  # bytes
LIBRARIES = ("datasets", "pyarrow", "tokenizers", "torch", "transformers")


def folder() -> Path:
    """Return the folder of all entries."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "adaptkit"


def key_of(*parts: Any) -> str | None:
    """Return a digest of values and of the code that makes something of them.

    None: not all is known of a value (an object of another package, for example), so that what
    follows from it cannot be kept.
    """
    try:
        said = json.dumps([known(part) for part in parts])
    except TypeError:
        return None
    return hashlib.sha256(f"{code()} {said}".encode()).hexdigest()


def known(value: Any) -> Any:
    """Return all that is to be known of a value as plain data.

    Raises:
        TypeError: it is no plain value, and no dataclass of ours.
    """
    kind = type(value)  # not isinstance: a class of its own may do something else
    if kind in (type(None), bool, int, float, str):
        return value
    if kind in (list, tuple):
        return [known(one) for one in value]
    if kind is dict:
        return {"": [[known(name), known(one)] for name, one in value.items()]}
    if is_dataclass(kind) and kind.__module__.startswith("adaptkit."):
        parts = [[field.name, known(getattr(value, field.name))] for field in fields(kind)]
        return {f"{kind.__module__}.{kind.__qualname__}": parts}
    raise TypeError(f"{kind.__name__} is not plain")


@functools.cache
def code() -> str:
    """Identify what computes: our own source files, and the versions of the libraries."""
    own = digest(Path(__file__).parents[1].rglob("*.py"))
    return " ".join([own, *(importlib.metadata.version(name) for name in LIBRARIES)])


def read(key: str) -> memoryview | None:
    """Return an entry, mapped from its file; None if there is none, or it is damaged."""
    file = folder() / key
    with contextlib.suppress(OSError, ValueError):  # an empty file cannot be mapped
        with file.open("rb") as opened:
            content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        if bytes(content[:CHECKSUM]) == checksum(content[CHECKSUM:]):
            with contextlib.suppress(OSError):
                os.utime(file)  # it was read now
            return content[CHECKSUM:]
    return None


def write(key: str, content: bytes | memoryview) -> None:
    """Keep an entry, and remove old ones beyond the limit; what cannot be kept is not."""
    if len(content) > LARGEST // 4:  # it would drive out the others
        return
    file = folder() / key
    temporary = file.with_name(f".{key}.{os.getpid()}.tmp")
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)  # texts of private data, maybe
        with temporary.open("wb") as opened:
            opened.write(checksum(content))
            opened.write(content)
        os.replace(temporary, file)
        trim()
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def checksum(content: bytes | memoryview) -> bytes:
    """Return what stands before an entry."""
    return hashlib.sha256(content).hexdigest().encode()


def trim() -> None:
    """Remove the entries that were not read for longest, until the rest is within the limit."""
    left, found = LARGEST, []
    for file in folder().iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    for _, size, file in sorted(found, reverse=True):
        left -= size
        if left < 0:
            file.unlink(missing_ok=True)
