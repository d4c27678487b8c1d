"""What a race tries: settings and their values, as a method's file declares them. No torch.

search:
  optimizer.lr: null            seven rates around the one of the file
  method.rank: [4, 16]          with each of these ranks
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adaptkit.config.groups import GROUPS
from adaptkit.errors import ConfigError, invalid

RATE = "optimizer.lr"
# Options that a race sets itself, and what it does not carry out.
TAKEN = (
    "trainer.max_steps", "trainer.eval_every", "trainer.checkpoint_every", "trainer.keep",
    "trainer.early_stopping_patience", "trainer.select_on", "trainer.resume", "data.holdout",
    "output_dir",
)  # fmt: skip
IDLE = ("suite", "protocol", "trainer.jobs")
Space = dict[str, "list[Any] | None"]  # None: of RATE alone


def search_in(plain: Mapping[str, Any]) -> Space:
    """Return the values to try by setting; those of a finished run's configuration: none.

    Raises:
        ConfigError: a setting cannot be raced, or its values are not a list.
    """
    node = plain.get("search") or {}
    if not isinstance(node, Mapping):
        raise invalid("search", node, "must be a mapping of settings to lists of values")
    for key, values in node.items():
        check_tried(f"search.{key}", str(key), values if isinstance(values, list) else [])
        if not (isinstance(values, list) or (values is None and key == RATE)):
            raise invalid(f"search.{key}", values, "must be a list of values", "Write [V1, V2]")
    return {str(key): values for key, values in node.items()}


def check_tried(where: str, key: str, values: Sequence[Any]) -> None:
    """Reject a setting that a race cannot vary, and values that are named twice.

    Raises:
        ConfigError: it names what was typed.
    """
    if key in (*TAKEN, *IDLE):
        raise ConfigError(f"{where}: {key} is set by the race itself. Leave it out.")
    if not re.fullmatch(r"\w+(\.\w+)+", key):
        what = "a group" if key in GROUPS else "not an option of a group"
        raise ConfigError(f"{where}: {key} is {what}. Name an option of one, as {RATE}; "
                          "adaptkit compare tries several methods and seeds.")  # fmt: skip
    if any(one in values[:place] for place, one in enumerate(values)):
        raise ConfigError(f"{where}: names a value twice.")
