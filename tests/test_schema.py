"""The schema of all settings: it accepts what adaptkit accepts, and rejects what no class takes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from commandline import call
from schemas import problems

from adaptkit.config import describe
from adaptkit.config.build import build, coerce
from adaptkit.config.compose import compose, load_raw
from adaptkit.config.groups import CONF
from adaptkit.config.protocol import Protocol
from adaptkit.config.schema import DRAFT, schema
from adaptkit.config.settings import settings
from adaptkit.config.suite import Suite
from adaptkit.errors import AdaptError
from adaptkit.tasks import TASKS

CLASSES: dict[str, type] = {
    **describe.SINGLE, "suite": Suite, "protocol": Protocol,
    **{f"{group}.{name}": cls
       for group, registry in (*describe.REGISTRIES.items(), ("task", TASKS))
       for name, cls in registry.items()},
}  # fmt: skip
CHOSEN_BY = {"method": "name", "optimizer": "name", "task": "kind"}
RUNS = (
    ["method=lora", "task=sst2"],
    ["method=mam", "task=squad", "regularizer=[r3f,mixout]", "optimizer=adafactor"],
    ["method=probe", "task=copa", "suite=null", "optimizer=sgd", "method.layer=-2"],
    ["method=bitfit", "task=mnli", "suite=ood", "protocol=forgetting", "trainer=debug"],
    ["method=full", "task=e2e", "model=flan-t5-small", "regularizer=[recadam,reinit,child_tuning]"],
    ["experiment=paper/lora_mrpc", "tracker=[wandb,mlflow]", "budget.trainable=0.5%"],
    ["method=lora", "method.roles=query", "task=tag", "task.path=a", "+method.ranks.query=4",
     "task.class_weights=[1,2]", "model=auto", "model.path=a/b"],
)  # fmt: skip


@cache
def made() -> dict[str, Any]:
    return schema()


@cache
def composed(words: tuple[str, ...]) -> str:
    return json.dumps(compose(list(words)))


def run_of(words: list[str]) -> dict[str, Any]:
    return json.loads(composed(tuple(words)))


def against(value: Any) -> list[str]:
    return problems(value, made(), made())


def test_it_is_printed_without_torch_and_always_the_same() -> None:
    code = "import sys; from adaptkit.cli.main import main; main(['list', '--schema'])\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit('torch' in sys.modules)"],
        env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == json.dumps(made(), indent=2) + "\n"
    assert made()["$schema"] == DRAFT
    wrong = call("list", "methods", "--schema")
    assert (wrong.status, wrong.out) == (2, "") and "Leave methods out" in wrong.err


def test_it_is_a_schema() -> None:
    """By the reference implementation, which also agrees with the tests' own about the runs."""
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator.check_schema(made())
    for words in RUNS:
        found = run_of(words)
        assert validator(made()).is_valid(found)
        for group in ("method", "task", "trainer", "optimizer"):
            for key in found[group]:
                wrong = {**found, group: {**found[group], key: [{"x": 0.5}]}}
                assert validator(made()).is_valid(wrong) == (not against(wrong)), (group, key)


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_occurs(name: str) -> None:
    """With its meaning and its default, which is of its type."""
    definition, cls = made()["$defs"][name], CLASSES[name]
    options = dict(definition["properties"])
    key = CHOSEN_BY.get(name.partition(".")[0])
    if key:
        assert options.pop(key) == {"const": name.partition(".")[2]}
    assert list(options) == [field.name for field in fields(cls) if field.init]
    assert definition["additionalProperties"] is False and definition["description"]
    for option, rules in options.items():
        assert rules["description"] == describe.comments(cls)[option]
        assert problems(rules.get("default"), rules, made()) == [] or "default" not in rules


