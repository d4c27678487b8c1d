"""Advice on what cannot be composed: our word for the user's, and what to write instead."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from commandline import call

from adaptkit import __version__
from adaptkit.config.groups import GROUPS
from adaptkit.config.overrides import known_keys
from adaptkit.config.suggest import OURS
from adaptkit.methods import METHODS
from adaptkit.optimizers import OPTIMIZERS
from adaptkit.tasks import TASKS


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: no advice leaves anything in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = [  # what is typed, what must be in the one message
    ("methd=lora", "methd: no such option or group; did you mean method?"),
    ("metod=lora", "did you mean method?"),
    ("method=LoRA", "method=LoRA: not known; did you mean lora?"),
    ("task=SST-2", "did you mean sst2?"),
    ("optimizer=AdamW", "did you mean adamw?"),
    ("task=reviews.csv", "task=classify task.path=FILE"),
    ("model=bert-base-uncased", "did you mean bert-base? It is google-bert/bert-base-uncased"),
    ("model=google-bert/bert-base-uncased", "did you mean bert-base?"),
    ("model=distilbert-base-uncased", "did you mean distilbert?"),
    ("model=nothing-like-it", "model=auto model.path=FOLDER_OR_HUB_ID"),
    ("learning_rate=1e-4", "did you mean optimizer.lr?"),
    ("optimizer.learning_rate=1e-4", "did you mean optimizer.lr?"),
    ("trainer.lr=1e-4", "did you mean optimizer.lr?"),
    ("lr=1e-4", "did you mean optimizer.lr?"),
    ("num_train_epochs=2", "did you mean trainer.epochs?"),
    ("per_device_train_batch_size=2", "did you mean trainer.batch_size?"),
    ("lora_alpha=8", "did you mean method.alpha?"),
    ("method.lora_alpha=8", "did you mean method.alpha?"),
    ("r=8", "did you mean method.rank?"),
    ("bf16=true", "did you mean trainer.precision=bf16?"),
    ("method.rnk=4", "did you mean method.rank?"),
    ("trainer.batch_size=99999999999999999999999", "must be at most 2,147,483,647"),
    ("regularizer.l2_sp.alpha=1", "add regularizer=l2_sp to use it"),
    ("regularizer=[l2_sp] regularizer.l2_sp.alpa=1", "did you mean regularizer.l2_sp.alpha?"),
    ("~task", "~task: an option can be set, not removed; leave it out"),
    ("~method.rank", "~method.rank: an option can be set, not removed"),
    ("~regularizer", "write regularizer=[]"),
    ("+method.rank=4", "+method.rank: there is such an option already; write method.rank=VALUE"),
    ("+method=lora", "write method=lora."),
    ("++task=sst2", "write task=sst2."),
    ("+method@other=lora", "write method=lora."),
    ("+foo=3", "foo: no such option or group"),
    ("+trainr.epochs=3", "trainr: no such option or group; did you mean trainer?"),
    ("hydra/launcher=joblib", "parts of Hydra cannot be replaced"),
    ("hydra.foo=3", "hydra.foo: Hydra has no such option"),
    ("method=3", "method=3: not known"),
    ("=3", "=3: cannot be read"),
    ("task.form=cloze task.template={first}", "must hold {label} once, the place of the answer"),
    ("task.form=cloze task.template={label}", "must name a text as well, as {first}"),
    ("task.words=[a,b]", "task.words=[a,b]: must be a mapping: KEY={NAME:VALUE}"),
    ("task.text={a:b}", "task.text={a:b}: must be a list: KEY=[A,B]"),
    ("task.form=cloze method=hard_prompt regularizer=l2_sp", "method=hard_prompt trains nothing"),
    ("--method lora", "options are written without dashes; write method=lora."),
    ("--method=lora", "write method=lora."),
    ("--learning-rate 1e-4", "write optimizer.lr=1e-4."),
    ("--lr=1e-4", "write optimizer.lr=1e-4."),
    ("--fp16", "write trainer.precision=fp16."),
    ("seed=range(0,2)", "several values make a sweep: adaptkit train -m seed=range(0,2)."),
    ("--multirn seed=0,1", "no such flag; did you mean --multirun?"),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("typed", "advice"), CASES, ids=[typed for typed, _ in CASES])
def test_advice(typed: str, advice: str, place: Path) -> None:
    answer = call("train", *typed.split())
    assert answer.status == 2
    assert answer.err.startswith("adaptkit: ")
    assert advice in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not any(place.iterdir())


def test_option_of_another_method() -> None:
    for name in ("full", "adalora"):
        answer = call("train", f"method={name}", "method.nonsense=1")
        assert f"method={name} has: " in answer.err
    answer = call("train", "method=bitfit", "method.rank=4").err
    assert "method.rank: no such option" in answer
    assert "method=adalora, dora, lora, pissa, vera would have it." in answer
    assert "method=bitfit has: components." in answer


def test_option_that_one_method_of_a_sweep_lacks(place: Path) -> None:
    answer = call("train", "-m", "method=lora,bitfit", "method.rank=4")
    assert answer.status == 2
    assert "method.rank: no such option" in answer.err
    assert "lora, pissa, vera would have it. method=bitfit has: components." in answer.err
    assert not list(place.rglob("result.json"))  # nor was the first of them carried out
    typo = call("train", "-m", "method=bitfit,lora", "method.rnk=4").err
    assert "method=bitfit has: components." in typo


def test_advice_of_other_commands() -> None:
    for words, advice in {
        "plan learning_rate=3": "did you mean optimizer.lr?",
        "plan --method=lora": "write method=lora.",
        "plan method=lora --jsn": "did you mean --json?",
        "eval": "required: run",
        "export run --format gguf --out x": "peft",
    }.items():
        answer = call(*words.split())
        assert answer.status == 2
        assert answer.err.startswith("adaptkit: ")
        assert advice in answer.err


def test_our_words_exist() -> None:
    """Every word of another library leads to an option that some composition has."""
    registries = {"method": METHODS, "optimizer": OPTIMIZERS, "task": TASKS}
    known = {"output_dir", "seed", *GROUPS, *known_keys([])} | {
        f"{group}.{field.name}"
        for group, registry in registries.items()
        for cls in registry.values()
        for field in fields(cls)
    }
    assert {ours for ours in OURS.values() if ours.partition("=")[0] not in known} == set()
    assert not {word for word in OURS if word in known}


def test_version_of_train() -> None:
    assert call("train", "--version").out.strip() == __version__


def test_an_unknown_key_of_an_experiment_is_an_error(place: Path) -> None:
    """A group's name misspelt in a file is as wrong as on the command line."""
    (place / "experiment").mkdir()
    (place / "experiment" / "mine.yaml").write_text("# @package _global_\ntraner:\n  epochs: 1\n")
    words = [f"hydra.searchpath=[file://{place}]", "experiment=mine"]
    answer = call("train", *words)
    assert answer.status == 2
    assert "traner: no such option or group; did you mean trainer?" in answer.err
