"""Batches: neighbours in length together, padded to the longest of the batch and no further."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


@dataclass(frozen=True)
class Collator:
    """Rows -> tensors: input_ids and attention_mask [B, T], labels [B]; padding on the right."""

    pad_id: int
    pad_type_id: int = 0

    def __call__(self, rows: list[dict[str, Any]] | dict[str, Tensor]) -> dict[str, Tensor]:
        """Pad and stack; rows of cached features come as a finished batch."""
        if isinstance(rows, dict):
            return rows
        sizes = [len(row["input_ids"]) for row in rows]
        fill = {"input_ids": self.pad_id, "token_type_ids": self.pad_type_id}
        batch = {
            name: self._padded([row[name] for row in rows], value, max(sizes))
            for name, value in fill.items()
            if name in rows[0]
        }
        batch["attention_mask"] = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).long()
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    def _padded(self, lists: list[list[int]], value: int, length: int) -> Tensor:
        # Six times faster than a tensor of padded lists.
        padded = np.full((len(lists), length), value, dtype=np.int64)
        for line, numbers in zip(padded, lists, strict=True):
            line[: len(numbers)] = numbers
        return torch.from_numpy(padded)


class Features(Dataset):
    """Rows whose frozen features [N, ...] were computed once."""

    def __init__(self, features: Tensor, labels: Sequence, lengths: Sequence[int]) -> None:
        self.features, self.labels = features, torch.tensor(labels)
        self.lengths = list(lengths)

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """Return a finished batch."""
        return {"features": self.features[rows], "labels": self.labels[rows]}

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.__getitems__([row])


def lengths(rows: Any) -> list[int]:
    """Return the number of tokens of every row."""
    return rows.lengths if isinstance(rows, Features) else rows["length"][:]


class BucketSampler(Sampler[int]):
    """A seeded shuffle in which each batch holds texts of similar length.

    The rows are shuffled, cut into pools of 50 batches, each pool is sorted by length and cut into
    batches, and the batches are shuffled. The first batch of an epoch is its longest, so that too
    little memory shows at once. The order depends on (seed, epoch) alone: a resumed run repeats it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        size, pool = self.batch_size, 50 * self.batch_size
        batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        # The one batch that may be smaller than the rest must come last.
        full = [b for b in batches if len(b) == size]
        rest = [b for b in batches if len(b) < size]
        random.shuffle(full)
        longest = max((self.lengths[b[0]] for b in full), default=0)
        full.sort(key=lambda b: self.lengths[b[0]] < longest)  # stable: only the longest move
        return iter(int(i) for batch in (*full, *rest) for i in batch)


class LongestFirst(Sampler[int]):
    """The order of evaluation: by falling length, so that batches hold hardly any padding."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.order = np.argsort(-np.asarray(lengths), kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Put values computed in this order back into the order of the rows."""
        restored = np.empty_like(values)
        restored[self.order] = values
        return restored
