"""TrainingState: what a checkpoint holds next to the Trainer's own files.

The Trainer saves optimizer, schedule, random state and its log; added are the trainable tensors
(not the whole model), the best weights so far, the state of hooks, the losses that were not
reported yet, and the clock.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from adaptkit.adaptation import Adaptation
from adaptkit.storage.files import is_main_process, save_tensors, write_text
from adaptkit.training import checkpoints
from adaptkit.training.losses import Losses
from adaptkit.training.scorer import distributed

STATE = "adaptkit.json"  # what the Trainer's own files do not hold
DELTA, BEST, HOOKS = "delta.safetensors", "best.safetensors", "hooks.safetensors"


@dataclass
class TrainingState:
    """The best evaluation so far, losses to be reported, and the clock."""

    losses: Losses
    best_score: float | None = None  # None: nothing was evaluated yet
    best_update: int = 0
    best_delta: dict[str, Tensor] | None = None
    eval_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return seconds of training so far, those before an interruption included."""
        return time.monotonic() - self.started

    def improves(self, value: float, update: int, kept: Adaptation | None) -> bool:
        """Note an evaluation, and the weights of `kept` if it is the best so far."""
        undefined = math.isnan(value)  # a constant prediction has no correlation
        value = -math.inf if undefined else value
        if self.best_score is not None and value <= self.best_score:
            # As long as no score was defined, the latest weights count.
            if not (undefined and self.best_score == -math.inf):
                return False
        self.best_score, self.best_update = value, update
        if kept is not None:  # in every process: all score the same weights
            delta = kept.delta()
            self.best_delta = {name: t.to("cpu", copy=True) for name, t in delta.items()}
        return True

    def write(self, folder: Path, adaptation: Adaptation, over: bool) -> None:
        """Write the state, what trains and the hooks' state; `over`: training has ended."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / DELTA, adaptation.delta())
        if self.best_delta is not None:
            save_tensors(folder / BEST, self.best_delta)
        hooks = {
            f"{name}:{key}": tensor
            for name, hook in adaptation.stateful().items()
            for key, tensor in hook.state_dict().items()
        }
        save_tensors(folder / HOOKS, hooks)
        facts = {
            "best_score": self.best_score,
            "best_update": self.best_update,
            "seconds": self.elapsed(),
            "eval_seconds": self.eval_seconds,
            "losses": self.losses.state(),
            "over": over,
        }
        write_text(folder / STATE, json.dumps(facts))

    def read(self, folder: Path, adaptation: Adaptation, device: torch.device) -> None:
        """Take back what `write` wrote."""
        delta = load_file(folder / DELTA)
        adaptation.load_delta({name: tensor.to(device) for name, tensor in delta.items()})
        if (folder / BEST).is_file():
            self.best_delta = load_file(folder / BEST)
        facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.best_score, self.best_update = facts["best_score"], facts["best_update"]
        self.started = time.monotonic() - facts["seconds"]
        self.eval_seconds = facts["eval_seconds"]
        self.losses.load_state(facts["losses"])
        hooks = load_file(folder / HOOKS)
        for name, hook in adaptation.stateful().items():
            start = f"{name}:"
            mine = {k: t.to(device) for k, t in hooks.items() if k.startswith(start)}
            hook.load_state_dict({k.removeprefix(start): t for k, t in mine.items()})


def is_over(checkpoint: Path) -> bool:
    """Tell whether training had ended when a checkpoint was written."""
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["over"]


def last_checkpoint(folder: Path, run: str) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint of a run, and remarks on those passed over.

    In a distributed run one process looks, and all get its answer.
    """
    found: list[Any] = [checkpoints.choose(folder, run) if is_main_process() else None]
    if distributed():
        dist.broadcast_object_list(found)
    return found[0]
