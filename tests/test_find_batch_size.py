"""Rows of a forward pass that fit into memory: found by halving, and the updates stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, data_root, tiny
from runs import NO_DROPOUT, Killed, at, carry_out, configure, history, outcome, sentiment, shallow
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import BertModel

from adaptkit.errors import ConfigError, MachineError
from adaptkit.training.rows import Rows, TooManyRows, cut
from adaptkit.training.settings import TrainerSettings

FINDS = {"trainer.find_batch_size": True, "trainer.epochs": 2, "optimizer.lr": 0.05}


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Callable[..., Any]:
    folder = tmp_path_factory.mktemp("memory")
    model = shallow(checkpoints["bert"], folder / "bert", **NO_DROPOUT)
    data = sentiment(folder / "data")

    def settings(directory: Path, *groups: str, **changes: Any) -> Any:
        groups = groups or ("method=lora", "optimizer=sgd")
        return configure(directory, model, data, *groups, **{**FINDS, **changes})

    return settings


@contextmanager
def memory(
    training: int, scoring: int = 99, starting: int = 0, error: Exception | None = None
) -> Iterator[list[int]]:
    """Let passes over more rows fail, in training from that pass on; give the sizes of the rest."""
    passed: list[int] = []
    forward = BertModel.forward

    def limited(self: nn.Module, *args: Any, **inputs: Any) -> Any:
        ids = args[0] if args else inputs["input_ids"]
        rows, trains = len(ids), torch.is_grad_enabled()
        if isinstance(ids, FakeTensor):  # the plan
            return forward(self, *args, **inputs)
        if rows > (training if trains else scoring) and len(passed) >= starting:
            raise error or torch.OutOfMemoryError("Tried to allocate 2.00 MiB.")
        passed.extend([rows] * trains)
        return forward(self, *args, **inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BertModel, "forward", limited)
        yield passed


def alike(one: Path, other: Path) -> None:
    """The same losses and weights, but for rounding."""
    first, second = (load_file(directory / "delta.safetensors") for directory in (one, other))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=0, atol=1e-6), name
    for mine, theirs in zip(history(one), history(other), strict=True):
        assert mine == pytest.approx(theirs, rel=0, abs=1e-6)


FULL = ("method=full", "optimizer=sgd", "regularizer=[l2_sp]")


@pytest.mark.parametrize(
    ("size", "most", "found", "groups"), [(5, 2, 2, ()), (5, 3, 3, FULL), (8, 3, 2, FULL)]
)
def test_cut_updates_are_the_same(size, most, found, groups, place, tmp_path):
    """44 rows: the last step of an epoch has fewer."""
    changes = {"trainer.batch_size": size, "trainer.eval_batch_size": 6}
    whole, _ = carry_out(place(tmp_path / "whole", *groups, **changes))
    with memory(most, scoring=4) as passed:
        pieces, said = carry_out(place(tmp_path / "pieces", *groups, **changes))
    assert pieces["updates"] == whole["updates"]
    assert pieces["rows_per_pass"] == {"training": found, "scoring": 3}
    assert whole["rows_per_pass"] == {"training": size, "scoring": 6}
    assert max(passed) == min(found, size) and sum(passed) >= 88
    steps = [line for line in said if line.startswith("out of memory: a forward pass now has")]
    assert len(steps) == {(5, 2): 2, (5, 3): 1, (8, 3): 2}[size, most]
    assert f"now has {found} rows" in steps[-1]
    alike(tmp_path / "whole", tmp_path / "pieces")
    one, other = (tmp_path / name / "predictions.jsonl" for name in ("whole", "pieces"))
    assert one.read_text() == other.read_text()


def test_accumulated_steps_and_adam(place, tmp_path):
    changes = {"trainer.gradient_accumulation": 2, "optimizer.lr": 1e-3, "optimizer.epsilon": 1e-3}
    carry_out(place(tmp_path / "whole", "method=lora", **changes))
    with memory(3, error=MemoryError()):
        carry_out(place(tmp_path / "pieces", "method=lora", **changes))
    alike(tmp_path / "whole", tmp_path / "pieces")


def test_training_goes_on_from_the_last_checkpoint(place, tmp_path):
    """Memory that another process takes later: the first epoch is not made again."""
    said_at = {"trainer.checkpoint_every": 6, "trainer.eval_every": 6}  # updates; six an epoch
    carry_out(place(tmp_path / "whole", **said_at))
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    with memory(4, starting=8, error=error) as passed:
        record, said = carry_out(place(tmp_path / "pieces", **said_at))
    assert "resuming from update 6" in said
    # eight passes, then the second epoch again: steps of 8, 8, 8, 8, 8 and 4 rows in pieces of 4
    assert len(passed) == 8 + 11
    assert record["rows_per_pass"]["training"] == 4
    alike(tmp_path / "whole", tmp_path / "pieces")


def test_a_killed_run_goes_on_with_the_same_pieces(place, tmp_path):
    """Without a kill and with one: equal to the bit."""

    def kill() -> None:
        raise Killed

    with memory(3, scoring=5):
        carry_out(place(tmp_path / "once"))
        with pytest.raises(Killed):
            carry_out(place(tmp_path / "killed"), at("on_step_end", 9, kill))
        assert json.loads((tmp_path / "killed" / "checkpoints" / "rows.json").read_text()) == {
            "training": 2, "scoring": 5,
        }  # fmt: skip
        _, said = carry_out(place(tmp_path / "killed"))
    assert "resuming from update 6" in said
    assert not [line for line in said if "out of memory" in line]
    assert outcome(tmp_path / "once") == outcome(tmp_path / "killed")


def test_a_failed_run_goes_on_once_it_may_look_for_a_size(place, tmp_path):
    """The option is no part of what a run is."""
    (tmp_path / "run").mkdir()
    with memory(4, starting=8):
        with pytest.raises(MachineError, match=r"out of memory.*trainer\.find_batch_size=true"):
            carry_out(place(tmp_path / "run", **{"trainer.find_batch_size": False}))
        _, said = carry_out(place(tmp_path / "run"))
    assert "resuming from update 6" in said


def test_one_row_that_does_not_fit_fails_as_before(place, tmp_path):
    with memory(0), pytest.raises(MachineError, match=r"out of memory \(2\.00 MiB more were"):
        carry_out(place(tmp_path))
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] == "failed"


def test_cached_features_are_computed_in_pieces(place, tmp_path):
    changes = {"trainer.eval_batch_size": 16, "optimizer.lr": 1e-3}
    carry_out(place(tmp_path / "whole", "method=probe", **changes))
    with memory(99, scoring=4):
        record, _ = carry_out(place(tmp_path / "pieces", "method=probe", **changes))
    assert record["rows_per_pass"] == {"training": 8, "scoring": 4}
    alike(tmp_path / "whole", tmp_path / "pieces")


def test_several_processes_are_refused(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="is for one process"):
        TrainerSettings(find_batch_size=True).check_processes()
    TrainerSettings().check_processes()
    words = [f"data.root={data_root(tmp_path / 'data')}", f"output_dir={tmp_path / 'run'}"]
    answer = call("train", *tiny(checkpoints["bert"], *words), "trainer.find_batch_size=true")
    assert answer.status == 2 and "trainer.find_batch_size=True: is for one process" in answer.err


@pytest.mark.parametrize("rows", range(12))
@pytest.mark.parametrize("most", range(1, 7))
def test_pieces_are_even_and_few(rows, most):
    pieces = cut(range(rows), most)
    assert [row for piece in pieces for row in piece] == [*range(rows)]
    assert max(map(len, pieces)) <= most
    assert len(pieces) == max(1, -(-rows // most))


@pytest.mark.parametrize("noted", ["", "[]", '{"training": 0, "scoring": 9}', '{"training": "a"}'])
def test_a_damaged_note_is_not_read(noted, tmp_path):
    (tmp_path / "rows.json").write_text(noted)
    trainer = TrainerSettings(batch_size=4, eval_batch_size=8, find_batch_size=True)
    assert Rows.of(trainer, tmp_path).as_dict() == {"training": 4, "scoring": 8}


def test_other_errors_pass():
    rows = Rows(4, 4, finds=True)
    with pytest.raises(ZeroDivisionError), rows.training_step(4):
        raise ZeroDivisionError
    with pytest.raises(MemoryError), rows.training_step(1):
        raise MemoryError
    with pytest.raises(TooManyRows), rows.training_step(4):
        raise MemoryError
    with pytest.raises(MemoryError), Rows(4, 4).training_step(4):
        raise MemoryError
