"""No code out of a configuration: what Hydra would act on is checked before it does.

Hydra makes objects of nodes with `_target_`, and Python's logging does of `()`, `class` and `ext://`.
A file of options may come from anybody, so only what Hydra itself brings is accepted. Launchers and
sweepers are classes of installed packages (`hydra_plugins`); Hydra looks them up by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from adaptkit.errors import ConfigError

PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
CHOSEN = ("hydra.launcher._target_", "hydra.sweeper._target_")
EMPTY = ("hydra.callbacks", "hydra.job.env_set")  # objects; variables that child processes obey
LOGGING = ("hydra.job_logging.", "hydra.hydra_logging.")
MADE = (*LOGGING, "hydra.launcher.", "hydra.sweeper.")  # of which Hydra makes objects
HANDLERS = ("logging.StreamHandler", "logging.FileHandler")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
RERUN = "--experimental-rerun"


@contextmanager
def guarded_composition(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Check flags, and every configuration that Hydra composes before Hydra acts on it.

    Raises:
        ConfigError: it could run code.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    for word in arguments:  # argparse takes a flag's beginning for the flag
        if word.startswith("--e") and RERUN.startswith(word.partition("=")[0]):
            raise ConfigError(f"{RERUN}: reads a pickle, which can run code. Type the options.")
    load = ConfigLoaderImpl.load_configuration

    def checked(self: Any, *args: Any, **more: Any) -> Any:
        cfg = load(self, *args, **more)
        check(cfg)
        return cfg

    with patch.object(ConfigLoaderImpl, "load_configuration", checked):
        yield


def check(cfg: Any) -> None:
    """Reject a composed configuration that could run code; nothing is resolved.

    Raises:
        ConfigError: it could.
    """
    from omegaconf import OmegaConf

    for key, value in leaves(OmegaConf.to_container(cfg, resolve=False)):
        if problem := wrong(key, value):
            raise ConfigError(
                f"{key}: {problem}, and a configuration must not run code. Remove it."
            )


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of everything below a node that is not empty."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, prefix)
    else:
        yield prefix, node


def wrong(key: str, value: Any) -> str:
    """Say what one value would do that it must not; nothing if it is harmless."""
    last, text = key.rpartition(".")[2], str(value)
    if "_target_" in key.split("."):
        known = key in CHOSEN and text.startswith(PLUGINS)
        return "" if known else f"{text[:60]} names code to be called"
    if value is not None and any(f"{key}.".startswith(f"{empty}.") for empty in EMPTY):
        return "acts on the program"
    if key.startswith(MADE) or f"{key}." in MADE:
        if re.search(r"\$\{(?!hydra\.)", text):
            return f"{text[:60]} can be anything"
    if key.startswith(LOGGING):
        other = last == "class" and text not in HANDLERS
        if last in ("()", "factory") or other or ("://" in text and text not in STREAMS):
            return f"{text[:60]} names code to be called"
    return ""
