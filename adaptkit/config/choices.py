"""What the choices of a group are: a line about each. No torch."""

from __future__ import annotations

import json
import sys
from typing import Any

from adaptkit.config.compose import load_raw
from adaptkit.config.describe import REGISTRIES
from adaptkit.config.groups import CONF, GROUPS, options


def described(kind: str) -> dict[str, str]:
    """Return {name: one line} of one kind."""
    group = kind.removesuffix("s")
    registry = REGISTRIES.get(group, {})
    return {
        name: headline(registry[name]) if name in registry else source(group, name)
        for name in options(group)
    }


def headline(cls: type) -> str:
    """Return the first sentence about a registered class: its module's, which names the paper."""
    module = sys.modules[cls.__module__]
    text = (
        module.__doc__
        if module.__doc__ and "adaptkit.optimizers" != cls.__module__
        else cls.__doc__
    )
    return (text or "").strip().splitlines()[0].rstrip(".")


def source(group: str, name: str) -> str:
    """Return what a YAML says of itself: a model its hub id, the rest its first comment."""
    file = CONF / group / f"{name}.yaml"
    if group == "model" and (path := load_raw(file).get("path", "???")) not in (None, "???"):
        return path
    lines_of_file = file.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines_of_file if line and not line.startswith("# @package"))
    return first.lstrip("# ") if first.startswith("#") else ""


def also_set(group: str, name: str) -> str:
    """Return what a choice sets in other groups, as a method its learning rate."""
    if group != "method":
        return ""
    plain = load_raw(CONF / group / f"{name}.yaml")
    return ", ".join(
        f"{other}.{key}={shown(value)}"
        for other, node in plain.items()
        if other in GROUPS and other != group
        for key, value in node.items()
    )


def shown(value: Any) -> str:
    """Return a default as it would be typed; what is computed or must be set is left open."""
    if isinstance(value, str):
        return "..." if value.startswith("${") or value == "???" else value or "''"
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        inside = ("..." if isinstance(one, dict) else shown(one) for one in value.values())
        return "{" + ",".join(f"{key}:{one}" for key, one in zip(value, inside, strict=True)) + "}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)
