"""LoRA by adaptkit and by PEFT with the stock Trainer: same body, data, settings; one table.

    python scripts/compare_peft.py --model DIR --data DIR --epochs 3 --lr 5e-4

Each side runs in a process of its own, one after the other, so that time and peak memory are its
own. Both train the same number of updates on the same rows, score the same validation rows, and
report the better of the epochs' accuracies.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a BERT-like checkpoint's folder")
    parser.add_argument("--data", required=True, type=Path, help="folder with sst2/train.parquet")
    parser.add_argument("--rows", type=int, help="training rows; default: all")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=["adaptkit", "peft"], help="run one side only, as JSON")
    return parser.parse_args()


def run_adaptkit(args: argparse.Namespace) -> dict[str, float]:
    """Train with `adaptkit train` and read its record."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "adaptkit", "train", "method=lora", "task=sst2", "model=auto",
            f"model.path={args.model}", f"data.root={args.data}", f"seed={args.seed}",
            f"method.rank={args.rank}", f"method.alpha={args.rank}", f"optimizer.lr={args.lr}",
            f"trainer.epochs={args.epochs}", f"trainer.batch_size={args.batch_size}",
            f"trainer.precision={args.precision}", f"output_dir={folder}/run",
            "trainer.keep=best", "trainer.select_on=validation",
        ]  # fmt: skip
        if args.rows:
            command.append(f"data.train_rows={args.rows}")
        subprocess.run(command, check=True, stdout=sys.stderr)
        record = json.loads(Path(folder, "run", "result.json").read_text())
    return {
        "accuracy": record["score"],
        "updates": record["updates"],
        "train_seconds": record["time"]["train_seconds"],
        "total_seconds": record["time"]["total_seconds"],
        "peak_rss_mb": (record["memory"]["peak_rss_bytes"] or math.nan) / 1e6,
        "trainable": record["params"]["trainable"],
        "saved_kb": record["delta_bytes"] / 1e3,
    }


def run_peft(args: argparse.Namespace) -> dict[str, float]:
    """Train with get_peft_model and transformers.Trainer as their documentation shows."""
    import numpy as np
    from datasets import load_dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(args.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    files = {s: str(args.data / "sst2" / f"{s}.parquet") for s in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    if args.rows:
        from adaptkit.tasks.reading.source import subset

        labels = rows["train"]["label"][:]
        rows["train"] = subset(rows["train"], args.rows, args.seed, labels)
    encoded = rows.map(
        lambda batch: tokenizer(batch["sentence"], truncation=True, max_length=128), batched=True
    )
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=args.rank, lora_alpha=args.rank,
        target_modules=["query", "value"],
    )  # fmt: skip
    body = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    model = get_peft_model(body, config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder, num_train_epochs=args.epochs, learning_rate=args.lr,
                per_device_train_batch_size=args.batch_size, per_device_eval_batch_size=64,
                warmup_steps=0.06, eval_strategy="epoch", save_strategy="epoch",
                save_total_limit=2, bf16=args.precision == "bf16", use_cpu=True, seed=args.seed,
                disable_tqdm=True, report_to=[], dataloader_pin_memory=False,
            ),
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {
                "accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())
            },
        )  # fmt: skip
        trainer.train()
        model.save_pretrained(Path(folder, "saved"))
        size = Path(folder, "saved", "adapter_model.safetensors").stat().st_size
    logs = trainer.state.log_history
    evaluation = sum(entry.get("eval_runtime", 0) for entry in logs)
    runtime = next(e["train_runtime"] for e in logs if "train_runtime" in e)
    return {
        "accuracy": max(e["eval_accuracy"] for e in logs if "eval_accuracy" in e),
        "updates": trainer.state.global_step,
        "train_seconds": runtime - evaluation,
        "total_seconds": time.monotonic() - started,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "saved_kb": size / 1e3,
    }


def main() -> None:
    args = arguments()
    if args.side:
        result = run_adaptkit(args) if args.side == "adaptkit" else run_peft(args)
        print(json.dumps(result))
        return
    sides = {}
    for side in ("adaptkit", "peft"):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        sides[side] = json.loads(output.strip().splitlines()[-1])
        print(side, json.dumps(sides[side]), flush=True)
    print(f"{'':16}{'adaptkit':>12}{'peft':>12}{'ratio':>8}")
    for name, ours in sides["adaptkit"].items():
        theirs = sides["peft"][name]
        print(f"{name:16}{ours:12.4g}{theirs:12.4g}{ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
