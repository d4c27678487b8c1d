"""Does every method lower the held-out loss? Classification by models of all three kinds.

    python scripts/heldout_loss.py --data DIR --models mini-gpt2 mini-t5 PATH ...

For each model (a name or a checkpoint's folder) and method: the loss on `--held-out` rows of the
training file of SST-2 (DIR/sst2) before and after training on `--rows` others for `--epochs`
epochs, with the method's own file of settings, its learning rate times `--factor` (small models
want more). "before" has the method in place and a new head. The validation file would not do: it
has whole sentences and other shares of the classes, so that one can learn what holds for phrases
and lose there. The first line tells what guessing by the classes' shares costs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from pathlib import Path

from datasets import Dataset

from adaptkit.config.compose import compose
from adaptkit.config.groups import options
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.terminal import console as terminal
from adaptkit.training.trainer import AdaptTrainer, Scorable


class Rejected(Exception):
    """A pair that makes no sense, with the reason."""


def run_of(model: str, method: str, args: argparse.Namespace, folder: str) -> Settings:
    known = model in options("model")
    plain = compose([
        f"model={model}" if known else "model=auto", *([] if known else [f"model.path={model}"]),
        f"method={method}", "task=sst2", f"data.root={args.data}", "data.source=local",
        f"data.train_rows={args.rows + args.held_out}", f"trainer.epochs={args.epochs}",
        "trainer.keep=last", "trainer.precision=fp32", f"output_dir={folder}", *args.set,
    ])  # fmt: skip
    plain["optimizer"]["lr"] *= args.factor
    return settings(plain)


def rows_of(run: Settings, args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Return the rows to train on and those held out."""
    rows = run.task.load(run.data, run.seed).train
    parts = rows.train_test_split(args.held_out, args.rows, seed=0)
    return parts["train"], parts["test"]


def guess(train: Dataset, held_out: Dataset) -> float:
    """Return the held-out loss of the training rows' shares of the classes."""
    counts = Counter(train["label"])
    return -sum(math.log(counts[label] / len(train)) for label in held_out["label"]) / len(held_out)


def losses(run: Settings, args: argparse.Namespace) -> tuple[float, float]:
    """Return the held-out loss before and after training.

    Raises:
        Rejected: the method cannot adapt the model.
    """
    rows, held_out = rows_of(run, args)
    try:
        prepared = prepare(run, run.trainer.updates(args.rows, 1), "train", rows)
    except AdaptError as error:
        raise Rejected(str(error)) from error
    scorer, train, test = (
        scorer_of(run, prepared),
        *(feed_of(run, prepared, part) for part in (rows, held_out)),
    )
    before = scorer.score(test, held_out).scores["loss"]
    trainer = AdaptTrainer(scorer, run.recipe, train, {"": Scorable(test, held_out)})
    trainer.train()
    trainer.finish()
    return before, scorer.score(test, held_out).scores["loss"]


def table(args: argparse.Namespace) -> bool:
    """Print a row per method, then why pairs were rejected; return whether all losses fell."""
    rows = rows_of(run_of(args.models[0], args.methods[0], args, "unused"), args)
    print(f"guessing by the classes' shares: {guess(*rows):.3f}\n")
    print("| method | " + " | ".join(Path(model).name for model in args.models) + " |")
    print("| --- |" + " --- |" * len(args.models))
    worse, reasons = 0, []
    for method in args.methods:
        cells = []
        for model in args.models:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    before, after = losses(run_of(model, method, args, f"{folder}/run"), args)
                except Rejected as reason:
                    cells.append("rejected")
                    reasons.append(f"{method}, {Path(model).name}: {reason}")
                    continue
            bad = not after < before  # also where it is no number
            worse += bad
            cells.append(f"{before:.3f} → {after:.3f}" + " (not lower)" * bad)
        print(f"| `{method}` | " + " | ".join(cells) + " |", flush=True)
    print("\n" + "\n".join(reasons))
    return not worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder with sst2/train.parquet")
    parser.add_argument("--models", nargs="+", default=["mini-bert", "mini-gpt2", "mini-t5"])
    parser.add_argument("--methods", nargs="+", default=options("method"))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument(
        "--set", action="append", default=[], help="an override, as in model.pooling=mean"
    )
    args = parser.parse_args()
    with terminal.working():
        raise SystemExit(0 if table(args) else 1)


if __name__ == "__main__":
    main()
