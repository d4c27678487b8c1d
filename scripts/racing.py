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
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, matthews_corrcoef

SCORES = {"accuracy": accuracy_score, "matthews_correlation": matthews_corrcoef}


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


def on_validation(place: Path, task: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Score a run on the validation rows; return the metric's name, labels and predictions."""
    record = json.loads(command("eval", str(place), f"task={task}", "--json"))
    answers = Path(record["directory"]) / "predictions.jsonl"
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    labels, found = (np.array([row[key] for row in rows]) for key in ("label", "prediction"))
    if abs(SCORES[record["metric"]](labels, found) - record["score"]) > 1e-6:
        raise SystemExit(f"{place}: the score is not that of its predictions")
    return record["metric"], labels, found


def standard_error(metric: str, labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Return the standard error of a difference of two scores: a bootstrap over the rows."""
    random, score = np.random.default_rng(0), SCORES[metric]
    draws = (random.integers(0, len(labels), len(labels)) for _ in range(500))
    return float(np.std([score(labels[d], one[d]) - score(labels[d], other[d]) for d in draws]))


def line(race: Path, folder: Path) -> dict[str, Any]:
    """Compare one race with its grid."""
    state = json.loads((race / "race.json").read_text())
    words, updates = state["words"], state["rungs"][-1]
    task = next(word.partition("=")[2] for word in words if word.startswith("task="))
    finished = [one for one in state["candidates"] if str(updates) in one["scores"]]
    winner = max(finished, key=lambda one: tuple(one["scores"][str(updates)]))
    places, scores = {}, {}
    for values in state["grid"]:
        name = " ".join(f"{key}={value}" for key, value in values.items())
        places[name] = folder / task / name.replace(" ", ",")
        record = trained(words, values, updates, places[name])
        scores[name] = (record["score"], -record["scores"]["loss"])
    chosen = " ".join(f"{key}={value}" for key, value in winner["values"].items())
    best = max(scores, key=lambda name: scores[name])
    if chosen not in places:  # the race went beyond its grid
        places[chosen] = folder / task / chosen.replace(" ", ",")
        trained(words, winner["values"], updates, places[chosen])
    metric, labels, mine = on_validation(places[chosen], task)
    _, _, other = on_validation(places[best], task)
    return {
        "task": task, "chosen": chosen, "best": best,
        "race_updates": sum(max(map(int, one["scores"])) for one in state["candidates"]),
        "grid_updates": len(state["grid"]) * updates,
        "held_out": [winner["scores"][str(updates)][0], scores[best][0]],
        "validation": [SCORES[metric](labels, found) for found in (mine, other)],
        "standard_error": standard_error(metric, labels, mine, other),
        "metric": metric, "rows": len(labels),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("races", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for the runs of the grids")
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    lines = [line(race, args.folder) for race in args.races]
    if args.out:
        args.out.write_text(json.dumps(lines, indent=1) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
