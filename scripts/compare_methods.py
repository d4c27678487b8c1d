"""Every method on the same rows of SST-2: accuracy, costs, one table.

    OMP_NUM_THREADS=1 python scripts/compare_methods.py --model DIR --data DIR --out DIR [ENTRY ...]

An entry is METHOD, METHOD@RATE or METHOD@RATE:SEEDS, for example `lora@2e-3:3`; without a rate the
method's own file says it. The accuracy is that of the better epoch on the validation rows. Each run
is `adaptkit train` in a process of its own, under `--out`; a finished one is not repeated. Seconds
and peak memory are those of the first seed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from adaptkit.config.compose import compose
from adaptkit.config.groups import options

ENTRY = re.compile(r"(?P<method>\w+)(@(?P<rate>[\d.e-]+))?(:(?P<seeds>[1-9]\d*))?")


def run(method: str, rate: str | None, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train once, unless that was done before, and return the record."""
    folder = args.out / f"{method}-{rate or 'own'}-{seed}"
    command = [
        sys.executable, "-m", "adaptkit", "train", f"method={method}", "task=sst2", "model=auto",
        f"model.path={args.model}", f"data.root={args.data}", "data.source=local",
        f"data.train_rows={args.rows}",
        f"trainer.epochs={args.epochs}", "trainer.keep=best", "trainer.select_on=validation",
        f"seed={seed}", f"output_dir={folder}",
        *([f"optimizer.lr={rate}"] if rate else []), *args.set,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr[-2000:]}")
    return json.loads((folder / "result.json").read_text())


def row(entry: str, args: argparse.Namespace) -> str:
    """Return one line of the table."""
    found = ENTRY.fullmatch(entry)
    if not found or found["method"] not in options("method"):
        raise SystemExit(f"{entry}: not METHOD[@RATE][:SEEDS]; methods: {options('method')}")
    method, rate = found["method"], found["rate"]
    records = [run(method, rate, seed, args) for seed in range(int(found["seeds"] or 1))]
    first, scores = records[0], [record["score"] for record in records]
    accuracy = f"{statistics.mean(scores):.3f}"
    if len(scores) > 1:
        accuracy += f" ({', '.join(f'{score:.3f}' for score in scores)})"
    shown = rate or f"{compose([f'method={method}'])['optimizer']['lr']:g}"
    params, memory = first["params"], first["memory"]["peak_rss_bytes"] or math.nan
    return (
        f"| `{method}` | {shown} | {accuracy} | "
        f"{params['body_trainable']:,} + {params['head_trainable']:,} | "
        f"{first['time']['train_seconds']:.0f} | {memory / 1e6:.0f} | "
        f"{first['delta_bytes'] / 1e3:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a checkpoint's folder or hub id")
    parser.add_argument("--data", required=True, type=Path, help="folder with sst2/train.parquet")
    parser.add_argument("--out", required=True, type=Path, help="folder for the runs")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--set", action="append", default=[], help="an override, as in model.pooling=mean"
    )
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help="default: every method")
    args = parser.parse_args()
    print("| method | rate | accuracy | trained, body + head | seconds | peak MB | saved kB |")
    print("| --- | --: | --- | --: | --: | --: | --: |")
    for entry in args.entries or [m for m in options("method") if m != "chain"]:
        print(row(entry, args), flush=True)


if __name__ == "__main__":
    main()
