"""What is done once when the base model is frozen: its features, and a head that can be solved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from adaptkit.config.settings import Settings
from adaptkit.errors import invalid
from adaptkit.training.batching import CachedFeed, Feed
from adaptkit.training.feature_store import stored
from adaptkit.training.scorer import Prepared, Scorer
from adaptkit.training.trainer import AdaptTrainer

if TYPE_CHECKING:
    from adaptkit.runs.run import Interface


def kept(settings: Settings, prepared: Prepared) -> bool:
    """Tell whether features are computed once.

    Raises:
        AdaptError: they are to be kept in a folder, and cannot be kept.
    """
    frozen, one = prepared.adaptation.features is not None, prepared.form.sequences == 1
    if settings.trainer.features is not None and not one:
        raise invalid("trainer.features", settings.trainer.features, "keeps features of single "
                      "texts, and this task puts several per row to the model",
                      "Leave it out")  # fmt: skip
    return frozen and ((settings.trainer.cache_frozen == "auto" and one) or solvable(prepared))


def reader_of_features(
    folder: str | None, scorer: Scorer, interface: Interface
) -> Callable[[Feed], CachedFeed]:
    """Return what computes the features of examples, or reads those that another run computed."""
    if folder is None:
        interface.say("the base model is frozen: its features are computed once")

    def read(feed: Feed) -> CachedFeed:
        with interface.counting("texts read by the frozen base model") as show:
            if folder is None:
                return scorer.cached(feed, show)
            found, new = stored(scorer, feed, Path(folder).expanduser(), show)
        done = "of all layers computed and kept in" if new else "read from"
        interface.say(f"features of {len(feed):,} texts {done} {folder}")
        return found

    return read


def solvable(prepared: Prepared) -> bool:
    """Tell whether the best weights can be computed, so that no update is needed."""
    adaptation = prepared.adaptation
    return bool(adaptation.solve and prepared.form.squared and not adaptation.penalty)


def solved(trainer: AdaptTrainer, say: Callable[[str], None]) -> bool:
    """Compute the best weights if that can be done, and tell whether it was."""
    feed, solve = trainer.feed, trainer.adaptation.solve
    if not (solve and isinstance(feed, CachedFeed) and solvable(trainer.prepared)):
        return False
    penalty = solve(torch.stack(list(feed.features)), torch.tensor(feed.examples["target"][:]))
    say(f"solved by ridge regression (lambda {penalty:.2g}), without updates")
    return True
