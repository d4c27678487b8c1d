"""What the package brings along: YAML files, three small pretrained models, samples of data sets.

`bundled.json` holds the SHA-256 of every file; it is written by `scripts/bundle.py`. A folder is
compared with it before it is read, so that a damaged installation is named as such. No torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError

PACKAGE = Path(__file__).parents[1]
# In a wheel conf/ is inside the package, in a checkout next to it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
SAMPLES = PACKAGE / "samples"
MINIS = PACKAGE / "models" / "mini"
SUMS = PACKAGE / "bundled.json"
SCHEME = "adaptkit:"  # model.path=adaptkit:mini-bert
REINSTALL = "Install adaptkit again: pip install --force-reinstall --no-deps adaptkit."


def model(path: str) -> Path | None:
    """Return the folder of `adaptkit:NAME`, or None for any other path.

    Raises:
        AdaptError: there is no such model, or its files are damaged.
    """
    if not path.startswith(SCHEME):
        return None
    name = path[len(SCHEME) :]
    known = sorted(p.name for p in MINIS.iterdir() if p.is_dir()) if MINIS.is_dir() else []
    if name not in known and not _promised(MINIS / name):
        raise AdaptError(f"model.path={path}: not bundled. There is: {', '.join(known)}.")
    check(MINIS / name)
    return MINIS / name


def sample(task: str) -> Path | None:
    """Return the folder with a task's bundled sample, or None where there is none.

    Raises:
        AdaptError: its files are damaged.
    """
    if not _promised(SAMPLES / task):
        return None
    check(SAMPLES / task)
    return SAMPLES / task


def sampled_tasks() -> list[str]:
    """Return the names of the tasks that have a sample."""
    here = SAMPLES.relative_to(PACKAGE).as_posix() + "/"
    return sorted({n[len(here) :].split("/")[0] for n in sums() if n.startswith(here)})


@functools.cache
def published(task: str) -> dict[str, str | None]:
    """Return the options that name a task's data set on the hub; empty: the task is none of ours.

    Those of `task`: path, subset, revision. A task whose path has yet to be set, or is made of
    other settings, has none.
    """
    found = _raw(task)
    values = {key: found.get(key) for key in ("path", "subset", "revision")}
    if values["path"] in (None, "???") or any("${" in str(value) for value in values.values()):
        return {}
    return {key: None if value is None else str(value) for key, value in values.items()}


def of_another_set(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return which of the options path, subset and revision name another set than the task's."""
    usual = published(task) if options["path"] else {}
    given = {key: options[key] and str(options[key]) for key in usual}
    return {f"task.{key}": options[key] for key in usual if given[key] != usual[key]}


def _raw(task: str) -> dict[str, Any]:
    """Return a task's YAML on top of those that it is made of; empty if there is none."""
    import yaml

    file = CONF / "task" / f"{task}.yaml"
    known = re.fullmatch(r"[\w.-]+", task) and file.is_file()
    own = yaml.safe_load(file.read_text(encoding="utf-8")) if known else {}
    below = [one for one in own.get("defaults", ()) if isinstance(one, str) and one != "_self_"]
    return functools.reduce(operator.or_, [*map(_raw, below), own], {})


@functools.cache
def check(folder: Path) -> None:
    """Compare every file of a bundled folder with the sums.

    Raises:
        AdaptError: a file is missing or has another content.
    """
    for name in _promised(folder):
        file = PACKAGE / name
        if not file.is_file():
            raise AdaptError(f"the bundled file {file} is missing. {REINSTALL}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != sums()[name]:
            raise AdaptError(f"the bundled file {file} is damaged. {REINSTALL}")


def _promised(folder: Path) -> list[str]:
    start = folder.relative_to(PACKAGE).as_posix() + "/"
    return [name for name in sums() if name.startswith(start)]


@functools.cache
def sums() -> dict[str, str]:
    """Return the SHA-256 of every bundled file by its name inside the package."""
    try:
        return json.loads(SUMS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdaptError(f"the bundled file {SUMS} is missing or damaged. {REINSTALL}") from error
