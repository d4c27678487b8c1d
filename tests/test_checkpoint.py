"""The run directory: its contents, writing whole or not at all, damage that is found."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import save_tiny
from runs import Killed, carry_out, configure, sentiment, shallow
from safetensors import safe_open
from safetensors.torch import load_file

from adaptkit.adaptation import Adaptation
from adaptkit.config.compose import load_plain
from adaptkit.errors import AdaptError, MachineError
from adaptkit.runs import run as pipeline
from adaptkit.runs.delta import load_run
from adaptkit.runs.directory import claimed
from adaptkit.runs.prepare import prepare
from adaptkit.runs.verify import verify
from adaptkit.storage import files

FILES = {
    "config.yaml", "delta.safetensors", "result.json", "history.jsonl", "predictions.jsonl",
    "train.log",
}  # fmt: skip
LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    shallow(checkpoints["bert"], folder / "bert")
    sentiment(folder / "data")
    return folder


def settings(place: Path, directory: Path, *groups: str, **changes):
    return configure(
        directory, place / "bert", place / "data", *groups, **{"trainer.max_steps": 4, **changes}
    )


@pytest.fixture(scope="module")
def finished(place) -> tuple[Path, dict]:
    record, _ = carry_out(settings(place, place / "finished", "method=lora"))
    return place / "finished", record


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of a finished run that a test may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


# ---- what a run leaves behind ----


def test_contents(finished):
    assert {p.name for p in finished[0].iterdir()} == FILES


def test_record(finished, place):
    directory, record = finished
    assert json.loads((directory / "result.json").read_text()) == json.loads(json.dumps(record))
    assert record["status"] == "done"
    assert record["error"] is None
    assert (record["task"], record["method"], record["seed"]) == ("sst2", "lora", 0)
    assert record["updates"] == 4
    assert record["score"] == record["scores"][record["metric"]]
    assert record["data"]["rows"] == {"train": 44, "validation": 20}
    assert record["delta_bytes"] == (directory / "delta.safetensors").stat().st_size
    assert (record["precision"], record["device"]) == ("fp32", "cpu")
    assert {"total_seconds", "train_seconds", "eval_seconds", "train_samples_per_second"} == set(
        record["time"]
    )
    assert record["time"]["total_seconds"] >= record["time"]["train_seconds"] > 0


def test_delta(finished):
    """One pair per adapted map, query and value of one layer of width 32, and the head."""
    with safe_open(finished[0] / "delta.safetensors", framework="pt") as file:
        metadata = file.metadata()
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}
    pairs = [shape for name, shape in shapes.items() if ".lora." in name]
    assert sorted(pairs) == [(8, 32), (8, 32), (32, 8), (32, 8)]
    assert shapes["classifier.weight"] == (2, 32)
    assert shapes["classifier.bias"] == (2,)
    assert len(shapes) == 6
    counts = finished[1]["params"]
    assert counts["stored"] == counts["trainable"] == 2 * 2 * 8 * 32 + 66
    assert (counts["body_trainable"], counts["head_trainable"]) == (1024, 66)
    assert metadata["adaptkit_format"] == "2"
    assert metadata["method"] == "lora"
    assert metadata["body"].endswith("bert")
    assert metadata["revision"] == ""
    assert len(metadata["fingerprint"]) == 64


def test_predictions(finished, place):
    """Identities, class names and score can be redone from the file and the data alone."""
    directory, record = finished
    lines = (directory / "predictions.jsonl").read_text().splitlines()
    table = [json.loads(line) for line in lines]
    rows = (place / "data" / "validation.jsonl").read_text().splitlines()
    assert [row["id"] for row in table] == [str(i) for i in range(20)]
    assert [row["label"] for row in table] == [LABELS[json.loads(row)["label"]] for row in rows]
    assert {row["prediction"] for row in table} <= set(LABELS)
    right = sum(row["prediction"] == row["label"] for row in table)
    assert record["scores"]["accuracy"] == right / 20


def test_history(place, tmp_path):
    more = {"regularizer.l2_sp.alpha": 0.5, "trainer.max_steps": 6, "trainer.eval_every": 3}
    carry_out(settings(place, tmp_path / "run", "regularizer=[l2_sp]", "method=full", **more))
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    table = [json.loads(line) for line in lines]
    logged = [entry for entry in table if "loss" in entry]
    scored = [entry["step"] for entry in table if "eval_accuracy" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4, 6]  # also before a save
    assert scored == [3, 6]
    for entry in logged:
        assert {"step", "epoch", "loss", "l2_sp", "lr", "grad_norm", "seconds"} <= set(entry)
        assert entry["l2_sp"] > 0
    assert [e["seconds"] for e in table] == sorted(e["seconds"] for e in table)


def test_config_is_enough_to_rebuild(finished):
    saved = load_run(finished[0])
    assert saved.settings.method.rank == 8
    assert saved.settings.task.classes == LABELS
    assert saved.settings.plain == load_plain(finished[0] / "config.yaml")
    assert saved.result.as_dict() == json.loads((finished[0] / "result.json").read_text())


# ---- the body's fingerprint ----


def fingerprint(place: Path, body: Path, *groups: str, labels: tuple = LABELS, **changes) -> str:
    made = configure(place / "unused", body, place / "data", *groups, **changes)
    bound = made.bind(made.task.with_classes(labels))
    return prepare(bound, 1, stage="train").fingerprint


def test_fingerprint(place, tmp_path):
    one = fingerprint(place, place / "bert")
    assert fingerprint(place, place / "bert") == one
    assert fingerprint(place, place / "bert", **{"trainer.precision": "bf16"}) == one
    assert fingerprint(place, place / "bert", "method=full", seed=3) == one
    assert fingerprint(place, place / "bert", labels=("a", "b", "c")) == one
    moved = shutil.copytree(place / "bert", tmp_path / "moved")
    assert fingerprint(place, moved) == one
    other = shallow(save_tiny("bert", tmp_path / "other", seed=1), tmp_path / "bert")
    assert fingerprint(place, other) != one


@pytest.mark.parametrize("tensor", ["bert.embeddings.word_embeddings.weight",
                                    "bert.encoder.layer.0.output.dense.bias"])  # fmt: skip
def test_fingerprint_sees_one_number(tensor, place, tmp_path):
    from safetensors.torch import save_file

    body = shutil.copytree(place / "bert", tmp_path / "body")
    weights = load_file(body / "model.safetensors")
    weights[tensor].view(-1)[-1] += 1e-3
    save_file(weights, body / "model.safetensors", {"format": "pt"})
    assert fingerprint(place, body) != fingerprint(place, place / "bert")


def test_other_body_is_refused(copy, tmp_path):
    """A run whose model folder was replaced by another one of the same shape."""
    other = shallow(save_tiny("bert", tmp_path / "source", seed=1), tmp_path / "other")
    config = (copy / "config.yaml").read_text()
    body = load_run(copy).settings.model.path
    (copy / "config.yaml").write_text(config.replace(body, str(other)))
    with pytest.raises(AdaptError) as refusal:
        verify(copy)
    message = str(refusal.value)
    assert body in message
    assert str(other) in message
    assert "model.path" in message


# ---- writing whole or not at all ----


@pytest.mark.parametrize(
    ("problem", "raised"),
    [(OSError("disk full"), MachineError), (ValueError("no"), ValueError), (Killed(), Killed)],
    ids=["disk", "defect", "interruption"],
)
def test_failed_write_leaves_the_old_file(problem, raised, tmp_path):
    path = tmp_path / "file.json"
    files.write_text(path, "old")
    with pytest.raises(raised), files.replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise problem
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_write_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    files.write_json(path, {"x": 1})
    files.write_json(path, {"x": [0.1, "ä"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": [0.1, "ä"]}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_saved_tensors_are_the_same_to_the_bit(tmp_path):
    tensors = {
        "odd": torch.tensor([float("inf"), -0.0, 1e-42, float("nan")]),
        "half": torch.randn(3, 5, dtype=torch.float32).bfloat16(),
        "view": torch.arange(12).reshape(3, 4).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    files.save_tensors(tmp_path / "t.safetensors", tensors)
    back = load_file(tmp_path / "t.safetensors")
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert bytes(back[name].contiguous().view(-1).view(torch.uint8).numpy()) == bytes(
            tensor.contiguous().view(-1).view(torch.uint8).numpy()
        )


def test_partial_files_of_a_killed_process_go(place, tmp_path):
    partial = tmp_path / "run" / ".delta.safetensors.12345.tmp"
    partial.parent.mkdir()
    partial.write_text("half")
    carry_out(settings(place, tmp_path / "run", "method=bitfit"))
    assert {p.name for p in partial.parent.iterdir()} == FILES


# ---- one process per directory ----

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_second_process_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "held\n"
    with pytest.raises(AdaptError, match="another process"), claimed(tmp_path):
        pytest.fail("both hold it")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with claimed(tmp_path):  # a dead process holds nothing
        with pytest.raises(AdaptError, match=str(tmp_path)), claimed(tmp_path):
            pytest.fail("held twice")
    assert not list(tmp_path.iterdir())


# ---- damage is found ----


def test_whole_run_verifies(copy):
    assert verify(copy) == ""


def test_record_is_not_asked_for_the_classes(copy):
    """config.yaml holds them."""
    record = json.loads((copy / "result.json").read_text())
    del record["labels"]
    (copy / "result.json").write_text(json.dumps(record))
    assert verify(copy) == ""


@pytest.mark.parametrize("where", [-1, -2000, 0.5, 0.9], ids=str)
@pytest.mark.parametrize("bit", [0, 6])
def test_flipped_bit_in_the_delta(where, bit, copy):
    content = bytearray((copy / "delta.safetensors").read_bytes())
    content[where if isinstance(where, int) else int(where * len(content))] ^= 1 << bit
    (copy / "delta.safetensors").write_bytes(content)
    with pytest.raises(AdaptError, match=r"delta\.safetensors"):
        verify(copy)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_shortened_delta(keep, copy):
    content = (copy / "delta.safetensors").read_bytes()
    (copy / "delta.safetensors").write_bytes(content[:keep])
    with pytest.raises(AdaptError, match=r"delta\.safetensors is missing or damaged"):
        verify(copy)


def test_edited_prediction(copy):
    lines = (copy / "predictions.jsonl").read_text().splitlines()
    entry = json.loads(lines[7])
    other = LABELS[1 - LABELS.index(entry["prediction"])]
    lines[7] = json.dumps({**entry, "prediction": other})
    (copy / "predictions.jsonl").write_text("\n".join(lines))
    found = verify(copy)
    assert "1 of 20" in found
    assert "the row with id '7'" in found


def test_lost_prediction(copy):
    lines = (copy / "predictions.jsonl").read_text().splitlines()
    (copy / "predictions.jsonl").write_text("\n".join(lines[:-1]))
    assert "19" in verify(copy)


def test_edited_score(copy):
    record = json.loads((copy / "result.json").read_text())
    record["scores"]["accuracy"] += 0.05
    (copy / "result.json").write_text(json.dumps(record))
    assert "accuracy" in verify(copy)


@pytest.mark.parametrize("name", ["result.json", "predictions.jsonl"])
def test_broken_json(name, copy):
    (copy / name).write_text((copy / name).read_text()[:-10])
    with pytest.raises(AdaptError, match=f"{name} is .*damaged"):
        verify(copy)


def test_unfinished_run_is_refused(copy):
    (copy / "result.json").unlink()
    with pytest.raises(AdaptError, match="not finished"):
        verify(copy)


def test_other_settings_are_refused(copy, place):
    other = settings(place, copy, "method=lora", **{"method.rank": 4})
    with pytest.raises(AdaptError, match=r"method\.rank"):
        carry_out(other)
    assert verify(copy) == ""


# ---- the proof after saving ----


def failed(directory: Path) -> str:
    record = json.loads((directory / "result.json").read_text())
    assert record["status"] == "failed"
    assert (record["score"], record["scores"]) == (None, {})
    return record["error"]


def test_proof_finds_a_tensor_that_is_not_loaded(place, tmp_path, monkeypatch):
    load = Adaptation.load_delta

    def forgetful(self: Adaptation, tensors: dict) -> None:
        first = next(name for name in self.delta() if name.endswith(".B"))
        load(self, {**tensors, first: self.delta()[first].clone()})

    monkeypatch.setattr(Adaptation, "load_delta", forgetful)
    with pytest.raises(MachineError, match="other logits"):
        carry_out(settings(place, tmp_path / "run", "method=lora", **{"trainer.keep": "last"}))
    assert "other logits" in failed(tmp_path / "run")


def test_proof_finds_a_tensor_that_is_not_saved(place, tmp_path, monkeypatch):
    """A method that forgets to name something it changed."""
    made = settings(place, tmp_path / "run", "method=lora")

    class Careless:
        def adapt(self, start: Adaptation, context) -> Adaptation:
            scale = start.model.bert.embeddings.LayerNorm.weight

            def drift(step) -> None:
                with torch.no_grad():
                    scale.mul_(1.01)

            return start.only(lambda name: "encoder" in name).plus(after_update=drift)

    with pytest.raises(MachineError, match="other logits"):
        carry_out(replace(made, method=Careless(), method_name="careless"))
    assert "other logits" in failed(tmp_path / "run")


def test_failed_run_cannot_be_verified(place, tmp_path, monkeypatch):
    def broken(*_) -> None:
        raise MachineError("the disk is on fire")

    monkeypatch.setattr(pipeline, "verify_saved", broken)
    with pytest.raises(MachineError):
        carry_out(settings(place, tmp_path / "run", "method=bitfit"))
    with pytest.raises(AdaptError, match="on fire"):
        verify(tmp_path / "run")
