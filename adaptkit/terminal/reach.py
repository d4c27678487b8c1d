"""Is a run within reach of this machine? Roughly: its memory, and its hours.

    seconds = updates x rows x tokens x 2 parameters x (2 + trained share) / (0.4 x matrix peak)

A multiplication and an addition per parameter and token forward, as many backward through the
layers, and as many again for the gradients of what trains. MiniLM reached half of the peak of a
plain product of matrices (bf16, one core, LoRA and full fine-tuning); 0.4 leaves some room. Scoring
and generation are not counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.models.fast.packed import free_memory
from adaptkit.runs.plan import Plan, plan
from adaptkit.tasks.task import ID, LABEL, Splits
from adaptkit.terminal.doctor import peak
from adaptkit.training.precision import DTYPES, device_of, resolve

SHARE = 0.4  # of the peak that training reaches
CHARACTERS, SPECIAL = 4, 4  # of a token, on average; special tokens of a row
LOOKED_AT = 500  # rows, to guess how long they are


def check(
    job: Settings, runs: int, hours: float, rows: Mapping[str, int], say: Callable[[str], None]
) -> None:
    """Say how long the runs would take.

    runs: how many; hours: at most, of all; rows: that the splits must have.

    Raises:
        AdaptError: there are other rows, or the runs need more memory than is free, or more hours.
    """
    device = device_of(job.trainer.device)
    splits = job.task.load(job.data, job.seed)
    found = {"train": len(splits.train or ()), "validation": len(splits.validation[""])}
    for split, count in rows.items():
        if found[split] != count:
            raise AdaptError(
                f"the split {split} has {found[split]:,} rows, and the figure is of {count:,}. Set "
                "data.root=DIR to the whole data set"
            )
    costs = plan(job.bind(splits.task), resolve(job.trainer.precision, device))
    free = free_memory()
    if device.type == "cuda":
        free = float(torch.cuda.mem_get_info(device)[0])
    needed = costs.memory.total if costs.memory else 0
    if needed > free:
        raise AdaptError(
            f"it needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. "
            "Lower trainer.batch_size and raise trainer.gradient_accumulation by the same factor: "
            "the updates stay the same"
        )
    length, updates = tokens(job, splits), job.trainer.updates(found["train"], 1)
    needed_hours = runs * seconds(job, costs, updates, length, device) / 3600
    about = (f"{duration(needed_hours)} on this machine ({runs} x {updates:,} updates of "
             f"{job.trainer.batch_size * job.trainer.gradient_accumulation} rows of about "
             f"{length:.0f} tokens)")  # fmt: skip
    if needed_hours > hours:
        raise AdaptError(f"training would take {about}, more than --hours {hours:g}. Raise --hours")
    say(f"training: {about}")


def duration(hours: float) -> str:
    """Return a rough time in words."""
    if hours < 1:
        return f"about {max(1, round(60 * hours))} minutes" if hours > 1 / 60 else "about a minute"
    return f"about {hours:.0f} hours" if hours >= 10 else f"about {hours:.1f} hours"


def tokens(job: Settings, splits: Splits) -> float:
    """Guess how many tokens a training row has, from the characters of the first rows."""
    rows = list(itertools.islice(splits.train or (), LOOKED_AT))
    texts = [sum(len(v) for k, v in row.items() if k not in (ID, LABEL) and isinstance(v, str))
             for row in rows]  # fmt: skip
    mean = sum(texts) / max(1, len(texts)) / CHARACTERS + SPECIAL
    return min(float(job.task.max_length), mean)


def seconds(job: Settings, costs: Plan, updates: int, length: float, device: torch.device) -> float:
    """Estimate the seconds that training takes."""
    if not updates:
        return 0.0
    trained = costs.params.trainable / max(1, costs.params.total)
    rows = job.trainer.batch_size * job.trainer.gradient_accumulation
    work = updates * rows * length * 2 * costs.params.total * (2 + trained)
    speed = peak(device, DTYPES[costs.precision])
    return work / (SHARE * speed) if speed else math.inf
