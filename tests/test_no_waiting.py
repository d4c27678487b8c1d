"""A training step reads nothing back: on a GPU it would wait for all that was asked of it before.

On a CPU every number that Python reads off a tensor is seen by a dispatch mode. Batches are made on
the host, and logs, scores and checkpoints are read on purpose: those are left out. test_gpu.py asks
the same of all methods, families and kinds of tasks.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, tiny
from kinds import kinds
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer

from adaptkit.layers import prompt
from adaptkit.layers.diff import Diff
from adaptkit.training import trainer
from adaptkit.training.losses import Losses
from adaptkit.training.trainer import AdaptTrainer

READS = ("_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2")
HOST = ("iter(train_dataloader)", "torch.randint(2**62, ())")  # drawn from a CPU's generator
# Scores, checkpoints, the losses of a line of the log, and once in a run diff pruning's masks.
ON_PURPOSE = [(Losses, "check"), (Diff, "fix"), *((AdaptTrainer, name) for name in (
    "evaluate", "_save_checkpoint", "_maybe_log_save_evaluate", "_finalize_training",
))]  # fmt: skip
ON_HOST = [(AdaptTrainer, "get_batch_samples"), (AdaptTrainer, "get_train_dataloader")]


class Reads(TorchDispatchMode):
    """Notes the lines of code that read numbers off tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.off = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        by_mask = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if not self.off and (name in READS or by_mask):
            frames = [
                one for one in traceback.extract_stack()[:-1] if "/torch/" not in one.filename
            ]
            line = frames[-1].line or ""
            if not any(known in line for known in HOST):
                self.lines.append(f"{Path(frames[-1].filename).name}: {line}")
        return func(*args, **(kwargs or {}))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Note nothing."""
        self.off += 1
        yield
        self.off -= 1


@pytest.fixture
def reads(monkeypatch: Any) -> Reads:
    """Watch training, as on a GPU where our code asks for the kind of device."""
    watch = Reads()

    def put(cls: type, name: str, guard: Any) -> None:
        method = getattr(cls, name)

        def guarded(self: Any, *args: Any, **options: Any) -> Any:
            with guard():
                return method(self, *args, **options)

        monkeypatch.setattr(cls, name, guarded)

    for cls, name in [*ON_PURPOSE, *ON_HOST]:
        put(cls, name, watch.aside)
    put(AdaptTrainer, "_inner_training_loop", lambda: watch)
    monkeypatch.setattr(prompt, "single", lambda columns: columns)  # of a GPU, as the next
    monkeypatch.setattr(AdaptTrainer, "_clip_grad_norm", Trainer._clip_grad_norm)
    return watch


CASES = [("sequence", "bert"), ("seq2seq", "t5"), ("lm", "gpt2")]


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_a_step_reads_nothing(kind, family, reads, checkpoints, tmp_path):
    words = [*tiny(checkpoints[family]), *kinds(tmp_path)[kind], "method=lora",
             "trainer.batch_size=4", "trainer.device=cpu", "trainer.precision=fp32",
             "trainer.max_steps=4"]  # fmt: skip
    done = call("train", *words, f"output_dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    assert reads.lines == []


PLAIN, LONGER = "method=lora", ("method=prompt", "method=prefix", "method=ptuning_v2")
SLOW = pytest.mark.slow
MASKED = [
    ("bert", PLAIN), ("t5", PLAIN),
    *(pytest.param(family, PLAIN, marks=SLOW) for family in ("gpt2", "bart", "llama")),
    *(pytest.param(family, method, marks=SLOW)
      for family in ("bert", "gpt2", "t5") for method in LONGER),
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 4], ids=["nothing hidden", "some hidden"])
@pytest.mark.parametrize(("family", "method"), MASKED)
def test_known_masks_are_the_masks(batch, family, method, checkpoints, tmp_path, monkeypatch):
    """Training is what it is when transformers looks at the masks itself."""
    kind = "seq2seq" if family in ("t5", "bart") else "sequence"
    words = ["train", *tiny(checkpoints[family]), *kinds(tmp_path)[kind], method,
             f"trainer.batch_size={batch}", "trainer.max_steps=4", "trainer.device=cpu",
             "trainer.precision=fp32"]  # fmt: skip
    seen = set()

    def noted(hides: bool | None) -> Any:
        seen.add(hides)
        return known(hides)

    known = trainer.known_masks
    monkeypatch.setattr(trainer, "known_masks", noted)
    assert call(*words, f"output_dir={tmp_path / 'known'}").status == 0
    assert (batch > 1) in seen
    monkeypatch.setattr(trainer, "known_masks", lambda _: nullcontext())
    assert call(*words, f"output_dir={tmp_path / 'looked'}").status == 0
    one, other = (load_file(tmp_path / name / "delta.safetensors") for name in ("known", "looked"))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
