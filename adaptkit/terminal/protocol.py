"""What the user sees of a protocol: what cannot be carried out, one table, means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.config.following import pairs_of
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.terminal import console, suite
from adaptkit.terminal.suite import over_runs, signed

if TYPE_CHECKING:
    from adaptkit.runs.record import RunResult

TITLES = ("run", "metric", "untouched", "after", "difference", "trivial")


def check(job: Settings) -> None:
    """Check the runs that are to follow a run: options, heads, and whether there are any rows.

    Raises:
        AdaptError: an option is wrong, the model lacks a head, or no run has rows.
    """
    if job.protocol is None:
        return
    where, pairs, reasons = f"protocol={job.protocol.name}", pairs_of(job), []
    for name, pair in pairs.items():
        try:
            _ = pair.untouched.head
        except AdaptError as error:
            raise AdaptError(f"{where}, run {name}: {error}") from error
        try:
            pair.untouched.task.origin(pair.untouched.data)
        except ConfigError as error:
            raise ConfigError(f"{where}, run {name}: {error}") from error
        except AdaptError as error:
            reasons.append(str(error))
    if len(reasons) == len(pairs):
        raise AdaptError(f"{where}: none of its runs has rows. {reasons[0]}")


def completed(job: Settings, result: RunResult) -> RunResult:
    """Do what was asked for after a finished run, unless its record holds all of that."""
    result = suite.evaluated(job, result)
    if job.protocol is None:
        return result
    held = result.after.get(job.protocol.name, {})
    if held.get("asked") == job.protocol.words() and not held["missing"]:
        return result
    with console.working() as interface:
        from adaptkit.runs.evaluating.protocol import with_protocol

        return with_protocol(job, result, interface)


def table(record: Mapping[str, Any]) -> None:
    """Print the record of a protocol."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=f"protocol {record['protocol']}", box=SIMPLE_HEAD)
    for title in TITLES:
        grid.add_column(title, justify="left" if title in TITLES[:2] else "right")
    for entry in record["runs"]:
        grid.add_row(*(Text(console.harmless(cell)) for cell in row(entry)))
    console.screen().print(grid)
    for text in remarks(record):
        console.show(text)


def row(entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of one run."""
    trivial = entry["baseline"]["value"]
    return [
        f"{entry['name']} (sample)" if entry["data"] == "sample" else entry["name"],
        entry["metric"],
        console.decimal(entry["untouched"]),
        console.decimal(entry["after"]),
        signed(entry["difference"]),
        "" if trivial is None else console.decimal(trivial),
    ]


def remarks(record: Mapping[str, Any]) -> list[str]:
    """Return what stands below the table: samples, and what was not carried out."""
    found = []
    if names := [entry["name"] for entry in record["runs"] if entry["data"] == "sample"]:
        found.append(f"{suite.SAMPLES}: {', '.join(names)}")
    for name, why in record["missing"].items():  # the record has the whole reason
        found.append(f"not carried out: {name}: {why.partition('. ')[0].rstrip('.')}")
    return found


def differences(group: Sequence[Any]) -> list[str]:
    """Say, for every run of a protocol, the mean difference of repeated runs and its interval."""
    lines = []
    for name in dict.fromkeys(name for record in group for name in record.after):
        lists = [record.after[name]["runs"] for record in group if name in record.after]
        for one in lists[0] if len(lists) > 1 else ():
            same = [e for runs in lists for e in runs if e["name"] == one["name"]]
            values = [entry["difference"] for entry in same]
            if len(same) < len(group) or None in values:
                continue
            before, after = (
                console.decimal(statistics.mean(entry[key] for entry in same))
                for key in ("untouched", "after")
            )
            lines.append(
                f"  {name}, {one['name']}: {one['metric']} {before} untouched, {after} after, "
                f"difference {over_runs(values)}"
            )
    return lines
