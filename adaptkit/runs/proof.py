"""The proof of a run: what was saved, loaded into a fresh model, gives the same outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptkit.config.settings import Settings
from adaptkit.errors import MachineError
from adaptkit.models.heads import HEADS
from adaptkit.runs import heap
from adaptkit.runs.delta import read_delta
from adaptkit.runs.directory import DELTA
from adaptkit.runs.prepare import feed_of, restored, scorer_of
from adaptkit.tasks.task import Splits
from adaptkit.training.batching import Feed, pieces


def first(settings: Settings, feed: Feed, most: int) -> list[int]:
    """Return the numbers of the examples by which a rebuilt model is compared, at most `most`."""
    some = range(min(len(feed), most))
    return pieces(feed.sizes, some, len(some), settings.trainer.max_tokens)[0]


def proof_names(settings: Settings) -> tuple[str, ...]:
    """Return the outputs by which a rebuilt model is compared."""
    return HEADS[settings.head].proof


def verify_saved(
    settings: Settings, splits: Splits, expected: Mapping[str, Tensor], most: int
) -> None:
    """Load what was saved into a fresh model: it must give the same outputs.

    `most`: how many examples they are of.

    Raises:
        MachineError: it does not; the run counts as failed.
    """
    heap.give_back()  # so that a second model adds nothing to the memory of training
    prepared = restored(read_delta(settings))
    feed = feed_of(settings, prepared, splits.validation[""])
    batch = feed.batch(first(settings, feed, most))
    outputs = scorer_of(settings, prepared).proof(batch, tuple(expected))
    for name, tensor in expected.items():
        if not same(outputs[name], tensor, prepared.device):
            raise MachineError(
                f"{settings.output_dir / DELTA}: the reloaded model gives other {name} (largest "
                f"difference {float((outputs[name] - tensor).abs().max()):.3g}). The saved file "
                "cannot be trusted; please report this."
            )


def same(outputs: Tensor, expected: Tensor, device: torch.device) -> bool:
    """Compare outputs: to the bit on the CPU, where kernels are deterministic."""
    if device.type == "cpu":
        return torch.equal(outputs, expected)
    return torch.allclose(outputs, expected, rtol=1e-3, atol=1e-3)
