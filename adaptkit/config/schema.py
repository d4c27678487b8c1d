"""All settings as a JSON Schema (draft 2020-12), for programs: `adaptkit list --schema`. No torch.

It is read off the dataclasses: types and meanings are those of the fields, defaults those of the
YAML, ranges what the classes state. What the schema rejects, `settings` rejects as well, but for
methods and tasks of other packages, which are not in it. The reverse does not hold: rules about
several options, and about the model, are for `adaptkit plan`.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

from adaptkit.adaptation import Method
from adaptkit.config.choices import also_set, described, headline
from adaptkit.config.compose import load_raw
from adaptkit.config.describe import OWN, REGISTRIES, SINGLE, comments, ranges
from adaptkit.config.groups import CONF
from adaptkit.config.overrides import composed
from adaptkit.config.protocol import Protocol
from adaptkit.config.settings import KEYS, OPTIONAL, SEEDS
from adaptkit.config.suite import Suite
from adaptkit.tasks import TASKS

DRAFT = "https://json-schema.org/draft/2020-12/schema"
PLAIN = ["method=full"]  # the method that sets least of other groups: a learning rate
CHOSEN_BY = {"method": "name", "optimizer": "name", "task": "kind"}
FOLLOWING = {"suite": Suite, "protocol": Protocol}
SIMPLE = {"type", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
TYPES = {int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """Return the schema of a composed configuration, as a run's config.yaml holds it."""
    base, definitions = composed(PLAIN), {}
    for group, cls in SINGLE.items():
        definitions[group] = definition(cls, base[group], first_line(cls))
    for group, cls in FOLLOWING.items():
        definitions[group] = definition(cls, {}, first_line(cls))
    for group in CHOSEN_BY:
        definitions |= variants(group)
    extra = REGISTRIES["regularizer"]
    for name, cls in extra.items():
        node = load_raw(CONF / "regularizer" / f"{name}.yaml")
        definitions[f"regularizer.{name}"] = definition(cls, node, headline(cls))
    single = [
        name for name, cls in REGISTRIES["method"].items()
        if "parts" not in {field.name for field in fields(cls)}
    ]  # fmt: skip
    definitions["part"] = one_by_name("method", single)  # of a chain
    properties = {
        **{group: pointer(group) for group in SINGLE},
        **{group: {"anyOf": [pointer(group), {"type": "null"}]} for group in FOLLOWING},
        "method": one_by_name("method", REGISTRIES["method"]),
        "optimizer": one_by_name("optimizer", REGISTRIES["optimizer"]),
        "task": one_by_name("task", TASKS),
        "regularizer": {
            "type": ["object", "null"],
            "properties": {name: pointer(f"regularizer.{name}") for name in extra},
            "additionalProperties": False,
        },
        "search": {"description": OWN["search"], "type": ["object", "null"],
                   "additionalProperties": {"type": ["array", "null"]}, "default": base["search"]},
        "seed": {"description": OWN["seed"], "type": "integer", "minimum": SEEDS[0],
                 "exclusiveMaximum": SEEDS[1], "default": base["seed"]},
        "output_dir": {"description": OWN["output_dir"], **typed(str, {})},
    }  # fmt: skip
    return {
        "$schema": DRAFT,
        "title": "The settings of one run of adaptkit",
        "type": "object",
        "properties": {name: properties[name] for name in (*KEYS, *OPTIONAL)},
        "required": list(KEYS),
        "additionalProperties": False,
        "$defs": definitions,
    }


def variants(group: str) -> dict[str, Any]:
    """Return {GROUP.NAME: its definition} of a group of which one is chosen."""
    registry = TASKS if group == "task" else REGISTRIES[group]
    about, found = described(f"{group}s"), {}
    for name, cls in registry.items():
        raw = load_raw(CONF / group / f"{name}.yaml")
        node = raw[group] if group == "method" else raw
        if group == "optimizer":  # shares options with the others
            node = composed([*PLAIN, f"{group}={name}"])[group]
        sets = also_set(group, name)
        text = f"{about[name]}. It also sets {sets}." if sets else about[name]
        made = definition(cls, node, text, {CHOSEN_BY[group]: {"const": name}})
        if group == "optimizer" and "lr" not in raw:  # the method's
            del made["properties"]["lr"]["default"]
        found[f"{group}.{name}"] = made
    return found


def definition(
    cls: type, node: Mapping[str, Any], about: str, fixed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the schema of a dataclass; `node`: its values in YAML; `fixed`: more properties."""
    meanings, hints = comments(cls), typing.get_type_hints(cls)
    known = [field for field in fields(cls) if field.init]
    properties = dict(fixed or {})
    for field in known:
        limits = ranges(cls, field.name, hints[field.name], dict(node))
        kind = typed(hints[field.name], limits)
        said = {"description": meanings[field.name]}
        properties[field.name] = {**said, **kind, **default(field, node)}
    return {
        "description": about,
        "type": "object",
        "properties": properties,
        "required": [*(fixed or {}), *(field.name for field in known if must_be_set(field))],
        "additionalProperties": False,
    }


def must_be_set(field: Field[Any]) -> bool:
    """Tell whether a field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def default(field: Field[Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default that YAML or else the dataclass gives, unless it depends on the rest."""
    if must_be_set(field) and field.name not in node:
        return {}
    made = field.default if field.default_factory is MISSING else field.default_factory()
    value = node.get(field.name, made)
    text = json.dumps(value)  # tuples as lists
    return {} if "${" in text or value == "???" else {"default": json.loads(text)}


def typed(hint: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an annotation as `build.coerce` reads it; `limits`: its range.

    A whole number is read as a text too, and a single value as a list of one.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return either([typed(argument, limits) for argument in arguments])
    if origin is Literal:
        kinds = ["string", "null"] if None in arguments else "string"
        return {"type": kinds, "enum": list(arguments)}
    if origin is tuple:
        item = typed(arguments[0], limits)
        return {"anyOf": [{"type": "array", "items": item}, item]}
    if origin is dict:
        return {"type": "object", "additionalProperties": typed(arguments[1], {})}
    if hint is Any:
        return {}
    if hint is Method:
        return pointer("part")
    if hint is str:
        return {"type": "string" if "enum" in limits else ["string", "integer"], **limits}
    return {"type": TYPES[hint], **(limits if hint in (int, float) else {})}


def either(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of what is one of several kinds: a list of types where that is enough."""
    if any("type" not in kind or not set(kind) <= SIMPLE for kind in kinds):
        return {"anyOf": kinds}
    names = [kind.pop("type") for kind in kinds]
    each = [name for one in names for name in (one if isinstance(one, list) else [one])]
    limits = {rule: value for kind in kinds for rule, value in kind.items()}
    return {"type": list(dict.fromkeys(each)), **limits}


def one_by_name(group: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the schema of a group of which one is chosen."""
    key = CHOSEN_BY[group]
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": list(names)}},
        "allOf": [
            {"if": {"properties": {key: {"const": name}}, "required": [key]},
             "then": pointer(f"{group}.{name}")}
            for name in names
        ],
    }  # fmt: skip


def pointer(name: str) -> dict[str, str]:
    """Return the reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


def first_line(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]
