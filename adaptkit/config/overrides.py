"""What users type: overrides named, checked and explained in our own words. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptkit.config.groups import CONF, GROUPS, options
from adaptkit.config.names import model_name, variant
from adaptkit.config.reasons import of_interpolation, of_yaml
from adaptkit.config.suggest import of_choice, of_key
from adaptkit.config.words import EMPTY, NONE, check_choice, readable, unreadable
from adaptkit.errors import UNSET, AdaptError, ConfigError


@contextmanager
def translate_hydra_errors(overrides: list[str]) -> Iterator[None]:
    """Turn Hydra's exceptions into ConfigErrors that name the closest names."""
    try:
        check_words(overrides)
        yield
    except AdaptError:
        raise
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        flags = isinstance(error, ValueError) and "--" in str(error)
        if flags or isinstance(error, HydraException | OmegaConfBaseException):
            raise ConfigError(explain(error, overrides)) from error
        if isinstance(error, YAMLError | UnicodeDecodeError | RecursionError):
            raise ConfigError(f"a file of options cannot be read: {of_yaml(error)}.") from error
        raise


def check_words(overrides: list[str]) -> None:
    """Reject what Hydra can read but a run has no use for.

    Raises:
        ConfigError: an option is removed, a group is added, packaged or given a number, or Hydra's
            own parts are replaced.
    """
    for word in overrides:
        key, has_value, value = word.lstrip("+~").partition("=")
        name, package, _ = key.partition("@")
        check_says_something(word, name if has_value else "", value)
        if f"{word[1:]}=null" in NONE and word.startswith("~"):
            continue
        if word.startswith("~") and (name.count(".") < 2 and not name.startswith("regularizer.")):
            way = f"write {name}={EMPTY[name]}" if name in EMPTY else "leave it out for its default"
            raise ConfigError(f"{word}: an option can be set, not removed; {way}.")
        if has_value and not name:
            raise ConfigError(f"{word}: cannot be read. Write KEY=VALUE.")
        if not has_value:
            continue
        if name in GROUPS and package:
            raise ConfigError(f"{word}: a group has one place; write {name}={value}.")
        if name in GROUPS and word.startswith("+") and name != "experiment":
            raise ConfigError(f"{word}: the group {name} is there already; write {name}={value}.")
        if name in GROUPS and re.fullmatch(r"[-+\d.]+(e[-+]?\d+)?|true|false", value, re.I):
            raise of_choice(name, value, options(name))
        if name in GROUPS:
            check_choice(name, word)
        if name == "hydra" or name.startswith("hydra/"):
            raise ConfigError(
                f"{word}: parts of Hydra cannot be replaced. A sweep (-m) runs its jobs one after "
                "the other."
            )


def check_says_something(word: str, name: str, value: str) -> None:
    """Reject an empty word, a group without a choice, and several words in one.

    Raises:
        ConfigError: it is one of them.
    """
    if not word.strip(" +~"):
        raise ConfigError(f"{word!r}: is no override. {UNSET}.")
    if name in GROUPS and not value.strip():
        raise ConfigError(f"{word}: names nothing. {UNSET}. There is: {', '.join(options(name))}.")
    if name in GROUPS and re.match(r"'?[\w./-]+\s+[\w.]+=", value):
        raise ConfigError(f"{word!r}: holds several overrides. Leave out the quotes around them.")


def explain(error: BaseException, overrides: list[str]) -> str:
    """Say what is wrong with the overrides, from Hydra's exception."""
    text = str(error)
    if match := re.search(r"Could not (?:find|load) '([\w.\-]+)/([^']*)'", text):
        group, option = match.groups()
        known = options(group)
        if known:
            return str(of_choice(group, option, known))
    if match := re.search(r"Could not (?:override|append|delete).*?'([^']+)'", text):
        key = match.group(1).split("@")[0]
        overrides = without_option(overrides, key)
        known = known_keys(overrides)
        if entry := re.search(rf"full_key: {re.escape(key)}\.(\S+)", str(error.__cause__)):
            new = f"{key}.{entry.group(1)}"
            return f"{new}: there is no such entry yet; to add it, write +{new}=VALUE."
        if key.startswith("hydra."):
            return f"{key}: Hydra has no such option; adaptkit train --cfg hydra shows them."
        if "append" in match.group(0) and key in known:
            return f"+{key}: there is such an option already; write {key}=VALUE."
        return f"{key}: no such option or group; {of_key(key, known, overrides)}".rstrip()
    if "Cannot merge" in str(error.__cause__):
        word = text.partition("Error merging override ")[2].lstrip("+")
        is_list = "object_type=list" in str(error.__cause__)
        wanted = "a list: KEY=[A,B]" if is_list else "a mapping: KEY={NAME:VALUE}"
        return f"{word}: must be {wanted}."
    if isinstance(error, ValueError) and "--" in text:  # flags that exclude each other
        return text
    if unread := unreadable(text, overrides):
        return (
            f"{unread}: cannot be read. Write KEY=VALUE, a list as 'KEY=[A,B]'. Text with signs "
            "such as , ( ) [ ] { } or = needs quotes inside those of the shell: "
            "\"KEY='some, (text)'\"."
        )
    if match := re.search(
        r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?:\s|$)", text
    ):
        return (
            f"{match.group(1)}: several values make a sweep: adaptkit train -m {match.group(1)}. "
            "A list is written in brackets: KEY=[A,B]."
        )
    if key := re.search(r"Interpolation key '([^']+)' not found", text):
        named = [o for o in overrides if key.group(1) in o] or ["the configuration"]
        return f"{named[0]}: there is no option {key.group(1)}."
    return of_interpolation(text) or " ".join(text.split())


