"""TrainingState: what a checkpoint holds next to the Trainer's own files, and which can be trusted.

The Trainer saves optimizer, schedule, random state and its log; added are the trainable tensors
(not the whole model), the best weights so far, the state of hooks, and the clock. A checkpoint
counts once its last file, `complete`, is there: a save that was cut short is removed.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from adaptkit.adaptation import Adaptation
from adaptkit.storage.files import is_main_process, save_tensors, write_text

STATE = "adaptkit.json"  # what the Trainer's own files do not hold
COMPLETE = "complete"  # written last
DELTA, BEST, HOOKS = "delta.safetensors", "best.safetensors", "hooks.safetensors"


@dataclass
class TrainingState:
    """The best evaluation so far, and the clock."""

    best_score: float | None = None  # None: nothing was evaluated yet
    best_update: int = 0
    best_delta: dict[str, Tensor] | None = None
    eval_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return seconds of training so far, those before an interruption included."""
        return time.monotonic() - self.started

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
        hooks = load_file(folder / HOOKS)
        for name, hook in adaptation.stateful().items():
            mine = {k[len(name) + 1 :]: t for k, t in hooks.items() if k.startswith(f"{name}:")}
            hook.load_state_dict(mine)


def is_over(checkpoint: Path) -> bool:
    """Tell whether training had ended when a checkpoint was written."""
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["over"]


def last_complete(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint whose save was finished; remove what was cut short."""
    complete = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            complete.append((int(folder.name.rpartition("-")[2]), folder))
        elif is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
    return max(complete)[1] if complete else None
