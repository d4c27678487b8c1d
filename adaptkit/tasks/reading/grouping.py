"""Rows that belong together (the answers to one question): never parted by sampling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from adaptkit.tasks.reading import source

if TYPE_CHECKING:
    from datasets import Dataset


def members(groups: Sequence[Hashable]) -> list[list[int]]:
    """Return the rows of every group, in the order of their first rows."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        found[group].append(row)
    return list(found.values())


def subset(
    rows: Dataset, count: int | None, seed: int, groups: Sequence[Hashable]
) -> Dataset:  # fmt: skip
    """Return whole groups with at most `count` rows, seeded; one group at least.

    Nested: of two counts with one seed the smaller subset is part of the larger one.
    """
    if count is None or count >= len(rows):
        return rows
    import numpy as np

    every = members(groups)
    kept: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(every)).tolist():
        if kept and len(kept) + len(every[group]) > count:
            break
        kept += every[group]
    return rows.select(sorted(kept))


def held_out(groups: Sequence[Hashable], where: str) -> tuple[list[int], list[int]]:
    """Cut rows into those to train on and a tenth of the groups to score, always in the same way.

    Raises:
        AdaptError: there is one group only; `where` names the file.
    """
    every = members(groups)
    parts = source.held_out([""] * len(every), where)
    learnt, held = (sorted(row for group in part for row in every[group]) for part in parts)
    return learnt, held
