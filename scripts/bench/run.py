"""`adaptkit train` against PEFT and the Trainer, against a plain loop, on the same work.

    python scripts/bench/run.py --model DIR --data DIR --quick      # three works, a few minutes
    python scripts/bench/run.py --model DIR --data DIR --out FILE   # all works, about an hour

DIR: all-MiniLM-L6-v2, and a folder with NAME/train.parquet and validation.parquet (or test) for
sst2, mrpc, imdb, squad, xsum and corpus_open. Every side runs in a process of its own, in turns (a
different one first in every round), on the same rows: see `peer.py`. Nothing else may run
meanwhile. Shown are rows per second of training, the share of the machine's matrix peak that
adaptkit's training uses (`flops.py`), the last point of every side's loss curve, and, for each
peer, the median over the rounds of the ratios of training time and of time from the start of the
process to its end, with the least and the greatest ratio; above 1, adaptkit is faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.works import BODIES, METHODS, QUICK, SHAPES, WARMUP, WORKS, Work

PEER, FLOPS = (Path(__file__).with_name(f"{name}.py") for name in ("peer", "flops"))
SIDES = ("adaptkit", "tuned", "stock", "plain")
SHORT = {"--model": "MINILM", "--data": "DIR", "--out": "FILE"}  # as a record names paths
MINIS = Path(__file__).resolve().parents[2] / "adaptkit" / "models" / "mini"


def rows(data: Path, work: Work, folder: Path) -> Path:
    """Write the rows that all sides train on and score; return their folder."""
    import pandas as pd

    shape = SHAPES[work.shape]
    place = folder / "data" / shape.data

    def drawn(file: Path, count: int) -> Any:
        table = pd.read_parquet(file)
        table = table[table[shape.text[-1]].str.len() >= shape.least]
        return table.sample(count, random_state=0)

    if not place.exists():
        place.mkdir(parents=True)
        source = data / shape.data
        train = drawn(source / "train.parquet", shape.rows)
        held = next(f for s in ("validation", "test") if (f := source / f"{s}.parquet").exists())
        scored = drawn(held, shape.scored)
        train.to_parquet(place / "train.parquet", index=False)
        for split in ("validation", "test"):
            scored.to_parquet(place / f"{split}.parquet", index=False)
    return place.parent


def body(name: str, model: str, folder: Path) -> str:
    """Return the folder of a body; those of BODIES have random weights of a known shape."""
    if name not in BODIES:
        return model if name == "minilm" else str(MINIS / name)
    place, (kind, words_of) = folder / name, BODIES[name]
    if not place.exists():
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        torch.manual_seed(0)
        words = AutoTokenizer.from_pretrained(body(words_of, model, folder))
        ends = {f"{k}_token_id": getattr(words, f"{k}_token_id") for k in ("bos", "eos", "pad")}
        if kind == "t5":
            ends["decoder_start_token_id"] = words.pad_token_id
        config = AutoConfig.for_model(kind, vocab_size=len(words), **ends)
        AutoModel.from_config(config).save_pretrained(place)
        words.save_pretrained(place)
    return str(place)


def command(side: str, work: Work, model: str, data: Path, place: Path, cuda: bool) -> list[str]:
    """Return the command of one side."""
    shape, (rate, words) = SHAPES[work.shape], METHODS[work.method]
    if side != "adaptkit":
        return [
            sys.executable, str(PEER), "--side", side, "--model", model, "--data", str(data),
            "--method", work.method, "--shape", work.shape, "--epochs", str(work.epochs),
            "--log-every", str(work.log_every), *(["--cuda"] if cuda else []),
        ]  # fmt: skip
    return [
        sys.executable, "-m", "adaptkit", "train", "model=auto", f"model.path={model}",
        f"task={shape.task}", f"task.path={data / shape.data}",
        f"task.max_length={shape.max_length}", *shape.words, f"method={work.method}", *words,
        *(["trainer.cache_frozen=layers"] if work.kept else []), f"optimizer.lr={rate}",
        "optimizer.weight_decay=0.01", f"optimizer.warmup_ratio={WARMUP}",
        f"trainer.epochs={work.epochs}", f"trainer.batch_size={shape.batch}",
        "trainer.precision=bf16", f"trainer.device={'cuda' if cuda else 'cpu'}",
        "trainer.eval_every=1000000", "trainer.keep=last",
        f"trainer.log_every={work.log_every}", f"output_dir={place}",
    ]  # fmt: skip


def measure(side: str, work: Work, model: str, data: Path, cuda: bool) -> dict[str, Any] | None:
    """Run one side once; None if it cannot do this work."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "run")
        begun = time.monotonic()
        done = subprocess.run(
            command(side, work, model, data, place, cuda), capture_output=True, text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}, check=False,
        )  # fmt: skip
        wall = time.monotonic() - begun
        if done.returncode:
            print(f"  {side}: {done.stderr.strip()[-160:]}", flush=True)
            return None
        if side == "adaptkit":
            result = ours(place, work)
        else:
            result = json.loads(done.stdout.strip().splitlines()[-1])
    if "seconds" in result:
        result["examples_per_second"] = work.epochs * SHAPES[work.shape].rows / result["seconds"]
    return {**result, "wall": wall}


