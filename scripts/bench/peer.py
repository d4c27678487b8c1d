"""One run of another way of doing a Work, in a process of its own: prints its figures as JSON.

    stock   PEFT (or a plain transformers model) and the Trainer, as their documentation shows:
            fp32, batches in random order, padded to the longest text
    tuned   the same as a careful user sets it: bf16, batches of similar length, fused AdamW
    plain   a loop without a framework: frozen matrices in bf16, the rest as `tuned`
    count   nothing is trained: the FLOPs of the work's products (`flops.py`)

What each kind of task asks for stands in `recipes.py`. Every side trains the same rows as often,
with the same batch size, rate, warm-up and weight decay, scores the same validation rows once and
saves what it has trained. Known differences: adaptkit proves what it saved on a fresh model; with
`houlsby` it also trains the norms, and with `gpt2` it gives query and value a pair each, where PEFT
gives one to query, key and value together.
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
from bench.flops import of_work
from bench.recipes import RECIPES, collator
from bench.works import EPSILON, LENGTH, METHODS, RANK, SHAPES, TARGETS, WARMUP, WIDTH

STARTED = time.monotonic()
Trained = tuple[Any, float, list[float]]  # model, seconds, losses


def rows_of(args: argparse.Namespace, tokenizer: Any, split: str) -> tuple[Any, list, list]:
    """Return the rows of a split, what the model reads of them, and what scoring must know."""
    import pandas as pd

    shape = SHAPES[args.shape]
    table = pd.read_parquet(args.data / shape.data / f"{split}.parquet")
    return table, *RECIPES[shape.kind].encode(tokenizer, shape, table)


def adapted(args: argparse.Namespace, **words: Any) -> Any:
    """Return the model with the method on it, by PEFT where PEFT has it."""
    import peft
    import transformers

    kind = SHAPES[args.shape].kind
    task, words = RECIPES[kind].peft, {**words, **({"num_labels": 2} if kind == "classify" else {})}
    if args.method == "probe":  # frozen features are read without dropout
        words |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = getattr(transformers, RECIPES[kind].auto).from_pretrained(args.model, **words)
    model.config.pad_token_id = model.config.pad_token_id or 0
    new = [n for n, _ in model.named_parameters() if not n.startswith(model.base_model_prefix)]

    def only(keep: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in new or keep(name))
        return model

    if args.method == "lora":
        targets = TARGETS[model.config.model_type]
        config = peft.LoraConfig(task_type=task, r=RANK, lora_alpha=RANK, target_modules=targets)
        return peft.get_peft_model(model, config)
    if args.method == "prefix":  # PEFT refuses models without a cache of keys and values
        return peft.get_peft_model(
            model, peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=LENGTH)
        )
    if args.method == "prompt":
        return peft.get_peft_model(
            model, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH)
        )
    if args.method == "houlsby":
        bottlenecks(model.base_model)
        return only(lambda name: ".bottleneck." in name)
    if args.method == "probe":
        model.base_model.register_forward_hook(averaged, with_kwargs=True)
    layers = model.config.num_hidden_layers
    last = tuple(f".layer.{layers - 1 - k}." for k in range(2))
    return only({
        "full": lambda name: True,
        "bitfit": lambda name: name.endswith(".bias"),
        "top_k": lambda name: "pooler" in name or any(part in name for part in last),
        "probe": lambda name: False,
    }[args.method])  # fmt: skip


def averaged(base: Any, inputs: Any, named: dict[str, Any], output: Any) -> Any:
    """Let the classifier read the mean of the tokens, as adaptkit's probe does."""
    real = named["attention_mask"][..., None]
    output.pooler_output = (output.last_hidden_state * real).sum(1) / real.sum(1)
    return output


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


def by_trainer(args: argparse.Namespace, tokenizer: Any, features: list[dict]) -> Trained:
    """Train with transformers' Trainer."""
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(0)
    model, (rate, _), tuned = adapted(args), METHODS[args.method], args.side == "tuned"
    best = {"optim": "adamw_torch_fused"} if tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder, num_train_epochs=args.epochs, learning_rate=rate,
                per_device_train_batch_size=SHAPES[args.shape].batch, warmup_steps=WARMUP,
                weight_decay=0.01, adam_epsilon=EPSILON, bf16=tuned,
                train_sampling_strategy="group_by_length" if tuned else "random",
                **best,
                eval_strategy="no", save_strategy="no", logging_steps=args.log_every,
                disable_tqdm=True, report_to=[], use_cpu=not args.cuda,
                dataloader_pin_memory=args.cuda, seed=0,
            ),
            train_dataset=features,
            data_collator=collator(SHAPES[args.shape].kind, tokenizer, model),
        )  # fmt: skip
        output = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return model, output.metrics["train_runtime"], losses


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


def by_loop(args: argparse.Namespace, tokenizer: Any, features: list[dict]) -> Trained:
    """Train in a loop of one's own."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(0)
    device = torch.device("cuda" if args.cuda else "cpu")
    model, rate, size = adapted(args).to(device), METHODS[args.method][0], SHAPES[args.shape].batch
    collate = collator(SHAPES[args.shape].kind, tokenizer, model)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, rate, eps=EPSILON, weight_decay=0.01, fused=True)
    updates = args.epochs * math.ceil(len(features) / size)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * updates), updates)
    begun, losses = time.monotonic(), []
    model.train()
    for batch in batches(features, size, args.epochs):
        inputs = collate(batch).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    every, whole = args.log_every, torch.stack(losses).float()
    curve = whole[: len(whole) // every * every].view(-1, every).mean(1).tolist()
    return model, time.monotonic() - begun, curve


def score(args: argparse.Namespace, tokenizer: Any, model: Any) -> float:
    """Return the score of the validation rows, in batches of 64."""
    import torch

    recipe, device = RECIPES[SHAPES[args.shape].kind], next(model.parameters()).device
    table, features, notes = rows_of(args, tokenizer, "validation")
    collate, answers = collator(SHAPES[args.shape].kind, tokenizer, model), []
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, args.side != "stock"):
        for start in range(0, len(features), 64):
            batch = collate(features[start : start + 64]).to(device)
            answers += recipe.answer(model, tokenizer, batch)
    return recipe.score(answers, notes, table)


def measured(args: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Train, score and save; return the figures."""
    _, features, _ = rows_of(args, tokenizer, "train")
    train = by_loop if args.side == "plain" else by_trainer
    model, seconds, losses = train(args, tokenizer, features)
    begun = time.monotonic()
    scored = score(args, tokenizer, model)
    scoring = time.monotonic() - begun
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
    return {
        "seconds": seconds,
        "losses": losses,
        "score": scored,
        "scoring_seconds": scoring,
        "total_seconds": time.monotonic() - STARTED,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def counted(args: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Return the FLOPs of the work's products."""
    _, features, _ = rows_of(args, tokenizer, "train")
    model, two = adapted(args, attn_implementation="eager"), SHAPES[args.shape].kind == "seq2seq"
    return {"flops": of_work(model, features, args.epochs, two), "features": len(features)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", required=True, choices=["stock", "tuned", "plain", "count"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--method", required=True, choices=list(METHODS))
    parser.add_argument("--shape", required=True, choices=list(SHAPES))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50, help="updates")
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    print(json.dumps((counted if args.side == "count" else measured)(args, tokenizer)))


if __name__ == "__main__":
    main()
