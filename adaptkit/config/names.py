"""The names of run directories: what a run changes, in one spelling. No torch."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptkit.config.words import readable

# Overrides that do not belong into the name of a run's folder: they stand in the path already, or
# say only where and how a run is carried out.
UNNAMED = (
    "task",
    "model",
    "method",
    "seed",
    "output_dir",
    "trainer.resume",
    "trainer.jobs",
    "trainer.find_batch_size",
    "tracker",
    "suite",
    "~suite",
    "protocol",
    "~protocol",
    "~experiment",
    "data.root",
    "budget",  # the size that was solved for is named
    "budget.trainable",
)

PATHS = ("model.path", "task.path")
TEMPLATE_FILES = (".yaml", ".yml")  # endings of a value of task.template that is a file


def variant(overrides: list[str], root: str | None = None) -> str:
    """Name what the remaining overrides change, so that two runs never share a folder.

    Two spellings of one value give one name: query and [query], 1e-3 and 0.001. The data's folder
    belongs to it, wherever it was set. Readable while short; where characters had to be replaced or
    cut, a hash keeps names apart.
    """
    values = dict(canonical(override) for override in overrides)  # of two the last one holds
    kept = [
        f"{key}={value}"
        for key, value in values.items()
        if key not in UNNAMED and not key.startswith(("suite.", "protocol."))
    ]
    if root is not None:
        kept.append(f"data.root={placed(Path(root))}")
    full = ",".join(sorted(kept))
    name = re.sub(r"[^A-Za-z0-9=.,\-+]", "_", full)[:96]
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return (name if name == full else f"{name}-{digest}") or "default"


def canonical(override: str) -> tuple[str, str]:
    """Return the key of an override, and its value in the one spelling that names runs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(readable([override])[0])
    key, value = parsed.get_key_element().lstrip("+~"), parsed.value()
    # os.path answers for every text; Path raises for one that is too long to be a name.
    if key in PATHS and isinstance(value, str) and os.path.exists(os.path.expanduser(value)):
        value = placed(Path(value))
    elif key == "task.template" and isinstance(value, str) and value.endswith(TEMPLATE_FILES):
        value = with_content(Path(value).expanduser())
    return ("~" if parsed.is_delete() else "") + key, spelled(value)


def placed(path: Path) -> str:
    """Return the name of a file or folder, and a hash of the place where it lies."""
    whole = os.path.abspath(path.expanduser())
    return f"{Path(whole).name}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def with_content(file: Path) -> str:
    """Return the name of a file and a hash of what is in it, if it is there."""
    if not file.is_file():
        return str(file)
    return f"{file.stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:6]}"


def spelled(value: Any) -> str:
    """Return a value as short text: a list of one like its entry, 1.0 like 1."""
    if isinstance(value, list | tuple):
        inside = ",".join(spelled(item) for item in value)
        return inside if len(value) == 1 else f"[{inside}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{spelled(item)}' for key, item in sorted(value.items()))}}}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def model_name(path: Any) -> str:
    """Name a model by the last two parts of its folder or hub id, so that `x/model` tells."""
    whole = os.path.expanduser(str(path))
    place = Path(os.path.abspath(whole) if os.path.isdir(whole) else whole)
    parts = [part for part in place.parts if part != "/"]
    return "-".join(parts[-2:]).replace(":", "-") or "model"