def ours(place: Path, work: Work) -> dict[str, Any]:
    """Return the figures of a finished run of adaptkit."""
    record = json.loads((place / "result.json").read_text())
    history = map(json.loads, (place / "history.jsonl").read_text().splitlines())
    # What the peers report: the headlines of lm and of pairs are others (F1 of MRPC).
    named = [name for name in ("perplexity", "accuracy") if name in record["scores"]]
    score = record["scores"][named[0]] if named else record["score"]
    # features are computed before training begins
    kind = "total_seconds" if work.method == "probe" or work.kept else "train_seconds"
    return {
        "seconds": record["time"][kind],
        "losses": [entry["loss"] for entry in history
                   if "loss" in entry and entry["step"] % work.log_every == 0],
        "score": score,
        "scoring_seconds": record["time"]["eval_seconds"],
        "peak_mb": (record["memory"]["peak_rss_bytes"] or math.nan) / 1e6,
    }  # fmt: skip


def compare(work: Work, args: argparse.Namespace, folder: Path, peak: float) -> dict[str, Any]:
    """Run all sides in turns; return every run."""
    model, data = body(work.body, args.model, folder), rows(args.data, work, folder)
    flops = (measure("count", work, model, data, False) or {}).get("flops")
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
    for number in range(args.rounds):
        able = [s for s in args.sides if len(runs[s]) == number]
        for side in able[number % len(able) :] + able[: number % len(able)]:
            if (result := measure(side, work, model, data, args.cuda)) is None:
                runs[side] = []  # it cannot do this work, or not every time
                continue
            if flops:
                result["peak_share"] = flops / result["seconds"] / peak
            runs[side].append(result)
            curve = " ".join(f"{loss:.2f}" for loss in result["losses"])
            print(
                f"  {side:9} {result['examples_per_second']:7.1f} examples/s "
                f"{result['wall']:6.1f} s {result['peak_mb']:6.0f} MB, "
                f"score {result['score']:.3f}, loss {curve}",
                flush=True,
            )
    return {"work": work.name, "flops": flops, "log_every": work.log_every, "runs": runs}


def ratio(runs: dict[str, list[dict]], peer: str, key: str) -> str:
    """Return the median of a peer's time over ours, round by round, and its range."""
    pairs = zip(runs.get(peer, []), runs["adaptkit"], strict=False)
    each = [other[key] / ours[key] for other, ours in pairs]
    return f"{statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})" if each else "–"


def table(made: list[dict[str, Any]]) -> str:
    """Return the table of all works in Markdown."""
    peers = [side for side in SIDES[1:] if any(one["runs"].get(side) for one in made)]
    heading = ["work", "examples/s", "peak MB"]
    added = any("log_every" in one for one in made)  # older records lack them
    if added:
        heading += ["of matrix peak", f"last loss: {', '.join(['adaptkit', *peers])}"]
    for peer in peers:
        heading += [f"{peer}: training", f"{peer}: in all", f"{peer}: memory"]
    lines = [heading, ["---", *["--:"] * (len(heading) - 1)]]
    for one in made:
        runs = one["runs"]
        if not runs.get("adaptkit"):
            continue

        def middle(side: str, key: str, runs: dict = runs) -> float:
            return statistics.median(run[key] for run in runs[side])

        line = [one["work"], f"{middle('adaptkit', 'examples_per_second'):.0f}",
                f"{middle('adaptkit', 'peak_mb'):.0f}"]  # fmt: skip
        if added:
            share = f"{middle('adaptkit', 'peak_share'):.0%}" if one.get("flops") else "–"
            ends = [f"{statistics.median(run['losses'][-1] for run in runs[side]):.2f}"
                    if runs.get(side) else "–" for side in ["adaptkit", *peers]]  # fmt: skip
            line += [share, ", ".join(ends)]
        for peer in peers:
            line += [ratio(runs, peer, "seconds"), ratio(runs, peer, "wall")]
            there = "–"
            if runs.get(peer):
                there = f"{middle('adaptkit', 'peak_mb') / middle(peer, 'peak_mb'):.2f}"
            line.append(there)
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def head() -> str:
    """Return the commit of this repository."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=PEER.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine(cuda: bool) -> dict[str, Any]:
    """Return where and with what this is measured."""
    import peft
    import torch
    import transformers

    names = {"torch": torch, "transformers": transformers, "peft": peft}
    processor = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        processor = next(line.split(": ")[1] for line in info.read_text().splitlines()
                         if line.startswith("model name"))  # fmt: skip
    words = sys.argv[1:]
    shown = [SHORT.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    peak = [sys.executable, str(FLOPS), *(["--cuda"] if cuda else [])]
    return {
        "command": f"python scripts/bench/run.py {shlex.join(shown)}",
        "commit": head(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        **{name: module.__version__ for name, module in names.items()},
        "peak_flops": float(subprocess.run(peak, capture_output=True, check=True).stdout),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three works, without the stock peer")
    parser.add_argument("--work", nargs="+", help="only works whose name holds one of these")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--out", type=Path, help="write every run as JSON")
    args = parser.parse_args()
    if args.quick and args.sides == list(SIDES):
        args.sides = ["adaptkit", "tuned", "plain"]
    works = [work for work in (QUICK if args.quick else WORKS)
             if not args.work or any(part in work.name for part in args.work)]  # fmt: skip
    made, facts = [], machine(args.cuda)
    print(f"matrix peak {facts['peak_flops'] / 1e9:.0f} GFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for work in works:
            print(work.name, flush=True)
            made.append(compare(work, args, Path(folder), facts["peak_flops"]))
            if args.out:
                text = json.dumps({**facts, "works": made}, indent=1)
                args.out.write_text(text, encoding="utf-8")
    print("; ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(made))


if __name__ == "__main__":
    main()
