"""Recipes on small sets: a learning rate from held-out training rows, then several seeds.

    OMP_NUM_THREADS=1 python scripts/compare_recipes.py --model DIR --data DIR --out DIR \\
        --task sst2 cola --recipe full lora+r3f ...

A recipe is a line of RECIPES. For each recipe and task:

1. HELD rows of the training split are put aside, and one run with seed 0 for each of RATES learns
   from --rows of the others. The rate with the best score on the held-out rows is chosen.
2. Runs with the seeds 0 to --seeds - 1 learn at that rate and are scored on the validation split.

No run chooses among its epochs: the weights after the last update are scored. A run has failed if
it died, or if its score is at most that of the baseline (the commonest class, or the mean). An
undefined score counts as 0. A finished run is not repeated, so the command may be stopped and given
again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RATES = ("1e-4", "5e-4", "2e-3")
HELD = 500
RECIPES = {
    "full": ["method=full"],
    "top_k": ["method=top_k"],
    "l2_sp": ["method=full", "regularizer=l2_sp"],
    "mixout": ["method=full", "regularizer=mixout"],
    # annealed in the run: half-way at a third of its 189 updates
    "recadam": ["method=full", "regularizer=recadam", "regularizer.recadam.t0=63"],
    "r3f": ["method=full", "regularizer=r3f"],
    "r_drop": ["method=full", "regularizer=r_drop"],
    "child_f": ["method=child_tuning", "method.mode=F"],
    "child_d": ["method=child_tuning", "method.mode=D"],
    "lora": ["method=lora"],
    "lora+r3f": ["method=lora", "regularizer=r3f"],
    "child_d+r3f": ["method=child_tuning", "method.mode=D", "regularizer=r3f"],
    "child_d_pruned": ["method=child_tuning", "method.mode=D", "method.outside=zero"],
}


def hold_out(data: Path, task: str, out: Path) -> None:
    """Write the training split without HELD random rows, and those rows as its validation split."""
    folder = out / "held" / task
    if (folder / "validation.parquet").exists():
        return
    rows = pd.read_parquet(data / task / "train.parquet")
    order = np.random.default_rng(0).permutation(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    rows.iloc[order[HELD:]].to_parquet(folder / "train.parquet", index=False)
    rows.iloc[order[:HELD]].to_parquet(folder / "validation.parquet", index=False)


def train(recipe: str, task: str, data: Path, place: str, words: list[str], args: Any) -> list[Any]:
    """Carry out one sweep, unless that was done before; return the records that it left."""
    folder = args.out / task / recipe
    command = [
        sys.executable, "-m", "adaptkit", "train", "-m", "experiment=low_resource",
        "model=minilm", f"model.path={args.model}", f"data.root={data}", "data.source=local",
        "data.eval_rows=1000", f"data.train_rows={args.rows}", f"task={task}",
        "trainer.keep=last", "trainer.eval_every=100000", "trainer.precision=bf16",
        f"output_dir={folder}/{place}", *RECIPES[recipe], *words,
    ]  # fmt: skip
    with (args.out / "log.txt").open("a") as log:
        subprocess.run(command, stdout=log, stderr=log, check=False)
    pattern = place.split("$")[0] + "*/result.json"
    return [json.loads(file.read_text()) for file in sorted(folder.glob(pattern))]


def score(record: dict[str, Any]) -> float:
    """Return the score of a run; an undefined one (a correlation with a constant) is 0."""
    return record["score"] or 0.0


def failed(record: dict[str, Any]) -> bool:
    """Tell whether a run is not better than the baseline."""
    return score(record) <= (record["baseline"]["value"] or 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", required=True, type=Path, help="folder with TASK/train.parquet")
    parser.add_argument("--out", required=True, type=Path, help="folder for the runs")
    parser.add_argument("--task", nargs="+", required=True)
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for task in args.task:
        hold_out(args.data, task, args.out)
        for recipe in args.recipe:
            rates = "optimizer.lr=" + ",".join(RATES)
            held = train(recipe, task, args.out / "held", "rate${optimizer.lr}",
                         [rates, "seed=0"], args)  # fmt: skip
            best = max(held, key=score)
            rate = best["settings"]["optimizer.lr"]
            runs = train(recipe, task, args.data, "seed${seed}",
                         [f"optimizer.lr={rate}", f"seed=range(0,{args.seeds})"], args)  # fmt: skip
            scores = [score(record) for record in runs]
            spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
            lost = args.seeds - len(runs) + sum(map(failed, runs))
            print(f"| {task} | {recipe} | {rate:g} | {statistics.mean(scores):.3f} ± {spread:.3f} "
                  f"| {min(scores):.3f} | {lost} of {args.seeds} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
