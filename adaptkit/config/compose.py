"""From the command line to plain data, by Hydra: the border to it and to OmegaConf.

Hydra's exceptions become messages that name the closest options. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptkit.config.groups import CONF
from adaptkit.config.guard import guarded_composition
from adaptkit.config.overrides import register_resolvers, translate_hydra_errors
from adaptkit.errors import AdaptError, ConfigError, first_line


def plain_data(cfg: Any) -> dict[str, Any]:
    """Resolve a composed config into plain data.

    Raises:
        ConfigError: a value is still `???`, or an interpolation leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        listed = ", ".join(missing)
        raise ConfigError(f"{listed}: must be set, for example {missing[0]}=VALUE.")
    try:
        return with_absolute_paths(as_mapping(OmegaConf.to_container(cfg, resolve=True)))
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "the configuration"
        raise ConfigError(f"{where}: cannot be resolved: {first_line(error)}.") from error


def with_absolute_paths(plain: dict[str, Any]) -> dict[str, Any]:
    """Make paths absolute where they exist, so that a run can be read from any folder."""
    places = (("data", "root"), ("task", "path"), ("model", "path"), ("model", "from_run"))
    for group, key in places:
        node = plain.get(group)
        value = node.get(key) if isinstance(node, dict) else None
        if node and isinstance(value, str) and value.strip() and Path(value).expanduser().exists():
            path = Path(value).expanduser()
            node[key] = os.path.abspath(path)
    return plain


def compose(overrides: list[str]) -> dict[str, Any]:
    """Compose the configuration without running a job (for plan, eval and tests).

    Raises:
        ConfigError: an override names something that does not exist.
    """
    from hydra import compose as hydra_compose

    with hydra_at_home(overrides):
        # The default of output_dir needs a running job; here nothing is written.
        return plain_data(hydra_compose("config", ["output_dir=outputs", *overrides]))


def compose_job(overrides: list[str]) -> dict[str, Any]:
    """Compose the configuration of a run, its default directory included.

    Raises:
        ConfigError: an override names something that does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    with hydra_at_home(overrides):
        cfg = hydra_compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # the directory's name is made of the overrides
        names = [str(key) for key in cfg if key != "hydra"]
        return plain_data(OmegaConf.masked_copy(cfg, names))


@contextmanager
def hydra_at_home(overrides: list[str]) -> Iterator[None]:
    """Point Hydra at our own configuration, and say its errors in our words."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    GlobalHydra.instance().clear()
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        translate_hydra_errors(overrides),
        guarded_composition(),
    ):
        yield


def load_plain(path: Path) -> dict[str, Any]:
    """Read a saved config.yaml (OmegaConf reads 1e-4 as a number, PyYAML as text).

    Raises:
        AdaptError: it cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return as_mapping(OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise AdaptError(f"{path} is damaged: {first_line(error)}.") from error


def as_mapping(node: Any) -> dict[str, Any]:
    """Return plain data that must be a mapping of names.

    Raises:
        AdaptError: it is not.
    """
    if not isinstance(node, dict):
        raise AdaptError(f"{str(node)[:60]!r} is not a mapping of options.")
    return {str(key): value for key, value in node.items()}


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return plain data as YAML that `load_plain` reads."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(plain)))


def load_raw(path: Path) -> dict[str, Any]:
    """Read a YAML file without resolving anything."""
    from omegaconf import OmegaConf

    return as_mapping(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
