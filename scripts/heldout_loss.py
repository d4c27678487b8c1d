"""Does every method lower the held-out loss? Classification by models of all three kinds.

    python scripts/heldout_loss.py --data DIR --models mini-gpt2 mini-t5 PATH ...

For each model (a name or a checkpoint's folder) and method: the loss on the validation rows
of SST-2 (DIR/sst2) before and after training on `--rows` rows for `--epochs` epochs, with the
method's own file of settings, its learning rate times `--factor` (small models want more).
"before" has the method in place and a new head. Guessing by the classes' frequencies costs 0.693.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from adaptkit import terminal
from adaptkit.compose import compose, options
from adaptkit.config import settings
from adaptkit.errors import AdaptError
from adaptkit.prepare import encode, prepare, total_updates, trainer_of


class Refused(Exception):
    """A pair that makes no sense, with the reason."""


def losses(model: str, method: str, args: argparse.Namespace, folder: str) -> tuple[float, float]:
    """Return the held-out loss before and after training.

    Raises:
        Refused: the method refuses the model.
    """
    known = model in options("model")
    plain = compose([
        f"model={model}" if known else "model=auto", *([] if known else [f"model.path={model}"]),
        f"method={method}", "task=sst2", f"data.root={args.data}", "data.source=local",
        f"data.train_rows={args.rows}",
        f"data.eval_rows={args.eval_rows}", f"trainer.epochs={args.epochs}", "trainer.keep=last",
        "trainer.precision=fp32", f"output_dir={folder}",
    ])  # fmt: skip
    plain["optimizer"]["lr"] *= args.factor
    run = settings(plain)
    splits = run.task.load(run.data, run.seed)
    updates = total_updates(run, len(splits.train))
    try:
        prepared = prepare(run, splits.labels, updates, restoring=False)
    except AdaptError as error:
        raise Refused(str(error)) from error
    held_out = encode(run, prepared, splits.validation[""])
    train = encode(run, prepared, splits.train)
    trainer = trainer_of(prepared, run, train, {"": held_out})
    before = trainer.score(held_out).scores["loss"]
    trainer.train()
    trainer.finish()
    return before, trainer.score(held_out).scores["loss"]


def table(args: argparse.Namespace) -> bool:
    """Print a row per method, then why pairs were refused; return whether all losses fell."""
    print("| method | " + " | ".join(Path(model).name for model in args.models) + " |")
    print("| --- |" + " --- |" * len(args.models))
    worse, refusals = 0, []
    for method in args.methods:
        cells = []
        for model in args.models:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    before, after = losses(model, method, args, f"{folder}/run")
                except Refused as refusal:
                    cells.append("refused")
                    refusals.append(f"{method}, {Path(model).name}: {refusal}")
                    continue
            bad = not after < before  # also where it is no number
            worse += bad
            cells.append(f"{before:.3f} → {after:.3f}" + " (not lower)" * bad)
        print(f"| `{method}` | " + " | ".join(cells) + " |", flush=True)
    print("\n" + "\n".join(refusals))
    return not worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder with sst2/train.parquet")
    parser.add_argument("--models", nargs="+", default=["mini-bert", "mini-gpt2", "mini-t5"])
    parser.add_argument("--methods", nargs="+", default=options("method"))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--eval-rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--factor", type=float, default=4.0)
    args = parser.parse_args()
    with terminal.working():
        raise SystemExit(0 if table(args) else 1)


if __name__ == "__main__":
    main()
