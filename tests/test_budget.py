"""budget.trainable: the size of a method is solved for before a run has a name, on shapes alone."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commandline import call, data_root, tiny
from families import tiny_config, tiny_model, tiny_tokenizer

from adaptkit.adaptation import Adaptation, Context
from adaptkit.cli.tuning import made
from adaptkit.config.budget import Budget
from adaptkit.config.compose import compose
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import ConfigError
from adaptkit.methods import METHODS
from adaptkit.models.loading import head_names
from adaptkit.runs.sizing import Sized, largest, solve
from adaptkit.terminal.budget import sized

FAMILIES = ("bert", "gpt2", "t5", "bart", "llama")
# A size, and the one after it, as somebody would type them.
SIZES: dict[str, list[dict[str, int]]] = {
    **{name: [{"rank": 5}, {"rank": 6}] for name in ("lora", "dora", "pissa", "vera")},
    "adalora": [{"rank": 5, "target_rank": 3}, {"rank": 6, "target_rank": 4}],  # two thirds
    **{name: [{"size": 5}, {"size": 6}] for name in ("houlsby", "pfeiffer", "parallel_adapter")},
    "compacter": [{"size": 20}, {"size": 24}],
    **{name: [{"length": 5}, {"length": 6}]
       for name in ("prefix", "ptuning_v2", "prompt", "ptuning")},
    "top_k": [{"last": 1}, {"last": 2}],
}  # fmt: skip
QUICK = (("lora", "bert"), ("adalora", "llama"), ("houlsby", "t5"), ("compacter", "bart"),
         ("prefix", "gpt2"), ("top_k", "bart"))  # fmt: skip
PAIRS = [
    pytest.param(*pair, id="-".join(pair), marks=[pytest.mark.slow] * (pair not in QUICK))
    for pair in product(SIZES, FAMILIES)
]


@cache
def plain(method: str) -> dict[str, Any]:
    return compose(["model=auto", "model.path=nobody/none", f"method={method}", "task=sst2"])


def run_of(method: str, family: str, **options: Any) -> Settings:
    """Return the settings of a run on shapes: there are no weights of this model anywhere."""
    typed = {**plain(method), "method": {**plain(method)["method"], **options}}
    run = settings(typed)
    shapes = tiny_config(family).to_dict()
    return replace(run, model=replace(run.model, architecture=shapes))


def trained(method: Any, family: str) -> int:
    """Count, in a real model, what trains outside the head."""
    model = tiny_model(family)
    context = Context(tiny_tokenizer(family), torch.Generator().manual_seed(0), 10)
    adapted = method.adapt(Adaptation.of(model, head_names(model)), context)
    return sum(p.numel() for n, p in adapted.trainable.items() if n not in adapted.head)


def body_of(family: str) -> int:
    model = tiny_model(family)
    head = head_names(model)
    return sum(p.numel() for n, p in model.named_parameters() if n not in head)


def solved(run: Settings, budget: str | float) -> Sized:
    return solve(run, Budget(budget))


# ---- what is chosen ----


def test_every_size_is_tried_here() -> None:
    assert {name for name, cls in METHODS.items() if hasattr(cls, "sized_by")} == {*SIZES}


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_the_largest_size_within_the_budget(method: str, family: str) -> None:
    run = run_of(method, family)
    this, following = (replace(run.method, **options) for options in SIZES[method])  # type: ignore
    count, more = trained(this, family), trained(following, family)
    assert count < more
    most = min(more - 1, math.floor(count / 0.75))  # beyond it, nothing is near enough
    found = solved(run, float(most))
    assert found.options == {f"method.{name}": n for name, n in SIZES[method][0].items()}
    assert found.costs.params.body_trainable == count


def test_shares_and_bytes_are_those_of_the_formulas() -> None:
    """LoRA: 2 r (32 + 32) in each of 3 layers. A prefix keeps 2 P 32 numbers of each layer."""
    for budget in ("5%", "12.5%"):
        size = int(body_of("bert") * float(budget[:-1]) / 100) // (3 * 2 * 64)
        assert solved(run_of("lora", "bert"), budget).options == {"method.rank": size}
    prefix = run_of("prefix", "bert", projection=16)
    found = solved(prefix, "10.6KB")
    assert found.options == {"method.length": 10_600 // (4 * 3 * 2 * 32)}
    assert found.used(in_bytes=True) == 4 * 3 * 2 * 32 * 13 < found.costs.delta_bytes  # and a head
    with pytest.raises(ConfigError, match="A part serves training only: bytes, such as 600KB, co"):
        solved(prefix, "2650")


def test_a_method_without_a_size_meets_a_budget_or_does_not() -> None:
    biases = sum(p.numel() for n, p in tiny_model("bert").bert.named_parameters()
                 if n.endswith("bias") and "pooler" not in n)  # fmt: skip
    run = run_of("bitfit", "bert")
    count = trained(run.method, "bert")
    assert count >= biases
    assert solved(run, float(count)).options == solved(run, count / 0.76).options == {}
    for other in (count - 1, math.ceil(count / 0.74)):
        with pytest.raises(ConfigError, match=f"method=bitfit has no option .* {count:,} trained"):
            solved(run, str(other))
    for method, count in (("full", body_of("bert")), ("probe", 0)):
        with pytest.raises(ConfigError, match=f"has no option that sets its size. .* {count:,} tr"):
            solved(run_of(method, "bert"), "1%")


@pytest.mark.parametrize("seed", range(20))
def test_the_search_finds_what_trying_all_finds(seed: int) -> None:
    rng = random.Random(seed)
    steps = [rng.randrange(0, 9) ** rng.choice((1, 2)) for _ in range(rng.randrange(1, 40))]
    counts = [sum(steps[: n + 1]) for n in range(len(steps))]
    counts = [7 + 5 * n for n in range(40)] if seed == 0 else counts
    if len(counts) > 1 and counts[0] == counts[1]:  # the size changes nothing, or does at once
        counts[0] -= 1
    for limit in range(-1, max(counts) + 3):
        found = largest(lambda n: counts[n] if n < len(counts) else math.inf, limit)
        assert found == max((n for n, one in enumerate(counts) if one <= limit), default=-1)


# ---- what is rejected ----


@pytest.mark.parametrize(
    ("method", "family", "budget", "message"),
    [
        ("lora", "bert", "383", r"nearest: method.rank=1, 384 trained parameters \(\S+ % of"),
        ("lora", "bert", "600", r"nearest: method.rank=1, 384 .*; method.rank=2, 768 trained"),
        ("lora", "bert", "90%", r"nearest: method.rank=32, 12,288 trained parameters"),
        ("prompt", "bert", "50%", r"nearest: method.length=124, 3,968 trained"),
        ("pissa", "bert", "100B", r"nearest: method.rank=1, 3,072 stored bytes, 384 trained"),
    ],
)
def test_the_nearest_sizes_are_named(method: str, family: str, budget: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        solved(run_of(method, family), budget)


@pytest.mark.parametrize(
    "budget", ["0", "0.5", 0.5, "0%", "100.1%", "-1", "5 %", "lots", "", "k", "1kk", "1e3KB",
               math.inf, math.nan, 1e-9]
)  # fmt: skip
def test_what_is_not_a_budget(budget: str | float) -> None:
    with pytest.raises(ConfigError, match="must be a share up to 100%, such as "):
        Budget(budget)


@pytest.mark.parametrize(
    ("budget", "amount", "in_bytes"),
    [("0.5%", 600, False), ("100%", 120_000, False), ("300000", 300_000, False),
     (300_000.0, 300_000, False), ("300k", 300_000, False), ("1.2M", 1_200_000, False),
     ("600KB", 600_000, True), ("1.2MB", 1_200_000, True), ("77B", 77, True),
     ("0.29%", 348, False), (".0025g", 2_500_000, False)],
)  # fmt: skip
def test_what_a_budget_says(budget: str | float, amount: int, in_bytes: bool) -> None:
    assert Budget(budget).of(120_000) == amount
    assert Budget(budget).in_bytes == in_bytes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("method=lora method.rank=8 budget.trainable=1%", "=1% decides method.rank. Leave"),
        ("method=adalora ++method.target_rank=8 budget.trainable=1%", "decides method.target_rank"),
        ("method=top_k method.layers=[1] budget.trainable=50%", "names the layers already"),
        ("budget.trainable=lots", "must be a share"),
        ("budget.trainabel=1%", "did you mean budget.trainable"),
    ],
)
def test_words_that_do_not_go_together(words: str, message: str) -> None:
    answer = call("plan", *words.split())
    assert answer.status == 2
    assert message in answer.err


def test_a_budget_is_never_passed_over() -> None:
    """A command that solves for none says so."""
    with pytest.raises(ConfigError, match="is for adaptkit train, plan, tune and compare"):
        settings(compose(["budget.trainable=1%"]))
    assert call("data", "budget.trainable=1%").status == 2


# ---- runs ----


def test_the_size_is_solved_for_again_where_it_depends_on_the_words(tmp_path, capsys) -> None:
    """Half as many maps have twice the rank: a race over roles compares equal sizes."""
    both = made(["method=lora", "budget.trainable=14336"], tmp_path)
    query = made(["method=lora", "budget.trainable=14336", "method.roles=[query]"], tmp_path)
    assert (both.method.rank, query.method.rank) == (4, 8)  # type: ignore[attr-defined]
    made(["method=lora", "budget.trainable=14336", "optimizer.lr=0.1"], tmp_path)
    assert capsys.readouterr().err.count("budget.trainable=14336: method.rank=4, 14,336 tr") == 1


def test_a_run_has_the_name_and_the_record_of_its_size(checkpoints, tmp_path, monkeypatch) -> None:
    """The variant and config.yaml do not tell a budget from the size that was typed."""
    monkeypatch.chdir(tmp_path)
    root = data_root(tmp_path / "data")
    words = ["method=lora", *tiny(checkpoints["bert"]), f"data.root={root}"]
    first = call("train", *words, "budget.trainable=2k")
    assert first.status == 0, first.err
    assert "budget.trainable=2k: method.rank=5, 1,920 trained parameters (" in first.err
    (run,) = Path("outputs/sst2/bert/lora").glob("*/seed0")
    assert "method.rank=5" in run.parent.name and "budget" not in run.parent.name
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["method"]["rank"] == 5 and "budget" not in config
    for same in ("budget.trainable=1920", "method.rank=5"):
        assert "done before" in call("train", *words, same).err
    assert len(list(Path("outputs/sst2/bert/lora").iterdir())) == 1
    assert call("verify", str(run)).out.endswith(": the same predictions and scores\n")


@pytest.mark.slow
def test_a_sweep_at_one_budget(checkpoints, tmp_path, monkeypatch) -> None:
    """Sizes are equal within the tolerance; a method that cannot have it is a failed job."""
    monkeypatch.chdir(tmp_path)
    root = data_root(tmp_path / "data")
    words = ["method=lora,pfeiffer,probe,full", *tiny(checkpoints["bert"]), f"data.root={root}"]
    answer = call("train", "-m", *words, "budget.trainable=5%", "seed=0,1")
    assert answer.status == 2
    assert "4 of 8 runs done, 4 failed" in answer.out
    assert len(re.findall(r"^adaptkit: .*has no option that sets its size", answer.err, re.M)) == 4
    limit = 0.05 * body_of("bert")
    records = [yaml.safe_load(file.read_text()) for file in Path("outputs").rglob("result.json")]
    sizes = {(one["method"], one["params"]["body_trainable"]) for one in records}
    assert {method for method, _ in sizes} == {"lora", "pfeiffer"} and len(sizes) == 2
    assert all(0.75 * limit <= size <= limit for _, size in sizes)


def test_the_untouched_default_has_no_budget() -> None:
    assert sized(["method=lora"])["budget"] == {"trainable": None}
    assert settings(sized(["method=lora"])).plain.keys().isdisjoint({"budget"})
