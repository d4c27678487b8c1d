"""Write the small bundled samples, `adaptkit/samples/<task>/<split>.jsonl`.

python scripts/make_samples.py                writes them, the same bytes on each run
python scripts/make_samples.py --check        exits with 1 if the files differ from the grammars
python scripts/make_samples.py --baselines    scores the majority class and a bag of words

Every text comes out of the seeded grammars in `scripts/samples/`; none is taken from a data set.
The rows have the columns and label numbers of the data set whose name they bear, so that a task
can run, loudly marked, where neither a local folder nor the hub can be reached.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

from samples import (
    acceptability,
    answers,
    causes,
    facts,
    inference,
    pairs,
    passages,
    sentiment,
    tables,
)
from samples.grammar import Splits

ROOT = Path(__file__).resolve().parent.parent / "adaptkit" / "samples"
SEED = 20240229

TASKS: dict[str, Callable[[random.Random], Splits]] = {
    "sst2": sentiment.sst2,
    "imdb": sentiment.imdb,
    "cola": acceptability.cola,
    "mrpc": pairs.mrpc,
    "qqp": pairs.qqp,
    "stsb": pairs.stsb,
    "mnli": inference.mnli,
    "qnli": facts.qnli,
    "rte": inference.rte,
    "wnli": inference.wnli,
    "copa": causes.copa,
    "squad": facts.squad,
    "xsum": passages.xsum,
    "ud_ewt": passages.ud_ewt,
    "e2e": tables.e2e,
    "alpaca": answers.alpaca,
    "hh_rlhf_helpful": answers.hh_rlhf_helpful,
}


def build(task: str) -> Splits:
    """Make one task's splits, from a seed that depends on nothing but its name."""
    return TASKS[task](random.Random(f"{SEED}-{task}"))


def files() -> dict[str, str]:
    """Return every file's path under the samples folder, and its text."""
    return {
        f"{task}/{split}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for task in TASKS
        for split, rows in build(task).items()
    }


def differing(wanted: dict[str, str]) -> list[str]:
    """Name the files that are missing, changed, or not among the wanted ones."""
    there = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("*/*.jsonl")}
    changed = {
        name
        for name, text in wanted.items()
        if name not in there or (ROOT / name).read_bytes() != text.encode()
    }
    return sorted(changed | (there - set(wanted)))


def write(wanted: dict[str, str]) -> None:
    for name, text in wanted.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(text.encode())
    size = sum(len(text.encode()) for text in wanted.values())
    print(f"{len(wanted)} files, {size / 1e6:.2f} MB, in {ROOT.name}/")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only; 1 if they differ")
    parser.add_argument("--baselines", action="store_true", help="print the baseline table")
    args = parser.parse_args()
    if args.baselines:
        from samples.baselines import table

        print(table({task: build(task) for task in TASKS}))
        return 0
    wanted = files()
    if not args.check:
        write(wanted)
        return 0
    for name in (wrong := differing(wanted)):
        print(f"differs: {name}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
