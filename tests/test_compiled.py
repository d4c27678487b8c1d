"""trainer.compile: the same results by translated code, and nothing but training steps knows it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commandline import call, data_root, tiny
from families import SENTENCES, add_padding, tiny_model, tiny_tokenizer
from runs import NO_DROPOUT, Killed, at, bits, carry_out, configure, sentiment, shallow
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import set_seed

from adaptkit.adaptation import Adaptation, Context
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.diff_pruning import DiffPruning
from adaptkit.methods.full import Full
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.lora import LoRA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.prompt import PromptTuning
from adaptkit.models.compiled import compile_steps
from adaptkit.models.loading import head_names
from adaptkit.regularizers.mixout import Mixout
from adaptkit.runs.verify import verify

COMPILED = "trainer.compile=true"


def adapted(family: str, *methods: Any) -> Adaptation:
    """A tiny model without dropout, adapted."""
    set_seed(0)
    model = tiny_model(family)
    for module in model.modules():
        for name in ("p", "dropout", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    made = Adaptation.of(model, head_names(model))
    context = Context(tiny_tokenizer(family), torch.Generator().manual_seed(0), 3)
    for method in methods:
        made = method.adapt(made, context)
    return made


def trained(family: str, methods: tuple, translated: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Return the delta and the scores after three steps on batches of different shapes."""
    made, tokenizer = adapted(family, *methods), tiny_tokenizer(family)
    if translated:
        compile_steps(made.model)
    add_padding(tokenizer, made.model.config)
    optimizer = torch.optim.SGD(made.trainable.values(), lr=0.1)
    for texts in (SENTENCES[:3], SENTENCES[3:4], SENTENCES[2:7]):
        made.model.train()
        torch.manual_seed(1)  # of what a method draws
        logits = made.model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        F.cross_entropy(logits, torch.arange(len(logits)) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    for last in made.finish:
        last()
    made.model.eval()
    with torch.no_grad():
        scores = made.model(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits
    return {name: t.detach().clone() for name, t in made.delta().items()}, scores


FULL, LORA = (Full(),), (LoRA(rank=2),)
TRACED = "aot_eager"  # traced forward and backward, and computed by torch's own kernels: quicker


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "family", "methods"),
    [
        ("inductor", "bert", LORA), ("inductor", "gpt2", (BitFit(),)), ("inductor", "t5", FULL),
        *((TRACED, family, LORA) for family in ("gpt2", "t5")),
        *((TRACED, "bert", (m,)) for m in (Full(), BitFit(), Houlsby(4), PrefixTuning(3, 8))),
        *((TRACED, "t5", (m,)) for m in (PrefixTuning(3, 8), PromptTuning(3))),
        (TRACED, "bert", (PromptTuning(3),)),
        (TRACED, "bert", (DiffPruning(density=0.2),)),
        (TRACED, "bert", (Full(), Mixout(p=0.0))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value[-1]).__name__,
)  # fmt: skip
def test_three_steps_are_the_same(backend, family, methods, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, translated = (trained(family, methods, which) for which in (False, True))
    assert plain[0].keys() == translated[0].keys()  # no _orig_mod
    for name, tensor in plain[0].items():
        torch.testing.assert_close(tensor, translated[0][name], rtol=0, atol=1e-5, msg=name)
    torch.testing.assert_close(plain[1], translated[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_run_is_the_same(checkpoints, tmp_path):
    model = shallow(checkpoints["bert"], tmp_path / "bert", **NO_DROPOUT)
    data, found = sentiment(tmp_path / "data"), []
    for name in (False, True):
        made = configure(tmp_path / str(name), model, data, "method=lora",
                         **{"trainer.compile": name})  # fmt: skip
        record, _ = carry_out(made)
        found.append((record["scores"], load_file(tmp_path / str(name) / "delta.safetensors")))
    (scores, plain), (again, translated) = found
    assert scores == pytest.approx(again, rel=1e-4)
    assert plain.keys() == translated.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, translated[name], rtol=0, atol=1e-5, msg=name)
    assert verify(tmp_path / "True") == ""


@pytest.mark.slow
def test_a_resumed_run_is_the_same_to_the_bit(checkpoints, tmp_path):
    """With dropout, whose numbers the translated code draws by seeds from torch's generator."""
    model = shallow(checkpoints["bert"], tmp_path / "bert")
    data, deltas = sentiment(tmp_path / "data"), []

    def stop() -> None:
        raise Killed

    for name in ("whole", "killed"):
        made = configure(tmp_path / name, model, data, "method=lora", **{"trainer.compile": True})
        if name == "killed":
            with pytest.raises(Killed):
                carry_out(made, at("on_step_end", 8, stop))
            torch._dynamo.reset()
        carry_out(made)
        deltas.append(bits(load_file(tmp_path / name / "delta.safetensors")))
    assert deltas[0] == deltas[1]


# ---- without a translation ----


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for torch.compile: notes the calls of what it was given."""
    calls: list[str] = []

    def compile(function: Any, **options: Any) -> Any:
        def run(*args: Any, **inputs: Any) -> Any:
            calls.append("called")
            return function(*args, **inputs)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    return calls


def test_training_steps_alone_are_translated(counted):
    model = adapted("bert", Full()).model
    names = [name for name, _ in model.named_parameters()]
    compile_steps(model)
    assert [name for name, _ in model.named_parameters()] == names
    batch = tiny_tokenizer("bert")(SENTENCES, padding=True, return_tensors="pt")
    model.train()(**batch)
    assert len(counted) == 1
    with torch.no_grad():
        model(**batch)
    model.eval()(**batch)
    assert len(counted) == 1


def words_of(checkpoint: Path, folder: Path) -> list[str]:
    return ["method=lora", *tiny(checkpoint), f"data.root={data_root(folder / 'data')}",
            "trainer.max_steps=3", f"output_dir={folder / 'run'}", COMPILED]  # fmt: skip


def test_every_step_of_a_run_is_translated_and_has_no_own_kernels(
    counted, checkpoints, tmp_path, monkeypatch
):
    replaced: list[nn.Module] = []
    monkeypatch.setattr("adaptkit.runs.prepare.use_fast_kernels", lambda *m: replaced.append(m))
    words = [*words_of(checkpoints["bert"], tmp_path), "trainer.precision=bf16"]
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    assert len(counted) == 1 + 3 and not replaced  # one for the check of the compiler
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["settings"]["trainer.compile"] is True


def test_a_missing_compiler_is_reported_before_anything_is_written(
    checkpoints, tmp_path, monkeypatch
):
    def compile(function: Any, **options: Any) -> Any:
        raise RuntimeError("no g++\nand more")

    monkeypatch.setattr(torch, "compile", compile)
    answer = call("train", *words_of(checkpoints["bert"], tmp_path))
    assert answer.status == 2
    assert "trainer.compile=True: needs a C++ compiler" in answer.err and "no g++." in answer.err
    assert not (tmp_path / "run").exists()


def test_a_probe_is_refused(counted, checkpoints, tmp_path):
    answer = call("train", *words_of(checkpoints["bert"], tmp_path), "method=probe")
    assert answer.status == 2 and "it runs only once here" in answer.err
    assert not (tmp_path / "run").exists()
