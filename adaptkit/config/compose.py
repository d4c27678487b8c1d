"""From the command line to plain data, by Hydra: the border to it and to OmegaConf.

Hydra's exceptions become messages that name the closest options. No torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptkit.config.groups import CONF
from adaptkit.config.guard import guarded_composition, leaves
from adaptkit.config.names import TEMPLATE_FILES
from adaptkit.config.overrides import register_resolvers, translate_hydra_errors
from adaptkit.config.reasons import of_interpolation, of_yaml
from adaptkit.config.words import readable
from adaptkit.errors import AdaptError, ConfigError, first_line
from adaptkit.storage.bundled import of_another_set

_at_home = threading.RLock()  # Hydra composes one configuration at a time


def plain_data(cfg: Any) -> dict[str, Any]:
    """Resolve a composed config into plain data.

    Raises:
        ConfigError: a value is still `???`, or an interpolation leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    raw = leaves(OmegaConf.to_container(cfg, resolve=False))
    missing = sorted(key for key, value in raw if value == "???")
    if missing:
        listed = ", ".join(missing)
        raise ConfigError(f"{listed}: must be set, for example {missing[0]}=VALUE.")
    try:
        return with_absolute_paths(as_mapping(OmegaConf.to_container(cfg, resolve=True)))
    except OmegaConfBaseException as error:
        where = f"the configuration cannot be resolved: {first_line(error)}."
        raise ConfigError(of_interpolation(str(error)) or where) from error


def without_hydra(cfg: Any) -> Any:
    """Return a job's configuration without Hydra's own part; nothing is resolved yet."""
    from omegaconf import OmegaConf

    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    place = {"output_dir": raw.pop("output_dir")} if "output_dir" in raw else {}
    raw.pop("hydra", None)
    return OmegaConf.create({**raw, **place})  # made of the others: theirs are the better errors


def with_words(cfg: Any, hydra: Any, words: Sequence[str]) -> Any:
    """Return a job's configuration with options set as if KEY=NUMBER or KEY=null had been typed."""
    from omegaconf import OmegaConf, read_write

    for word in words:
        key, _, value = word.partition("=")
        OmegaConf.update(cfg, key, None if value == "null" else int(value))
    with read_write(hydra):  # the directory's name is made of them
        hydra.overrides.task.extend(words)
    return cfg


def typed(hydra: Any) -> str:
    """Return a job's overrides as they were typed."""
    from omegaconf import OmegaConf

    words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return " ".join(words)


def with_absolute_paths(plain: dict[str, Any]) -> dict[str, Any]:
    """Make paths absolute where they exist, so that a run can be read from any folder."""
    places = (("data", "root"), ("task", "path"), ("model", "path"), ("model", "from_run"))
    plain = {**plain, "output_dir": named_by_number(plain.get("output_dir"))}
    if isinstance(plain["output_dir"], str):
        plain["output_dir"] = os.path.expanduser(plain["output_dir"])
    for group, key in places:
        node = plain.get(group)
        value = named_by_number(node.get(key)) if isinstance(node, dict) else None
        if node and isinstance(value, str) and value.strip():
            path = os.path.expanduser(value)
            node[key] = os.path.abspath(path) if os.path.exists(path) else value
    return with_template(without_idle_root(plain))


def named_by_number(place: Any) -> Any:
    """Return the name of a file or folder that is a whole number, such as 2024, as text."""
    return str(place) if isinstance(place, int) and not isinstance(place, bool) else place


def without_idle_root(plain: dict[str, Any]) -> dict[str, Any]:
    """Leave out the environment's data.root if the task's own data set has priority over it.

    Recorded, it would clash with that set wherever the environment is another one.
    """
    data, task, default = plain.get("data"), plain.get("task"), os.environ.get("ADAPTKIT_DATA")
    if default and isinstance(data, dict) and isinstance(task, dict):
        ours = data.get("root") == os.path.abspath(os.path.expanduser(default))
        own = task.get("path")
        if ours and data.get("source") != "hub" and isinstance(own, str):
            place = {key: task.get(key) for key in ("path", "subset", "revision")}
            there = os.path.isabs(own) and os.path.exists(own)
            if there or of_another_set(str(task.get("name")), place):
                data["root"] = None
    return plain


