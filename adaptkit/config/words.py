"""What is typed, as Hydra reads it: file names and other text need no quotes inside the shell's.

Hydra's grammar has signs that paths have too: = ( ) # & ~ and letters that are not ASCII. A value
that it cannot read, and that cannot be meant as a list, a mapping or a sweep, is taken as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from adaptkit.config.groups import options
from adaptkit.config.suggest import hub_ids
from adaptkit.errors import ConfigError, alike

SPECIAL = ("'", '"', "[", "{")  # a value that begins so has a form, which may be wrong
TEXTS = ("task.template", "task.source")  # never mappings, though they may begin with a brace
SEVERAL = ("regularizer", "tracker", "experiment")  # groups of which several choices fit together
EMPTY = {"regularizer": "[]", "tracker": "none", "experiment": "null", "suite": "null",
         "protocol": "null"}  # fmt: skip
NONE = tuple(f"{group}=null" for group, empty in EMPTY.items() if empty == "null")


def readable(words: Sequence[str]) -> list[str]:
    """Return overrides as Hydra reads them; those that it cannot read either way are unchanged."""
    return [each for word in words for each in as_model(as_mapping_entry(as_text(as_none(word))))]


def as_none(word: str) -> str:
    """Take suite=null for no suite, also where an experiment names one; Hydra writes ~suite."""
    return f"~{word[:-5]}" if word in NONE else word


def as_model(word: str) -> list[str]:
    """Take model=./folder and model=owner/name for a model that no YAML is about."""
    key, _, value = word.partition("=")
    path = value[1:-1] if value.startswith("'") else value  # quoted above
    if key != "model" or not path or "," in path or path in options("model"):
        return [word]
    folder = path.startswith((".", "/", "~"))
    owner_and_name = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path, re.ASCII)
    if not folder and (not owner_and_name or known_by_name(path)):
        return [word]
    return ["model=auto", as_text(f"model.path={path}")]


def known_by_name(path: str) -> bool:
    """Tell whether a hub id, or a likely typing error in one, is that of a named model."""
    return any(alike(path, known) for known in hub_ids("model"))


def as_text(word: str) -> str:
    """Quote the value of KEY=VALUE if Hydra could not read it otherwise."""
    key, has_value, value = word.partition("=")
    named = re.fullmatch(r"\+{0,2}[\w./@-]+", key)
    special = value.startswith(SPECIAL) and key not in TEXTS
    if not (named and has_value) or special or "," in value or parses(word):
        return word
    quoted = f"{key}={in_quotes(value)}"
    return quoted if parses(quoted) else word


def as_mapping_entry(word: str) -> str:
    """Let KEY={NAME:VALUE} add entries, as +KEY.NAME=VALUE does."""
    key, _, value = word.partition("=")
    entry = re.fullmatch(r"\w+(\.\w+)+", key) and value.startswith("{") and parses(word)
    return f"++{word}" if entry else word


def in_quotes(value: str) -> str:
    """Return a value as text in Hydra's grammar, whatever stands in it."""
    inner = re.sub(r"(\\*)'", r"\1\1\\'", value)
    ending = re.search(r"\\*$", inner)
    return f"'{inner}{ending[0] if ending else ''}'"


def parses(word: str) -> bool:
    """Tell whether Hydra can read an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError):
        return False
    return True


def unreadable(text: str, overrides: list[str]) -> str | None:
    """Return the word that is not an override: the one Hydra names, or the first unparsable."""
    if match := re.search(r"Error parsing override '([^']*)'", text):
        return match.group(1)
    return next((o for o in overrides if "=" in o and not parses(o)), None)  # or values of flags


def check_choice(group: str, word: str) -> None:
    """Reject a group's value that is not the name of a choice.

    Raises:
        ConfigError: it is null, a mapping, or a list where one choice is wanted.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not parses(word):  # said when it is composed
        return
    parsed = OverridesParser.create().parse_override(word)
    value = parsed.value()
    if parsed.is_sweep_override() or (value is None and EMPTY.get(group) == "null"):
        return
    names = value if isinstance(value, list) and group in SEVERAL else [value]
    if not all(isinstance(name, str) for name in names):
        several = f", or several: {group}=[A,B]" if group in SEVERAL else ""
        none = f"; for none write {group}={EMPTY[group]}" if group in EMPTY else ""
        raise ConfigError(
            f"{word}: must be the name of a choice{several}{none}. There is: "
            f"{', '.join(options(group))}. Single options are set with {group}.NAME=VALUE."
        )
