"""Predictions with their scores, and the best of several evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    score: float = -math.inf
    update: int = 0


@dataclass(frozen=True)
class Scored:
    """Predictions and labels in the order of the rows, and the scores."""

    predictions: np.ndarray
    labels: np.ndarray
    scores: dict[str, float]


def flat_scores(scored: Mapping[str, Scored]) -> dict[str, float]:
    """Return all scores in one mapping; those of further splits carry the split's name."""
    return {
        f"{name}_{suffix}" if suffix else name: value
        for suffix, part in scored.items()
        for name, value in part.scores.items()
    }
