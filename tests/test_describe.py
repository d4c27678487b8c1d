"""Every option says what it means in one place, its field; list, help and YAML repeat it."""

from __future__ import annotations

import json
import math
import re
import typing
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from commandline import call

from adaptkit.config import describe
from adaptkit.config.groups import CONF, options
from adaptkit.config.overrides import composed
from adaptkit.tasks import TASKS

CLASSES = {
    **{(group, name): cls for group, registry in describe.REGISTRIES.items()
       for name, cls in registry.items()},
    **{("task", name): cls for name, cls in TASKS.items()},
    **{(group, {"model": "auto", "trainer": "default", "tracker": "none"}.get(group, "")): cls
       for group, cls in describe.SINGLE.items()},
}  # fmt: skip
SOURCES = ("paper", "authors", "tuned", "AdapterHub")  # comments about a value, not the option


@pytest.fixture(scope="module")
def plain() -> dict:
    """The default configuration."""
    return composed([])


@pytest.mark.parametrize(("group", "name"), CLASSES, ids="=".join)
def test_every_option_says_what_it_means(group: str, name: str) -> None:
    meanings = describe.comments(CLASSES[group, name])
    silent = [f.name for f in fields(CLASSES[group, name]) if f.init and not meanings.get(f.name)]
    assert silent == [], "write a comment at the field"


def commented(file: Path, group: str) -> dict[str, str]:
    """Return the comments of a group's options in a YAML file."""
    found, top = {}, group
    for line in file.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"(\w+):\s*(#.*)?", line):
            top = heading[1]
        if (option := re.match(r"\s*(\w+):.*?\s# (.*)", line)) and top == group:
            found[option[1]] = option[2]
    return found


@pytest.mark.parametrize(("group", "name"), CLASSES, ids="=".join)
def test_yaml_repeats_the_meaning(group: str, name: str) -> None:
    """A comment in conf/ is that of the field, or says where a value is from."""
    meanings = describe.comments(CLASSES[group, name])
    file = CONF / group / f"{name}.yaml" if name else CONF / "config.yaml"
    for key, comment in commented(file, group).items():
        if key in meanings and not comment.startswith(SOURCES):
            assert comment == meanings[key] or comment.startswith(f"{meanings[key]}; "), key


def test_shared_options_repeat_the_meaning() -> None:
    for group in ("optimizer", "model", "data"):
        cls = CLASSES[group, {"optimizer": "adamw", "model": "auto"}.get(group, "")]
        for key, comment in commented(CONF / "config.yaml", group).items():
            assert comment.startswith(describe.comments(cls).get(key, "")), key


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ("method lora", {"rank": "whole number, 1 or more",
                         "dropout": "number, at least 0 and below 1",
                         "bias": "none | lora_only | all",
                         "rank_stabilised": "true | false",
                         "alpha": "number, a finite number above 0"}),
        ("method ia3", {"roles": "list of down, gate, key, output, query, up, value"}),
        ("optimizer adamw", {"lr": "number, a finite number above 0",
                             "schedule": "linear | cosine | constant"}),
        ("regularizer l2_sp", {"alpha": "number, 0 or more"}),
        ("trainer", {"max_steps": "whole number or null, 0 or more", "keep": "best | last"}),
        ("data", {"source": "auto | hub | local | sample", "root": "text or null"}),
        ("task classify", {"max_length": "whole number, 4 or more",
                           "metric": "accuracy, accuracy_and_f1, gender_parity, macro_f1, "
                                     "matthews, multirc, weighted_f1"}),
        ("model auto", {"pooling": "mean | max | null"}),
    ],
)  # fmt: skip
def test_ranges_are_those_of_the_checks(words: str, rules: dict[str, str]) -> None:
    out = json.loads(call("list", *words.split(), "--json").out)
    (found,) = next(iter(out.values())).values()
    by_name = {option["name"].rpartition(".")[2]: option for option in found}
    assert {name: by_name[name]["rule"] for name in rules} == rules


@pytest.mark.parametrize(("group", "name"), CLASSES, ids="=".join)
def test_every_number_has_a_range(group: str, name: str, plain: dict) -> None:
    free = {"method.layer"}  # of a probe: its range is the model's
    node = composed([f"{group}={name}"]) if name else plain
    for option in describe.options_in(node, group, name):
        hint = typing.get_type_hints(CLASSES[group, name])[option.name.rpartition(".")[2]]
        if hint in (int, float, int | None, float | None) and option.name not in free:
            assert re.search(r"\d", option.rule), option


def test_list_explains_one_choice() -> None:
    out = call("list", "method", "lora").out
    assert out.startswith("method=lora: LoRA: low-rank updates of frozen matrices")
    assert re.search(r"  method.rank=8 +rank of the update \(whole number, 1 or more\)\n", out)
    assert "method.dropout=0.0 " in out
    assert "method.roles=[query,value] " in out
    assert "method.ranks={} " in out
    assert "method.rank_stabilised=false " in out
    assert "It also sets optimizer.lr=0.0005" in out
    assert call("list", "methods", "lora").out == out
    assert "  no options" in call("list", "method", "full").out
    assert "override /model: roberta-base" in call("list", "experiment", "paper/lora_mrpc").out
    wrong = call("list", "method", "LoRA")
    assert (wrong.status, wrong.out) == (2, "")
    assert "did you mean lora?" in wrong.err


def test_list_explains_every_choice() -> None:
    """Cheap: nothing is composed but the choice."""
    for kind in ("method", "optimizer", "regularizer"):
        for name in options(kind)[:3]:
            assert call("list", kind, name).status == 0


def test_an_experiment_is_described_by_its_own_words() -> None:
    said = call("list", "experiments", "--json").out
    assert "LoRA on MRPC" in json.loads(said)["experiments"]["paper/lora_mrpc"]


def test_comments_of_a_class() -> None:
    @dataclass
    class Kind:
        above: int = 1
        # Two lines,
        # in front.
        below: str = "# no comment"
        at: int = 3  # at the end
        several: tuple[int, ...] = (  # inside
            1,
        )

    assert describe.comments(Kind) == {
        "above": "", "below": "Two lines, in front.", "at": "at the end", "several": "inside",
    }  # fmt: skip


def test_plan_names_what_trains() -> None:
    words = ["plan", "method=lora", "method.rank=3", "task=sst2", "trainer.precision=fp32"]
    found = json.loads(call(*words, "--names", "--json").out)
    pairs = {n: s for n, s in found["shapes"].items() if ".lora." in n}
    assert sum(math.prod(s) for s in found["shapes"].values()) == found["params"]["trainable"]
    assert sum(math.prod(s) for s in pairs.values()) == found["params"]["body_trainable"]
    assert all(3 in shape for shape in pairs.values())
    assert "shapes" not in json.loads(call(*words, "--json").out)
    text = call(*words, "--names").out
    name, shape = next(iter(pairs.items()))
    assert f"  {name} {shape}\n" in text


def test_help_shows_the_options_of_what_is_chosen() -> None:
    words = ["task=tag", "model=auto", "method=ia3", "optimizer=sgd", "regularizer=[l2_sp]"]
    out = call("train", *words, "--help").out
    for key in (
        "task.words=tokens", "model.path=...", "method.roles=", "optimizer.momentum=0.9",
        "regularizer.l2_sp.beta=0.01", "trainer.epochs=null", "data.source=auto", "seed=0",
    ):  # fmt: skip
        assert f"  {key}" in out
    assert "method.rank" not in out
    assert "method=ia3, task=tag, model=auto, optimizer=sgd" in out
    assert call("train", "method=lroa", "-h").status == 0  # those of the default
