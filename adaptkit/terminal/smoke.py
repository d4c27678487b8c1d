"""What a smoke run shows: each pair as it ends, and the table of all."""

from __future__ import annotations

from typing import Any

from adaptkit.terminal import console


def tried(result: Any) -> None:
    """Say how one pair of a smoke run fared."""
    why = f": {result.reason}" if result.outcome == "failed" else ""
    console.say(f"{result.row} {result.column}: {result.outcome}{why} ({result.seconds:.1f} s)")


def table(results: list[Any]) -> None:
    """Print what was tried against the models, then the reasons of what was rejected or failed."""
    from rich.table import Table

    columns = list(dict.fromkeys(r.column for r in results))
    grid = Table("", *columns, title="smoke: bundled models and samples, no network")
    for row in dict.fromkeys(r.row for r in results):
        outcome = {r.column: r.outcome for r in results if r.row == row}
        grid.add_row(row, *(outcome.get(column, "") for column in columns))
    console.screen().print(grid)
    for result in results:
        if result.reason:
            console.show(f"{result.row} {result.column}: {result.outcome}: {result.reason}")
    counts = {o: sum(r.outcome == o for r in results) for o in ("ok", "rejected", "failed")}
    seconds = sum(result.seconds for result in results)
    print(", ".join(f"{n} {o}" for o, n in counts.items()) + f"; {seconds:.0f} s", flush=True)
