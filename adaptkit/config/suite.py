"""Suites: for the task of a run, sets of other rows that it is scored on. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptkit.config.build import build
from adaptkit.config.compose import compose
from adaptkit.errors import ConfigError


@dataclass(frozen=True)
class Suite:
    """Sets of rows to score a run on. Fields are keys of conf/suite/*.yaml."""

    name: str  # name in results and files
    # task of the run -> name of a set -> its overrides, as typed after adaptkit eval RUN
    sets: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, task: str) -> dict[str, list[str]]:
        """Return the sets for a run on a task: their names, and the overrides of each.

        Raises:
            ConfigError: there is none.
        """
        if not self.sets.get(task):
            known = [name for name, sets in self.sets.items() if sets]
            raise ConfigError(
                f"suite={self.name}: has no sets for the task {task}, only "
                f"for {', '.join(known)}. Add one: "
                f"'+suite.sets.{task}.NAME=task=OTHER'."
            )
        return {name: shlex.split(words) for name, words in self.sets[task].items()}


def suite_in(plain: Mapping[str, Any]) -> Suite | None:
    """Return the suite of a configuration, if it has one.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    node = plain.get("suite")
    return build(Suite, node, "suite") if node else None


def apart(overrides: list[str]) -> tuple[Suite | None, list[str]]:
    """Return the suite that words name, and the words that say something else.

    Raises:
        ConfigError: there is no such suite.
    """
    keys = {word: word.partition("=")[0].lstrip("+~") for word in overrides}
    about = [word for word, key in keys.items() if key == "suite" or key.startswith("suite.")]
    if not about:
        return None, overrides
    return suite_in(compose(about)), [word for word in overrides if word not in about]
