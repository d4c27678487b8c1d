"""Batches: neighbours in length together, padded to the longest of the batch and no further."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from adaptkit.adaptation import Batch
from adaptkit.tasks.task import Form, Reader
from adaptkit.training.rows import Rows
from adaptkit.training.settings import Recipe


def collated(batch: Any) -> Any:
    """Return what a Feed has collated already."""
    return batch


class Feed(TorchDataset[Batch]):
    """Examples of a split, and the batches a form makes of them."""

    def __init__(self, examples: Dataset, form: Form, reader: Reader) -> None:
        self.examples, self.form, self.reader = examples, form, reader
        self.lengths: list[int] = examples["length"][:]
        self.rows: list[int] = examples["row"][:]

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Let the form draw what it draws for this epoch."""
        self.reader = replace(self.reader, epoch=epoch)

    def with_examples(self, examples: Dataset) -> Feed:
        """Return the same with columns added to the examples."""
        return self if examples is self.examples else Feed(examples, self.form, self.reader)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples with these numbers; of none a filler without weight."""
        if not indices:
            return self.batch([0])._replace(weight=0)
        return self.form.collate(self.examples.__getitems__(list(indices)), self.reader)

    def __getitems__(self, step: Sequence[Sequence[int]]) -> list[Batch]:
        """Return the batches of a step; a DataLoader asks in this way."""
        return [self.batch(indices) for indices in step]

    def __getitem__(self, index: int) -> Batch:
        return self.batch([index])

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of every example, where one holds several texts with padding among them."""
        several = "texts" in self.examples.column_names
        most = max(self.examples["texts"][:], default=1) if several else 1
        return [length * most for length in self.lengths]


class CachedFeed(Feed):
    """Examples whose frozen features were computed once: per example [H], or [T, H] by tokens."""

    def __init__(self, feed: Feed, features: Sequence[Tensor], goes_on: bool = False) -> None:
        super().__init__(feed.examples, feed.form, feed.reader)
        self.features, self.goes_on = features, goes_on  # goes_on: the model reads its inputs too
        self.in_memory = feed.examples.to_list()  # read in every epoch

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples with these numbers, with their features for inputs."""
        if not indices:
            return self.batch([0])._replace(weight=0)
        batch = self.form.collate([self.in_memory[i] for i in indices], self.reader)
        features = [self.features[i] for i in indices]
        flat = features[0].dim() == 1
        stacked = torch.stack(features) if flat else pad_sequence(features, batch_first=True)
        inputs = {**batch.inputs, "features": stacked} if self.goes_on else {"features": stacked}
        return batch._replace(inputs=inputs)


class Part(Feed):
    """Some examples of a feed."""

    def __init__(self, feed: Feed, indices: Sequence[int]) -> None:
        self.feed, self.indices = feed, list(indices)
        self.form, self.reader = feed.form, feed.reader
        self.lengths = [feed.lengths[index] for index in self.indices]
        self.rows = [feed.rows[index] for index in self.indices]
        self.sizes = [feed.sizes[index] for index in self.indices]

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples with these numbers."""
        if not indices:
            return self.batch([0])._replace(weight=0)
        return self.feed.batch([self.indices[index] for index in indices])


class BucketSampler(Sampler[int]):
    """A seeded shuffle in which each batch holds texts of similar length.

    The rows are shuffled, cut into pools of 50 batches, each pool is sorted by its lengths times a
    random factor and cut into batches, and the batches are shuffled. Without that factor the same
    rows of a small training set would meet again in every epoch. `by_length` False: a plain
    shuffle, for data in which the length of a text gives its class away.

    The first batch of an epoch is its longest, so that too little memory shows at once. The order
    depends on (seed, epoch) alone: a resumed run repeats it.
    """

    POOL = 50  # batches
    SPREAD = 0.2  # of the logarithm of the factor

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, by_length: bool = True
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.by_length, self.epoch = by_length, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        size, pool = self.batch_size, self.POOL * self.batch_size
        if self.by_length:
            factors = np.exp(random.uniform(-self.SPREAD, self.SPREAD, len(order)))
            parts = [order[start : start + pool] for start in range(0, len(order), pool)]
            sort = (np.argsort(-(self.lengths * factors)[part], kind="stable") for part in parts)
            parts = [part[by] for part, by in zip(parts, sort, strict=True)]
        else:
            parts = [order]
        batches = [part[i : i + size] for part in parts for i in range(0, len(part), size)]
        # The one batch that may be smaller than the rest must come last.
        full = [batch for batch in batches if len(batch) == size]
        rest = [batch for batch in batches if len(batch) < size]
        random.shuffle(full)
        longest = max((self.lengths[batch].max() for batch in full), default=0)
        full.sort(key=lambda batch: self.lengths[batch].max() < longest)  # stable: the rest stays
        return iter(int(i) for batch in (*full, *rest) for i in batch)


