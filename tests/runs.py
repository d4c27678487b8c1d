"""Runs in this process as tests want them: settings in a line, kills, and what is left behind."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import rows
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from adaptkit.config.compose import compose
from adaptkit.config.settings import Settings, settings
from adaptkit.runs.run import Interface, run
from adaptkit.training.trainer import AdaptTrainer

TRAIN_ROWS, VALIDATION_ROWS = 44, 20
QUICK = {
    "trainer.device": "cpu",
    "trainer.precision": "fp32",
    "trainer.batch_size": 8,
    "trainer.log_every": 2,
    "trainer.epochs": 3,
    "optimizer.lr": 1e-3,
}


class Killed(BaseException):
    """Ends a run as a kill would: nothing that catches exceptions tidies up after it."""


def sentiment(folder: Path, train: int = TRAIN_ROWS, validation: int = VALIDATION_ROWS) -> Path:
    """Write DIR/train.jsonl and DIR/validation.jsonl of sentiment rows; return DIR."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 1), ("validation", validation, 2)):
        lines = [json.dumps(row) for row in rows(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def shallow(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    """Copy a BERT and keep one of its layers, for tests that run many times.

    `changes`: other entries of its config.json.
    """
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, **changes}))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not re.search(r"\.[1-9]\.", name)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@functools.cache
def _composed(*overrides: str) -> dict[str, Any]:
    return compose(["model=auto", "model.path=unset", "task=sst2", *overrides])


def configure(
    directory: Path, model: Path, data: Path, *overrides: str, **changes: Any
) -> Settings:
    """Return the settings of a quick run; groups as overrides, single keys as changes."""
    plain = copy.deepcopy(_composed(*overrides))
    places = {
        "output_dir": str(directory),
        "model.path": str(model),
        "model.name": model.name,
        "task.path": str(data),
    }
    for key, value in {**QUICK, **places, **changes}.items():
        *groups, leaf = key.split(".")
        node = functools.reduce(lambda part, group: part[group], groups, plain)
        if leaf not in node:
            raise KeyError(key)
        node[leaf] = value
    return settings(plain)


def carry_out(run_settings: Settings, *callbacks: TrainerCallback) -> tuple[dict, list[str]]:
    """Run and return the record and what was said; no progress bars."""
    said: list[str] = []
    result = run(run_settings, Interface(said.append, lambda what: callbacks))
    return result.as_dict(), said


def at(event: str, update: int, act: Callable[[], None]) -> TrainerCallback:
    """Return a callback that acts at one of the Trainer's events, after `update` updates."""

    def react(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == update:
            act()

    return type("At", (TrainerCallback,), {event: react})()


def script(patch: pytest.MonkeyPatch, accuracies: dict[int, float]) -> None:
    """Let evaluations report chosen accuracies, by the update they are made after."""
    score = AdaptTrainer.score

    def scripted(self: AdaptTrainer, generate: bool = True) -> Any:
        update = self.state.global_step if self.is_in_train else self.progress.best_update
        scores = {"accuracy": accuracies[update]}
        scored = score(self, generate)
        return {suffix: replace(part, scores=scores) for suffix, part in scored.items()}

    patch.setattr(AdaptTrainer, "score", scripted)


class Final(TrainerCallback):
    """Copies the state of optimizer and schedule when training ends."""

    state: dict[str, Any] | None = None

    def on_train_end(
        self, args: Any, state: Any, control: Any,
        optimizer: Any = None, lr_scheduler: Any = None, **_: Any,
    ) -> None:  # fmt: skip
        self.state = copy.deepcopy(
            {"optimizer": optimizer.state_dict(), "schedule": lr_scheduler.state_dict()}
        )


def history(directory: Path) -> list[dict[str, Any]]:
    """Return history.jsonl without the clock."""
    lines = (directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


RECORDED = (
    "status", "error", "score", "scores", "updates", "best_update", "epochs", "params",
    "delta_bytes", "split", "metric", "precision",
)  # fmt: skip


def outcome(directory: Path) -> dict[str, Any]:
    """Return all of a finished run that must not depend on the clock, to the bit."""
    record = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    tensors = load_file(directory / "delta.safetensors")
    return {
        "delta": {name: (t.dtype, bits(t)) for name, t in tensors.items()},
        "predictions": (directory / "predictions.jsonl").read_text(encoding="utf-8"),
        "history": history(directory),
        "record": {key: record[key] for key in RECORDED},
        "rows": record["data"]["rows"],
    }


def bits(value: Any) -> Any:
    """Return a nested value with tensors as bytes, so that == means equal to the bit."""
    if isinstance(value, torch.Tensor):
        return (
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if (value.dim())
            else value.item()
        )
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return value


def command(
    *words: str, hash_seed: int = 0, group: bool = False, stderr: int = subprocess.PIPE
) -> subprocess.Popen:
    """Start `adaptkit WORDS` in a process of its own, or in a group of processes of its own."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "adaptkit", *words],
        env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True,
        start_new_session=group,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> str:
    """Wait for a command that must succeed; return what it printed on both channels."""
    out, err = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}\n{out}\n{err}")
    return out + err
