"""A run that was killed and repeated equals the uninterrupted one, to the bit.

Most kills are exceptions that nothing catches, at a chosen moment of a run in this process; one is
a real SIGKILL of the command. 44 rows in batches of 8: six updates an epoch, the last a half one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    Final,
    Killed,
    at,
    bits,
    carry_out,
    command,
    configure,
    finished,
    outcome,
    script,
    sentiment,
    shallow,
)

from adaptkit.runs import run as pipeline
from adaptkit.training.checkpoints import COMPLETE
from adaptkit.training.trainer import AdaptTrainer


@pytest.fixture(scope="module")
def bench(tmp_path_factory, checkpoints) -> Bench:
    folder = tmp_path_factory.mktemp("resume")
    return Bench(folder, shallow(checkpoints["bert"], folder / "bert"), sentiment(folder / "data"))


@dataclass
class Bench:
    """Uninterrupted runs, each made once, and a place for those that are killed."""

    folder: Path
    model: Path
    data: Path

    def __post_init__(self) -> None:
        self.done: dict[Any, tuple[dict, Any]] = {}

    def settings(self, directory: Path, groups: tuple, changes: dict, method: Any = None) -> Any:
        made = configure(directory, self.model, self.data, *groups, **changes)
        return replace(made, method=method, method_name="test") if method else made

    def whole(self, groups: tuple, changes: dict, method: Any = None, script: str = "") -> tuple:
        key = (groups, tuple(sorted(changes.items())), type(method), script)
        if key not in self.done:
            directory, final = self.folder / f"whole{len(self.done)}", Final()
            carry_out(self.settings(directory, groups, changes, method), final)
            self.done[key] = outcome(directory), bits(final.state)
        return self.done[key]


def kill() -> None:
    raise Killed


@dataclass(frozen=True)
class Moment:
    """Where a run is killed, and from which update it must go on (None: from the start)."""

    event: str  # an event of the Trainer, "save" (half written) or "proof" (after training)
    update: int
    resumes: int | None


def die(moment: Moment, settings: Any, patch: pytest.MonkeyPatch) -> None:
    """Carry out a run until it is killed at `moment`."""
    callbacks = []
    with patch.context() as once:
        if moment.event == "proof":
            once.setattr(pipeline, "verify_saved", lambda *_: kill())
        elif moment.event == "save":
            save = AdaptTrainer._save_rng_state

            def cut(self: AdaptTrainer, folder: str) -> None:
                if self.state.global_step == moment.update:
                    kill()
                save(self, folder)

            once.setattr(AdaptTrainer, "_save_rng_state", cut)
        else:
            callbacks.append(at(moment.event, moment.update, kill))
        with pytest.raises(Killed):
            carry_out(settings, *callbacks)


def check(
    bench: Bench, directory: Path, patch: pytest.MonkeyPatch, moments: tuple[Moment, ...],
    groups: tuple = (), changes: dict | None = None, method: Any = None, script: str = "",
) -> dict:  # fmt: skip
    """Kill a run at each of the moments, go on, and compare with the uninterrupted run."""
    changes = changes or {}
    expected, final_state = bench.whole(groups, changes, method, script)
    settings = bench.settings(directory, groups, changes, method)
    for moment in moments:
        die(moment, settings, patch)
        assert not (directory / "result.json").exists()
        partial = directory / "checkpoints" / f"checkpoint-{moment.update}"
        if moment.event == "save":
            assert partial.is_dir()
            assert not (partial / COMPLETE).exists()
    final = Final()
    _, said = carry_out(settings, final)
    place = [line for line in said if line.startswith("resuming")]
    wanted = moments[-1].resumes
    assert place == ([] if wanted is None else [f"resuming from update {wanted}"])
    found = outcome(directory)
    for part in expected:
        assert found[part] == expected[part], part
    over = wanted is not None and wanted == found["record"]["updates"]
    assert bits(final.state) == (None if over else final_state)
    assert not (directory / "checkpoints").exists()
    return found


EPOCHS = {"trainer.epochs": 3}
STEPS = {"trainer.eval_every": 4, "trainer.checkpoint_every": 2, "trainer.epochs": 2}
APART = {"trainer.eval_every": 4, "trainer.checkpoint_every": 3, "trainer.epochs": 2}
SAVES_ONLY = {"trainer.checkpoint_every": 3, "trainer.epochs": 2}  # scored after every epoch
ACCUMULATION = {**EPOCHS, "trainer.gradient_accumulation": 2}  # three updates an epoch
PIECES = {**ACCUMULATION, "trainer.max_tokens": 30}
UPDATES = {"trainer.max_steps": 9, "trainer.eval_every": 3}  # ends within the second epoch
FRACTION = {"trainer.epochs": 1.5}
LAST = {**STEPS, "trainer.keep": "last"}


def rarely(*cases: tuple) -> list:
    """Cases that are much like others: every moment is tried with `make test-all`."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("changes", "moments"),
    [
        (EPOCHS, [Moment("on_step_end", 8, 6)]),
        (EPOCHS, [Moment("on_save", 12, 12)]),
        (EPOCHS, [Moment("on_step_end", 8, None), Moment("save", 12, 6), Moment("save", 18, 12)]),
        (STEPS, [Moment("save", 8, 6)]),
        (SAVES_ONLY, [Moment("on_epoch_end", 6, 3)]),  # the save waits for the evaluation
        (ACCUMULATION, [Moment("on_substep_end", 4, 3)]),
        (PIECES, [Moment("on_substep_end", 4, 3)]),
        *rarely(
            (EPOCHS, [Moment("save", 12, 6)]),
            (EPOCHS, [Moment("proof", 18, 18)]),
            (APART, [Moment("on_step_end", 8, 6)]),
            (ACCUMULATION, [Moment("save", 6, 3)]),
            (UPDATES, [Moment("on_train_end", 9, 9)]),
            (FRACTION, [Moment("proof", 9, 9)]),
            (EPOCHS, [Moment("on_step_end", 3, None)]),
            (EPOCHS, [Moment("on_epoch_end", 12, 6)]),
            (EPOCHS, [Moment("on_epoch_begin", 12, 12)]),
            (EPOCHS, [Moment("on_prediction_step", 12, 6)]),
            (EPOCHS, [Moment("save", 6, None)]),
            (EPOCHS, [Moment("on_train_end", 18, 18)]),
            (STEPS, [Moment("on_step_end", 5, 4)]),
            (STEPS, [Moment("on_step_end", 7, 6)]),
            (STEPS, [Moment("on_step_end", 9, 8)]),
            (STEPS, [Moment("proof", 12, 12)]),
            (APART, [Moment("on_step_end", 5, 3)]),
            (SAVES_ONLY, [Moment("on_step_end", 5, 3)]),
            (SAVES_ONLY, [Moment("on_step_end", 8, 6)]),
            (SAVES_ONLY, [Moment("on_save", 6, 6)]),
            (SAVES_ONLY, [Moment("proof", 12, 12)]),
            (ACCUMULATION, [Moment("on_step_end", 5, 3)]),
            ({**ACCUMULATION, **STEPS}, [Moment("on_step_end", 3, 2)]),
            ({**ACCUMULATION, **STEPS}, [Moment("on_step_end", 5, 4)]),
            (UPDATES, [Moment("on_step_end", 8, 6)]),
            (UPDATES, [Moment("proof", 9, 9)]),
            (FRACTION, [Moment("on_step_end", 8, 6)]),
            (LAST, [Moment("on_step_end", 9, 8)]),
            (LAST, [Moment("proof", 12, 12)]),
        ),
    ],
    ids=lambda value: (
        "+".join(f"{m.event}{m.update}" for m in value)
        if isinstance(value, list)
        else ",".join(f"{k.partition('.')[2]}={v}" for k, v in value.items())
    ),
)
def test_moments(changes, moments, bench, tmp_path, monkeypatch):
    check(bench, tmp_path / "run", monkeypatch, tuple(moments), changes=changes)