class Shards(Sampler[list[list[int]]]):
    """The steps of one process: the same rows per update, however an update is cut.

    `feed`: of the rows; it is told of the epoch as well. `tokens`: the most that a forward pass may
    hold, padding included; None: any number. `rows`: the same of rows; None: batch_size.

    The rows of an update, batch_size x accumulation x processes in the order of `sampler`, are cut
    into steps, each step into one part per process. What is left at the end of an epoch is cut
    evenly as well, so that a process may get an empty part. A part that is too large for one
    forward pass is cut into pieces, which changes no update.
    """

    def __init__(
        self, sampler: BucketSampler, batch_size: int, accumulation: int, rank: int, world: int,
        feed: Feed, tokens: int | None = None, rows: int | None = None,
    ) -> None:  # fmt: skip
        self.sampler, self.rank, self.world, self.feed = sampler, rank, world, feed
        self.rows, self.tokens = rows or batch_size, tokens  # of a forward pass
        self.step = batch_size * world  # rows
        self.update = self.step * accumulation

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.sampler.set_epoch(epoch)
        self.feed.set_epoch(epoch)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.update)
        return whole * (self.update // self.step) + math.ceil(rest / self.step)

    def __iter__(self) -> Iterator[list[list[int]]]:
        order = list(self.sampler)
        for start in range(0, len(order), self.update):
            group = order[start : start + self.update]
            for first in range(0, len(group), self.step):
                step = group[first : first + self.step]
                share = math.ceil(len(step) / self.world)
                mine = step[self.rank * share : (self.rank + 1) * share]
                yield pieces(self.feed.sizes, mine, self.rows, self.tokens)


def shards(feed: Feed, recipe: Recipe, rank: int, world: int, rows: Rows) -> Shards:
    """Return the steps in which one process trains on `feed`; `rows`: of a forward pass."""
    trainer, steps = recipe.trainer, recipe.trainer.gradient_accumulation
    size, by_length = trainer.batch_size, trainer.group_by_length
    order = BucketSampler(feed.lengths, size * steps * world, recipe.seed, by_length)
    return Shards(order, size, steps, rank, world, feed, trainer.max_tokens, rows.training)


def pieces(
    lengths: Sequence[int], indices: Sequence[int], rows: int, tokens: int | None = None
) -> list[list[int]]:
    """Cut examples into forward passes of at most `rows` rows and `tokens` tokens with padding.

    rows x longest text <= tokens; a text that is longer by itself makes a piece of its own. What
    fits into one piece keeps its order; no examples make one empty piece.
    """
    longest = max((lengths[index] for index in indices), default=0)
    if len(indices) <= rows and (tokens is None or len(indices) * longest <= tokens):
        return [list(indices)]
    return longest_first(lengths, rows, tokens, indices)


def longest_first(
    lengths: Sequence[int],
    rows: int,
    tokens: int | None = None,
    indices: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return batches by falling length, so that they hold hardly any padding.

    Of all examples or of some, at most `rows` rows and `tokens` tokens each, see `pieces`.
    """
    cut: list[list[int]] = []
    some = range(len(lengths)) if indices is None else indices
    for index in sorted(some, key=lambda index: -lengths[index]):  # stable
        wanted = len(cut[-1]) + 1 if cut else math.inf
        if wanted <= rows and (tokens is None or wanted * lengths[cut[-1][0]] <= tokens):
            cut[-1].append(index)
        else:
            cut.append([index])
    return cut
