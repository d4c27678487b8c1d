"""The part of JSON Schema (draft 2020-12) that adaptkit's schema uses, written from its text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
         "number": (int, float)}  # fmt: skip
SAID = {"$schema", "$defs", "title", "description", "default"}  # nothing to check


def is_of(value: Any, name: str) -> bool:
    if name == "integer":
        return is_of(value, "number") and value == int(value)
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def equal(one: Any, other: Any) -> bool:
    """Unlike in Python, true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def problems(value: Any, schema: Any, root: Any, where: str = "") -> list[str]:
    """Return what a schema has against a value; none: it is valid."""
    return [text for rule in schema for text in check(rule, value, schema, root, where)]


def check(rule: str, value: Any, schema: Any, root: Any, where: str) -> Iterator[str]:
    given, number = schema[rule], is_of(value, "number")
    if rule == "type":
        if not any(is_of(value, name) for name in ([given] if isinstance(given, str) else given)):
            yield f"{where}: {value!r} is not {given}"
    elif rule in ("enum", "const"):
        if not any(equal(value, one) for one in (given if rule == "enum" else [given])):
            yield f"{where}: {value!r} is not {given}"
    elif rule in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if number and (
            value < given if rule == "minimum" else value > given if rule == "maximum"
            else value <= given if rule == "exclusiveMinimum" else value >= given
        ):  # fmt: skip
            yield f"{where}: {value!r} breaks {rule} {given}"
    elif rule == "required":
        if isinstance(value, dict):
            yield from (f"{where}: lacks {name}" for name in given if name not in value)
    elif rule == "properties":
        for name in given if isinstance(value, dict) else ():
            if name in value:
                yield from problems(value[name], given[name], root, f"{where}.{name}")
    elif rule == "additionalProperties":
        for name in value if isinstance(value, dict) else ():
            if name not in schema.get("properties", {}):
                if given is False:
                    yield f"{where}: {name} is not known"
                else:
                    yield from problems(value[name], given, root, f"{where}.{name}")
    elif rule == "items":
        for item in value if isinstance(value, list) else ():
            yield from problems(item, given, root, f"{where}[]")
    elif rule == "$ref":
        yield from problems(value, root["$defs"][given.removeprefix("#/$defs/")], root, where)
    elif rule == "anyOf":
        found = [problems(value, one, root, where) for one in given]
        if all(found):
            yield f"{where}: none fits: {found}"
    elif rule == "allOf":
        for one in given:
            yield from problems(value, one, root, where)
    elif rule == "if":
        if not problems(value, given, root, where):
            yield from problems(value, schema["then"], root, where)
    elif rule != "then" and rule not in SAID:
        raise ValueError(f"{rule}: write a check")
