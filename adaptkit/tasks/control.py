"""Control tasks (Hewitt & Liang 2019, arXiv:1909.03368): equal words have equal random answers.

A probe can only learn such a task by heart: selectivity = score of the task - score of its control
task. The answer of a word is drawn from a digest of seed and word, so that it depends neither on
the order of the rows nor on where the word stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from adaptkit.tasks.task import Splits

if TYPE_CHECKING:
    from datasets import Dataset


def drawn(seed: int, word: str) -> float:
    """Return a number from 0 to 1, without 1, that is the same wherever the word stands."""
    digest = hashlib.sha256(f"{seed}:{word}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def controlled(splits: Splits, relabelled: Callable[[Dataset], Dataset], what: str) -> Splits:
    """Return splits with the answers of a control task, and a note that says `what` they are."""
    validation = {suffix: relabelled(rows) for suffix, rows in splits.validation.items()}
    train = None if splits.train is None else relabelled(splits.train)
    return replace(splits, train=train, validation=validation, notes=(*splits.notes, what))