class Wandering:
    """A hook with state of its own: a running mean of a weight, and a source of noise."""

    def __init__(self, weight: torch.nn.Parameter, seed: int) -> None:
        self.weight, self.mean = weight, torch.zeros_like(weight)
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Any) -> None:
        self.mean = state["mean"].clone()
        self.generator.set_state(state["generator"])

    @torch.no_grad()
    def __call__(self, step: Any) -> None:
        self.mean = 0.9 * self.mean + 0.1 * self.weight
        noise = torch.randn(self.weight.shape, generator=self.generator)
        self.weight += 1e-2 * (self.mean - self.weight) + 1e-3 * noise


class Pull(Wandering):
    """The same as a penalty: the squared distance to its running mean."""

    def __call__(self, model: Any, batch: Any, outputs: Any, step: Any) -> torch.Tensor:
        noise = torch.randn(self.weight.shape, generator=self.generator)
        self.mean = 0.9 * self.mean + 0.1 * (self.weight.detach() + 1e-3 * noise)
        return ((self.weight - self.mean) ** 2).sum()


@dataclass(frozen=True)
class Stateful:
    """Full fine-tuning with state in every place that may have some."""

    def adapt(self, start: Any, context: Any) -> Any:
        weights = list(start.trainable.values())[-4:]
        return start.plus(
            before_update=Wandering(weights[0], 1),
            after_update=Wandering(weights[1], 2),
            penalty={"pull": Pull(weights[2], 3)},
        )


