"""The terms of the loss since the last log: summed over batches and processes, and averaged."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adaptkit.errors import AdaptError
from adaptkit.training.scorer import distributed


class Losses:
    """Terms by name. Those of one batch are its share of its update, so that they add up."""

    def __init__(self, lr: float) -> None:
        self.lr = lr  # for messages
        self.pending: dict[int, dict[str, Tensor]] = {}  # by update, added up over its batches
        self.sums: dict[str, float] = defaultdict(float)
        self.updates: set[int] = set()  # in these sums

    def add(self, update: int, terms: Mapping[str, Tensor]) -> None:
        """Note the terms [] of one batch. Processes may cut an update into different numbers."""
        before = self.pending.setdefault(update, {})
        for name, term in terms.items():
            share = term.detach().float()
            before[name] = before[name] + share if name in before else share

    def check(self) -> None:
        """Add up what was noted: one transfer from the device, not one a step.

        Raises:
            AdaptError: a term is not a number; the message names the update.
        """
        if not self.pending:
            return
        rows = list(self.pending.values())
        names = list(rows[0])
        table = torch.stack([torch.stack([terms[name] for name in names]) for terms in rows])
        if distributed():
            dist.all_reduce(table)  # the shares of all processes
        for update, row in zip(self.pending, table.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    raise AdaptError(self._diverged(name, value, update))
                self.sums[name] += value
            self.updates.add(update)
        self.pending.clear()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of losses that were not reported yet."""
        return {"sums": dict(self.sums), "updates": sorted(self.updates)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.sums.update(state["sums"])
        self.updates.update(state["updates"])

    def averages(self) -> dict[str, float]:
        """Return the means over the updates since the last call."""
        means = {name: total / len(self.updates) for name, total in self.sums.items()}
        self.sums.clear()
        self.updates.clear()
        return means

    def _diverged(self, name: str, value: float, update: int) -> str:
        return (
            f"{name} is {value} at update {update}: the run has diverged. Checkpoints before it "
            f"are kept. Lower optimizer.lr (now {self.lr:g}), raise optimizer.warmup_ratio, or use "
            "trainer.precision=fp32."
        )
