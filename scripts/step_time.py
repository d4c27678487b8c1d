"""Time of a training step and peak memory, by adaptkit and by PEFT, for the methods that both have.

    OMP_NUM_THREADS=1 python scripts/step_time.py --model DIR [--methods lora dora ...]

The same body, classifier, settings of the method, batch of random tokens and AdamW; in fp32. A step
is forward, backward and update; its time is processor time per thread (other processes do not
count). The two sides take turns, step by step, in one process: what slows the machine slows both.
Which of them is built first decides where its weights lie, which is worth 1 %; so there are two
such processes, one for either order. Shown are the medians of the times, and of the ratios by order
with their geometric mean. Peak memory is that of a process for each side alone, in MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

P, RANK = 20, 8
SIDES = ("adaptkit", "peft")

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
    from adaptkit.config.build import build
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


class Stepper:
    """One side's model in training; calling it takes a step and returns its time in ms."""

    def __init__(self, side: str, name: str, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(args.model, num_labels=2)
        body = AutoModelForSequenceClassification.from_pretrained(
            args.model, config=config, dtype=torch.float32
        )
        adapt = ours if side == "adaptkit" else theirs
        self.model, (self.loss, self.after) = adapt(body, name, args)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = sum(p.numel() for p in learning)
        self.optimizer = torch.optim.AdamW(learning, 1e-3)
        ids = torch.randint(1000, config.vocab_size, (args.batch_size, args.length))
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        self.labels = torch.arange(len(ids)) % 2
        self.extra = {"labels": self.labels} if side == "peft" else {}
        self.model.train()
        self.steps = 0

    def __call__(self) -> float:
        """Train one step."""
        start = time.process_time()
        outputs = self.model(**self.batch, **self.extra)
        self.loss(outputs, self.labels, self.steps).backward()
        self.optimizer.step()
        self.after(self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return (time.process_time() - start) * 1e3 / torch.get_num_threads()


def times(first: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Step both sides in turns; return the median times, ms, and the median of the ratios."""
    built = {side: Stepper(side, name, args) for side in sorted(SIDES, key=lambda s: s != first)}
    sides = [built[side] for side in SIDES]
    for _ in range(3):  # the first steps allocate
        for step in sides:
            step()
    taken = []
    for index in range(args.steps):
        order = sides if index % 2 else sides[::-1]
        now = {step: step() for step in order}
        taken.append([now[step] for step in sides])
    trained = [step.trained for step in sides]
    if trained[0] != trained[1]:
        raise SystemExit(f"{name}: {trained[0]:,} learn here, {trained[1]:,} there")
    return {
        "ms": [statistics.median(column) for column in zip(*taken, strict=True)],
        "ratio": statistics.median(mine / other for mine, other in taken),
        "trained": trained[0],
    }


def peak(side: str, name: str, args: argparse.Namespace) -> float:
    """Return the peak memory of a process that trains one side alone, MB."""
    step = Stepper(side, name, args)
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def apart(what: str, name: str) -> Any:
    """Measure in a process of its own: both sides' times, one built first, or the peak of one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", what, name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, {what} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a BERT checkpoint's folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        what, name = args.one
        measure, _, side = what.partition(":")
        print(json.dumps((times if measure == "times" else peak)(side, name, args)))
        return
    print("| method | ms a step: adaptkit | PEFT | ratio (by order) "
          "| peak MB: adaptkit | PEFT | trained |")  # fmt: skip
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name in args.methods:
        orders = [apart(f"times:{side}", name) for side in SIDES]
        mine, other = (
            statistics.mean(pair) for pair in zip(*(o["ms"] for o in orders), strict=True)
        )
        ratios = [order["ratio"] for order in orders]
        peaks = [apart(f"peak:{side}", name) for side in SIDES]
        print(
            f"| `{name}` | {mine:.0f} | {other:.0f} | {statistics.geometric_mean(ratios):.3f} "
            f"({ratios[0]:.3f}, {ratios[1]:.3f}) | {peaks[0]:.0f} | {peaks[1]:.0f} | "
            f"{orders[0]['trained']:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
