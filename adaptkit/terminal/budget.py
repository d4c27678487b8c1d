"""Budgets of a run: its method's size is solved for before the run has a name. No torch without."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adaptkit.config.budget import budget_in
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import ConfigError
from adaptkit.terminal import console

PARTS = ("model", "method", "regularizer", "task", "data", "budget")  # what a size follows from
SOLVED: dict[str, list[str]] = {}  # by these; the jobs of a sweep and of a race share them


def sized(
    words: list[str], composed: Callable[[list[str]], dict[str, Any]] = compose
) -> dict[str, Any]:
    """Compose a configuration in which a budget, if there is one, has become a size.

    Raises:
        ConfigError: an override is wrong, or the budget cannot be met.
    """
    plain = composed(words)
    more = solved(plain, words)
    return composed([*words, *more]) if more else plain


def solved(plain: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Return the overrides that replace the budget of a configuration by a size; none: it has none.

    `words`: what was typed.

    Raises:
        ConfigError: the budget cannot be met, or the size is typed as well.
    """
    budget = budget_in(plain)
    if budget.trainable is None:
        return []
    job = settings({**plain, "budget": None})
    size = getattr(type(job.method), "sized_by", None)
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if size and key in size.keys:
            raise ConfigError(f"{word}: budget.trainable={budget.trainable} decides {key}. Leave "
                              "one of them out.")  # fmt: skip
    known = json.dumps([plain.get(part) for part in PARTS])
    if known not in SOLVED:
        with console.working():
            from adaptkit.runs.sizing import solve

            found = solve(job, budget)
        said = found.said(budget.in_bytes)
        console.say(f"budget.trainable={budget.trainable}: {said}")
        options = [f"{key}={value}" for key, value in found.options.items()]
        SOLVED[known] = [*options, "budget.trainable=null"]
    return SOLVED[known]
