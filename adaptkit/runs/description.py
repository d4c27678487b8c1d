"""Description length of labels given a probe's features: how easily they can be read off.

The online code of Voita & Titov (2020, arXiv:2003.12298). The rows are sent in blocks that end
after 0.1, 0.2, 0.4, ... 50 and 100 % of them, in an order drawn from the seed. The first costs
log2 C bits a label. Each further one is coded by a probe trained on all blocks before it:

    L = t_1 log2 C - sum_i log2 p_i(labels t_i + 1 to t_{i+1})      compression = n log2 C / L

Block i ends with label t_i, and n is the number of all labels (in tagging, of words). Every probe
starts from the values that the run's own probe starts from, and trains for as many epochs, but for
at least 300 updates (or all of the run's, if those are fewer). It keeps its best weights if the run
does, by the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from adaptkit.config.settings import Settings
from adaptkit.errors import invalid
from adaptkit.runs.directory import CHECKPOINTS
from adaptkit.training.batching import Part
from adaptkit.training.scorer import Prepared
from adaptkit.training.settings import Recipe
from adaptkit.training.trainer import AdaptTrainer

PERCENT = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25, 50, 100)
UPDATES = 300  # of a block's probe at least


def check_described(settings: Settings, prepared: Prepared) -> None:
    """Reject runs whose labels have no code.

    Raises:
        AdaptError: the answers are not classes, the loss is not the negative log-likelihood, or
            the features are not kept.
    """
    task, why = settings.plain["task"], ""
    if not settings.task.classes:
        why = "the answers of this task are not classes"
    elif task.get("class_weights") or task.get("label_smoothing"):
        why = "task.class_weights and task.label_smoothing change the loss"
    elif settings.trainer.cache_frozen == "never" or prepared.form.sequences > 1:
        why = "the features are not kept"
    if settings.trainer.description_length and why:
        raise invalid("trainer.description_length", True, f"is the code length of classes under a "
                      f"probe, and {why}", "Leave it out")  # fmt: skip


def ends(count: int) -> list[int]:
    """Return after how many rows the blocks end, each once."""
    return sorted({math.ceil(count * percent / 100) for percent in PERCENT})


def description_length(
    trainer: AdaptTrainer, start: Mapping[str, Tensor], counting: Callable[[str], Any]
) -> dict[str, Any]:
    """Train a probe for each block; return the bits of the blocks, their sum and the compression.

    `start`: the values of what trains, before training. Afterwards the model holds other values.
    """
    feed, recipe = trainer.feed, trainer.recipe
    order = np.random.default_rng(recipe.seed).permutation(len(feed)).tolist()
    stops = ends(len(feed))
    weights = [feed.batch([index]).weight for index in order]
    uniform = math.log2(len(trainer.task.classes))
    blocks = [{"rows": stops[0], "bits": sum(weights[: stops[0]]) * uniform}]
    with counting("blocks of rows coded by probes") as show:
        for number, (known, stop) in enumerate(pairwise(stops), 1):
            trainer.adaptation.load_delta({n: t.clone() for n, t in start.items()})
            shorter = of_block(recipe, known, len(feed), number, trainer.args.world_size)
            fit(trainer, Part(feed, order[:known]), shorter)
            _, nats = trainer.scorer.predicted(Part(feed, order[known:stop]))
            labels = sum(weights[known:stop])
            bits = nats / math.log(2) * labels if labels else 0.0  # rows may have no words
            blocks.append({"rows": stop - known, "bits": bits})
            show(number, len(stops) - 1)
    bits, whole = sum(block["bits"] for block in blocks), sum(weights) * uniform
    compression = whole / bits if bits else 1.0
    return {"bits": bits, "uniform_bits": whole, "compression": compression, "blocks": blocks}


def of_block(recipe: Recipe, rows: int, whole: int, number: int, processes: int) -> Recipe:
    """Return how the probe of a block is trained: its updates, evaluations and its own folder."""
    trainer = recipe.trainer
    most = trainer.updates(whole, processes)
    steps = min(most, max(UPDATES, trainer.updates(rows, processes)))
    every = max(1, steps // 10)
    folder = recipe.directory / CHECKPOINTS / "blocks" / str(number)
    changed = replace(trainer, max_steps=steps, eval_every=every, checkpoint_every=steps)
    return replace(recipe, trainer=changed, directory=folder)


def fit(trainer: AdaptTrainer, rows: Part, recipe: Recipe) -> None:
    """Train the model of a trainer on other rows, and put its best weights in."""
    recipe.directory.mkdir(parents=True, exist_ok=True)
    one = AdaptTrainer(
        trainer.scorer, recipe, rows, trainer.watched, interruption=trainer.interruption
    )
    one.run(None)
    one.restore_best()
