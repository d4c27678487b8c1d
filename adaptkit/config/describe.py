"""What the options of a group mean: read off the dataclass, the one place that says it.

The meaning is the comment of the field, at its end or in the lines above it. The range is what the
class itself answers to a value that is far outside of it. The default is the YAML's.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal

from adaptkit.adaptation import Method
from adaptkit.config.budget import Budget
from adaptkit.config.build import build
from adaptkit.config.overrides import composed
from adaptkit.errors import AdaptError
from adaptkit.methods import METHODS
from adaptkit.models.model import Model
from adaptkit.optimizers import OPTIMIZERS
from adaptkit.regularizers import REGULARIZERS
from adaptkit.tasks import TASKS
from adaptkit.tasks.data import Data
from adaptkit.training.settings import Tracker, TrainerSettings

REGISTRIES = {"method": METHODS, "optimizer": OPTIMIZERS, "regularizer": REGULARIZERS}
SINGLE = {"model": Model, "trainer": TrainerSettings, "tracker": Tracker, "data": Data,
          "budget": Budget}  # fmt: skip
OWN = {  # of no group
    "seed": "of all randomness",
    "output_dir": "the run's directory",
    "search": "values that adaptkit tune tries, by option; null: rates around the method's own",
}
FAR = -(10**9)
TYPES = {int: "whole number", float: "number", str: "text", Method: "method", Any: "mapping"}


@dataclass(frozen=True)
class Option:
    """One option as a user sets it."""

    name: str  # method.rank
    meaning: str
    default: Any
    values: tuple[str, ...]  # what it may be, if there is a choice
    rule: str  # its type and range in words


def options_of(group: str, choice: str = "") -> list[Option]:
    """Return the options of a choice, such as method=lora."""
    return options_in(composed([f"{group}={choice}"] if choice else []), group, choice)


def options_in(plain: dict[str, Any], group: str, choice: str = "") -> list[Option]:
    """Return the options of a group in a configuration, in the order of the dataclass."""
    node = plain[group][choice] if group == "regularizer" else plain[group]
    cls = class_of(group, choice, node)
    meanings, hints = comments(cls), typing.get_type_hints(cls)
    where = f"{group}.{choice}" if group == "regularizer" else group
    found = []
    for field in fields(cls):
        if field.init:
            values = choices(hints[field.name])
            rule = " or ".join(kinds(hints[field.name]))
            if limit := limits(cls, field.name, hints[field.name], node):
                joined = {"text": limit, "list of text": f"list of {limit}"}
                rule = joined.get(rule, f"{rule}, {limit}")
            found.append(
                Option(f"{where}.{field.name}", meanings.get(field.name, ""),
                       node.get(field.name), values, rule)
            )  # fmt: skip
    return found


def class_of(group: str, choice: str, node: dict[str, Any]) -> type:
    """Return the dataclass of a choice."""
    if group == "task":
        return TASKS[node["kind"]]
    return SINGLE[group] if group in SINGLE else REGISTRIES[group][choice or node["name"]]


@cache
def comments(cls: type) -> dict[str, str]:
    """Return {field: comment} of a dataclass and those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if is_dataclass(each):
            found |= dict(_comments_in(inspect.cleandoc("\n" + inspect.getsource(each))))
    return found


def _comments_in(source: str) -> Iterator[tuple[str, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            inside = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            texts = [lines[n].string for n in inside if n in lines]
            above = node.lineno - 1
            while above in lines and not lines[above].line.split("#")[0].strip():
                texts.insert(0, lines[above].string)
                above -= 1
            yield node.target.id, " ".join(text.lstrip("# ") for text in texts)


def kinds(hint: Any) -> list[str]:
    """Return the kinds of value that an annotation allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for argument in arguments for kind in kinds(argument)]
    if hint is type(None):
        return ["null"]
    if values := choices(hint):
        return [" | ".join(values)]
    if origin is tuple:
        return ["list of " + " or ".join(kinds(arguments[0]))]
    if origin is dict:
        return [f"mapping to {' or '.join(kinds(arguments[1]))}"]
    return [TYPES[hint]]


def choices(hint: Any) -> tuple[str, ...]:
    """Return the values of a choice, as they are typed."""
    if typing.get_origin(hint) is Literal:
        return tuple("null" if value is None else str(value) for value in typing.get_args(hint))
    return ("true", "false") if hint is bool else ()


def limits(cls: type, name: str, hint: Any, node: dict[str, Any]) -> str:
    """Return the rule that the class states when a value is far outside: '1 or more'."""
    rule = str(refusal(cls, name, hint, node) or "").partition(": ")[2]
    listed = rule.partition("There is: ")[2] or rule.removeprefix("must be ")
    return listed.partition(". ")[0].rstrip(".")


def ranges(cls: type, name: str, hint: Any, node: dict[str, Any]) -> dict[str, Any]:
    """Return the same as JSON Schema says it, from values far below and above: {"minimum": 1}."""
    found: dict[str, Any] = {}
    for far in (FAR, -FAR):
        found |= getattr(refusal(cls, name, hint, node, far), "range", {})
    return found


def refusal(
    cls: type, name: str, hint: Any, node: dict[str, Any], number: int = FAR
) -> AdaptError | None:
    """Return what the class says of a value far outside, if it says something of this option."""
    far: Any = number
    if hint is str:
        far = "?"
    elif typing.get_origin(hint) is tuple and {str, int} & set(typing.get_args(hint)):
        far = ("?",) if str in typing.get_args(hint) else (number,)
    elif typing.get_origin(hint) is dict or not {int, float} & {hint, *typing.get_args(hint)}:
        return None
    given = {f.name: node.get(f.name) for f in fields(cls) if f.init}
    known = {key: value for key, value in given.items() if value is not None}
    for key, kind in typing.get_type_hints(cls).items():
        unresolved = choices(kind) and str(known.get(key)).startswith("${")
        if known.get(key) == "???" or unresolved:  # what must be set, or depends on the rest
            known[key] = ["a"] if typing.get_origin(kind) is tuple else (*choices(kind), "a")[0]
    try:
        replace(build(cls, known, ""), **{name: far})
    except AdaptError as error:
        subject = str(error).partition(": ")[0]
        return error if subject.partition("=")[0].endswith(f".{name}") else None
    return None
