"""Protocols: runs that follow a run. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptkit.config.build import build
from adaptkit.errors import ConfigError, folder_name

HANDED_ON = ("model", "model.path", "model.from_run", "seed", "output_dir", "suite", "protocol")


@dataclass(frozen=True)
class Protocol:
    """Runs that follow a run. Fields are keys of conf/protocol/*.yaml."""

    name: str  # name in results and files
    every: str = ""  # overrides of every run
    # name of a run -> its overrides, as typed after adaptkit train; null: none
    runs: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder_name("protocol.name", self.name)
        for name in self.runs:
            folder_name("the name of a run in protocol.runs", name)
        if not self.words():
            raise ConfigError(
                f"protocol={self.name}: has no runs. Add one: '+protocol.runs.NAME=task=OTHER'."
            )

    def words(self) -> dict[str, list[str]]:
        """Return the names of the runs, and the overrides of each.

        Raises:
            ConfigError: one sets what a run takes from the run that it follows.
        """
        found = {
            name: [*shlex.split(self.every), *shlex.split(own)]
            for name, own in self.runs.items()
            if own
        }
        for name, words in found.items():
            for word in words:
                if word.partition("=")[0].lstrip("+~") in HANDED_ON:
                    raise ConfigError(
                        f"protocol.runs.{name}: {word}: is taken from the run it follows. Leave it "
                        "out."
                    )
        return found


def protocol_in(plain: Mapping[str, Any]) -> Protocol | None:
    """Return the protocol of a configuration, if it has one.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    node = plain.get("protocol")
    return build(Protocol, node, "protocol") if node else None
