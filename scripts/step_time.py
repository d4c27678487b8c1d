"""Time of a training step and peak memory, by adaptkit and by PEFT, for the methods that both have.

    OMP_NUM_THREADS=1 python scripts/step_time.py --model DIR [--methods lora dora ...]

The same body, classifier, settings of the method, batch of random tokens and AdamW; in fp32. Every
measurement runs in a process of its own; the sides take turns, `--rounds` times. A step is forward,
backward and update; its time is processor time per thread (other processes do not count), that of
the fastest step of all rounds. Peak memory is that of the process, in MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

P, RANK = 20, 8

# method -> (adaptkit's options, PEFT's class, PEFT's options)
METHODS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "lora": (
        {"rank": RANK, "alpha": 8.0, "roles": ("query", "value")},
        "LoraConfig", {"r": RANK, "lora_alpha": 8, "target_modules": ["query", "value"]},
    ),
    "dora": (
        {"rank": RANK, "alpha": 8.0, "roles": ("query", "value")},
        "LoraConfig",
        {"r": RANK, "lora_alpha": 8, "target_modules": ["query", "value"], "use_dora": True},
    ),
    "pissa": (
        {"rank": RANK, "alpha": 8.0, "roles": ("query", "value")},
        "LoraConfig",
        {"r": RANK, "lora_alpha": 8, "target_modules": ["query", "value"],
         "init_lora_weights": "pissa"},
    ),
    "vera": (
        {"rank": 256, "roles": ("query", "value")},
        "VeraConfig", {"r": 256, "target_modules": ["query", "value"]},
    ),
    "adalora": (
        {"rank": 12, "target_rank": 8, "roles": ("query", "value")},
        "AdaLoraConfig",
        {"init_r": 12, "target_r": 8, "target_modules": ["query", "value"], "total_step": 100,
         "tinit": 10, "tfinal": 30, "deltaT": 10},
    ),
    "ia3": (
        {"roles": ("key", "value", "down")},
        "IA3Config",
        {"target_modules": r".*(key|value|layer\.\d+\.output\.dense)",
         "feedforward_modules": r".*layer\.\d+\.output\.dense"},
    ),
    "prompt": (
        {"length": P, "init": "random"},
        "PromptTuningConfig", {"num_virtual_tokens": P},
    ),
    "ptuning": (
        {"length": P},
        "PromptEncoderConfig",
        {"num_virtual_tokens": P, "encoder_reparameterization_type": "LSTM",
         "encoder_num_layers": 2},
    ),
    "prefix": (
        {"length": P, "projection": 0},
        "PrefixTuningConfig", {"num_virtual_tokens": P},
    ),
}  # fmt: skip


def ours(model: nn.Module, name: str, args: argparse.Namespace) -> tuple[nn.Module, Any]:
    """Return the model adapted by adaptkit, and what is to be done after each update."""
    from adaptkit.adaptation import Adaptation, Context, Step
    from adaptkit.config import build
    from adaptkit.methods import METHODS as ALL
    from adaptkit.models.loading import head_names

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    context = Context(tokenizer, torch.Generator().manual_seed(0), 100)
    method = build(ALL[name], METHODS[name][0], "method")
    adaptation = method.adapt(Adaptation.of(model, head_names(model)), context)

    def loss(outputs: Any, labels: torch.Tensor, index: int) -> torch.Tensor:
        total = nn.functional.cross_entropy(outputs.logits, labels)
        for penalty in adaptation.penalty.values():
            total = total + penalty(adaptation.model, {}, outputs, Step(index, 100, 1e-3))
        return total

    def after(index: int) -> None:
        for hook in adaptation.after_update:
            hook(Step(index, 100, 1e-3))

    return adaptation.model, (loss, after)


def theirs(model: nn.Module, name: str, args: argparse.Namespace) -> tuple[nn.Module, Any]:
    """Return the model adapted by PEFT, and what is to be done after each update."""
    import peft

    _, kind, options = METHODS[name]
    if name == "ptuning":  # as the paper and adaptkit: half the width in each direction
        options = {**options, "encoder_hidden_size": model.config.hidden_size // 2}
    config = getattr(peft, kind)(task_type="SEQ_CLS", **options)
    wrapped = peft.get_peft_model(model, config)

    def loss(outputs: Any, labels: torch.Tensor, index: int) -> torch.Tensor:
        return outputs.loss

    def after(index: int) -> None:
        if name == "adalora":
            wrapped.base_model.update_and_allocate(index)

    return wrapped, (loss, after)


def measure(side: str, name: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the time of the fastest step, ms, and the peaks of memory, MB."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(args.model, num_labels=2)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, config=config, dtype=torch.float32
    )
    model, (loss, after) = (ours if side == "adaptkit" else theirs)(model, name, args)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, 1e-3)
    ids = torch.randint(1000, config.vocab_size, (args.batch_size, args.length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.arange(len(ids)) % 2
    model.train()
    times = []
    for index in range(args.steps + 2):
        start = time.process_time()
        outputs = model(**batch) if side == "adaptkit" else model(**batch, labels=labels)
        loss(outputs, labels, index).backward()
        optimizer.step()
        after(index)
        optimizer.zero_grad(set_to_none=True)
        times.append((time.process_time() - start) / torch.get_num_threads())
    return {
        "ms": min(times[2:]) * 1e3,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "trained": sum(p.numel() for p in learning),
    }


def apart(side: str, name: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", side, name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} {name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a BERT checkpoint's folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args)))
        return
    print("| method | ms a step: adaptkit | PEFT | ratio | peak MB: adaptkit | PEFT | trained |")
    print("| --- | --: | --: | --: | --: | --: | --- |")
    for name in args.methods:
        rounds = [(apart("adaptkit", name, args), apart("peft", name, args))
                  for _ in range(args.rounds)]  # fmt: skip
        (mine, other) = (min(side, key=lambda m: m["ms"]) for side in zip(*rounds, strict=True))
        if mine["trained"] != other["trained"]:
            raise SystemExit(f"{name}: {mine['trained']:,} learn here, {other['trained']:,} there")
        print(
            f"| `{name}` | {mine['ms']:.0f} | {other['ms']:.0f} | {mine['ms'] / other['ms']:.2f} | "
            f"{mine['peak']:.0f} | {other['peak']:.0f} | {mine['trained']:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
