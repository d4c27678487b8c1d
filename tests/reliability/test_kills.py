"""Random kills of `adaptkit train` on the bundled model: each run ends as if there were none.

Every trial draws how often a run is killed, by which signal and when, from its own seed, and then
repeats the command until it is done. Tensors, predictions, log and record must equal those of an
uninterrupted run to the bit. A trial runs the whole command in processes of its own, forked from
one that has imported the libraries, as the runs of a sweep are.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from runs import outcome

BASE = (
    "task=sst2", "model=mini-bert", "data.source=sample", "data.train_rows=48", "data.eval_rows=24",
    "trainer.batch_size=8", "trainer.epochs=3", "trainer.log_every=4", "trainer.device=cpu",
    "trainer.precision=fp32",
)  # fmt: skip
# 18 updates, 6 an epoch: saves and evaluations together, apart, and with accumulation.
KINDS = (
    ("method=lora", "method.dropout=0.1", "trainer.eval_every=5", "trainer.checkpoint_every=3"),
    ("method=full",),
    ("method=lora", "trainer.eval_every=4", "trainer.checkpoint_every=1", "optimizer=sgd"),
    ("method=probe", "trainer.checkpoint_every=2"),
    (
        "method=bitfit",
        "trainer.gradient_accumulation=2",
        "trainer.batch_size=4",
        "regularizer=[l2_sp]",
    ),
)
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
TRIALS = 50


def carry_out(words: tuple[str, ...], printed: Path) -> None:
    """Run the command in this process, and end it with its status."""
    with printed.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from adaptkit.cli.main import main

    status = main(["train", *words])
    sys.stdout.flush()
    os._exit(status)


@dataclass
class Bench:
    """Uninterrupted runs, made once, with their seconds."""

    folder: Path
    context: Any
    done: dict[int, tuple[dict, float]] = field(default_factory=dict)

    def start(self, kind: int, directory: Path) -> multiprocessing.Process:
        words = (*BASE, *KINDS[kind], f"output_dir={directory}")
        process = self.context.Process(
            target=carry_out, args=(words, directory.with_suffix(".txt"))
        )
        process.start()
        return process

    def whole(self, kind: int) -> tuple[dict, float]:
        if kind not in self.done:
            directory, clock = self.folder / f"whole{kind}", time.monotonic()
            process = self.start(kind, directory)
            process.join()
            assert process.exitcode == 0, directory.with_suffix(".txt").read_text()
            self.done[kind] = outcome(directory), time.monotonic() - clock
        return self.done[kind]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["adaptkit.runs.run", "adaptkit.terminal.progress", "adaptkit.metrics.glue"]
    )
    bench = Bench(tmp_path_factory.mktemp("kills"), context)
    bench.start(1, bench.folder / "warm").join()  # the first one waits for the imports
    return bench


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(TRIALS))
def test_killed_run_ends_like_an_uninterrupted_one(seed, bench, tmp_path):
    chance = random.Random(seed)
    kind, directory = seed % len(KINDS), tmp_path / "run"
    expected, seconds = bench.whole(kind)
    story = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        number, wait = chance.choice(SIGNALS), chance.uniform(0.05, 1.0) * seconds
        process = bench.start(kind, directory)
        process.join(wait)
        if process.is_alive():
            os.kill(process.pid, number)
        process.join(60)
        story.append(f"{number.name} after {wait:.2f} s: {process.exitcode}")
        assert process.exitcode in (0, -number, 128 + number), story
    process = bench.start(kind, directory)
    process.join()
    story.append(directory.with_suffix(".txt").read_text())
    assert process.exitcode == 0, "\n".join(story)
    found = outcome(directory)
    for part in expected:
        assert found[part] == expected[part], (part, "\n".join(story))
    left = {path.name for path in directory.iterdir()}
    assert left == {path.name for path in (bench.folder / f"whole{kind}").iterdir()}