@pytest.mark.parametrize(
    ("groups", "changes", "method"),
    [
        (("method=lora",), {"method.dropout": 0.2, "trainer.precision": "bf16"}, None),
        (("method=full", "regularizer=[l2_sp]"), {}, None),
        (
            ("method=full", "regularizer=[reinit,weight_decay_to_pretrained]"),
            {"optimizer.bias_correction": False},
            None,
        ),
        *rarely(
            (("method=full",), {}, Stateful()),
            (("method=probe",), {}, None),
            (("method=lora",), {"method.dropout": 0.2}, None),
            (("method=full",), {}, None),
            (("method=full",), {"trainer.precision": "bf16"}, None),
            (("method=bitfit",), {}, None),
            (("method=probe",), {"trainer.cache_frozen": "never"}, None),
            (("method=lora", "regularizer=[l2_sp]"), {}, None),
            (("method=full", "regularizer=[child_tuning]"), {"optimizer.weight_decay": 0.1}, None),
            (("method=diff_pruning",), {"method.density": 0.1}, None),
            (("method=child_tuning",), {"method.mode": "F"}, None),
            (
                ("method=full", "regularizer=[mixout,recadam]"),
                {"regularizer.recadam.gamma": 9.0},
                None,
            ),
            (("method=lora", "regularizer=[r3f,r_drop,mixout]"), {}, None),
            (("method=full", "regularizer=[r4f]"), {"regularizer.r4f.dropout": "shared"}, None),
            (("method=lora", "optimizer=sgd"), {}, None),
            (("method=lora", "optimizer=adafactor"), {}, None),
            (("method=top_k",), {"method.last": 1}, None),
            (("method=full", "regularizer=[reinit,layerwise_lr_decay]"), {}, None),
        ),
    ],
    ids=lambda value: (
        ",".join(map(str, value)) if isinstance(value, tuple | dict) else type(value).__name__
    ),
)
def test_methods(groups, changes, method, bench, tmp_path, monkeypatch):
    moments = (Moment("on_step_end", 5, None), Moment("on_step_end", 9, 8))
    changes = {**STEPS, **changes}
    found = check(bench, tmp_path / "run", monkeypatch, moments, groups, changes, method)
    if "regularizer=[l2_sp]" in groups:
        assert any("l2_sp" in line for line in found["history"])


# 13 rows in batches of 2 are seven batches: updates of 6, 6 and 1 rows, three times over.
PARTLY_FILLED = {
    **EPOCHS, "data.train_rows": 13, "trainer.batch_size": 2, "trainer.gradient_accumulation": 3,
    "trainer.checkpoint_every": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(None, id="plain", marks=pytest.mark.slow),
        pytest.param(Stateful(), id="hooks with state"),
    ],
)
@pytest.mark.parametrize(
    "moments",
    [
        (Moment("on_step_end", 3, 2),),  # only the partly filled update of the epoch is left
        (Moment("save", 6, 4),),
        (Moment("on_substep_end", 1, None), Moment("on_step_end", 3, 2), Moment("save", 8, 6)),
        *rarely(
            ((Moment("on_substep_end", 4, 4),),),
            ((Moment("on_step_begin", 5, 4),),),
            ((Moment("on_prediction_step", 6, 4),),),
            ((Moment("on_save", 6, 6),),),
            ((Moment("on_prediction_step", 9, 8),),),
            ((Moment("proof", 9, 9),),),
        ),
    ],
    ids=lambda moments: "+".join(f"{m.event}{m.update}" for m in moments),
)
def test_partly_filled_last_update(moments, method, bench, tmp_path, monkeypatch):
    found = check(
        bench, tmp_path / "run", monkeypatch, moments, ("method=full",), PARTLY_FILLED, method
    )
    assert found["rows"]["train"] == 13
    assert (found["record"]["updates"], found["record"]["epochs"]) == (9, 3.0)


def test_dropout_is_on(bench):
    """The comparison above would prove little about random numbers if none were drawn."""
    settings = bench.settings(bench.folder / "unused", ("method=full",), {})
    bound = settings.bind(settings.task.with_classes(("negative", "positive")))
    prepared = pipeline.prepare(bound, 1, stage="train")
    model = prepared.adaptation.model.train()
    batch = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.ones(1, 8).long()}
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


