"""The package from Python: run, load, predict; doctests; the members of transformers relied on."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from families import rows
from runs import sentiment

import adaptkit
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.models.heads import HEADS
from adaptkit.training.trainer import AdaptTrainer


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory) -> tuple[adaptkit.RunResult, Path, list[str]]:
    folder = tmp_path_factory.mktemp("api")
    data = sentiment(folder / "data")
    overrides = [
        "task=sst2", "model=auto", f"model.path={checkpoints['bert']}", f"task.path={data}",
        "method=lora", "trainer=debug", f"output_dir={folder / 'run'}",
    ]  # fmt: skip
    return adaptkit.run(*overrides), folder / "run", overrides


def test_run_returns_the_record(finished):
    result, directory, _ = finished
    assert (result.status, result.method, result.updates) == ("done", "lora", 4)
    assert result.baseline["name"] == "majority class"
    assert result.settings["method.rank"] == 8 and result.settings["optimizer.lr"] == 5e-4
    assert type(result).read(directory) == result


@pytest.mark.parametrize("word", [3, None, "-m", "--cfg"])
def test_what_is_not_an_override(word):
    with pytest.raises(ConfigError, match="is not an override"):
        adaptkit.run("method=lora", word)


def test_the_default_directory_is_the_commands(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = sentiment(tmp_path / "data")
    model = [f"model.path={checkpoints['bert']}", "model=auto", "model.name=tiny"]
    result = adaptkit.run("task=sst2", f"task.path={data}", *model, "trainer=debug", "seed=3")
    (directory,) = (tmp_path / "outputs" / "sst2" / "tiny" / "lora").glob("*/seed3")
    assert directory.parent.name == result.variant
    assert (directory / "result.json").is_file()


@pytest.mark.parametrize("given", [{"sentence": "good"}, None, "good", 3, ["good"], [None]])
def test_what_is_not_a_list_of_rows(given, finished):
    with pytest.raises(AdaptError, match=r"is not a list of rows|not a mapping of columns"):
        adaptkit.load(finished[1]).predict(given)


def test_predict_answers_rows_without_labels(finished):
    _, directory, _ = finished
    predictor = adaptkit.load(directory)
    texts = [{"sentence": row["sentence"]} for row in rows(20, seed=2)]  # those of validation
    answers = predictor.predict(texts)
    lines = (directory / "predictions.jsonl").read_text().splitlines()
    assert answers == [json.loads(line)["prediction"] for line in lines]
    assert predictor.predict(texts[3:4]) == answers[3:4]
    assert predictor.predict([]) == []
    with pytest.raises(AdaptError, match="row 2 lacks the column 'sentence'"):
        predictor.predict([texts[0], {"text": "no"}])
    with pytest.raises(AdaptError, match="row 1: sentence is 7, not a text"):
        predictor.predict([{"sentence": 7}])


@pytest.mark.parametrize("odd", [5, ["a"], None, "\ud800"], ids=repr)
def test_rows_of_mixed_kinds_are_one_sentence(odd, finished):
    predictor = adaptkit.load(finished[1])
    with pytest.raises(AdaptError, match="row"):
        predictor.predict([{"sentence": "good"}, {"sentence": odd}])
    assert predictor.predict({"sentence": text} for text in ("good", "bad")) == predictor.predict(
        [{"sentence": "good"}, {"sentence": "bad"}]
    )


def test_mistakes_are_exceptions(tmp_path):
    with pytest.raises(ConfigError, match="did you mean lora"):
        adaptkit.run("method=lorra")
    with pytest.raises(AdaptError, match="is not a run directory"):
        adaptkit.load(tmp_path)


def test_importing_the_package_loads_no_torch():
    code = "import sys, adaptkit; print('torch' in sys.modules, 'hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", ["adaptkit.adaptation", "adaptkit.methods.lora"])
def test_doctests(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0 and tried > 3


# Private members of transformers.Trainer that AdaptTrainer overrides or calls. A release that
# renames one must fail here and not in a run.
OVERRIDDEN = {
    "_prepare_inputs": ("inputs",),
    "_save_checkpoint": ("model", "trial"),
    "_save": ("output_dir", "state_dict"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
}
CALLED = {"_get_learning_rate"}
PUBLIC = {
    "get_train_dataloader": (),
    "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
    "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    "create_optimizer": ("model",),
    "floating_point_ops": ("inputs",),
    "log": ("logs", "start_time"),
}


def parameters(owner: type, name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(owner, name)).parameters)[1:]


@pytest.mark.parametrize(("name", "expected"), [*OVERRIDDEN.items(), *PUBLIC.items()])
def test_what_is_overridden_has_the_same_signature(name, expected):
    assert set(expected) <= set(parameters(transformers.Trainer, name)), name
    assert parameters(AdaptTrainer, name)[: len(expected)] == expected


def test_private_members_are_named_here():
    source = inspect.getsource(AdaptTrainer)
    trainer = {name for name in dir(transformers.Trainer) if name.startswith("_")}
    used = set(re.findall(r"(?:\.|def )(_\w+)\(", source))
    own = {name for name in trainer & used if not name.startswith("__")}
    assert own == {*OVERRIDDEN, *CALLED}
    assert all(hasattr(transformers.Trainer, name) for name in own)
    called = inspect.getsource(transformers.Trainer)
    for name in ("loss_is_scaled_for_ga", "model_accepts_loss_kwargs"):
        assert name in called or name == "loss_is_scaled_for_ga"  # older releases have the second


def test_auto_classes_list_their_configs():
    for head in HEADS.values():
        assert getattr(transformers, head.auto)._model_mapping