def leaves(group: str, file: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (name of a definition, option, value) of what a YAML file sets."""
    raw = load_raw(file)
    if group == "regularizer":
        nodes = {f"regularizer.{file.stem}": raw}
    else:  # a method and an experiment set options of several groups
        nodes = raw if group in ("method", "experiment") else {group: raw}
    for each, node in nodes.items():
        name = f"{each}.{chosen(each, file, node, raw)}" if each in CHOSEN_BY else each
        for key, value in node.items() if name in made()["$defs"] else ():
            if key != "defaults" and "${" not in str(value) and value != "???":
                yield name, key, value


def chosen(group: str, file: Path, node: dict[str, Any], raw: dict[str, Any]) -> str:
    entries = [entry for entry in raw.get("defaults", ()) if isinstance(entry, dict)]
    name = next((e[f"override /{group}"] for e in entries if f"override /{group}" in e), None)
    if group == "task":
        return kind_of(CONF / "task" / f"{name}.yaml" if name else file)
    return name or node.get("name") or {"method": "lora", "optimizer": "adamw"}[group]


def kind_of(file: Path) -> str:
    raw = load_raw(file)
    base = (entry for entry in raw.get("defaults", ()) if isinstance(entry, str))
    return raw.get("kind") or kind_of(file.with_name(f"{next(base)}.yaml"))


@pytest.mark.parametrize(
    "group", ["model", "method", "task", "optimizer", "regularizer", "trainer", "suite", "protocol",
              "experiment"])  # fmt: skip
def test_bundled_options_are_valid(group: str) -> None:
    count = 0
    for file in sorted((CONF / group).rglob("*.yaml")):
        for name, key, value in leaves(group, file):
            rules = made()["$defs"][name]["properties"][key]
            assert problems(json.loads(json.dumps(value)), rules, made()) == [], (file, key)
            count += 1
    assert count > len(list((CONF / group).rglob("*.yaml")))


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_composed_runs_are_valid(words: list[str]) -> None:
    found = run_of(words)
    assert against(found) == []
    if not found["budget"]["trainable"]:
        found = settings(found).plain  # as config.yaml of a finished run
        assert against(json.loads(json.dumps(found))) == [] and "budget" not in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method.rank", 0), ("method.rank", "three"), ("method.rank", 2.5), ("method.rank", True),
        ("method.rnak", 4), ("method.dropout", 1), ("method.roles", ["quary"]),
        ("method.name", "lroa"), ("method.size", 64), ("method", None), ("task.kind", "clasify"),
        ("task.stride", 3), ("task.metric", "acuracy"), ("task.max_length", 3),
        ("optimizer.lr", 0), ("optimizer.lr", None), ("optimizer.schedule", "step"),
        ("trainer.keep", "all"), ("trainer.batch_size", 0), ("trainer.epochs", -1),
        ("trainer.fast", "yes"), ("data.fold", 5), ("data.source", "web"), ("seed", -1),
        ("seed", 2**32), ("seed", None), ("regularizer", {"r3g": {}}),
        ("regularizer", {"mixout": {"p": 1.0}}), ("regularizer", ["mixout"]), ("suite", "ood"),
        ("budget", {"trainable": [1]}), ("hydra", {}),
        ("search", {"optimizer.lr": 3}), ("search", [1]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_invalid(key: str, value: Any) -> None:
    """For the schema as for adaptkit."""
    found = copy.deepcopy(run_of(RUNS[0]))
    group, _, leaf = key.partition(".")
    node, last = (found[group], leaf) if leaf else (found, group)
    node[last] = value
    assert against(found)
    with pytest.raises(AdaptError):
        settings(found)


VALUES: tuple[Any, ...] = (None, True, -(10**9), -1, 0, 0.5, 1, 2, 1000, 10**9, "x", [], ["x"], [1],
                           {}, {"x": 1}, {"x": "y"})  # fmt: skip
SET = {"name": "x", "path": "x", "text": "x", "choices": ["x", "y"], "source": "x", "lr": 0.1,
       "parts": [{"name": "lora"}], "runs": {"x": "task=lm"}}  # fmt: skip
FREE = ("method.probe.layer", "task.tag.control_shares")  # the model says, and the data


@pytest.mark.parametrize("name", CLASSES)
def test_it_rejects_what_has_another_type_and_accepts_what_the_class_does(name: str) -> None:
    cls, options = CLASSES[name], made()["$defs"][name]["properties"]
    hints = typing.get_type_hints(cls)
    known = [field.name for field in fields(cls) if field.init]
    node = {option: options[option].get("default") or SET.get(option) for option in known}
    valid = build(cls, {key: value for key, value in node.items() if value is not None}, "")
    for option in known:
        rules = options[option]
        for value in VALUES:
            found = problems(value, rules, made())
            try:
                read = coerce(value, hints[option], "")
            except AdaptError:
                assert found, (option, value)
                continue
            if found:
                with pytest.raises(AdaptError):
                    replace(valid, **{option: read})
        number = {int, float} & {hints[option], *typing.get_args(hints[option])}
        if number and str not in typing.get_args(hints[option]) and f"{name}.{option}" not in FREE:
            below = [-(10**9)] if "anyOf" in rules else -(10**9)
            assert problems(below, rules, made()), option
