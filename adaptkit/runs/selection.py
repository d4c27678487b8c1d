"""By which rows a run chose among its evaluations, for its record and for those who read it.

none          nothing was chosen: the last weights, after all updates
holdout       training rows that were not trained on
validation    the validation rows, whose score then flatters
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptkit.config.settings import Settings
from adaptkit.runs.lengths import by_split
from adaptkit.tasks.task import Splits
from adaptkit.training.settings import chosen_on

ROWS = "selection"
OPTIMISTIC = "the epoch was chosen by these rows: optimistic"


def of_settings(flat: Mapping[str, Any]) -> str:
    """Return by which rows a run with these flat settings chooses; older ones lack the option."""
    return chosen_on({key.removeprefix("trainer."): value for key, value in flat.items()})


def scored(splits: Splits) -> dict[str, Any]:
    """Return the rows that a run scores, by names that a user knows."""
    chosen = {} if splits.selection is None else {ROWS: splits.selection}
    return {**by_split(splits.validation), **chosen}


def facts(run: Settings, splits: Splits, updates: int) -> dict[str, Any]:
    """Return the entries of the record: which rows chose, and how many; `updates`: made."""
    chosen = run.trainer.chosen_on
    if chosen == "none" or not updates:
        return {"select_on": "none", "selection_rows": 0}
    headline, rows = splits.task.headline, splits.selection
    if rows is None:
        of = [s for s in splits.validation if s and headline.endswith(f"_{s}")]
        rows = splits.validation[of[0] if of else ""]
    return {"select_on": chosen, "selection_rows": len(rows)}


def of_older(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a record that was written before there were any."""
    chosen = of_settings(record.get("settings") or {})
    rows = (record.get("data") or {}).get("rows")
    count = rows.get("validation", 0) if isinstance(rows, Mapping) else 0
    return {"select_on": chosen, "selection_rows": count if chosen != "none" else 0}