def sweep_lengths(overrides: list[str]) -> dict[str, int]:
    """Return how many values each override of a sweep has; words that cannot be read are left out.

    Raises:
        ConfigError: one has none: there is nothing to run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    found: dict[str, int] = {}
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException:  # said when it is composed
            continue
        if not override.is_sweep_override():
            found.pop(override.key_or_group, None)  # typed, in place of an experiment's values
            continue
        if isinstance(globbed := override.value(), Glob):
            found[override.key_or_group] = len(globbed.filter(options(override.key_or_group)))
        else:
            found[override.key_or_group] = len(list(override.sweep_string_iterator()))
        if not found[override.key_or_group]:
            raise ConfigError(f"{word}: has no values, so there is nothing to run.")
    return found


def parsed(override: str) -> tuple[str, Any]:
    """Return key and value of one override, as in task.validation=test.

    Raises:
        ConfigError: it cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [override] = readable([override])
    with translate_hydra_errors([override]):
        result = OverridesParser.create().parse_override(override)
        return result.key_or_group, result.value()


def known_keys(overrides: list[str]) -> list[str]:
    """Return every key that can be set, given the groups the user chose."""

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, Mapping):
            return [prefix]
        below = [k for name in node for k in walk(node[name], f"{prefix}.{name}".lstrip("."))]
        return [prefix, *below] if prefix else below

    return list(dict.fromkeys([*walk(composed(overrides), ""), *GROUPS]))


def without_option(overrides: list[str], key: str) -> list[str]:
    """Return the overrides of one job of a sweep: of each swept group a choice that lacks `key`."""
    job = list(overrides)
    for place, word in enumerate(overrides):
        group, _, value = word.partition("=")
        choices = value.split(",") if group in GROUPS and not value.startswith("[") else []
        if len(choices) < 2 or not set(choices) <= set(options(group)):
            continue
        jobs = ([*job[:place], f"{group}={choice}", *job[place + 1 :]] for choice in choices)
        job = next((one for one in jobs if key not in known_keys(one)), job)
    return job


def chosen(group: str, word: str) -> bool:
    """Tell whether GROUP=CHOICE or GROUP=[CHOICE,...] names choices that exist."""
    value = word.partition("=")[2]
    several = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    return set(several) <= set(options(group))


def composed(overrides: list[str]) -> dict[str, Any]:
    """Return the configuration with the groups the user chose, nothing else set or resolved."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    register_resolvers()
    GlobalHydra.instance().clear()
    choices = [o for o in overrides if (g := o.partition("=")[0]) in GROUPS and chosen(g, o)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose("config", choices)
    plain: Any = OmegaConf.to_container(cfg)
    return plain


def root_of(cfg: Any) -> str | None:
    """Return data.root of a configuration that nobody has checked yet."""
    data = cfg.get("data")
    root = data.get("root") if isinstance(data, Mapping) else None
    return root if isinstance(root, str) else None


def stem(path: Any) -> str:
    """Return the name of somebody's own rows: that of their file or folder, which may be 2024."""
    return Path(str(path).removesuffix(".gz")).stem


def form(root: Any) -> str:
    """Return the form of a task that may have several, if none is typed."""
    from omegaconf import OmegaConf

    return "cloze" if OmegaConf.select(root, "method.name") == "hard_prompt" else "head"


def has_head(root: Any) -> bool:
    """Tell whether the task is put to a head of its own: cloze and text read single tokens."""
    from omegaconf import OmegaConf

    return OmegaConf.select(root, "task.form", default="head") in (None, "head")


def register_resolvers() -> None:
    """Make `${adaptkit.variant:...}`, `.stem` and others known to OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver(
        "adaptkit.variant", lambda o, *, _root_: variant(list(o), root_of(_root_)), replace=True
    )
    OmegaConf.register_new_resolver(
        "adaptkit.data_root", lambda: os.environ.get("ADAPTKIT_DATA") or None, replace=True
    )
    OmegaConf.register_new_resolver("adaptkit.form", lambda *, _root_: form(_root_), replace=True)
    OmegaConf.register_new_resolver(
        "adaptkit.if_head", lambda value, *, _root_: value if has_head(_root_) else None,
        replace=True,
    )  # fmt: skip
    OmegaConf.register_new_resolver("adaptkit.cwd", os.getcwd, replace=True)
    OmegaConf.register_new_resolver("adaptkit.model_name", model_name, replace=True)
    OmegaConf.register_new_resolver("adaptkit.stem", stem, replace=True)
