"""The command that repeats a run: its choices of groups, and each option that they do not bring."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptkit.config.compose import compose
from adaptkit.config.groups import options
from adaptkit.config.settings import ASIDE
from adaptkit.config.words import in_quotes, parses
from adaptkit.errors import AdaptError
from adaptkit.runs.directory import IRRELEVANT, flat, options_of

SIMPLE = re.compile(r"[A-Za-z_][\w./-]*|\.{0,2}/[\w./-]+", re.ASCII)
COLUMNS = ("path", "text", "source", "choices")
WORDS = ("null", "true", "false", "inf", "nan")  # not texts in Hydra's grammar


def command(plain: Mapping[str, Any]) -> str | None:
    """Return the line that composes a run's settings, or None if no line does.

    Folders of this machine appear under their names alone.
    """
    words = words_of(plain)
    if words is None:
        return None
    return shlex.join(["adaptkit", "train", *(shown(word) for word in words)])


def words_of(plain: Mapping[str, Any]) -> list[str] | None:
    """Return the overrides that compose exactly these settings; None if there are none."""
    task, model, optimizer = plain["task"], plain["model"], plain["optimizer"]["name"]
    known = task["name"] in options("task")
    words = [f"method={plain['method']['name']}", f"task={task['name' if known else 'kind']}"]
    if not known:  # such tasks have no default for them
        words += [f"task.{key}={value_of(task[key])}" for key in COLUMNS if task.get(key)]
    named = model["name"] in options("model")
    words.append(f"model={model['name'] if named else 'auto'}")
    words += [] if named else [f"model.path={value_of(model['path'])}"]
    if plain.get("regularizer"):
        words.append(f"regularizer=[{','.join(plain['regularizer'])}]")
    if optimizer != "adamw":
        words.append(f"optimizer={optimizer}")
    try:
        first = compose(words)
        wanted, found, there = computed(plain), computed(first), flat(first)
        words += [
            f"{'' if key in there else '+'}{key}={value_of(value)}"
            for key, value in wanted.items()
            if key not in found or found[key] != value
        ]
        again = computed(compose(words))
    except AdaptError:
        return None
    if plain["data"]["root"] and not any(word.startswith("data.root=") for word in words):
        words.append(f"data.root={value_of(plain['data']['root'])}")  # the environment's own
    return words if again == wanted else None


def computed(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say what a run computes."""
    aside = (*IRRELEVANT, "trainer.device")
    return {
        key: value
        for key, value in options_of(plain).items()
        if key not in aside and not key.startswith(("suite", "protocol", "tracker", *ASIDE))
    }


def value_of(value: Any) -> str:
    """Return a value as Hydra reads it."""
    if isinstance(value, str):
        simple = SIMPLE.fullmatch(value) and value.lower() not in WORDS
        return value if simple and parses(f"key={value}") else in_quotes(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(value_of(one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{value_of(k)}:{value_of(v)}' for k, v in value.items())}}}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(word: str) -> str:
    """Return an override without the place of a folder on this machine."""
    key, _, value = word.partition("=")
    path = value.strip("'")
    if os.path.isabs(path):
        return f"{key}={value_of(Path(path).name)}"
    return word
