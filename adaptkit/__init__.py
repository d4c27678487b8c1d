"""Adapt a pretrained language model to a task with any published adaptation method.

    import adaptkit

    result = adaptkit.run("method=lora", "task=sst2")  # adaptkit train method=lora task=sst2
    result.metric, result.score, result.baseline

    predictor = adaptkit.load("outputs/sst2/mini-bert/lora/default/seed0")
    predictor.predict([{"sentence": "a charming film"}])   # ['positive']

Importing the package does not load torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptkit.runs.predicting.predictor import Predictor
    from adaptkit.runs.record import RunResult

__version__ = "0.2.0"


def run(*overrides: str) -> RunResult:
    """Carry out one run, as `adaptkit train OVERRIDES` does, and return its record.

    Raises:
        adaptkit.errors.AdaptError: a problem that you can fix; the message says how.
    """
    from adaptkit.train import run as train

    return train(list(overrides))


def load(directory: str | Path) -> Predictor:
    """Load a finished run; its `predict(rows)` returns one answer per row.

    Raises:
        adaptkit.errors.AdaptError: it is not a finished run, or its base model is not there now.
    """
    from adaptkit.terminal.console import working

    with working():
        from adaptkit.runs.predicting.predictor import load as load_predictor

        return load_predictor(directory)
