"""What probes of all layers cost: features kept in a folder, compared with encoding every epoch.

    OMP_NUM_THREADS=1 python scripts/probe_cost.py --model DIR --data DIR --out DIR [--layers 12]

The base model has random weights, which do not change the cost: --layers layers of the width of
--model, with its tokenizer. Two commands are timed from start to end:

once     a sweep over all layers with trainer.features: one pass, and a probe of each layer
epoch    one probe of the last layer with trainer.cache_frozen=never: a pass in every epoch

The ratio is (layers + 1) x epoch / once; the embeddings are the one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path


def drawn(source: str, layers: int, folder: Path) -> Path:
    """Write a BERT of random weights with the tokenizer of `source`."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if not folder.exists():
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(source, num_hidden_layers=layers)
        AutoModel.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def timed(words: list[str], out: Path) -> float:
    """Return the seconds of one command."""
    started = time.monotonic()
    with (out / "log.txt").open("a") as log:
        subprocess.run([sys.executable, "-m", "adaptkit", "train", *words], stdout=log, stderr=log,
                       check=True)  # fmt: skip
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a BERT")
    parser.add_argument("--data", required=True, type=Path, help="folder with TASK/train.parquet")
    parser.add_argument("--out", required=True, type=Path, help="new folder")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    model = drawn(args.model, args.layers, args.out / "model")
    common = [
        "method=probe", f"task={args.task}", "model=auto", f"model.path={model}",
        f"data.root={args.data}", f"data.train_rows={args.rows}", f"trainer.epochs={args.epochs}",
    ]  # fmt: skip
    once = timed(
        ["-m", *common, f"trainer.features={args.out / 'features'}",
         f"method.layer=range(0,{args.layers + 1})",
         f"output_dir={args.out}/once/${{method.layer}}/run"], args.out,
    )  # fmt: skip
    epoch = timed([*common, "trainer.cache_frozen=never", f"output_dir={args.out}/epoch/run"],
                  args.out)  # fmt: skip
    size = sum(file.stat().st_size for file in (args.out / "features").rglob("*.bin"))
    shutil.rmtree(args.out / "features")
    every = (args.layers + 1) * epoch
    print(
        f"{args.task}, {args.rows} rows, {args.epochs} epochs, {args.layers + 1} layers of states"
    )
    print(f"once {once:.0f} s ({size / 1e6:.0f} MB on disk)")
    print(f"encoding in every epoch {epoch:.0f} s a layer, {every:.0f} s in all")
    print(f"ratio {every / once:.1f}")


if __name__ == "__main__":
    main()
