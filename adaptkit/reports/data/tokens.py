"""How long rows are for a model's tokenizer, how much of them is cut, how much of batches is empty.

A row's length is that of the whole row, special tokens included, before anything is cut. Rows that
are read in windows (spans, tags, language modelling) lose nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptkit.tasks.forms.text import TextForm
from adaptkit.tasks.task import Form, Reader
from adaptkit.training.batching import BucketSampler

if TYPE_CHECKING:
    from datasets import Dataset

ENDLESS = 10**9  # tokens: longer than any row


@dataclass(frozen=True)
class Lengths:
    """Of rows, or of the targets that are to be written."""

    tokens: list[int]  # of every row, nothing cut
    limit: int  # tokens that are read, or trained on, at most
    cut: list[int]  # numbers of the rows that are cut
    lost: int  # tokens that are cut in all
    windows: int | None = None  # that they are read in; None: a row is read once

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: median, 95th percentile and longest, and what is cut."""
        sizes = self.tokens
        return {
            "median": float(np.median(sizes)),
            "p95": int(np.percentile(sizes, 95, method="higher")),
            "longest": max(sizes),
            "limit": self.limit,
            "cut": len(self.cut),
            "cut_share": len(self.cut) / len(sizes),
            "lost_tokens": self.lost,
            "windows": self.windows,
        }


@dataclass(frozen=True)
class Read:
    """A split as a model reads it."""

    rows: Lengths
    targets: Lengths | None  # of texts to write
    examples: list[int]  # tokens of every example, as it is fed


def read(form: Form, rows: Dataset, reader: Reader, limit: int) -> Read:
    """Encode rows as a run does, and measure them; at most `limit` tokens are read at once.

    Raises:
        AdaptError: a row cannot be put to this model; the message names it.
    """
    examples = form.encode(rows, reader)
    fed: list[int] = examples["length"][:]
    # The length of a text that a causal model writes holds the target.
    kept = [len(ids) for ids in examples["input_ids"][:]] if form.generates else fed
    targets = _targets(form, rows, reader) if isinstance(form, TextForm) else None
    if "cut" not in examples.column_names:  # windows
        whole = _joined(form, rows, reader, examples)
        return Read(Lengths(whole, limit, [], 0, len(fed)), targets, fed)
    lost: list[int] = examples["cut"][:]
    whole = [n + k for n, k in zip(kept, lost, strict=True)]
    cut = [row for row, k in enumerate(lost) if k]
    return Read(Lengths(whole, limit, cut, sum(lost)), targets, fed)


def _joined(form: Form, rows: Dataset, reader: Reader, windows: Dataset) -> list[int]:
    """Return the tokens of every row that is read in windows; those of several are read again."""
    owners = windows["row"][:]
    sizes = dict(zip(owners, windows["length"][:], strict=True))
    several = [row for row, count in Counter(owners).items() if count > 1]
    if several:
        again = _endless(form, rows.select(several), reader)["length"][:]
        sizes |= dict(zip(several, again, strict=True))
    return [sizes[row] for row in range(len(rows))]


def _endless(form: Form, rows: Dataset, reader: Reader, **also: Any) -> Dataset:
    """Encode rows for a model that reads any number of tokens."""
    endless = replace(form, max_length=ENDLESS, **also)  # type: ignore[type-var]
    return endless.encode(rows, replace(reader, limit=None, decoder_limit=None))


def _targets(form: TextForm, rows: Dataset, reader: Reader) -> Lengths:
    examples = _endless(form, rows, reader, max_target_length=ENDLESS)
    sizes, limit = [len(ids) for ids in examples["target"][:]], form.max_target_length
    cut = [row for row, n in enumerate(sizes) if n > limit]
    return Lengths(sizes, limit, cut, sum(sizes[row] - limit for row in cut))


def padding(lengths: Sequence[int], size: int, seed: int, by_length: bool) -> float:
    """Return which share of the positions of an epoch's batches is padding."""
    order = [lengths[i] for i in BucketSampler(lengths, size, seed, by_length)]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return 1 - sum(order) / sum(max(batch) * len(batch) for batch in batches)
