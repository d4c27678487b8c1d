"""A finished `adaptkit compare` as a record of this repository, and the record as Markdown.

    python scripts/comparison.py FOLDER --note COMMAND --commit HASH --out FILE.json

The record holds the cells and tests of the report, the updates of every race, and the seconds that
all runs took. `--picture FILE.svg` draws the scores. `scripts/write_results.py` writes the record's
section of docs/results/comparison.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench.run import machine

from adaptkit.reports.comparison.runs import LOWER

ROOT = Path(__file__).resolve().parents[1]
Record = dict[str, Any]
COSTS = ("trained", "saved kB")


def command(*words: str) -> str:
    """Run a command in the repository and return what it prints."""
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def raced(folder: Path) -> Record:
    """Return what the race of a cell cost."""
    race = json.loads((folder / "race" / "race.json").read_text())
    return {
        "task": folder.parent.name, "row": folder.name,
        "updates": sum(max(map(int, one["scores"]), default=0) for one in race["candidates"]),
        "grid": sum(bool(one["scores"]) for one in race["candidates"]) * race["rungs"][-1],
        "seconds": sum(map(trained_seconds, (folder / "race").glob("*/history.jsonl"))),
    }  # fmt: skip


def trained_seconds(history: Path) -> float:
    """Return how long a run has trained and scored, interruptions left out."""
    return json.loads(history.read_text().splitlines()[-1])["seconds"]


def record_of(folder: Path, note: str, commit: str) -> Record:
    """Return a finished comparison as one record, without anybody's paths."""
    report = folder / "report.json"
    command(sys.executable, "-m", "adaptkit", "report", str(folder), "--out", str(report))
    made = json.loads(report.read_text())
    cells = [{k: v for k, v in one.items() if k != "directories"} for one in made["cells"]]
    every = [json.loads(file.read_text()) for file in sorted(folder.glob("*/*/seed*/result.json"))]
    runs = [run for run in every if run["status"] == "done"]
    facts = machine(False)
    return {
        "command": note, "commit": commit,
        "date": str(date.today()), **{key: facts[key] for key in ("device", "cores")},
        "versions": runs[0]["versions"], "rows": runs[0]["data"]["rows"]["train"],
        "cells": cells, "tests": made["tests"],
        "races": [raced(folder / cell["task"] / cell["row"]) for cell in cells],
        "seconds": sum(run["time"]["total_seconds"] for run in runs),
    }  # fmt: skip


# ---- Markdown ----


def section(record: Record) -> str:
    """Return the command of a comparison, a table for each task, and what cannot be told apart."""
    tasks = list(dict.fromkeys(cell["task"] for cell in record["cells"]))
    hours = (record["seconds"] + sum(race["seconds"] for race in record["races"])) / 3600
    updates, grid = (sum(race[key] for race in record["races"]) for key in ("updates", "grid"))
    jobs = re.search(r"--jobs (\d+)", record["command"])
    at_a_time = jobs[1] if jobs else "one"
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("torch", "transformers"))
    return "\n\n".join([
        f"    {record['command']}", *(of_task(record, task) for task in tasks),
        f"The runs took {hours:.1f} hours in all, {at_a_time} at a time. The races made "
        f"{updates:,} updates; without one, all their candidates would have made {grid:,}, "
        f"{grid / updates:.1f} times as many.",
        f"Measured at `{record['commit']}` on {record['date']}: {record['device']}, "
        f"{record['cores']} cores, {versions}.",
    ])  # fmt: skip


def of_task(record: Record, task: str) -> str:
    """Return the methods on one task, the best first."""
    found = [c for c in record["cells"] if c["task"] == task and c["mean"] is not None]
    less = any(part in found[0]["metric"] for part in LOWER)
    cells = sorted(found, key=lambda cell: cell["mean"], reverse=not less)
    races = {race["row"]: race for race in record["races"] if race["task"] == task}
    metric, trivial = cells[0]["metric"], cells[0]["baseline"]
    heads = ["method", metric.replace("_", " "), "rate", "updates of the race", *COSTS]
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)], *(line(c, races[c["row"]]) for c in cells)]
    rows.append(["(trivial answer)", f"{trivial:.3f}", *[""] * (len(heads) - 2)])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return f"### {task}\n\n{text}\n\n{apart(record, task, cells)}"


def line(cell: Record, race: Record) -> list[str]:
    """Return a method's row: its score with half the interval, its rate and what it costs."""
    half = (cell["high"] - cell["low"]) / 2 if cell["low"] is not None else None
    score = f"{cell['mean']:.3f}" + (f" ± {half:.3f}" if half is not None else "")
    for name, word in (("collapsed", "trivial"), ("died", "died")):
        if cell[name]:
            score += f", {cell[name]} of {cell['seeds'] + cell['died']} {word}"
    rate = cell["optimizer.lr"]
    return [
        f"`{cell['row']}`", score, "" if rate is None else f"{rate:.3g}",
        f"{race['updates']:,} of {race['grid']:,}",
        *("" if cell[name] is None else f"{cell[name]:,.0f}" for name in COSTS),
    ]  # fmt: skip


def apart(record: Record, task: str, cells: list[Record]) -> str:
    """Say what cannot be told from the best, and how many pairs differ."""
    tests = [test for test in record["tests"] if test["task"] == task]
    best = cells[0]["row"]
    same = [
        name for test in tests if best in (test["one"], test["two"]) and not test["differs"]
        for name in (test["one"], test["two"]) if name != best
    ]  # fmt: skip
    order = [f"`{cell['row']}`" for cell in cells if cell["row"] in same]
    if not tests:
        return ""
    found = f"`{best}` is better than every other." if not order else (
        f"Not distinguishable from `{best}`: {', '.join(order)}.")  # fmt: skip
    return f"{found} {sum(test['differs'] for test in tests)} of {len(tests)} pairs differ."


def main() -> None:
    """Write a record, and its picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--note", required=True, metavar="COMMAND", help="without your paths")
    parser.add_argument("--commit", required=True, help="that the runs were made at")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--picture", type=Path, help="SVG of the scores")
    args = parser.parse_args()
    if args.picture:
        words = ("report", str(args.folder), "--out", str(args.picture.absolute()))
        command(sys.executable, "-m", "adaptkit", *words)
    text = json.dumps(record_of(args.folder.absolute(), args.note, args.commit), indent=1) + "\n"
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
