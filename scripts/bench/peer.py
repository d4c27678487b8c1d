"""One run of another way of doing a Work, in a process of its own: prints its figures as JSON.

    stock   PEFT (or a plain transformers model) and the Trainer, as their documentation shows:
            fp32, batches in random order, padded to the longest text
    tuned   the same as a careful user sets it: bf16, batches of similar length, fused AdamW
    plain   a loop without a framework: frozen matrices in bf16, the rest as `tuned`

Every side trains the same rows as often, with the same batch size, rate, warm-up and weight decay,
scores the same validation rows once and saves what it has trained. Known differences: adaptkit
proves what it saved on a fresh model; with `houlsby` it also trains the norms, and with `gpt2` it
gives query and value a pair each, where PEFT gives one to query, key and value together.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.works import EPSILON, LENGTH, METHODS, RANK, SHAPES, WARMUP, WIDTH

STARTED = time.monotonic()


def rows_of(args: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Return the encoded rows of both splits."""
    import pandas as pd

    shape, made = SHAPES[args.shape], {}
    for split in ("train", "validation"):
        table = pd.read_parquet(args.data / shape.task / f"{split}.parquet")
        texts = [table[column].tolist() for column in shape.text]
        read = tokenizer(*texts, truncation=True, max_length=shape.max_length)
        labels = table["label"].tolist()
        made[split] = [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, label in zip(
                read["input_ids"], read["attention_mask"], labels, strict=True
            )
        ]
    return made


def adapted(args: argparse.Namespace) -> Any:
    """Return the model with the method on it, by PEFT where PEFT has it."""
    import peft
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    model.config.pad_token_id = model.config.pad_token_id or 0
    base = getattr(model, model.base_model_prefix)
    new = [n for n, _ in model.named_parameters() if not n.startswith(model.base_model_prefix)]

    def only(keep: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in new or keep(name))
        return model

    if args.method == "lora":
        fused = model.config.model_type == "gpt2"
        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=RANK, lora_alpha=RANK,
            target_modules=["c_attn"] if fused else ["query", "value"],
        )  # fmt: skip
        return peft.get_peft_model(model, config)
    if args.method == "prefix":  # PEFT refuses models without a cache of keys and values
        return peft.get_peft_model(
            model, peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH)
        )
    if args.method == "prompt":
        return peft.get_peft_model(
            model, peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH)
        )
    if args.method == "houlsby":
        bottlenecks(base)
        return only(lambda name: ".bottleneck." in name)
    layers = model.config.num_hidden_layers
    last = tuple(f".layer.{layers - 1 - k}." for k in range(2))
    return only({
        "full": lambda name: True,
        "bitfit": lambda name: name.endswith(".bias"),
        "top_k": lambda name: "pooler" in name or any(part in name for part in last),
        "probe": lambda name: False,
    }[args.method])  # fmt: skip


def bottlenecks(base: Any) -> None:
    """Put an adapter after both sub-layers of every layer of BERT, by hooks."""
    from torch import nn

    for layer in base.encoder.layer:
        for dropout in (layer.attention.output.dropout, layer.output.dropout):
            width = base.config.hidden_size
            made = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), nn.Linear(WIDTH, width))
            nn.init.zeros_(made[2].weight)
            dropout.bottleneck = made
            dropout.register_forward_hook(lambda m, a, y: y + m.bottleneck(y).to(y.dtype))


def by_trainer(args: argparse.Namespace, tokenizer: Any, rows: dict[str, Any]) -> dict[str, Any]:
    """Train with transformers' Trainer."""
    import numpy as np
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(0)
    model, (rate, _), tuned = adapted(args), METHODS[args.method], args.side == "tuned"
    best = {"optim": "adamw_torch_fused"} if tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder, num_train_epochs=args.epochs, learning_rate=rate,
                per_device_train_batch_size=SHAPES[args.shape].batch,
                per_device_eval_batch_size=64, warmup_steps=WARMUP, weight_decay=0.01,
                adam_epsilon=EPSILON, bf16=tuned,
                train_sampling_strategy="group_by_length" if tuned else "random",
                **best,
                eval_strategy="no", save_strategy="no", logging_steps=50, disable_tqdm=True,
                report_to=[], use_cpu=not args.cuda, dataloader_pin_memory=args.cuda, seed=0,
            ),
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {
                "accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())
            },
        )  # fmt: skip
        output = trainer.train()
        scores = trainer.evaluate()
        model.save_pretrained(Path(folder, "saved"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = output.metrics["train_runtime"]
    return {"seconds": seconds, "losses": losses, "accuracy": scores["eval_accuracy"]}


def batches(rows: list[dict], size: int, epochs: int) -> Iterator[list[dict]]:
    """Yield batches of texts of similar length, in random order."""
    import torch

    for _ in range(epochs):
        order = torch.randperm(len(rows)).tolist()
        large = [order[i : i + 50 * size] for i in range(0, len(order), 50 * size)]
        alike = [i for part in large for i in sorted(part, key=lambda i: len(rows[i]["input_ids"]))]
        cut = [alike[i : i + size] for i in range(0, len(alike), size)]
        for index in torch.randperm(len(cut)).tolist():
            yield [rows[i] for i in cut[index]]


def by_loop(args: argparse.Namespace, tokenizer: Any, rows: dict[str, Any]) -> dict[str, Any]:
    """Train in a loop of one's own."""
    import torch
    from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup

    torch.manual_seed(0)
    device = torch.device("cuda" if args.cuda else "cpu")
    model, rate, size = adapted(args).to(device), METHODS[args.method][0], SHAPES[args.shape].batch
    collate = DataCollatorWithPadding(tokenizer)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, rate, eps=EPSILON, weight_decay=0.01, fused=True)
    updates = args.epochs * math.ceil(len(rows["train"]) / size)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * updates), updates)
    begun, losses = time.monotonic(), []
    model.train()
    for batch in batches(rows["train"], size, args.epochs):
        inputs = collate(batch).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    seconds = time.monotonic() - begun
    model.eval()
    right = 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for start in range(0, len(rows["validation"]), 64):
            inputs = collate(rows["validation"][start : start + 64]).to(device)
            right += int((model(**inputs).logits.argmax(-1) == inputs["labels"]).sum())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
    curve = [float(torch.stack(losses[i : i + 50]).mean()) for i in range(0, len(losses), 50)]
    return {"seconds": seconds, "losses": curve, "accuracy": right / len(rows["validation"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", required=True, choices=["stock", "tuned", "plain"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--method", required=True, choices=list(METHODS))
    parser.add_argument("--shape", required=True, choices=list(SHAPES))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = rows_of(args, tokenizer)
    made = (by_loop if args.side == "plain" else by_trainer)(args, tokenizer, rows)
    print(json.dumps({
        **made,
        "examples_per_second": args.epochs * len(rows["train"]) / made["seconds"],
        "total_seconds": time.monotonic() - STARTED,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
