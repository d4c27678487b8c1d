"""Runs leave as ONNX graphs: onnxruntime answers as the run does, or nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import call, read, tiny, write
from families import EACH_FAMILY, rows
from torch import nn

from adaptkit.interop import onnx_file
from adaptkit.runs.exchange import export, graph

TEXT = "the film was not bad , and the music was great"
ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [{"text": row["sentence"], "label": ("bad", "so|so")[row["label"]]}
                 for row in rows(24)],
    "regress": [{"text": row["sentence"], "label": row["label"] * 3.0 - 1} for row in rows(24)],
    "tag": [{"tokens": TEXT.split()[i % 4 :], "tags": ["ADJ", *["O"] * (10 - i % 4)]}
            for i in range(12)],
    "span": [{"question": "what was great ?", "context": f"{TEXT} {i}", "answers": "the music"}
             for i in range(6)],
    "choice": [{"text": TEXT, "a": "good", "b": "bad " * (i + 1), "label": i % 2}
               for i in range(6)],
    "seq2seq": [{"text": f"{TEXT} {i}", "target": "good film"} for i in range(6)],
}  # fmt: skip
OPTIONS = {
    "classify": ["task.text=text", "task.label=label"],
    "regress": ["task.text=text", "task.label=label"],
    "tag": [],
    "span": ["task.max_length=64", "task.stride=4"],
    "choice": ["task.text=text", "task.choices=[a,b]"],
    "seq2seq": ["task.source=text", "task.max_length=40", "task.max_target_length=6"],
}
REJECTED = ("xlnet",)  # torch's exporter cannot express it
KINDS = ("regress", "tag", "span", "choice")
METHODS = ("houlsby", "prefix", "prompt", "bitfit")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: Any, checkpoints: Any) -> Any:
    """Return what gives a run, trained once."""
    root, made = tmp_path_factory.mktemp("onnx"), {}

    def run(kind: str, family: str = "bert", method: str = "lora", *more: str) -> Path:
        key = (kind, family, method, *more)
        if key not in made:
            data = root / kind
            for split in ("train", "validation"):
                write(data / f"{split}.jsonl", ROWS[kind])
            out = root / f"run{len(made)}"
            words = [f"task={kind}", f"task.path={data}", *OPTIONS[kind], f"method={method}"]
            done = call("train", *words, *tiny(checkpoints[family]), "optimizer.lr=1e-2", *more,
                        f"output_dir={out}")  # fmt: skip
            assert done.status == 0, done.err
            made[key] = out
        return made[key]

    return run


@pytest.fixture
def installed() -> None:
    for name in onnx_file.PACKAGES:
        pytest.importorskip(name)


def exported(run: Path, out: Path) -> Any:
    return call("export", run, "--format", "onnx", "--out", out)


@pytest.mark.usefixtures("installed")
def test_the_card_runs_the_graph(runs: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Its code is run as it stands; one row alone and all rows give the run's answers."""
    run = runs("classify", "bert", "lora", "model.pooling=mean")
    done = exported(run, tmp_path / "this folder")
    assert done.status == 0, done.err
    assert "the run's answers to 24 rows of the validation split" in done.out
    files = {path.name for path in (tmp_path / "this folder").iterdir()}
    assert files >= {"model.onnx", "config.json", "tokenizer.json", "README.md"}
    card = (tmp_path / "this folder" / "README.md").read_text()
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(card.partition("```python\n")[2].partition("```")[0], names)
    labels = json.loads((tmp_path / "this folder" / "config.json").read_text())["id2label"]
    texts = [row["text"] for row in ROWS["classify"]]
    (every,) = names["outputs"](texts)
    said = [row["prediction"] for row in read(run / "predictions.jsonl")]
    assert [labels[str(number)] for number in every.argmax(-1)] == said
    single = np.concatenate([names["outputs"]([text])[0] for text in texts])
    np.testing.assert_allclose(single, every, atol=1e-5)


@pytest.mark.usefixtures("installed")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tasks(kind: str, runs: Any, tmp_path: Path) -> None:
    done = exported(runs(kind), tmp_path / "out")
    assert done.status == 0 and (tmp_path / "out" / "model.onnx").is_file(), done.err


