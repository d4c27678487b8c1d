"""What a checkpoint holds beside the Trainer's own state, and which checkpoint can be trusted.

The Trainer saves optimizer, schedule, random state and its log; added are what learns (not the
whole model), the best weights so far, the state of hooks, and the clock. A checkpoint counts once
its last file, `complete`, is there: a save that was cut short is removed.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from adaptkit.storage.files import is_main_process, save_tensors, write_text
from adaptkit.training.scores import Best

if TYPE_CHECKING:
    from adaptkit.training.trainer import AdaptTrainer

STATE = "adaptkit.json"  # what the Trainer's own files do not hold
COMPLETE = "complete"  # written last
DELTA, BEST, HOOKS = "delta.safetensors", "best.safetensors", "hooks.safetensors"


def write_state(trainer: AdaptTrainer, folder: Path) -> None:
    """Write what learns, the best weights, the hooks' state and the clock into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / DELTA, trainer.adaptation.delta())
    if trainer.best_delta is not None:
        save_tensors(folder / BEST, trainer.best_delta)
    hooks = {
        f"{name}:{key}": tensor
        for name, hook in trainer.adaptation.stateful().items()
        for key, tensor in hook.state_dict().items()
    }
    save_tensors(folder / HOOKS, hooks)
    state = {
        "best_score": trainer.best.score,
        "best_update": trainer.best.update,
        "seconds": trainer.elapsed(),
        "eval_seconds": trainer.seconds["eval"],
        "over": trainer.control.should_training_stop,
    }
    write_text(folder / STATE, json.dumps(state))


def read_state(trainer: AdaptTrainer, folder: Path) -> None:
    """Take back what `write_state` wrote."""
    device = trainer.args.device
    delta = load_file(folder / DELTA)
    trainer.adaptation.load_delta({name: tensor.to(device) for name, tensor in delta.items()})
    if (folder / BEST).is_file():
        trainer.best_delta = load_file(folder / BEST)
    state = json.loads((folder / STATE).read_text())
    trainer.best = Best(state["best_score"], state["best_update"])
    trainer.started = time.monotonic() - state["seconds"]
    trainer.seconds["eval"] = state["eval_seconds"]
    hooks = load_file(folder / HOOKS)
    for name, hook in trainer.adaptation.stateful().items():
        mine = {k[len(name) + 1 :]: t for k, t in hooks.items() if k.startswith(f"{name}:")}
        hook.load_state_dict(mine)


def over(checkpoint: str) -> bool:
    """Tell whether training had ended when a checkpoint was written."""
    return json.loads((Path(checkpoint) / STATE).read_text())["over"]


def last_complete(checkpoints: Path) -> str | None:
    """Return the newest checkpoint whose save was finished; remove what was cut short."""
    found = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            found.append((int(folder.name.rpartition("-")[2]), folder))
        elif is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
    return str(max(found)[1]) if found else None
