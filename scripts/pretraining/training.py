"""A Trainer whose learning rate, checkpoints and end follow the processor's time."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pretraining.objectives import Batch
from pretraining.recipes import Recipe
from pretraining.texts import write_json

LOGGER = logging.getLogger("pretrain_mini")


@dataclass
class Clock:
    """Processor time spent training, per thread: waiting for other processes does not count."""

    total: float
    warmup: float
    seconds: float = 0.0
    saved: float = 0.0
    last: float | None = None

    @staticmethod
    def now() -> float:
        """Return the processor time of a thread so far."""
        return time.process_time() / torch.get_num_threads()

    def tick(self) -> None:
        """Count the time since the last call."""
        now = self.now()
        if self.last is not None:
            self.seconds += now - self.last
        self.last = now

    def factor(self) -> float:
        """Return the share of the peak learning rate: linear warm-up, linear decay."""
        progress = self.seconds / self.total
        if progress < self.warmup:
            return max(progress / self.warmup, 0.01)
        return max((1 - progress) / (1 - self.warmup), 0.0)


class Progress(TrainerCallback):
    """Keeps the clock, stops in time, asks for checkpoints and writes the curve."""

    def __init__(self, clock: Clock, curve: Path, tokens: int, save_every: float) -> None:
        self.clock, self.curve, self.tokens, self.every = clock, curve, tokens, save_every

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock with the first step."""
        if self.clock.last is None:
            self.clock.last = self.clock.now()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop when the time is up; ask for a checkpoint when one is due."""
        self.clock.tick()
        control.should_training_stop = self.clock.seconds >= self.clock.total
        due = self.clock.seconds - self.clock.saved >= self.every
        control.should_save = due or control.should_training_stop

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as complete and keep the time spent so far with it."""
        self.clock.saved = self.clock.seconds
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / "clock.json", {"seconds": self.clock.seconds})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Add a row to the curve."""
        logs = more["logs"]
        if "loss" not in logs:
            return
        row = {
            "step": state.global_step,
            "seconds": round(self.clock.seconds, 1),
            "tokens": state.global_step * self.tokens,
            "loss": float(logs["loss"]),
            "lr": float(logs["learning_rate"]),
            "grad_norm": round(float(logs["grad_norm"]), 3),
        }
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        LOGGER.info("%s", row)


class MiniTrainer(Trainer):
    """Trainer with the recipe's loss under autocast and a learning rate that follows the clock."""

    def __init__(self, recipe: Recipe, clock: Clock, **more: Any) -> None:
        super().__init__(**more)
        self.recipe, self.clock = recipe, clock

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Let the learning rate follow the clock instead of the steps."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda _step: self.clock.factor()
        )
        return self.lr_scheduler

    def compute_loss(
        self, model: PreTrainedModel, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """Return the recipe's loss, computed in bf16 where that is safe."""
        with torch.autocast(self.args.device.type, torch.bfloat16):
            return self.recipe.loss(model, inputs)
