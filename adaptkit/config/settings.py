"""Typed settings: plain data from a configuration become frozen dataclasses.

Keys are compared with fields, values with the fields' types, ranges by the dataclasses themselves.
Nothing here, nor in any module of a registry, imports torch at import time: a mistake is answered
at once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from adaptkit.adaptation import Method
from adaptkit.errors import (
    ConfigError,
    above,
    at_least,
    did_you_mean,
    invalid,
    unknown,
    within,
)
from adaptkit.methods import METHODS
from adaptkit.optimizers import OPTIMIZERS
from adaptkit.regularizers import REGULARIZERS
from adaptkit.tasks import TASKS

KEYS = ("model", "method", "task", "optimizer", "trainer", "tracker", "data", "seed", "output_dir")


@dataclass(frozen=True)
class Model:
    """Which pretrained body: a folder or a hub id."""

    name: str
    path: str
    revision: str | None = None
    pooling: Literal["mean", "max", None] = None  # null: the head reads what its class reads
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
            raise unknown(where, value, ["null" if a is None else a for a in arguments])
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(item, arguments[0], where) for item in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise invalid(
                where, value, "must be a mapping", f"Add single entries: +{where}.NAME=VALUE"
            )
        return {coerce(k, arguments[0], where): v for k, v in value.items()}
    if hint is Method:
        return _method(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise invalid(where, value, f"must be {names.get(hint, hint.__name__)}")


def _method(node: Any, where: str) -> Any:
    if not isinstance(node, Mapping) or "name" not in node:
        raise invalid(where, node, "must be a method", f"For example {where}=[{{name: lora}}]")
    options, name = {key: value for key, value in node.items() if key != "name"}, str(node["name"])
    single = {n: cls for n, cls in METHODS.items() if "parts" not in cls.__dataclass_fields__}
    return build(registered(where, single, "methods", name), options, where)


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
