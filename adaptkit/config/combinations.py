"""Combinations that make no sense, although each part does: found before anything is loaded.

What depends on the model's anatomy is checked where it is adapted. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from adaptkit.errors import invalid
from adaptkit.methods.chain import Chain
from adaptkit.methods.child_tuning import ChildTuning
from adaptkit.methods.diff_pruning import DiffPruning
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.hard_prompt import HardPrompt
from adaptkit.methods.pissa import PiSSA
from adaptkit.methods.probe import Probe
from adaptkit.methods.top_k import TopK
from adaptkit.regularizers.l2_sp import L2SP
from adaptkit.regularizers.mixout import Mixout
from adaptkit.regularizers.r3f import R3F
from adaptkit.regularizers.recadam import RecAdam
from adaptkit.regularizers.reinit import Reinit
from adaptkit.regularizers.weight_decay_to_pretrained import WeightDecayToPretrained
from adaptkit.tasks.worded import Worded
from adaptkit.training.settings import no_updates

if TYPE_CHECKING:
    from adaptkit.config.settings import Settings

PULLING = (L2SP, Mixout, RecAdam, WeightDecayToPretrained)  # towards the weights of the start
# Weights of the body: trained, read or replaced.
READING = (ChildTuning, DiffPruning, DoRA, Full, PiSSA, TopK)
DRAWN = (Mixout, Reinit)


def check(run: Settings) -> None:
    """Reject a run whose parts do not go together.

    Raises:
        ConfigError: they do not; the message names the field to change.
    """
    for rule in RULES:
        rule(run)


def untrained(run: Settings) -> bool:
    """Tell whether there are no updates."""
    return no_updates(vars(run.trainer))


def mask_before_best(run: Settings) -> None:
    """The best weights of diff pruning may be from before its mask is fixed."""
    if isinstance(run.method, DiffPruning) and run.trainer.keep == "best":
        raise invalid("trainer.keep", run.trainer.keep, "may keep weights from before the mask of "
                      "method=diff_pruning is fixed", "Set trainer.keep=last")  # fmt: skip


def nothing_to_train(run: Settings) -> None:
    """Hard prompts train nothing."""
    if not isinstance(run.method, HardPrompt):
        return
    if not untrained(run):
        raise invalid("trainer.max_steps", run.trainer.max_steps, "method=hard_prompt trains "
                      "nothing", "Leave it out")  # fmt: skip
    if run.regularizers:
        raise invalid("regularizer", [*run.regularizers], "method=hard_prompt trains nothing",
                      "Leave it out")  # fmt: skip


def moved_decision(run: Settings) -> None:
    """Training has moved the decision that a calibration would move."""
    if isinstance(run.task, Worded) and run.task.calibration != "none" and not untrained(run):
        raise invalid("task.calibration", run.task.calibration, "belongs to a model that is not "
                      "trained", "Set trainer.max_steps=0")  # fmt: skip


def no_start(run: Settings) -> None:
    """Weights that were drawn anew are nothing to be pulled back to."""
    pulling = [name for name, one in run.regularizers.items() if isinstance(one, PULLING)]
    if pulling and run.model.random_weights:
        raise invalid("model.random_weights", True, "leaves no pretrained weights, and "
                      f"regularizer={pulling[0]} pulls back to them", "Leave one out")  # fmt: skip


def only_of_probes(run: Settings) -> None:
    """Features can be kept if the base model is frozen, and a code needs them."""
    if isinstance(run.method, Probe):
        return
    layers = run.trainer.cache_frozen == "layers"
    what = {"features": "keeps features of a frozen base model",
            "description_length": "is the code length of labels under a probe"}  # fmt: skip
    for name, words in what.items():
        value = getattr(run.trainer, name)
        if value and not (layers and name == "features"):
            raise invalid(f"trainer.{name}", value, f"{words}, and method={run.method_name} is not "
                          "a probe", "Leave it out")  # fmt: skip


def noise_below(run: Settings) -> None:
    """States that were computed before have seen no noise on the embeddings."""
    noisy = [name for name, one in run.regularizers.items() if isinstance(one, R3F)]
    if noisy and run.trainer.cache_frozen == "layers":
        raise invalid("trainer.cache_frozen", "layers", "goes on from states that were computed "
                      f"before, and regularizer={noisy[0]} adds noise to the embeddings",
                      "Leave one out")  # fmt: skip


def overshooting(run: Settings) -> None:
    """A pull of 1 or more goes past the weights of the start."""
    lr = run.optimizer.lr
    for one in run.regularizers.values():
        if isinstance(one, RecAdam) and one.anneal == "constant":  # it never pulls
            continue
        if isinstance(one, RecAdam) and lr * one.gamma * one.weight >= 1:
            raise invalid("regularizer.recadam.gamma", one.gamma, "must be below "
                          f"{1 / lr / one.weight:g}, 1 / (optimizer.lr * weight): its pull would "
                          "overshoot the pretrained weights", "Lower it")  # fmt: skip
        if isinstance(one, WeightDecayToPretrained) and lr * one.strength >= 1:
            raise invalid("regularizer.weight_decay_to_pretrained.strength", one.strength,
                          f"must be below {1 / lr:g}, 1 / optimizer.lr: its pull would overshoot "
                          "the pretrained weights", "Lower it")  # fmt: skip


def reads_packed_weights(run: Settings) -> None:
    """Quantized weights are neither trained, nor read, nor replaced."""
    if run.model.quantization is None:
        return
    parts = run.method.parts if isinstance(run.method, Chain) else (run.method,)
    changing = [f"regularizer={n}" for n, one in run.regularizers.items() if isinstance(one, DRAWN)]
    if any(isinstance(one, READING) or getattr(one, "tune_body", False) for one in parts):
        changing = [f"method={run.method_name}"]
    if run.trainer.compile:
        raise invalid("trainer.compile", True, "is not offered for the packed weights of "
                      "model.quantization", "Leave one of them out")  # fmt: skip
    if changing:
        raise invalid("model.quantization", run.model.quantization, "packs the weights that "
                      f"{changing[0]} trains, reads or replaces",
                      "Leave one of them out")  # fmt: skip


RULES: tuple[Callable[[Settings], None], ...] = (
    mask_before_best, nothing_to_train, moved_decision, no_start, only_of_probes,
    noise_below, overshooting, reads_packed_weights,
)  # fmt: skip
