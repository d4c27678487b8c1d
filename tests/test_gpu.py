"""Runs on a GPU: nothing stays behind on the host, no step waits, and both places answer alike.

For a CUDA device, or one that is pretended (`make gpu`): there, a tensor left on the host, a kernel
of CPUs and a wait in a step are refused as by a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, read, tiny
from families import FAMILIES
from kinds import kinds
from safetensors.torch import load_file
from test_no_waiting import ON_PURPOSE

from adaptkit.config.groups import options
from adaptkit.training.trainer import AdaptTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU: make gpu"),
]
# transformers' own code: relative positions, and the first update.
THEIRS = {"deberta-v2", "optimizer=adafactor", "method=full optimizer=adafactor"}


@contextmanager
def mode(name: str) -> Iterator[None]:
    """Refuse to wait for the GPU (error), or not (default)."""
    was = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(name)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(was)


@pytest.fixture(autouse=True)
def steps_never_wait(monkeypatch: Any, request: Any) -> None:
    """Refuse to wait for the GPU from the first batch to the end of training."""
    if THEIRS & set(request.node.callspec.params.values()):
        return

    def may_wait(cls: type, name: str) -> None:
        method = getattr(cls, name)

        def allowed(self: Any, *args: Any, **options: Any) -> Any:
            with mode("default"):
                return method(self, *args, **options)

        monkeypatch.setattr(cls, name, allowed)

    for cls, name in [*ON_PURPOSE, (AdaptTrainer, "_inner_training_loop")]:
        may_wait(cls, name)  # the last one: until the first batch
    samples = AdaptTrainer.get_batch_samples

    def begin(self: Any, *args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        return samples(self, *args)

    monkeypatch.setattr(AdaptTrainer, "get_batch_samples", begin)


KINDS = {
    "cloze": ("bert", "t5", "gpt2"), "span": ("bert", "t5"), "seq2seq": ("gpt2", "t5", "bart"),
    "lm": ("gpt2", "opt"), "mlm": ("bert",), "tag": ("bert", "gpt2", "t5"), "dependency": ("bert",),
    "choice": ("bert", "t5"), "gap": ("bert",), "text": ("gpt2", "t5"),
}  # fmt: skip
UNTRAINED = {"hard_prompt"}
CASES = [("sequence", family, f"method={name}") for name in options("method")
         for family in ("bert", "gpt2", "t5") if name not in UNTRAINED]  # fmt: skip
CASES += [("sequence", family, "method=full") for family in FAMILIES]
CASES += [("sequence", "bert", f"method=full regularizer={name}")
          for name in options("regularizer")]  # fmt: skip
CASES += [("sequence", "bert", f"optimizer={name}") for name in options("optimizer")]
CASES += [(kind, family, "method=lora") for kind, some in KINDS.items() for family in some]
CASES += [("sequence", family, word) for family in ("bert", "t5") for word in (
    "trainer.precision=bf16", "trainer.precision=fp16", "trainer.gradient_checkpointing=true",
    "trainer.gradient_accumulation=2", "trainer.max_tokens=24", "trainer.find_batch_size=true",
    "model.dtype=bf16 trainer.precision=bf16", "trainer.keep=best trainer.select_on=validation",
    "model.pooling=mean", "task.class_weights=balanced",
)]  # fmt: skip
CASES += [("sequence", "bert", "method=top_k trainer.cache_frozen=layers")]


def assert_close(one: Any, other: Any, by: float) -> None:
    """Answers are the same, and numbers in them differ by at most `by`."""
    assert type(one) is type(other)
    if isinstance(one, float):
        assert one == pytest.approx(other, rel=by, abs=by)
    elif isinstance(one, list | dict) and len(one) == len(other):
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_close(one[key], other[key], by)
    else:
        assert one == other


@pytest.mark.parametrize(("kind", "family", "words"), dict.fromkeys(CASES))
def test_a_run_is_whole_and_the_cpu_answers_the_same(kind, family, words, checkpoints, tmp_path):
    task = kinds(tmp_path)[kind]
    run, answers = tmp_path / "run", {}
    fp32 = [] if "precision" in words else ["trainer.precision=fp32"]
    done = call("train", *tiny(checkpoints[family]), *task, *fp32, *words.split(),
                "trainer.device=cuda", f"output_dir={run}")  # fmt: skip
    if family == "t5" and words in ("method=bitfit", "method=chain") and "no bias" in done.err:
        pytest.skip(done.err)
    assert done.status == 0, done.err
    fp32 = ["trainer.precision=fp32"] if "fp16" in words else []  # which a CPU does not compute
    for device in ("cuda", "cpu"):
        output = tmp_path / f"{device}.jsonl"
        done = call("predict", run, "--split=validation", f"--output={output}",
                    f"--device={device}", *fp32)  # fmt: skip
        assert done.status == 0, done.err
        answers[device] = read(output)
    half = any(word in words for word in ("bf16", "fp16"))
    assert_close(answers["cuda"], answers["cpu"], 0.02 if half else 1e-5)


GO_ON = [
    (family, f"method={name}")
    for family in ("bert", "gpt2", "t5")
    for name in ("lora", "prefix", "adalora", "diff_pruning", "child_tuning", "pissa", "vera")
]
GO_ON += [("bert", f"method=full regularizer={name}") for name in options("regularizer")]
GO_ON += [("bert", f"method=full optimizer={name}") for name in options("optimizer")]
GO_ON += [("bert", f"method=full trainer.precision={name}") for name in ("bf16", "fp16")]


@pytest.mark.parametrize(("family", "words"), GO_ON)
def test_a_run_goes_on_from_a_checkpoint(family, words, checkpoints, tmp_path):
    """It ends as one that was never stopped."""
    words = [*tiny(checkpoints[family]), *kinds(tmp_path)["sequence"], *words.split(),
             "trainer.device=cuda", "trainer.max_steps=6",
             "trainer.checkpoint_every=2"]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = call("train", *words, f"output_dir={whole}")
    assert done.status == 0, done.err
    made, step = [], AdaptTrainer.training_step

    def dies(self: Any, *args: Any, **options: Any) -> Any:
        made.append(1)
        if len(made) == 5:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        made.append(1)
        return step(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptTrainer, "training_step", dies)
        assert call("train", *words, f"output_dir={cut}").status != 0
    made.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptTrainer, "training_step", counted)
        done = call("train", *words, f"output_dir={cut}")
    assert done.status == 0, done.err
    assert len(made) == 2  # updates 5 and 6
    one, other = (load_file(Path(run, "delta.safetensors")) for run in (whole, cut))
    torch.testing.assert_close(one, other)
