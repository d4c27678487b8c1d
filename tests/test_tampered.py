"""Tensors that are not what a run wrote, or not finite, are never used; NaN is never done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commandline import call, data_root, tiny
from runs import shallow
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adaptkit
from adaptkit.errors import AdaptError
from adaptkit.runs.delta import digest


@pytest.fixture(scope="module")
def place(checkpoints, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tampered")
    shallow(checkpoints["bert"], folder / "bert")
    data_root(folder / "data")
    answer = call("train", *words(folder, "method=lora"), f"output_dir={folder / 'run'}")
    assert answer.status == 0, answer.err
    return folder


def words(place: Path, *more: str) -> list[str]:
    return tiny(place / "bert", "task=sst2", f"data.root={place / 'data'}", *more)


def changed(run: Path, value: float, record: bool = False) -> None:
    """Write one number into the last tensor; `record`: with a digest that agrees."""
    file = run / "delta.safetensors"
    with safe_open(file, "pt") as stored:
        tensors, metadata = {n: stored.get_tensor(n) for n in stored.keys()}, stored.metadata()
    tensors[max(tensors)].view(-1)[0] = value
    save_file(tensors, file, metadata)
    if record:
        known = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**known, "delta_sha256": digest(run)}))


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    return shutil.copytree(place / "run", tmp_path / "run")


USES = (
    ("verify",), ("eval",), ("export", "--format", "peft"), ("export", "--format", "merged"),
)  # fmt: skip


@pytest.mark.parametrize("use", USES, ids=" ".join)
@pytest.mark.parametrize(
    ("value", "record", "reason"),
    [(0.5, False, "is not the file that the run wrote"), (float("nan"), True, "not finite"),
     (float("inf"), True, "not finite")],
)  # fmt: skip
def test_other_tensors_are_used_by_nothing(
    use: tuple[str, ...], value: float, record: bool, reason: str, copy: Path, tmp_path: Path
) -> None:
    changed(copy, value, record)
    out = ["--out", tmp_path / "out"] if use[0] == "export" else []
    answer = call(use[0], copy, *use[1:], *out)
    assert answer.status == 2 and reason in answer.err and answer.err.count("\n") == 1, answer.err
    assert not (tmp_path / "out").exists() and not (copy / "eval").exists()
    with pytest.raises(AdaptError, match=reason):
        adaptkit.load(copy)


@pytest.mark.parametrize("use", USES, ids=" ".join)
@pytest.mark.parametrize(
    ("option", "old", "new"),
    [("task.labels", "- negative\n  - positive", "- positive\n  - negative"),
     ("method.alpha", "alpha: 8.0", "alpha: 400.0"),
     ("method.alpha", "  alpha: 8.0\n", ""), ("task.max_length", "length: 128", "length: 5")],
)  # fmt: skip
def test_an_edited_config_is_used_by_nothing(
    use: tuple[str, ...], option: str, old: str, new: str, copy: Path, tmp_path: Path
) -> None:
    """The classes in another order would turn every answer round."""
    text = (copy / "config.yaml").read_text()
    assert old in text, text
    (copy / "config.yaml").write_text(text.replace(old, new))
    out = ["--out", tmp_path / "out"] if use[0] == "export" else []
    answer = call(use[0], copy, *use[1:], *out)
    assert answer.status == 2 and f"config.yaml was edited: {option} differs" in answer.err


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("use", USES, ids=" ".join)
def test_another_base_model_is_used_by_nothing(
    use: tuple[str, ...], file: str, place: Path, copy: Path, tmp_path: Path
) -> None:
    """In the midst of a tensor, or in the tokenizer: both ends of all tensors are the same."""
    path = place / "bert" / file
    before = path.read_bytes()
    try:
        if file == "tokenizer.json":
            path.write_text(path.read_text() + "\n")
        else:
            tensors = {n: t.clone() for n, t in load_file(path).items()}
            for tensor in tensors.values():
                tensor.view(-1)[256:-256] = 0
            save_file(tensors, path, {"format": "pt"})
        out = ["--out", tmp_path / "out"] if use[0] == "export" else []
        answer = call(use[0], copy, *use[1:], *out)
    finally:
        path.write_bytes(before)
    assert answer.status == 2 and "have changed since it was trained" in answer.err, answer.err


def test_an_edited_score_is_seen(copy: Path) -> None:
    record = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps({**record, "score": 0.1234}))
    answer = call("verify", copy)
    assert answer.status == 1 and "score is 0.1234 in the record" in answer.out


def test_training_that_ends_in_nan_is_not_done(place: Path, tmp_path: Path) -> None:
    """The last update ruins the weights: no loss of a training batch has seen it."""
    run = tmp_path / "run"
    answer = call("train", *words(place, "method=full"), f"output_dir={run}", "optimizer.lr=1e30",
                  "optimizer.schedule=constant", "optimizer.warmup_ratio=0",
                  "trainer.max_steps=1")  # fmt: skip
    assert answer.status == 2 and "diverged" in answer.err and "optimizer.lr" in answer.err
    assert json.loads((run / "result.json").read_text())["status"] == "failed"
    assert not (run / "delta.safetensors").exists()


def test_weights_that_the_scored_rows_do_not_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word that no validation row has: the loss is finite, the table is not."""
    from adaptkit.training.trainer import AdaptTrainer

    finish = AdaptTrainer.finish

    def ruin(self: AdaptTrainer) -> None:
        finish(self)
        with torch.no_grad():
            self.model.get_input_embeddings().weight[-1] = float("nan")

    monkeypatch.setattr(AdaptTrainer, "finish", ruin)
    run = tmp_path / "run"
    answer = call("train", *words(place, "method=full"), f"output_dir={run}")
    assert answer.status == 2 and "word_embeddings.weight holds numbers that are" in answer.err
    assert not (run / "delta.safetensors").exists()
