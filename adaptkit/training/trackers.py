"""Experiment trackers: the callbacks of transformers, kept to the run's folder.

Their failures are told in a sentence: a missing key, a server that is out of reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from adaptkit.errors import AdaptError, first_line, machine_failures
from adaptkit.training.settings import Recipe

# Where a tracker puts its files, unless the user set the variable. MLflow keeps one store for all
# runs, as its own commands expect.
FOLDERS = {"tensorboard": ("TENSORBOARD_LOGGING_DIR", "tensorboard"), "wandb": ("WANDB_DIR", ".")}
WAYS_OUT = {
    "tensorboard": "Check the installation of tensorboard",
    "wandb": "Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline",
    "mlflow": "Check MLFLOW_TRACKING_URI and whether its server answers",
}


def trackers(recipe: Recipe) -> tuple[TrainerCallback, ...]:
    """Return the callbacks of the trackers that a run reports to.

    Raises:
        AdaptError: one cannot be used.
    """
    return tuple(Tracking(name, recipe.directory) for name in recipe.tracker.names)


class Tracking(TrainerCallback):
    """Passes the events that trackers listen to on to one of them."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        with self._explained():
            self.callback = INTEGRATION_TO_CALLBACK[name]()

    def on_train_begin(self, *moment: Any, **objects: Any) -> None:
        """Start the tracker's own run."""
        with self._explained():
            self.callback.on_train_begin(*moment, **objects)

    def on_log(self, *moment: Any, **objects: Any) -> None:
        """Report scores and losses."""
        with self._explained():
            self.callback.on_log(*moment, **objects)

    def on_save(self, *moment: Any, **objects: Any) -> None:
        """Report a checkpoint."""
        with self._explained():
            self.callback.on_save(*moment, **objects)

    def on_train_end(self, *moment: Any, **objects: Any) -> None:
        """Report the end."""
        with self._explained():
            self.callback.on_train_end(*moment, **objects)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        variable, folder = FOLDERS.get(self.name, ("", ""))
        ours = bool(variable) and variable not in os.environ
        if ours:
            os.environ[variable] = str(self.directory / folder)
        try:
            with machine_failures(self.directory):
                yield
        except AdaptError:
            raise
        except Exception as error:  # each tracker has kinds of its own
            raise AdaptError(
                f"tracker={self.name}: failed ({type(error).__name__}: {first_line(error)}). "
                f"{WAYS_OUT[self.name]}, or add tracker=none. The run then resumes "
                "from its last checkpoint."
            ) from error
        finally:
            if ours:
                del os.environ[variable]
