"""A job is composed once. Hydra composes it twice: to know its mode, or to check it beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def composed_once() -> Iterator[None]:
    """Let a job have what Hydra composed of the same overrides and only looked at.

    A single job is looked at for its mode; the jobs of a sweep all before the first of them, so
    that a mistake in one of them comes before any training.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra
    from hydra.plugins.sweeper import Sweeper
    from hydra.types import RunMode

    get_mode, load = Hydra.get_mode, ConfigLoaderImpl.load_configuration
    check_all = Sweeper.validate_batch_is_legal
    seen: dict[tuple[str, ...], Any] = {}
    looking = False

    @contextmanager
    def looked_at() -> Iterator[None]:
        nonlocal looking
        looking = True
        try:
            yield
        finally:
            looking = False

    def mode(self: Any, config_name: str, overrides: list[str]) -> Any:
        try:
            with looked_at():
                return self.compose_config(config_name, overrides, RunMode.RUN).hydra.mode
        except Exception:  # of a sweep, some overrides are no values; mistakes are met again
            return get_mode(self, config_name, overrides)

    def checked(self: Any, batch: Any) -> None:
        with looked_at():
            check_all(self, batch)

    def loaded(
        self: Any, config_name: str, overrides: list[str], run_mode: Any, **more: Any
    ) -> Any:
        words = tuple(word for word in overrides if word != "hydra.mode=RUN")  # Hydra adds it
        if not looking and run_mode == RunMode.RUN and words in seen:
            return seen.pop(words)
        cfg = load(self, config_name, overrides, run_mode, **more)
        if looking:
            seen[words] = cfg
        return cfg

    with (
        patch.object(Hydra, "get_mode", mode),
        patch.object(Sweeper, "validate_batch_is_legal", checked),
        patch.object(ConfigLoaderImpl, "load_configuration", loaded),
    ):
        yield
