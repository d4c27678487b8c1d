"""model.dtype: the format in which frozen weights are kept, apart from that of the products."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call
from runs import bits, carry_out, configure, outcome, sentiment, shallow
from safetensors.torch import load_file, save_file

from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.runs import run as pipeline
from adaptkit.runs.verify import verify
from adaptkit.training.precision import DTYPES

STEPS = {"trainer.max_steps": 4, "trainer.precision": "bf16"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Callable[..., Any]:
    """Settings for a checkpoint in fp32, or for the same stored in bf16."""
    folder = tmp_path_factory.mktemp("dtype")
    for name, long in (("fp32", "float32"), ("bf16", "bfloat16")):
        model = shallow(checkpoints["bert"], folder / name / "bert", dtype=long)
        file = model / "model.safetensors"
        stored = {n: t.to(DTYPES[name]) for n, t in load_file(file).items()}
        save_file(stored, file, {"format": "pt"})
    data = sentiment(folder / "data")

    def settings(directory: Path, *groups: str, stored: str = "fp32", **changes: Any) -> Any:
        return configure(directory, folder / stored / "bert", data, *groups, **STEPS | changes)

    return settings


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_weights_are_loaded_in_it(dtype, family, checkpoints):
    """Nothing is in fp32 for a while: the library is asked for the format itself."""
    model = Model("m", str(checkpoints[family]), dtype=dtype)
    config = loading.load_config(model, "sequence", 2)
    loaded = loading.load_model(model, config, "sequence").model
    plain = loading.load_model(Model("m", model.path), config, "sequence").model
    for (name, tensor), (_, exact) in zip(
        loaded.named_parameters(), plain.named_parameters(), strict=True
    ):
        if family == "t5" and name.endswith("wo.weight") and dtype == "fp16":
            continue  # transformers keeps it in fp32: its products leave the range of fp16
        assert tensor.dtype == DTYPES[dtype], name
        if name.startswith(loading.base_prefix(loaded)):
            assert torch.equal(tensor, exact.to(DTYPES[dtype])), name


@pytest.mark.parametrize("method", ["lora", "bitfit", "full", "probe"])
def test_bf16_is_the_run_on_a_checkpoint_in_bf16(method, place, tmp_path):
    carry_out(place(tmp_path / "asked", f"method={method}", **{"model.dtype": "bf16"}))
    carry_out(place(tmp_path / "stored", f"method={method}", stored="bf16"))
    assert outcome(tmp_path / "asked") == outcome(tmp_path / "stored")
    delta = load_file(tmp_path / "asked" / "delta.safetensors")
    assert {tensor.dtype for tensor in delta.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "precision", "kept"),
    [("auto", "bf16", "bf16"), ("auto", "fp32", "fp32"), ("fp32", "bf16", "fp32"),
     ("fp16", "bf16", "fp16")],
)  # fmt: skip
def test_frozen_matrices_are_kept_in_it(dtype, precision, kept, place, tmp_path):
    made = place(tmp_path, "method=lora", **{"model.dtype": dtype, "trainer.precision": precision})
    adaptation = pipeline.prepare(made, 1, "train").adaptation
    for name, parameter in adaptation.model.named_parameters():
        frozen = name not in adaptation.trainable and parameter.dim() > 1
        assert parameter.dtype == (DTYPES[kept] if frozen else torch.float32), name


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_run_is_rebuilt_in_it(dtype, place, tmp_path):
    record, _ = carry_out(place(tmp_path / "run", "method=lora", **{"model.dtype": dtype}))
    assert record["settings"]["model.dtype"] == dtype
    assert verify(tmp_path / "run") == ""
    again = call("eval", str(tmp_path / "run"), f"--output={tmp_path / 'again'}")
    assert again.status == 0, again.err
    scores = json.loads((tmp_path / "again" / "result.json").read_text())["scores"]
    assert scores == record["scores"]


def test_products_of_fp32_weights_in_bf16_are_as_of_bf16_weights(place, tmp_path):
    """Autocast rounds them when they are used; only embeddings tell the difference."""
    outputs = []
    for dtype in ("auto", "fp32"):
        made = place(tmp_path, "method=lora", **{"model.dtype": dtype})
        model = pipeline.prepare(made, 1, "train").adaptation.model.eval()
        query = model.get_submodule("bert.encoder.layer.0.attention.self.query")
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            outputs.append(query(torch.ones(2, 32)))
    assert bits(outputs[0]) == bits(outputs[1])


def test_a_plain_model_holds_the_weights_that_were_trained_on(place, tmp_path):
    carry_out(place(tmp_path / "run", "method=lora", **{"model.dtype": "bf16"}))
    made = call("export", str(tmp_path / "run"), "--format", "merged", "--out", str(tmp_path / "x"))
    assert made.status == 0, made.err
    words = "bert.embeddings.word_embeddings.weight"
    (exported,) = (load_file(tmp_path / "x" / "model.safetensors")[name] for name in (words,))
    source = json.loads((tmp_path / "run" / "result.json").read_text())["settings"]["model.path"]
    stored = load_file(Path(source) / "model.safetensors")
    (exact,) = (t for n, t in stored.items() if words.endswith(n))
    assert exported.dtype == torch.float32
    assert torch.equal(exported, exact.bfloat16().float())


def test_half_weights_for_full_products_are_refused(place, tmp_path):
    words = ["model=mini-bert", "task=sst2", "trainer.precision=fp32", "model.dtype=bf16"]
    for command in (["train", *words, f"output_dir={tmp_path / 'run'}"], ["plan", *words]):
        answer = call(*command)
        assert answer.status == 2
        assert "model.dtype='bf16': saves memory only if products" in answer.err
    assert not (tmp_path / "run").exists()


def test_weights_out_of_the_range_of_fp16_are_named(checkpoints, tmp_path):
    file = shallow(checkpoints["bert"], tmp_path / "bert") / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name][0, 0] = 1e5
    save_file(tensors, file, {"format": "pt"})
    model = Model("m", str(file.parent), dtype="fp16")
    config = loading.load_config(model, "sequence", 2)
    with pytest.raises(loading.AdaptError, match=r"query\.weight holds values.*dtype=bf16"):
        loading.load_model(model, config, "sequence")


def test_the_plan_follows():
    def weights(dtype: str) -> int:
        words = ["model=mini-bert", "task=sst2", "method=lora", "trainer.precision=bf16"]
        answer = call("plan", *words, f"model.dtype={dtype}", "trainer.fast=false", "--json")
        return json.loads(answer.out)["memory"]["weights"]

    assert weights("auto") == weights("bf16") == weights("fp16")
    assert weights("fp32") > 1.9 * weights("bf16")
