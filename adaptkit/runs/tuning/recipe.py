"""recipe.yaml: an experiment file that sets what a race has chosen, and says how."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from adaptkit.config.compose import to_yaml
from adaptkit.config.settings import Settings

if TYPE_CHECKING:
    from adaptkit.runs.tuning.tune import Tuned


def recipe(made: Tuned, words: Sequence[str], base: Settings) -> str:
    """Return the file's text."""
    lines = [
        "# @package _global_",
        f"# Chosen by adaptkit tune {' '.join(words)}",
        f"# on {datetime.now(timezone.utc).date()}, by {base.task.headline} on held-out training "
        f"rows: {made.tried} candidates, {made.updates} updates",
    ]
    for one in made.candidates:
        update = one.updates
        score = f"{one.score_after(update, made.floor)} after {update} updates" if update else ""
        why = "chosen" if one is made.winner else one.dropped
        lines.append(f"#   {one.name}: {', '.join(filter(None, (score, why)))}")
    if made.empty:
        lines.append(f"# {made.empty[0].upper()}{made.empty[1:]}.")
    chosen: dict[str, Any] = {}
    for key, value in made.winner.values.items():
        *groups, leaf = key.split(".")
        node = chosen
        for name in groups:
            node = node.setdefault(name, {})
        node[leaf] = value
    return "\n".join(lines) + "\n" + to_yaml(chosen)
