"""How a run is trained: the keys of conf/trainer/*.yaml and conf/tracker/*.yaml. No torch here."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from adaptkit.errors import at_least, invalid, unknown
from adaptkit.optimizers import OptimizerSettings
from adaptkit.storage.files import processes


@dataclass(frozen=True)
class TrainerSettings:
    """Length, batches, precision and bookkeeping of a run."""

    # passes over the rows; 0: no training; null: 3, or more if few rows (300 updates, 20 epochs)
    epochs: float | None = None
    max_steps: int | None = None  # updates; overrides epochs. 0: no training
    batch_size: int = 32  # rows of a forward pass, in each process
    eval_batch_size: int = 64  # rows of a forward pass when scoring
    # of a forward pass, padding included: a batch with more is cut; null: any number
    max_tokens: int | None = None
    group_by_length: bool = True  # texts of similar length share a batch; false: a plain shuffle
    gradient_accumulation: int = 1  # batches per update
    # when memory runs out, halve the rows of a forward pass; the updates stay the same
    find_batch_size: bool = False
    max_grad_norm: float = 1.0  # longer gradients are cut to it; 0: no clipping
    # of frozen matrices and products; auto: the device's own
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # in bf16 on a CPU: own kernels for training steps; false: torch's
    fast: bool = True
    # training steps by torch.compile, without the kernels of trainer.fast; slower on a CPU
    compile: bool = False
    # layers are computed again for their gradients: less memory, more time
    gradient_checkpointing: bool = False
    eval_every: int | None = None  # updates; null: at the end of every epoch
    # evaluations between those that generate texts; 0: only the final score needs texts
    generate_every: int = 0
    checkpoint_every: int | None = None  # updates; null: after every evaluation
    log_every: int = 50  # updates between two lines of the log
    # evaluations without a better score; the last weights are saved, unless trainer.keep=best
    early_stopping_patience: int | None = None
    # weights that are saved: the last, or those with the best score
    keep: Literal["best", "last"] = "last"
    # rows by whose score an evaluation is chosen (keep=best, early stopping): a tenth of the
    # training rows, which is not trained on, or the validation rows, which then flatter
    select_on: Literal["holdout", "validation"] = "holdout"
    # of a sweep that run at a time, each on its part of the cores
    jobs: int = 1
    # auto: continue from the last checkpoint; never: replace the run
    resume: Literal["auto", "never"] = "auto"
    device: str = "auto"  # auto, cpu, cuda, cuda:1 or mps; auto: CUDA if there is a GPU
    # auto: features of a frozen base model are computed once; layers: also the states below the
    # lowest layer that trains, where there is no dropout then
    cache_frozen: Literal["auto", "layers", "never"] = "auto"
    # folder that keeps such features for other runs; null: in memory, for this one
    features: str | None = None
    # of the labels under a probe: also train it on growing shares of the rows (an online code)
    description_length: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None:
            at_least("trainer.epochs", self.epochs, 0)
        at_least("trainer.max_grad_norm", self.max_grad_norm, 0)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device):
            known = ("auto", "cpu", "cuda", "cuda:1 (the second GPU)", "mps")
            raise unknown("trainer.device", self.device, known)
        for name in ("batch_size", "eval_batch_size", "gradient_accumulation", "log_every", "jobs"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("eval_every", "checkpoint_every", "early_stopping_patience", "max_tokens"):
            if getattr(self, name) is not None:
                at_least(f"trainer.{name}", getattr(self, name), 1)
        at_least("trainer.generate_every", self.generate_every, 0)
        if self.features == "":
            raise invalid("trainer.features", "", "is not a folder", "Name one, or leave it out")
        if self.features is not None and self.cache_frozen == "never":
            raise invalid(
                "trainer.features", self.features,
                "keeps what trainer.cache_frozen=never computes again", "Leave one of them out",
            )  # fmt: skip
        if self.max_steps is not None:
            at_least("trainer.max_steps", self.max_steps, 0)
        if self.compile and self.cache_frozen == "layers":
            raise invalid("trainer.compile", True, "translates whole training steps, and "
                          "trainer.cache_frozen=layers leaves out a part of them",
                          "Leave one of them out")  # fmt: skip

    @property
    def chosen_on(self) -> str:
        """Return by which rows an evaluation is chosen: holdout, validation, or none."""
        return chosen_on(vars(self))

    def check_processes(self) -> None:
        """Raise ConfigError if one of several processes would have to halve its rows by itself."""
        if self.find_batch_size and processes() > 1:
            raise invalid(
                "trainer.find_batch_size", True, "is for one process: several would have to agree",
                "Lower trainer.batch_size and raise trainer.gradient_accumulation",
            )  # fmt: skip

    def for_rows(self, rows: int, processes: int) -> TrainerSettings:
        """Return the settings with `epochs` filled in.

        Three, but on small training sets as many as make 300 updates, up to 20: fewer updates do
        not converge there (Mosbach et al. 2021, arXiv:2006.04884).
        """
        if self.epochs is not None:
            return self
        epochs = math.ceil(300 / self.updates_per_epoch(rows, processes))
        return replace(self, epochs=max(3, min(epochs, 20)))

    def updates(self, rows: int, processes: int) -> int:
        """Return how many updates a run over `rows` training rows makes; 0: it only scores."""
        if self.max_steps is not None:
            return self.max_steps
        epochs = self.for_rows(rows, processes).epochs or 0
        return math.ceil(epochs * self.updates_per_epoch(rows, processes))

    def updates_per_epoch(self, rows: int, processes: int) -> int:
        """Return the number of updates in which every row is read once."""
        steps = math.ceil(rows / (self.batch_size * processes))
        return math.ceil(steps / self.gradient_accumulation)


def no_updates(options: Mapping[str, Any]) -> bool:
    """Tell whether a run with these options of the trainer only scores."""
    updates = options.get("max_steps")
    return updates == 0 or (updates is None and options.get("epochs") == 0)


def chosen_on(options: Mapping[str, Any]) -> str:
    """Return by which rows a run with these options of the trainer chooses an evaluation.

    none: it makes all its updates, if any, and saves the last weights. Runs that were made before
    there was the option chose on the validation rows.
    """
    chooses = options.get("keep") == "best" or options.get("early_stopping_patience") is not None
    if no_updates(options) or not chooses:
        return "none"
    return options.get("select_on", "validation")


@dataclass(frozen=True)
class Tracker:
    """The experiment trackers that a run reports to."""

    tensorboard: bool = False  # report to TensorBoard, in the run's folder
    wandb: bool = False  # report to Weights & Biases
    mlflow: bool = False  # report to MLflow
    # as version 0.2 wrote it
    name: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the trackers."""
        known = ("tensorboard", "wandb", "mlflow")
        return tuple(name for name in known if getattr(self, name) or name == self.name)

    def check_installed(self) -> None:
        """Raise ConfigError unless all are installed; a finished run can be read without them."""
        for name in self.names:
            spec = importlib.util.find_spec(name)
            # A folder of that name, which wandb writes to, is found as a package without a file.
            if spec is None or spec.origin is None:
                raise invalid(
                    "tracker",
                    name,
                    f"needs the package {name}, which is not installed",
                    f"pip install 'adaptkit[{name}]'",
                )


@dataclass(frozen=True)
class Recipe:
    """All that the trainer must know of a run's settings."""

    trainer: TrainerSettings
    optimizer: OptimizerSettings
    tracker: Tracker
    seed: int
    directory: Path
