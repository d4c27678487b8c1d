"""What the user sees of a sweep: which job runs, how long it will take, and its table on disk."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adaptkit.errors import MachineError
from adaptkit.storage.files import write_text
from adaptkit.terminal.console import ended, error, say

COLUMNS = ("run", "status", "task", "model", "method", "seed", "data", "metric", "score",
           "baseline", "seconds", "error")  # fmt: skip


def announce(number: int, total: int, name: str, seconds: Sequence[float]) -> None:
    """Say which job starts; `seconds` are those of the jobs that were carried out before it."""
    left = ""
    if seconds:
        left = f", about {duration(sum(seconds) / len(seconds) * (total - number + 1))} left"
    say(f"job {number} of {total}{left}: {name or 'no options'}")


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def store(outcomes: Sequence[Any], started: datetime) -> Path | None:
    """Write the table of a sweep into the folder that holds its runs; None if there is none."""
    folders = [os.path.dirname(outcome.directory) for outcome in outcomes if outcome.directory]
    if not folders:
        return None
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(row(outcome) for outcome in outcomes)
    file = Path(os.path.commonpath(folders)) / f"sweep-{started:%Y-%m-%d-%H%M%S}.csv"
    try:
        write_text(file, text.getvalue())
    except MachineError as problem:  # the runs are worth more than their table
        error(str(problem))
        return None
    return file


def row(outcome: Any) -> dict[str, Any]:
    """Return one line of the table."""
    record = outcome.result
    if not record:
        return {"run": outcome.name, "status": ended(outcome), "error": outcome.error}
    return {
        "run": outcome.name,
        "status": ended(outcome),
        **{name: getattr(record, name) for name in ("task", "model", "method", "seed")},
        "data": record.data["source"],
        "metric": record.metric,
        "score": record.score,
        "baseline": record.baseline.get("value"),
        "seconds": record.time["total_seconds"],
    }
