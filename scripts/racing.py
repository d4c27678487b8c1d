"""What a race saves against the full grid, and what it costs in score.

    python scripts/racing.py RACE ... --folder DIR --out FILE

RACE: a folder of a finished `adaptkit tune`, or `.../race` of `adaptkit compare`. Every candidate
of its grid is trained to the end in DIR, with the same words, rows and seed, as if there were no
race. Shown are the updates of both; the score of the chosen and of the grid's best candidate on the
held-out training rows, which both chose by; and the score of both on the validation rows, which
neither has seen. One standard error is that of the difference between the two on the same rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench.run import head

from adaptkit.reports.comparison.statistics import redrawn_scores, weights_of
from adaptkit.runs.tuning.race_state import floor_in
from adaptkit.runs.tuning.racing import Candidate


def command(*words: str) -> str:
    """Run adaptkit and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "adaptkit", *words], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"adaptkit {' '.join(words)}:\n{done.stderr[-2000:]}")
    return done.stdout


def trained(words: list[str], values: dict[str, Any], updates: int, place: Path) -> dict[str, Any]:
    """Train one candidate to the end on the rows that are not held out; return its record."""
    command(
        "train", *words, *(f"{key}={value}" for key, value in values.items()),
        f"trainer.max_steps={updates}", f"trainer.eval_every={updates}", "trainer.keep=last",
        "data.holdout=true", f"output_dir={place}",
    )  # fmt: skip
    return json.loads((place / "result.json").read_text())


def on_validation(place: Path, task: str) -> dict[str, Any]:
    """Score a run on the validation rows; return its record with the predictions, by row."""
    shown = json.loads(command("eval", str(place), f"task={task}", "--json"))
    folder = Path(shown["directory"])
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    record = json.loads((folder / "result.json").read_text())
    return {**record, "lines": [json.loads(line) for line in lines]}


def standard_error(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the standard error of the difference of two scores, over redrawn rows."""
    answers = [[row["prediction"] for row in record["lines"]] for record in (one, other)]
    labels = [row["label"] for row in one["lines"]]
    scores = [record["score"] for record in (one, other)]
    weights = weights_of(len(labels))
    drawn = redrawn_scores(one["metric"], weights, answers, labels, one["labels"], scores)
    if drawn is None:
        raise SystemExit(f"{one['task']}: the score is not that of the predictions")
    return float(np.nanstd(drawn[0] - drawn[1]))


def line(race: Path, folder: Path) -> dict[str, Any]:
    """Compare one race with its grid."""
    state = json.loads((race / "race.json").read_text())
    words, updates = state["words"], state["rungs"][-1]
    task = next(word.partition("=")[2] for word in words if word.startswith("task="))
    floor = floor_in(state["floor"])
    candidates = [Candidate.of(one, larger=True) for one in state["candidates"]]
    finished = [one for one in candidates if updates in one.scores]
    winner = max(finished, key=lambda one: one.merit(updates, floor))
    places, scores = {}, {}
    for values in state["grid"]:
        name = " ".join(f"{key}={value}" for key, value in values.items())
        places[name] = folder / task / name.replace(" ", ",")
        record = trained(words, values, updates, places[name])
        scores[name] = (record["score"], -record["scores"]["loss"])
    chosen = " ".join(f"{key}={value}" for key, value in winner.values.items())
    best = max(scores, key=lambda name: scores[name])
    if chosen not in places:  # the race went beyond its grid
        places[chosen] = folder / task / chosen.replace(" ", ",")
        trained(words, winner.values, updates, places[chosen])
    mine, other = on_validation(places[chosen], task), on_validation(places[best], task)
    return {
        "task": task, "chosen": chosen, "best": best,
        "race_updates": sum(one.updates for one in candidates),
        "grid_updates": len(state["grid"]) * updates,
        "held_out": [winner.scores[updates][0], scores[best][0]],
        "validation": [mine["score"], other["score"]],
        "standard_error": standard_error(mine, other),
        "metric": mine["metric"], "rows": len(mine["lines"]),
    }  # fmt: skip


HEAD = ("task", "updates: race, grid", "saved", "chosen", "best of the grid",
        "held out: chosen, best", "validation: chosen, best", "one standard error")  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    """Return the lines as Markdown."""
    rows = [HEAD, ["---"] * len(HEAD)]
    for one in lines:
        race, grid = one["race_updates"], one["grid_updates"]
        held, seen = (
            ", ".join(f"{score:.3f}" for score in one[key]) for key in ("held_out", "validation")
        )
        rows.append([
            one["task"], f"{race:,}, {grid:,}", f"{grid / race:.1f} times", one["chosen"],
            one["best"], held, seen, f"{one['standard_error']:.3f}",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def section(made: dict[str, Any]) -> str:
    """Return the command, the table, and the commit of saved lines."""
    command = f"    {made['command']}\n\n" if made["command"] else ""
    return f"{command}{table(made['lines'])}\n\nMeasured at `{made['commit']}` on {made['date']}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("races", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for the runs of the grids")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--note", default="", metavar="COMMAND", help="of the races, for --out")
    args = parser.parse_args()
    lines = [line(race, args.folder) for race in args.races]
    if args.out:
        made = {"command": args.note, "commit": head(), "date": str(date.today()), "lines": lines}
        args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
