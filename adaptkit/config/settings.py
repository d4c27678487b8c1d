"""Typed settings: plain data from a configuration become frozen dataclasses.

Keys are compared with fields, values with the fields' types, ranges by the dataclasses themselves.
Nothing here, nor in any module of a registry, imports torch at import time: a mistake is answered
at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptkit.adaptation import Method
from adaptkit.config.budget import budget_in, check_solved
from adaptkit.config.build import build, coerce, registered
from adaptkit.config.combinations import check
from adaptkit.config.protocol import Protocol, protocol_in
from adaptkit.config.search import Space, search_in
from adaptkit.config.suggest import of_key
from adaptkit.config.suite import Suite, suite_in
from adaptkit.errors import UNSET, ConfigError, folder_name, invalid, within
from adaptkit.methods import METHODS
from adaptkit.models.checkpoint import head_of
from adaptkit.models.model import Model
from adaptkit.optimizers import OPTIMIZERS, OptimizerSettings
from adaptkit.regularizers import REGULARIZERS
from adaptkit.tasks import TASKS
from adaptkit.tasks.data import Data
from adaptkit.tasks.task import Task
from adaptkit.training.settings import Recipe, Tracker, TrainerSettings

AFTERWARDS = ("suite", "protocol")  # groups that say what is done with a finished run
KEYS = ("model", "method", "task", "optimizer", "trainer", "tracker", "data", "seed", "output_dir")
ASIDE = ("budget", "search")  # solved, or raced, before there is a run
OPTIONAL = ("regularizer", *ASIDE, *AFTERWARDS)
SEEDS = (0, 2**32)  # at least, below


@dataclass(frozen=True)
class Settings:
    """One run, complete and typed."""

    model: Model
    method: Method
    method_name: str
    task: Task
    optimizer: OptimizerSettings
    regularizers: dict[str, Method]
    trainer: TrainerSettings
    tracker: Tracker
    data: Data
    seed: int
    output_dir: Path
    plain: dict[str, Any] = field(repr=False)  # what config.yaml holds
    suite: Suite | None = None  # scored after training; no part of what the run is
    protocol: Protocol | None = None  # runs that follow; neither
    search: Space = field(default_factory=dict)  # what a race tries; neither

    @property
    def typed(self) -> dict[str, Any]:
        """Return what the settings are made of: `plain`, the suite and the protocol."""
        parts = {name: getattr(self, name) for name in AFTERWARDS}
        return {**self.plain, **{name: asdict(part) for name, part in parts.items() if part}}

    def bind(self, task: Task) -> Settings:
        """Return the settings with a task in which all that was read off the data is filled in."""
        read = {
            name: value
            for name, value in vars(task).items()
            if name in vars(self.task) and value != getattr(self.task, name)
        }
        listed = {n: list(v) if isinstance(v, tuple) else v for n, v in read.items()}
        plain = {**self.plain, "task": {**self.plain["task"], **listed}}
        return replace(self, task=task, plain=plain)

    @property
    def recipe(self) -> Recipe:
        """Return what the trainer must know."""
        return Recipe(self.trainer, self.optimizer, self.tracker, self.seed, self.output_dir)

    @property
    def head(self) -> str:
        """Key of models.heads.HEADS: what the task's form needs on this model."""
        return head_of(self.model, self.task.posed.head)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The method, and the regularizers that follow it."""
        return (self.method, *self.regularizers.values())


def settings(plain: Mapping[str, Any]) -> Settings:
    """Turn resolved plain data into typed settings.

    Raises:
        ConfigError: a key, type, range or combination is wrong.
    """
    kinds = {
        "method": ("method", METHODS, "methods", "name"),
        "optimizer": ("optimizer", OPTIMIZERS, "optimizers", "name"),
        "task": ("task.kind", TASKS, "tasks", "kind"),
    }
    if absent := [name for name in KEYS if name not in plain]:
        raise ConfigError(f"{', '.join(absent)}: must be set.")
    if more := [name for name in plain if name not in (*KEYS, *OPTIONAL)]:
        nodes = {name: node for name, node in plain.items() if isinstance(node, Mapping)}
        known = [*KEYS, *(f"{name}.{key}" for name, node in nodes.items() for key in node)]
        raise ConfigError(f"{more[0]}: no such option or group; {of_key(more[0], known, [])}")
    for name in (*KEYS[:7], "regularizer"):
        if not isinstance(plain.get(name) or {}, Mapping) or (name in KEYS and not plain[name]):
            raise invalid(name, plain[name], "must be a mapping of options")
    parts: dict[str, Any] = {}
    for group, (shown, registry, points, key) in kinds.items():
        node = dict(plain[group])
        cls = registered(shown, registry, points, str(node.pop(key, None)))
        parts[group] = build(cls, node, group)
    model = build(Model, plain["model"], "model")
    folder_name("model.name", model.name)
    folder_name("task.name", parts["task"].name)
    regularizers = {
        name: build(
            registered("regularizer", REGULARIZERS, "regularizers", name),
            node,
            f"regularizer.{name}",
        )
        for name, node in (plain.get("regularizer") or {}).items()
    }
    check_paths(plain)
    if suite := suite_in(plain):
        suite.of(parts["task"].name)  # before training: are there sets for it?
    check_solved(budget_in(plain))
    seed = coerce(plain["seed"], int, "seed")
    within("seed", seed, *SEEDS)
    trainer = build(TrainerSettings, plain["trainer"], "trainer")
    made = Settings(
        model=model,
        method_name=plain["method"]["name"],
        regularizers=regularizers,
        trainer=trainer,
        tracker=build(Tracker, plain["tracker"], "tracker"),
        data=build(Data, plain["data"], "data"),
        seed=seed,
        output_dir=Path(coerce(plain["output_dir"], str, "output_dir")),
        plain={name: node for name, node in plain.items() if name not in (*AFTERWARDS, *ASIDE)},
        suite=suite,
        protocol=protocol_in(plain),
        search=search_in(plain),
        **parts,
    )
    check(made)
    return made


PATHS = (("data", "root"), ("task", "path"), ("model", "path"), ("model", "from_run"),
         ("", "output_dir"), ("trainer", "features"))  # fmt: skip


def check_paths(plain: Mapping[str, Any]) -> None:
    """Reject options that no file can be named by, as `check_path` does."""
    for group, key in PATHS:
        check_path(f"{group}.{key}".lstrip("."), (plain[group] if group else plain).get(key))


def check_path(field: str, value: Any) -> None:
    """Reject what no file can be named.

    Raises:
        ConfigError: it is empty, or a part is too long, holds a zero byte, or is an unknown home.
    """
    if not isinstance(value, str):  # not set, or said elsewhere
        return
    if not value.strip():
        raise invalid(field, value, "names nothing", UNSET)
    path = os.path.expanduser(value)
    if "\0" in path:
        raise invalid(field, value, "a path must not hold a zero byte")
    longest = max((os.fsencode(part) for part in path.split("/")), key=len)
    if len(longest) > 255 or len(os.fsencode(path)) > 4000:
        raise ConfigError(
            f"{field}={value[:40]}...: is too long for a path ({len(longest)} bytes in one name; "
            "255 are possible). Give a shorter one."
        )
    if path.startswith("~"):
        raise invalid(field, value, "there is no such home folder")
