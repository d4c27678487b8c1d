"""From the command line to plain data, by Hydra: the border to it and to OmegaConf.

Hydra's exceptions become messages that name the closest options. No torch.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError, ConfigError, did_you_mean, first_line, unknown

PACKAGE = Path(__file__).parents[1]


# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


GROUPS = ("model", "method", "task", "optimizer", "regularizer", "trainer", "tracker", "experiment")


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
        return anchored(OmegaConf.to_container(cfg, resolve=True))
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "the configuration"
        raise ConfigError(f"{where}: cannot be resolved: {first_line(error)}.") from error


def anchored(plain: dict[str, Any]) -> dict[str, Any]:
    """Make paths absolute where they exist, so that a run can be read from any folder."""
    for group, key in (("data", "root"), ("task", "path"), ("model", "path")):
        node = plain.get(group)
        value = node.get(key) if isinstance(node, dict) else None
        if isinstance(value, str) and (path := Path(value).expanduser()).exists():
            node[key] = os.path.abspath(path)
    return plain


def compose(overrides: list[str]) -> dict[str, Any]:
    """Compose the configuration without running a job (for plan, eval and tests).

    Raises:
        ConfigError: an override names something that does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"), explained(overrides):
        # The default of output_dir needs a running job; here nothing is written.
        return plain_data(hydra_compose("config", ["output_dir=outputs", *overrides]))


def load_plain(path: Path) -> dict[str, Any]:
    """Read a saved config.yaml (OmegaConf reads 1e-4 as a number, PyYAML as text).

    Raises:
        AdaptError: it cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise AdaptError(f"{path} is damaged: {first_line(error)}.") from error


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return plain data as YAML that `load_plain` reads."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(plain)))


class explained:
    """Context in which Hydra's exceptions become ConfigErrors that name the closest names."""

    def __init__(self, overrides: list[str]) -> None:
        self.overrides = overrides

    def __enter__(self) -> explained:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, AdaptError):
            return
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        flags = isinstance(error, ValueError) and "--" in str(error)
        if flags or isinstance(error, HydraException | OmegaConfBaseException):
            raise ConfigError(explain(error, self.overrides)) from error


def explain(error: BaseException, overrides: list[str]) -> str:
    """Say what is wrong with the overrides, from Hydra's exception."""
    text = str(error)
    if found := re.search(r"Could not (?:find|load) '([\w.\-]+)/([^']*)'", text):
        group, option = found.groups()
        known = options(group)
        if known:
            return str(unknown(group, option, known))
    if found := re.search(r"Could not (?:override|append|delete).*?'([^']+)'", text):
        key = found.group(1).split("@")[0]
        known = known_keys(overrides)
        if entry := re.search(rf"full_key: {re.escape(key)}\.(\S+)", str(error.__cause__)):
            new = f"{key}.{entry.group(1)}"
            return f"{new}: there is no such entry yet; to add it, write +{new}=VALUE."
        return (
            f"{key}: no such option or group; {did_you_mean(key, known) or near_leaf(key, known)}"
        )
    if "Cannot merge" in str(error.__cause__):
        word = text.partition("Error merging override ")[2]
        wanted = "a list: KEY=[A,B]" if "with ListConfig" in str(error.__cause__) else "a mapping"
        return f"{word}: must be {wanted}."
    if isinstance(error, ValueError) and "--" in text:  # flags that exclude each other
        return text
    if word := unreadable(text, overrides):
        return (
            f"{word}: cannot be read. Write KEY=VALUE, and in the shell put quotes around a value "
            "with spaces, brackets or braces: 'KEY=[A,B]'."
        )
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return (
            f"{found.group(1)}: several values make a sweep: adaptkit train -m {found.group(1)}. "
            "A list is written in brackets: KEY=[A,B]."
        )
    if key := re.search(r"Interpolation key '([^']+)' not found", text):
        named = [o for o in overrides if key.group(1) in o] or ["the configuration"]
        return f"{named[0]}: there is no option {key.group(1)}."
    return " ".join(text.split())


def unreadable(text: str, overrides: list[str]) -> str | None:
    """Return the word that is no override: the one Hydra names, or the first it cannot parse."""
    if found := re.search(r"Error parsing override '([^']*)'", text):
        return found.group(1)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for word in (o for o in overrides if "=" in o):  # others may be values of flags
        try:
            parser.parse_override(word)
        except HydraException:
            return word
    return None


def near_leaf(key: str, known: list[str]) -> str:
    """Suggest options whose last word resembles the last word of `key`, or list the groups."""
    leaf = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    if same:
        return f"did you mean {' or '.join(same[:3])}?"
    return f"groups: {', '.join(GROUPS)}; all options: adaptkit train --cfg job."


def options(group: str) -> list[str]:
    """Return the choices of a config group: the stems of its files."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def known_keys(overrides: list[str]) -> list[str]:
    """Return every key that can be set, given the groups the user chose."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    register_resolvers()
    GlobalHydra.instance().clear()
    choices = [
        o
        for o in overrides
        if (g := o.partition("=")[0]) in GROUPS and o.partition("=")[2] in options(g)
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose("config", choices)

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, Mapping):
            return [prefix]
        below = [k for name in node for k in walk(node[name], f"{prefix}.{name}".lstrip("."))]
        return [prefix, *below] if prefix else below

    return [*walk(OmegaConf.to_container(cfg), ""), *GROUPS]


# Overrides that do not belong into the name of a run's folder: they stand in the path already, or
# say only where and how a run is carried out.
UNNAMED = (
    "task",
    "model",
    "method",
    "seed",
    "output_dir",
    "trainer.resume",
    "data.root",
    "tracker",
)


def variant(overrides: list[str]) -> str:
    """Name what the remaining overrides change, so that two runs never share a folder.

    Readable while short; where characters had to be replaced or cut, a hash keeps names apart.
    """
    kept = sorted(o for o in overrides if o.lstrip("+~").partition("=")[0] not in UNNAMED)
    full = ",".join(kept)
    name = re.sub(r"[^A-Za-z0-9=.,\-+]", "_", full)[:96]
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return (name if name == full else f"{name}-{digest}") or "default"


def register_resolvers() -> None:
    """Make `${adaptkit.variant:...}`, `.stem` and `.data_root` known to OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("adaptkit.variant", lambda o: variant(list(o)), replace=True)
    OmegaConf.register_new_resolver(
        "adaptkit.data_root", lambda: os.environ.get("ADAPTKIT_DATA") or None, replace=True
    )
    OmegaConf.register_new_resolver("adaptkit.stem", lambda path: Path(path).stem, replace=True)