RISES_THEN_FALLS = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.8, 10: 0.6, 12: 0.6}


@pytest.mark.parametrize(
    "moment",
    [Moment("on_step_end", 3, 2), Moment("on_step_end", 9, 8), Moment("proof", 12, 12)],
    ids=["before the best", "after the best", "after training"],
)
def test_best_weights_survive(moment, bench, tmp_path, monkeypatch):
    script(monkeypatch, RISES_THEN_FALLS)
    changes = {**STEPS, "trainer.eval_every": 2, "trainer.keep": "best",
               "trainer.select_on": "validation"}  # fmt: skip
    found = check(bench, tmp_path / "run", monkeypatch, (moment,), changes=changes, script="best")
    assert found["record"]["best_update"] == 4
    assert found["record"]["updates"] == 12
    assert found["record"]["score"] == 0.9


@pytest.mark.parametrize(
    "moment",
    [
        Moment("on_step_end", 7, 6),
        Moment("proof", 10, 10),
        *rarely((Moment("on_prediction_step", 10, 8),), (Moment("on_train_end", 10, 10),)),
    ],
    ids=lambda m: f"{m.event}{m.update}",
)
def test_early_stopping(moment, bench, tmp_path, monkeypatch):
    script(monkeypatch, RISES_THEN_FALLS)
    changes = {**STEPS, "trainer.eval_every": 2, "trainer.early_stopping_patience": 3,
               "trainer.keep": "best", "trainer.select_on": "validation"}  # fmt: skip
    found = check(bench, tmp_path / "run", monkeypatch, (moment,), changes=changes, script="stop")
    assert found["record"]["updates"] == 10  # three evaluations after the best, at update 4
    assert found["record"]["best_update"] == 4


def test_failed_run_goes_on(bench, tmp_path):
    """After an error, too, the same command goes on from the last checkpoint."""

    def fail() -> None:
        raise RuntimeError("out of luck")

    expected, _ = bench.whole((), STEPS)
    settings = bench.settings(tmp_path / "run", (), STEPS)
    with pytest.raises(RuntimeError, match="out of luck"):
        carry_out(settings, at("on_step_end", 7, fail))
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == "failed"
    assert "out of luck" in record["error"]
    _, said = carry_out(settings)
    assert "resuming from update 6" in said
    assert outcome(tmp_path / "run") == expected


def test_finished_run_is_not_repeated(bench, tmp_path):
    settings = bench.settings(tmp_path / "run", (), UPDATES)
    first, _ = carry_out(settings)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    second, said = carry_out(settings)
    assert second == json.loads(json.dumps(first))
    assert "done before" in said[0]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == before


def test_resume_never_starts_anew(bench, tmp_path, monkeypatch):
    expected, _ = bench.whole((), STEPS)
    settings = bench.settings(tmp_path / "run", (), STEPS)
    die(Moment("on_step_end", 7, None), settings, monkeypatch)
    anew = bench.settings(tmp_path / "run", (), {**STEPS, "trainer.resume": "never"})
    _, said = carry_out(anew)
    assert not any(line.startswith("resuming") for line in said)
    assert outcome(tmp_path / "run") == expected


@pytest.mark.reliability
def test_sigkill(bench, tmp_path):
    """The command itself, killed by the system while it trains."""

    def words(directory: Path) -> list[str]:
        return [
            "train", "model=auto", f"model.path={bench.model}", "task=sst2",
            f"task.path={bench.data}", "method=lora", "method.dropout=0.1",
            "trainer.device=cpu", "trainer.precision=fp32", "trainer.batch_size=4",
            "trainer.epochs=8", "trainer.eval_every=11", "trainer.checkpoint_every=7",
            "trainer.log_every=5", "optimizer.lr=1e-3", f"output_dir={directory}",
        ]  # fmt: skip

    whole = command(*words(tmp_path / "whole"), hash_seed=1)
    killed = command(*words(tmp_path / "killed"), hash_seed=2)
    checkpoints, limit = tmp_path / "killed" / "checkpoints", time.monotonic() + 300
    while not list(checkpoints.glob(f"checkpoint-*/{COMPLETE}")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    assert not (tmp_path / "killed" / "delta.safetensors").exists()
    said = finished(command(*words(tmp_path / "killed"), hash_seed=3))
    assert "resuming from update" in said
    finished(whole)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    left = {p.name for p in (tmp_path / "killed").iterdir()}
    assert left == {p.name for p in (tmp_path / "whole").iterdir()}
    shutil.rmtree(tmp_path / "killed")