def with_template(plain: dict[str, Any]) -> dict[str, Any]:
    """Put the text and the words of a file that task.template names in its place.

    Words of the task itself have priority.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    task = plain.get("task")
    value = task.get("template") if isinstance(task, dict) else None
    if not isinstance(task, dict) or not isinstance(value, str):
        return plain
    if "{" in value or not value.endswith(TEMPLATE_FILES):
        return plain
    where, file = f"task.template={value}", Path(value).expanduser()
    if not file.is_file():
        raise ConfigError(f"{where}: there is no such file.")
    found = load_plain(file)
    if more := [key for key in found if key not in ("text", "words")]:
        raise ConfigError(f"{where}: has the key {more[0]!r}; it may have text and words.")
    text, words = found.get("text"), found.get("words") or {}
    if not isinstance(text, str) or "{" not in text:
        raise ConfigError(
            f"{where}: must have a text with {{label}}, as text: '{{first}} {{label}}'"
        )
    if not isinstance(words, dict):
        raise ConfigError(f"{where}: words={words!r} must be a mapping, as {{CLASS: WORD}}.")
    ours = {"template": text.strip("\n"), "words": task.get("words") or words}
    return {**plain, "task": {**task, **ours}}


def compose(overrides: list[str]) -> dict[str, Any]:
    """Compose the configuration without running a job (for plan, eval and tests).

    Raises:
        ConfigError: an override names something that does not exist.
    """
    from hydra import compose as hydra_compose

    overrides = readable(overrides)
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

    overrides = readable(overrides)
    with hydra_at_home(overrides):
        cfg = hydra_compose("config", overrides, return_hydra_config=True)
        own = HydraConfig.instance()
        before = own.cfg  # of a job that is at work
        try:
            own.set_config(cfg)  # the directory's name is made of the overrides
            return plain_data(without_hydra(cfg))
        finally:
            own.cfg = before


@contextmanager
def hydra_at_home(overrides: list[str]) -> Iterator[None]:
    """Point Hydra at our own configuration, and say its errors in our words."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    with _at_home:
        GlobalHydra.instance().clear()
        with (
            initialize_config_dir(str(CONF), version_base="1.3"),
            translate_hydra_errors(overrides),
            guarded_composition(),
        ):
            yield


def load_plain(path: Path) -> dict[str, Any]:
    """Read a saved config.yaml as data: nothing in it is resolved, and `${...}` is text.

    Raises:
        AdaptError: it cannot be read, or holds more than mappings, lists, text and numbers.
    """
    import yaml
    from omegaconf._utils import get_yaml_loader  # reads 1e-4 as a number, PyYAML as text

    try:
        text = path.read_text(encoding="utf-8")
        check_events(yaml.parse(text))
        return plain_mapping(yaml.load(text, Loader=get_yaml_loader()))
    except (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError) as error:
        raise AdaptError(f"{path} is damaged: {of_yaml(error)}.") from error


DEEPEST = 30  # levels; PyYAML takes minutes for thousands


def check_events(events: Iterable[Any]) -> None:
    """Reject YAML that is endless, or nearly so.

    Raises:
        ValueError: it refers to parts of itself, or is nested too deeply.
    """
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name in ("MappingStartEvent", "SequenceStartEvent")
        depth -= name in ("MappingEndEvent", "SequenceEndEvent")
        if name == "AliasEvent":
            raise ValueError("references (*name) are not read")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def plain_mapping(node: Any) -> dict[str, Any]:
    """Return a mapping of names, everything below it checked.

    Raises:
        ValueError: it is not, or holds something else than mappings, lists, text and numbers.
    """
    if not isinstance(node, dict):
        raise ValueError(f"{str(node)[:60]!r} is not a mapping of options")
    waiting = list(node.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"{str(value)[:60]!r} is neither text nor a number")
    return {str(key): value for key, value in node.items()}


def as_mapping(node: Any) -> dict[str, Any]:
    """Return plain data that must be a mapping of names.

    Raises:
        AdaptError: it is not.
    """
    if not isinstance(node, dict):
        raise AdaptError(f"{str(node)[:60]!r} is not a mapping of options.")
    return {str(key): value for key, value in node.items()}


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return plain data as YAML that `load_plain` reads; `${...}` stays text."""
    import yaml
    from omegaconf._utils import get_omega_conf_dumper

    class Dumper(get_omega_conf_dumper()):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(dict(plain), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def load_raw(path: Path) -> dict[str, Any]:
    """Read a YAML file without resolving anything."""
    from omegaconf import OmegaConf

    return as_mapping(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
