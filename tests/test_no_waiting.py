"""A training step reads nothing back: on a GPU it would wait for all that was asked of it before.

On a CPU every number that Python reads off a tensor is seen by a dispatch mode. Batches are made on
the host, and logs, scores and checkpoints are read on purpose: those are left out.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, tiny, write
from families import FAMILIES
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer

from adaptkit.layers import prompt
from adaptkit.training import trainer
from adaptkit.training.losses import Losses
from adaptkit.training.trainer import AdaptTrainer

READS = ("_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2")
HOST = ("iter(train_dataloader)", "torch.randint(2**62, ())")  # drawn from a CPU's generator
THEIRS = {"xlnet": "one_hot(seg_mat"}  # what transformers' own code reads, on a CPU alone
INTENDED = [(Losses, "check"), *((AdaptTrainer, name) for name in (
    "evaluate", "_save_checkpoint", "_maybe_log_save_evaluate", "_finalize_training",
    "get_batch_samples", "get_train_dataloader",
))]  # fmt: skip


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

    for cls, name in INTENDED:
        put(cls, name, watch.aside)
    put(AdaptTrainer, "_inner_training_loop", lambda: watch)
    monkeypatch.setattr(prompt, "single", lambda columns: columns)  # of a GPU, as the next
    monkeypatch.setattr(AdaptTrainer, "_clip_grad_norm", Trainer._clip_grad_norm)
    return watch


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, list[str]]:
    """Return the options of each kind of task; texts of several lengths, so masks hide some."""
    text = "the film was not bad , and the music was great"
    texts = [" ".join(text.split()[:k]) for k in (3, 11, 7, 9) * 4]
    rows = {
        "span": [{"question": "what was great ?", "context": f"{one} the music",
                  "answers": "the music"} for one in texts],
        "seq2seq": [{"text": one, "target": "good film"} for one in texts],
        "words": [{"text": one, "label": "bad" if i % 2 else "good"}
                  for i, one in enumerate(texts)],
        "plain": [{"text": one} for one in texts],
        "tokens": [{"tokens": one.split(), "tags": ["x", "y", *"x" * 9][: len(one.split())],
                    "head": [0, *[1] * (len(one.split()) - 1)]} for one in texts],
        "gaps": [{"text": one, "query": "the @placeholder was great", "answers": "music",
                  "candidates": ["music", "film"]} for one in texts],
        "choices": [{"text": one, "a": "good", "b": "a bad film", "label": i % 2}
                    for i, one in enumerate(texts)],
    }  # fmt: skip
    for kind, lines in rows.items():
        for split in ("train", "validation"):
            write(tmp_path / kind / f"{split}.jsonl", lines)
    words = ["task=classify", f"task.path={tmp_path / 'words'}", "task.text=text"]
    return {
        "sequence": words,
        "cloze": [*words, "task.form=cloze", "task.template='{first} It was {label}.'"],
        "span": ["task=span", f"task.path={tmp_path / 'span'}", "task.max_length=24",
                 "task.stride=4"],
        "seq2seq": ["task=seq2seq", f"task.path={tmp_path / 'seq2seq'}", "task.source=text",
                    "task.max_target_length=4"],
        "lm": ["task=lm", f"task.path={tmp_path / 'plain'}"],
        "mlm": ["task=mlm", f"task.path={tmp_path / 'plain'}"],
        "tag": ["task=tag", f"task.path={tmp_path / 'tokens'}"],
        "dependency": ["task=dependency", f"task.path={tmp_path / 'tokens'}", "task.rank=8"],
        "choice": ["task=choice", f"task.path={tmp_path / 'choices'}", "task.text=text",
                   "task.choices=[a,b]"],
        "text": [*words, "task.form=text"],
        "gap": ["task=gap", f"task.path={tmp_path / 'gaps'}", "task.text=text"],
    }  # fmt: skip


CASES = [(kind, family, "method=lora") for kind, families in {
    "sequence": FAMILIES,
    "cloze": ("bert", "t5"), "span": ("bert",), "seq2seq": ("gpt2", "t5", "bart"),
    "lm": ("gpt2", "opt"), "mlm": ("bert",), "tag": ("bert",), "dependency": ("bert",),
    "choice": ("bert",), "gap": ("bert",), "text": ("gpt2", "t5"),
}.items() for family in families]  # fmt: skip
CASES += [
    ("sequence", family, word) for family in ("bert", "gpt2")
    for word in ("method=full", "method=bitfit", "method=adalora", "method=prompt",
                 "method=prefix", "method=houlsby", "regularizer=r3f", "regularizer=mixout",
                 "regularizer=recadam", "regularizer=l2_sp", "regularizer=child_tuning")
]  # fmt: skip
FIRST = [("sequence", "bert"), ("seq2seq", "t5"), ("lm", "gpt2")]


@pytest.mark.parametrize(("kind", "family", "method"), [
    pytest.param(*case, marks=() if case[:2] in FIRST and case[2] == "method=lora"
                 else pytest.mark.slow) for case in CASES
])  # fmt: skip
def test_a_step_reads_nothing(kind, family, method, tasks, reads, checkpoints, tmp_path):
    words = [*tiny(checkpoints[family]), *tasks[kind], method, "trainer.batch_size=4",
             "trainer.device=cpu", "trainer.precision=fp32", "trainer.max_steps=4"]  # fmt: skip
    done = call("train", *words, f"output_dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    theirs = THEIRS.get(family) if kind == "sequence" else None
    assert [line for line in reads.lines if theirs is None or theirs not in line] == []
    assert bool(reads.lines) == (theirs is not None)  # else that exception is void


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
def test_known_masks_are_the_masks(
    batch, family, method, tasks, checkpoints, tmp_path, monkeypatch
):
    """Training is what it is when transformers looks at the masks itself."""
    kind = "seq2seq" if family in ("t5", "bart") else "sequence"
    words = ["train", *tiny(checkpoints[family]), *tasks[kind], method,
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
