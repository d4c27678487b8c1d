"""Two processes: the same updates, losses, answers and record as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import NO_DROPOUT, outcome, shallow
from safetensors.torch import load_file
from test_forms import KINDS, WEIGHTED, overrides_of

from adaptkit.runs.verify import verify

SCRIPT = '''
import os, signal, sys, time
from dataclasses import replace
from transformers import TrainerCallback
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.runs.run import Interface, run
from adaptkit.terminal.console import raising_signals


class TwoPasses:
    """A penalty that calls the model a second time, with other segments."""

    def adapt(self, start, context):
        def penalty(forward, batch, outputs, step):
            types = 1 - batch.inputs["token_type_ids"]
            return (forward(token_type_ids=types).logits - outputs.logits).square().mean()

        return start.plus(penalty={"passes": penalty})


class Signal(TrainerCallback):
    """A request to end that reaches one of the processes only."""

    def on_step_begin(self, args, state, control, **_):
        if os.environ["RANK"] == "1" and state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


made = settings(compose(sys.argv[1:]))
if "TWO_PASSES" in os.environ:
    made = replace(made, method=TwoPasses(), method_name="test")
callbacks = (Signal(),) if "SIGNAL" in os.environ else ()
if os.environ.get("RANK") == os.environ.get("LATE", "nobody"):
    time.sleep(1)  # the others must not depend on what it has done by now
with raising_signals():
    run(made, Interface(lambda line: print(line, file=sys.stderr), lambda _: callbacks))
'''


@pytest.fixture(scope="module")
def quiet(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer without dropout."""
    folder = tmp_path_factory.mktemp("quiet") / "bert"
    return shallow(checkpoints["bert"], folder, **NO_DROPOUT)


def carry_out(processes: int, script: Path, overrides: list[str], **variables: str) -> str:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables,
                   "PYTHONPATH": str(Path(__file__).parent.parent)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), str(script), *overrides],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode != 0) == ("SIGNAL" in variables), done.stderr[-9000:]
    return done.stderr


PULLED = "method=full regularizer=[reinit,layerwise_lr_decay,weight_decay_to_pretrained]"

# Each process draws the same masks, and finds the same weights.
CHILD = "method=child_tuning regularizer=[recadam] regularizer.recadam.gamma=5"
CHILDREN = {"F": f"{CHILD} method.mode=F", "D": f"{CHILD} method.fisher=example"}


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        *(
            pytest.param("classify", {"WORDS": words}, id=mode, marks=pytest.mark.reliability)
            for mode, words in CHILDREN.items()
        ),
        pytest.param("classify", {"LATE": "1"}, id="classify"),
        pytest.param("tag", {"LATE": "0"}, id="tag", marks=pytest.mark.reliability),
        pytest.param("dependency", {}, id="dependency", marks=pytest.mark.reliability),
        pytest.param("cloze", {}, id="cloze", marks=pytest.mark.reliability),
        pytest.param(
            "classify", {"TWO_PASSES": "1"}, id="two passes", marks=pytest.mark.reliability
        ),
        pytest.param("classify", {"WORDS": PULLED}, id="pulled", marks=pytest.mark.reliability),
    ],
)
def test_two_processes_make_the_run_of_one(kind, variables, quiet, tmp_path):
    """13 rows in updates of 8, the last one uneven; tags count words, so weights differ.

    The classes of the plain classification are weighted, and its labels smoothed. A budget of
    tokens cuts the steps of two processes into different numbers of pieces.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    weighted = WEIGHTED if kind == "classify" and "TWO_PASSES" not in variables else ()
    weighted = [*weighted, *variables.get("WORDS", "").split()]
    more = [*weighted, "trainer.keep=best", "trainer.select_on=validation", "trainer.log_every=1",
            "trainer.eval_batch_size=4"]  # fmt: skip
    for processes, size, tokens in ((1, 8, "null"), (2, 4, 16)):
        directory = tmp_path / str(processes) / "run"
        sizes = (f"trainer.batch_size={size}", f"trainer.max_tokens={tokens}")
        carry_out(processes, script, overrides_of(directory, kind, quiet, *more, *sizes),
                  **variables)  # fmt: skip
    one, two = tmp_path / "1" / "run", tmp_path / "2" / "run"
    assert len(KINDS[kind].rows) == 9  # 13 rows are written of these
    deltas = [load_file(run / "delta.safetensors") for run in (one, two)]
    assert deltas[0].keys() == deltas[1].keys()
    for name, tensor in deltas[0].items():
        torch.testing.assert_close(tensor, deltas[1][name], rtol=1e-5, atol=2e-6)
    logs = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
            for run in (one, two)]  # fmt: skip
    assert len(logs[0]) == len(logs[1]) > 4
    for first, second in zip(*logs, strict=True):
        first.pop("seconds"), second.pop("seconds")
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5)
    records = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["scores"] == pytest.approx(records[1]["scores"], rel=1e-4)
    assert (one / "predictions.jsonl").read_text() == (two / "predictions.jsonl").read_text()
    assert verify(two) == ""  # by one process: its recorded loss, too, is that of 13 rows


@pytest.mark.reliability
def test_two_processes_end_together_and_go_on(quiet, tmp_path):
    """One of them is asked to end: both save after the same update, and each keeps its own state.

    A damaged part of one process spoils the checkpoint for both.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    more = ["trainer.log_every=1", "trainer.batch_size=4", "trainer.checkpoint_every=3",
            "method=lora", "method.dropout=0.2", "trainer.max_steps=6"]  # fmt: skip

    def words(name: str) -> list[str]:
        return overrides_of(tmp_path / name, "classify", quiet, *more)

    carry_out(2, script, words("whole"))
    carry_out(2, script, words("run"), SIGNAL="1")
    checkpoints = tmp_path / "run" / "checkpoints"
    sealed = json.loads((checkpoints / "checkpoint-4" / "complete").read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(sealed["files"])
    assert not (tmp_path / "run" / "result.json").exists()
    (checkpoints / "checkpoint-4" / "rng_state_1.pth").write_bytes(b"")
    assert "resuming from update 3" in carry_out(2, script, words("run"))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
