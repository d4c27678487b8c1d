"""From YAML and the command line to typed settings: the one border to OmegaConf.

`compose` gives plain data, `settings` turns it into frozen dataclasses: keys are compared with
fields, values with the fields' types, ranges by the dataclasses themselves. Nothing here, nor in
any module of a registry, imports torch at import time: a mistake is answered at once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from adaptkit.errors import (
    AdaptError,
    ConfigError,
    above,
    at_least,
    did_you_mean,
    first_line,
    invalid,
    unknown,
    within,
)
from adaptkit.methods import METHODS
from adaptkit.optimizers import OPTIMIZERS
from adaptkit.regularizers import REGULARIZERS
from adaptkit.tasks import TASKS

PACKAGE = Path(__file__).parent
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
KEYS = ("model", "method", "task", "optimizer", "trainer", "tracker", "data", "seed", "output_dir")
GROUPS = ("model", "method", "task", "optimizer", "regularizer", "trainer", "tracker", "experiment")


@dataclass(frozen=True)
class Model:
    """Which pretrained body: a folder or a hub id."""

    name: str
    path: str
    revision: str | None = None
    architecture: dict[str, Any] | None = None  # config.json's entries, for `plan` without network


@dataclass(frozen=True)
class Data:
    """Where rows come from and how many are used."""

    root: str | None = None  # DIR/<task>/<split>.parquet|jsonl|csv
    source: Literal["auto", "hub", "local", "sample"] = "auto"
    train_rows: int | None = None  # seeded subset with the classes' proportions; null: all
    eval_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("train_rows", "eval_rows"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class TrainerSettings:
    """Length, batches, precision and bookkeeping of a run."""

    epochs: float = 3
    max_steps: int | None = None  # updates; overrides epochs
    batch_size: int = 32
    eval_batch_size: int = 64
    gradient_accumulation: int = 1
    max_grad_norm: float = 1.0  # 0: no clipping
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    eval_every: int | None = None  # updates; null: at the end of every epoch
    checkpoint_every: int | None = None  # updates; null: after every evaluation
    log_every: int = 50  # updates
    early_stopping_patience: int | None = None  # evaluations without a better score
    keep: Literal["best", "last"] = "best"
    resume: Literal["auto", "never"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache_frozen: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        above("trainer.epochs", self.epochs, 0)
        at_least("trainer.max_grad_norm", self.max_grad_norm, 0)
        for name in ("batch_size", "eval_batch_size", "gradient_accumulation", "log_every"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("max_steps", "eval_every", "checkpoint_every", "early_stopping_patience"):
            if getattr(self, name) is not None:
                at_least(f"trainer.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class Tracker:
    """An experiment tracker the Trainer reports to."""

    name: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"

    def __post_init__(self) -> None:
        packages = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
        package = packages.get(self.name)
        if package and importlib.util.find_spec(package) is None:
            raise invalid(
                "tracker",
                self.name,
                f"needs the package {package}, which is not installed",
                f"pip install 'adaptkit[{self.name}]'",
            )


@dataclass(frozen=True)
class Settings:
    """One run, complete and typed."""

    model: Model
    method: Any
    method_name: str
    task: Any
    optimizer: Any
    regularizers: dict[str, Any]
    trainer: TrainerSettings
    tracker: Tracker
    data: Data
    seed: int
    output_dir: Path
    plain: dict[str, Any] = field(repr=False)  # what config.yaml holds


def registered(kind: str, registry: Mapping[str, type], group: str, name: str) -> type:
    """Return the class registered under `name`, here or by an installed package.

    Raises:
        ConfigError: nobody registered that name.
    """
    if name in registry:
        return registry[name]
    points = {p.name: p for p in importlib.metadata.entry_points(group=f"adaptkit.{group}")}
    if name not in points:
        raise unknown(kind, name, [*registry, *points])
    return points[name].load()


def build(cls: type, node: Mapping[str, Any], where: str) -> Any:
    """Construct dataclass `cls` from plain data, checking keys and types.

    Raises:
        ConfigError: a key no field has, a missing key, a value of another type.
    """
    if not isinstance(node, Mapping):
        raise invalid(where, node, "must be a mapping", f"Set single options: {where}.NAME=VALUE")
    known = {f.name: f for f in fields(cls) if f.init}
    for key in node:
        if key not in known:
            raise ConfigError(
                f"{where}.{key}: no such option; {did_you_mean(key, known)}"
                f"{where} has: {', '.join(known)}."
            )
    for name, spec in known.items():
        if name not in node and spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"{where}.{name}: must be set, add {where}.{name}=... .")
    hints = typing.get_type_hints(cls)
    return cls(**{k: coerce(v, hints[k], f"{where}.{k}") for k, v in node.items()})


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotated type: int becomes float, one word a tuple of one.

    Raises:
        ConfigError: the value is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _first_that_fits(value, [a for a in arguments if a is not type(None)], where)
    if origin is Literal:
        if value not in arguments:
            raise unknown(where, value, [str(a) for a in arguments])
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(item, arguments[0], where) for item in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise invalid(where, value, "must be a mapping", f"For example {where}={{name: value}}")
        return {coerce(k, arguments[0], where): v for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise invalid(where, value, f"must be {names.get(hint, hint.__name__)}")


def _first_that_fits(value: Any, hints: list[Any], where: str) -> Any:
    for hint in hints[:-1]:
        try:
            return coerce(value, hint, where)
        except ConfigError:
            continue
    return coerce(value, hints[-1], where)


def settings(plain: Mapping[str, Any]) -> Settings:
    """Turn resolved plain data into typed settings.

    Raises:
        ConfigError: a key, type, range or combination is wrong.
    """
    chosen = {
        "method": ("method", METHODS, "methods", "name"),
        "optimizer": ("optimizer", OPTIMIZERS, "optimizers", "name"),
        "task": ("task.kind", TASKS, "tasks", "kind"),
    }
    if absent := [name for name in KEYS if name not in plain]:
        raise ConfigError(f"{', '.join(absent)}: must be set.")
    parts: dict[str, Any] = {}
    for group, (shown, registry, points, key) in chosen.items():
        node = dict(plain[group])
        cls = registered(shown, registry, points, str(node.pop(key, None)))
        parts[group] = build(cls, node, group)
    regularizers = {
        name: build(
            registered("regularizer", REGULARIZERS, "regularizers", name),
            node,
            f"regularizer.{name}",
        )
        for name, node in (plain.get("regularizer") or {}).items()
    }
    seed = coerce(plain["seed"], int, "seed")
    within("seed", seed, 0, 2**32)
    return Settings(
        model=build(Model, plain["model"], "model"),
        method_name=plain["method"]["name"],
        regularizers=regularizers,
        trainer=build(TrainerSettings, plain["trainer"], "trainer"),
        tracker=build(Tracker, plain["tracker"], "tracker"),
        data=build(Data, plain["data"], "data"),
        seed=seed,
        output_dir=Path(coerce(plain["output_dir"], str, "output_dir")),
        plain=dict(plain),
        **parts,
    )


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
