"""What the user sees of a suite: one table, the cells of HANS, and what could not be evaluated."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.config.settings import Settings
from adaptkit.terminal import console

if TYPE_CHECKING:
    from adaptkit.runs.record import RunResult

SAMPLES = "WARNING: bundled SAMPLE data, whose scores say nothing about the real task"
TITLES = ("set", "rows", "score", "95 %", "trivial", "drop", "95 % of the drop")


def evaluated(job: Settings, result: RunResult) -> RunResult:
    """Score a finished run on the suite that was asked for, unless its record holds all of that."""
    held = job.suite and result.ood.get("asked") == job.suite.of(job.task.name)
    if job.suite is None or (held and not result.ood["missing"]):
        return result
    with console.working():
        from adaptkit.runs.evaluating.suite import with_suite

        return with_suite(job, result, console.say)


def table(record: Mapping[str, Any]) -> None:
    """Print the record of a suite."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    sets, entries = record["sets"], entries_of(record)
    metrics = list(dict.fromkeys(entry["metric"] for entry in entries))
    grid = Table(title=f"suite {record['suite']}: {', '.join(metrics)}", box=SIMPLE_HEAD)
    for title in TITLES:
        grid.add_column(title, justify="left" if title == "set" else "right")
    for entry in entries:
        grid.add_row(*(Text(console.harmless(cell)) for cell in row(entry, len(metrics) > 1)))
    if average := record["macro"]:
        grid.add_section()
        grid.add_row(*average_row(average, len(sets)))
    if entries:
        console.screen().print(grid)
    for text in remarks(record):
        console.show(text)


def row(entry: Mapping[str, Any], several: bool) -> list[str]:
    """Return the cells of one set; `several`: metrics, so that each score names its own."""
    score = console.decimal(entry["score"])
    return [
        f"{entry['name']} (sample)" if entry["data"] == "sample" else entry["name"],
        f"{entry['rows']:,}",
        f"{entry['metric']} {score}" if several else score,
        interval(entry["interval"]),
        console.decimal(entry["baseline"]["value"]),
        signed(entry["drop"]),
        interval(entry["drop_interval"], "+.3f"),
    ]


def average_row(average: Mapping[str, Any], sets: int) -> list[str]:
    """Return the cells of the macro average."""
    count = len(average["sets"])
    name = f"macro average of {count}" + (f" of {sets}" if count < sets else "")
    score, drop = console.decimal(average["score"]), signed(average["drop"])
    return [name, "", score, interval(average["interval"]), "", drop,
            interval(average["drop_interval"], "+.3f")]  # fmt: skip


def signed(value: float | None) -> str:
    """Return a drop with its sign; nothing if it is not known."""
    return "" if value is None else f"{round(value, 4) + 0.0:+.4f}"  # never -0.0000


def over_runs(values: Sequence[float]) -> str:
    """Say the mean of what repeated runs gave, with its 95 % interval over the runs.

    mean +- t s / sqrt(n), t: the 97.5 % point of Student's distribution with n - 1 degrees of
    freedom.
    """
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    low, high = (statistics.mean(values) + sign * half for sign in (-1, 1))
    mean = signed(statistics.mean(values))
    return f"{mean} (95 % over the runs: {signed(low)} to {signed(high)})"


def interval(bounds: Sequence[float] | None, form: str = ".3f") -> str:
    """Return both ends of an interval."""
    return "" if bounds is None else " to ".join(format(bound, form) for bound in bounds)


def entries_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was scored: in domain first."""
    return [entry for entry in (record["in_domain"], *record["sets"]) if entry]


def remarks(record: Mapping[str, Any]) -> list[str]:
    """Return what stands below the table: cells, mapped answers, samples, missing sets."""
    entries, found = entries_of(record), []
    for entry in record["sets"]:
        found += cells(entry["name"], entry.get("by", {}))
        found += [f"{entry['name']}: {note}" for note in entry["notes"]]
        if (before := entry.get("in_domain_mapped")) is not None:
            words = f"its drop is from {before:.4f}, the score in domain mapped in the same way"
            found.append(f"{entry['name']}: {words}")
    for entry in entries:
        found += [f"{entry['name']}: {remark}" for remark in entry.get("remarks", [])]
    if trivial := dict.fromkeys(entry["baseline"]["name"] for entry in entries):
        found.append(f"trivial: {', '.join(trivial)}")
    for key, words in (("indistinct", "not distinguishable from"), ("below_trivial", "below")):
        if names := [entry["name"] for entry in entries if entry[key]]:
            found.append(f"{words} the trivial answer: {', '.join(names)}")
    if names := [entry["name"] for entry in entries if entry["data"] == "sample"]:
        found.append(f"{SAMPLES}: {', '.join(names)}")
    for name, why in record["missing"].items():  # the record has the whole reason
        found.append(f"not evaluated: {name}: {why.partition('. ')[0].rstrip('.')}")
    return found


def cells(name: str, by: Mapping[str, Any]) -> list[str]:
    """Return one line per value of each column: the accuracy of every right class."""
    return [
        f"{name}, {column} {value}: "
        + ", ".join(f"{label} {c['accuracy']:.4f} ({c['rows']:,})" for label, c in right.items())
        for column, values in by.items()
        for value, right in values.items()
    ]


def evaluation(run: Path, suite: Any, words: list[str], output: Path | None, as_json: bool) -> int:
    """Score a finished run on a suite and print its record; 2: no set could be evaluated."""
    with console.working():
        from adaptkit.runs.evaluating.suite import evaluate_suite
        from adaptkit.storage.files import to_json

        record, file = evaluate_suite(run, suite, words, output, console.say)
    if as_json:
        print(to_json({**record, "file": str(file)}, indent=2))
    else:
        table(record)
        console.show(f"  {file}")
    if not record["sets"]:
        console.error(f"suite={suite.name}: none of its sets could be evaluated.")
    return 0 if record["sets"] else 2
