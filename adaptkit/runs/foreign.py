"""A result.json may come from anybody: its keys and types are checked first. No torch."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any

# What is shown of every finished run.
SHOWN = {
    ("data", "source"): str, ("data", "rows", "validation"): int, ("params", "trainable"): int,
    ("time", "total_seconds"): float,
}  # fmt: skip


def check_record(plain: Any, cls: type) -> None:
    """Check that a record has the keys and types of the dataclass `cls`.

    Raises:
        ValueError: a key is missing or holds something else.
    """
    if not isinstance(plain, dict):
        raise ValueError("it is not a record of a run")
    hints = hints_of(cls)
    for spec in fields(cls):
        if spec.name not in plain and spec.default is MISSING and spec.default_factory is MISSING:
            raise ValueError(f"{spec.name} is missing")
        if spec.name in plain and not is_a(plain[spec.name], hints[spec.name]):
            raise ValueError(f"{spec.name} is of another type: {str(plain[spec.name])[:60]}")
    if plain["status"] == "done":
        _check_finished(plain)


@lru_cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    return typing.get_type_hints(cls)


def _check_finished(plain: dict[str, Any]) -> None:
    for keys, kind in SHOWN.items():
        node: Any = plain
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if not is_a(node, kind):
            raise ValueError(f"{'.'.join(keys)} is missing or of another type")
    if plain.get("precision") not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision is {str(plain.get('precision'))[:60]!r}")
    if len(plain.get("score_interval") or (0, 0)) != 2:
        raise ValueError("score_interval does not hold two numbers")
    baseline = plain.get("baseline")
    if baseline and not (
        is_a(baseline.get("name"), str) and is_a(baseline.get("value", ""), float | None)
    ):
        raise ValueError("baseline does not hold name and value")
    if not all(is_a(entry.get("directory"), str) for entry in plain.get("from_runs", [])):
        raise ValueError("from_runs does not name directories")


def is_a(value: Any, hint: Any) -> bool:
    """Tell whether plain data are of an annotated type; a whole number is a number."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(is_a(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(is_a(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(is_a(item, inner[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)