@pytest.mark.usefixtures("installed")
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_methods_that_are_merged_or_not(method: str, runs: Any, tmp_path: Path) -> None:
    done = exported(runs("classify", "bert", method), tmp_path / "out")
    assert done.status == 0 and (tmp_path / "out" / "model.onnx").is_file(), done.err


@pytest.mark.usefixtures("installed")
@pytest.mark.slow
@pytest.mark.parametrize("family", [family.values[0] for family in EACH_FAMILY])
def test_a_family_is_written_or_rejected_in_a_sentence(
    family: str, runs: Any, tmp_path: Path
) -> None:
    done = exported(runs("classify", family), tmp_path / "out")
    if family in REJECTED:
        assert done.status == 2 and done.err.count("\n") == 1, done.err
        assert "torch cannot write this XLNet" in done.err and "Use --format merged" in done.err
    else:
        assert done.status == 0, done.err
    assert (tmp_path / "out").exists() == (done.status == 0)


@pytest.fixture
def stand_in(monkeypatch: Any) -> list[Any]:
    """Let the model itself stand for its graph, so that no package is needed."""
    models: list[Any] = []
    monkeypatch.setattr(export, "check_installed", lambda: None)
    monkeypatch.setattr(graph, "write_graph", lambda model, *rest: models.append(model))
    monkeypatch.setattr(graph, "Graph", lambda path: models[-1])
    return models


def refused(run: Path, out: Path, status: int, words: str) -> None:
    done = exported(run, out)
    assert (done.status, done.err.count("\n")) == (status, 1) and words in done.err, done.err
    assert not list(out.parent.iterdir())


class Shifted(nn.Module):
    """A model whose first logit is larger by a number."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, **inputs: Any) -> Any:
        found = self.model(**inputs)
        found["logits"][:, 0] += self.by
        return found


def test_a_graph_that_answers_otherwise_is_not_kept(
    runs: Any, tmp_path: Path, monkeypatch: Any, stand_in: list[Any]
) -> None:
    run, out = runs("classify"), tmp_path / "out"
    assert exported(run, out).status == 0
    shutil.rmtree(out)
    monkeypatch.setattr(graph, "Graph", lambda path: Shifted(stand_in[-1], 0.01))
    refused(run, out, 1, "the ONNX graph gives other logits than the run")
    monkeypatch.setattr(graph, "Graph", lambda path: Shifted(stand_in[-1], 100.0))
    monkeypatch.setattr(graph, "TOLERANCE", 1e3)
    refused(run, out, 1, "and the run's model")


def test_what_was_stored_must_be_answered_as_well(
    runs: Any, tmp_path: Path, stand_in: list[Any]
) -> None:
    run, out = tmp_path / "run", tmp_path / "exports" / "out"
    shutil.copytree(runs("classify"), run)
    out.parent.mkdir()
    file, record = run / "predictions.jsonl", json.loads((run / "result.json").read_text())
    rows = read(file)
    other = {**rows[2], "prediction": {"bad": "so|so", "so|so": "bad"}[rows[2]["prediction"]]}
    write(file, [*rows[:2], other, *rows[3:]])
    refused(run, out, 1, "predictions.jsonl")
    # A run in a half format may answer a close row otherwise; how many do is said.
    record["precision"] = "bf16"
    (run / "result.json").write_text(json.dumps(record))
    done = exported(run, out)
    assert done.status == 0 and "1 stored ones, made in bf16, differ" in done.out, done.err
    shutil.rmtree(out)
    write(file, rows[1:])
    refused(run, out, 2, "the data files changed")


def test_runs_without_a_graph(runs: Any, tmp_path: Path, stand_in: list[Any]) -> None:
    refused(runs("seq2seq", "t5"), tmp_path / "out", 2, "writes texts word by word")


def test_missing_packages_are_named(runs: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    words = "needs the packages onnx, onnxscript, onnxruntime. pip install 'adaptkit[onnx]'."
    refused(runs("classify"), tmp_path / "out", 2, words)
