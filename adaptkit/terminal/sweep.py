"""What the user sees of a sweep: which job runs, how long it will take, and its table on disk."""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adaptkit.errors import MachineError
from adaptkit.reports import curves
from adaptkit.runs.selection import OPTIMISTIC
from adaptkit.storage.files import write_text
from adaptkit.terminal.console import decimal, error, harmless, say, screen
from adaptkit.terminal.protocol import differences
from adaptkit.terminal.suite import over_runs, signed

REPEATED = ("seed", "data.fold", "task.demonstrations")  # what repetitions may differ in
CONTROLLED = (*REPEATED, curves.CONTROL, "task.control_shares")
MARK = "*"
COLUMNS = ("run", "status", "task", "model", "method", "seed", "data", "metric", "score",
           "select_on", "baseline", "ood_score", "ood_drop", "seconds", "error")  # fmt: skip


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


def files(outcomes: Sequence[Any], started: datetime) -> list[Path]:
    """Write the table of a sweep, and a picture of what probes read off layers; return both."""
    table = store(outcomes, started)
    drawn = picture(outcomes, table.with_suffix(".png")) if table else None
    return [file for file in (table, drawn) if file]


def store(outcomes: Sequence[Any], started: datetime) -> Path | None:
    """Write the table of a sweep into the folder that holds its runs; None if there is none."""
    folders = [os.path.dirname(os.path.abspath(o.directory)) for o in outcomes if o.directory]
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


def picture(outcomes: Sequence[Any], file: Path) -> Path | None:
    """Draw what probes read off several layers; None if there is no such thing to draw."""
    records = [outcome.result for outcome in outcomes if outcome.result]
    found = curves.curves(records, CONTROLLED) if len({one.task for one in records}) == 1 else []
    if not found:
        return None
    if not curves.can_draw():
        say("a picture of the layers needs matplotlib: pip install 'adaptkit[plots]'")
        return None
    probe = next(  # whose baseline is drawn
        one for one in records
        if curves.is_layer(one.settings) and one.settings.get(curves.CONTROL) is None
    )  # fmt: skip
    try:
        curves.draw(found, probe, file)
    except MachineError as problem:
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
        "select_on": record.select_on,
        "baseline": record.baseline.get("value"),
        **{f"ood_{name}": record.ood.get("macro", {}).get(name) for name in ("score", "drop")},
        "seconds": record.time["total_seconds"],
    }


def shortest_distinct_names(names: list[str]) -> list[str]:
    """Shorten run directories to the folders in which they differ."""
    parts = [name.split("/") for name in names]
    if len({len(p) for p in parts}) > 1:
        return names
    differ = [i for i, level in enumerate(zip(*parts, strict=True)) if len(set(level)) > 1]
    return ["/".join(p[i] for i in differ) or name for p, name in zip(parts, names, strict=True)]


def table(outcomes: list[Any], total: int = 0) -> None:
    """Print how the jobs of a sweep ended; `total`: with those that were not begun."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title="sweep")
    grid.add_column("run", overflow="fold", ratio=1)  # the end of a name tells runs apart
    suites = any(outcome.result and outcome.result.ood for outcome in outcomes)
    further = ("out of domain", "drop") if suites else ()  # macro averages
    for title in ("status", "data", "metric", "score", *further, "seconds", "why it failed"):
        grid.add_column(title)
    names = shortest_distinct_names([outcome.name for outcome in outcomes])
    for name, outcome in zip(names, outcomes, strict=True):
        record = outcome.result
        row = (
            ("done", record.data["source"], record.metric, decimal(record.score) + marked(record),
             *(average(record)[: len(further)]), f"{record.time['total_seconds']:.0f}", "")
            if record else (ended(outcome), "", "", "", *("" for _ in further), "", outcome.error)
        )  # fmt: skip
        grid.add_row(*(Text(harmless(cell)) for cell in (name, *row)))
    screen().print(grid)
    if any(outcome.result and marked(outcome.result) for outcome in outcomes):
        print(f"{MARK} {OPTIMISTIC}")
    for line in repeats([outcome.result for outcome in outcomes if outcome.result]):
        print(line)
    for line in selectivities([outcome.result for outcome in outcomes if outcome.result]):
        print(line)
    words = [ended(outcome) for outcome in outcomes]
    count = max(total, len(outcomes))
    print(f"{words.count('done')} of {count} runs done, {words.count('failed')} failed", flush=True)


def marked(record: Any) -> str:
    """Return the mark of a score on rows that chose the epoch."""
    return f" {MARK}" if record.select_on == "validation" else ""


def repeats(records: Sequence[Any]) -> list[str]:
    """Say the mean and the standard deviation of runs that differ in seed or draw alone."""
    lines = []
    for group in curves.alike(records, REPEATED).values():
        scores = [record.score for record in group if record.score is not None]
        if len(scores) < 2:
            continue
        one = group[0]
        lines.append(
            f"{one.task}/{one.model}/{one.method}/{one.variant}: {one.metric} "
            f"{decimal(statistics.mean(scores))} (standard deviation "
            f"{decimal(statistics.stdev(scores))}, {len(scores)} runs)"
            f"{marked(one)}{drops(group)}"
        )
        lines += differences(group)
    return lines


def selectivities(records: Sequence[Any]) -> list[str]:
    """Say the selectivity of runs that differ in the control task alone (Hewitt & Liang 2019).

    score - score of the control task, of the means over seeds and control tasks.
    """
    tasks = list(dict.fromkeys(one.task for one in records))
    if len(tasks) > 1:  # which differ in many options
        apart = [(task, selectivities([one for one in records if one.task == task]))
                 for task in tasks]  # fmt: skip
        return [f"{task} {line}" for task, lines in apart for line in lines]
    scored = [record for record in records if record.score is not None]
    lines = []
    for settings, group in curves.alike(scored, CONTROLLED).items():
        own = [one.score for one in group if one.settings.get(curves.CONTROL) is None]
        control = [one.score for one in group if one.settings.get(curves.CONTROL) is not None]
        if not (own and control):
            continue
        score, by_heart = statistics.mean(own), statistics.mean(control)
        name = " ".join(f"{name}={value}" for name, value in settings) or "selectivity"
        lines.append(
            f"{name}: {group[0].metric} {decimal(score)}, of the control task {decimal(by_heart)}, "
            f"selectivity {decimal(score - by_heart)}"
        )
    return lines


def drops(group: Sequence[Any]) -> str:
    """Say the mean drop out of domain of repeated runs, with its 95 % interval over the runs.

    Nothing if the runs were not scored on the same sets.
    """
    found = [record.ood.get("macro", {}) for record in group]
    values = [one.get("drop") for one in found]
    if None in values or len({tuple(one["sets"]) for one in found}) > 1:
        return ""
    score = decimal(statistics.mean(one["score"] for one in found))
    return f"; out of domain {score}, drop {over_runs(values)}"


def average(record: Any) -> tuple[str, str]:
    """Return the macro average out of domain and its drop; nothing where they are not known."""
    found = record.ood.get("macro", {})
    score, drop = found.get("score"), found.get("drop")
    return "" if score is None else decimal(score), signed(drop)


def ended(outcome: Any) -> str:
    """Return how a job ended, in one word; a signal's status is above 128."""
    if outcome.result:
        return "done"
    return "interrupted" if outcome.status > 128 else "failed"
