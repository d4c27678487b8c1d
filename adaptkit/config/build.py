"""From plain data to dataclasses: keys are compared with fields, values with the fields' types."""

from __future__ import annotations

import importlib.metadata
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal

from adaptkit.adaptation import Method
from adaptkit.errors import ConfigError, did_you_mean, invalid, unknown
from adaptkit.methods import METHODS

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def registered(kind: str, registry: Mapping[str, type], group: str, name: str) -> type:
    """Return the class registered under `name`, here or by an installed package.

    Raises:
        ConfigError: nobody registered that name.
    """
    if name in registry:
        return registry[name]
    points = {p.name: p for p in importlib.metadata.entry_points(group=f"adaptkit.{group}")}
    if name not in points:
        raise unknown(kind, name, [*registry, *points])
    return points[name].load()


def build(cls: type, node: Mapping[str, Any], where: str) -> Any:
    """Construct dataclass `cls` from plain data, checking keys and types.

    Raises:
        ConfigError: a key no field has, a missing key, a value of another type.
    """
    if not isinstance(node, Mapping):
        raise invalid(where, node, "must be a mapping", f"Set single options: {where}.NAME=VALUE")
    known = {f.name: f for f in fields(cls) if f.init}
    for key in node:
        if key not in known:
            raise ConfigError(
                f"{where}.{key}: no such option; {did_you_mean(key, known)}"
                f"{where} has: {', '.join(known)}."
            )
    for name, spec in known.items():
        if name not in node and spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"{where}.{name}: must be set, add {where}.{name}=... .")
    hints = typing.get_type_hints(cls)
    return cls(**{k: coerce(v, hints[k], f"{where}.{k}") for k, v in node.items()})


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotated type: int becomes float, one word a tuple of one.

    Raises:
        ConfigError: the value is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        if type(value) in arguments:
            return value
        return _first_that_fits(value, [a for a in arguments if a is not type(None)], where)
    if origin is Literal:
        if value not in arguments:
            raise unknown(where, value, ["null" if a is None else a for a in arguments])
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(item, arguments[0], where) for item in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise invalid(
                where, value, "must be a mapping", f"Add single entries: +{where}.NAME=VALUE"
            )
        return {
            coerce(k, arguments[0], where): coerce(v, arguments[1], f"{where}.{k}")
            for k, v in value.items()
        }
    if hint is Method:
        return _method(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str:
        return _text(value, where)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise invalid(where, value, f"must be {NAMES.get(hint, hint.__name__)}")


def _text(value: Any, where: str) -> str:
    """Return text, or a whole number as it was typed; 1.0 and no may have been typed otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool | float):
        typed = str(value).lower()
        way_out = (
            f"For a name put quotes around it, inside those of the shell: \"{where}='{typed}'\""
        )
        also = '. In YAML no, off and yes are truth values, too: write "no"'
        raise invalid(where, value, "must be text", way_out + also * isinstance(value, bool))
    if not isinstance(value, str):
        raise invalid(where, value, "must be text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise invalid(where, ascii(value), "is not UTF-8") from error
    return value


def _method(node: Any, where: str) -> Any:
    if not isinstance(node, Mapping) or "name" not in node:
        raise invalid(where, node, "must be a method", f"For example {where}=[{{name: lora}}]")
    options, name = {key: value for key, value in node.items() if key != "name"}, str(node["name"])
    single = {n: cls for n, cls in METHODS.items() if "parts" not in {f.name for f in fields(cls)}}
    return build(registered(where, single, "methods", name), options, where)


def _first_that_fits(value: Any, hints: list[Any], where: str) -> Any:
    for hint in hints:
        try:
            return coerce(value, hint, where)
        except ConfigError:
            continue
    if len(hints) == 1:
        return coerce(value, hints[0], where)  # says what is wrong
    allowed = " or ".join(NAMES.get(hint, getattr(hint, "__name__", "another")) for hint in hints)
    quote = 'Put quotes around a word, as in "no"' if isinstance(value, bool) else ""
    raise invalid(where, value, f"must be {allowed}", quote)
