"""model.quantization: frozen weights in 8 or 4 bits, and a clear no where that makes no sense.

What needs bitsandbytes is skipped where it is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call
from families import EACH_FAMILY, SENTENCES, add_padding, tiny_tokenizer
from runs import NO_DROPOUT, Killed, at, carry_out, configure, history, outcome, sentiment
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptkit.adaptation import Adaptation
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.models.quantized import QuantizedLinear, check_device, packed_bytes
from adaptkit.runs.verify import verify

# QLoRA, appendix E: the values of NF4.
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0)  # fmt: skip
BOTH = ("8bit", "4bit")


# ---- without the package ----


def test_the_package_is_asked_for_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("adaptkit.models.model.importlib.util.find_spec", lambda name: None)
    words = ["task=sst2", "data.source=sample", "model.quantization=4bit"]
    answer = call("train", *words, f"output_dir={tmp_path / 'run'}")
    assert answer.status == 2
    assert "model.quantization='4bit': needs the package bitsandbytes" in answer.err
    assert "pip install 'adaptkit[quantization]'" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["method=full"], ["method=top_k"], ["method=child_tuning"], ["method=diff_pruning",
        "trainer.keep=last"], ["method=pissa"], ["method=dora"], ["method=ptuning",
        "method.tune_body=true"], ["method=chain", "method.parts=[{name:dora},{name:bitfit}]"],
        ["method=lora", "regularizer=[mixout]"], ["method=lora", "regularizer=[reinit]"],
    ],
)  # fmt: skip
def test_what_needs_the_weights_is_refused(words):
    with pytest.raises(ConfigError, match=r"packs the weights that .* trains, reads or replaces"):
        settings(compose(["task=sst2", *words, "model.quantization=8bit"]))


@pytest.mark.parametrize("option", [{"random_weights": True}, {"from_run": "x"}])
def test_other_weights_than_the_files_are_refused(option):
    with pytest.raises(ConfigError, match=f"and model.{next(iter(option))} brings others"):
        Model("m", "x", quantization="4bit", **option)


def test_other_devices_are_refused(monkeypatch):
    monkeypatch.setattr("adaptkit.models.model.importlib.util.find_spec", lambda name: True)
    with pytest.raises(ConfigError, match=r"needs a CPU or a CUDA device.* is mps"):
        check_device(Model("m", "x", quantization="4bit"), torch.device("mps"))


def eight_bits(weight: Tensor, bias: Tensor | None = None) -> QuantizedLinear:
    """A map [out, in] packed by the definition."""
    made = QuantizedLinear(weight.shape[1], weight.shape[0], bias=bias is not None)
    scales = weight.abs().amax(1)
    packed = (weight / scales.unsqueeze(1) * 127).round().to(torch.int8)
    made.bits, made.weight = 8, nn.Parameter(packed, requires_grad=False)
    made.register_buffer("scales", scales)
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made


@pytest.mark.parametrize("half", [False, True])
def test_a_product_and_its_gradients_are_those_of_the_unpacked_weight(half):
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(s, generator=generator) for s in ((6, 5), (6,), (2, 3, 5)))
    packed = eight_bits(weight, bias)
    plain = nn.Linear(5, 6)
    plain.weight.data, plain.bias.data = packed.matrix(torch.float32), bias.clone()
    assert (plain.weight - weight).abs().max() <= weight.abs().max() / 254 + 1e-6
    found = []
    for module in (packed, plain):
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = module(inputs)
        y.float().square().sum().backward()
        found.append((y.float(), inputs.grad, module.bias.grad))
    assert module.bias.dtype == packed.bias.dtype == torch.float32  # what trains
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, rtol=0.02 if half else 1e-6, atol=0.1 if half else 1e-6)


def test_packed_weights_do_not_train_and_are_not_read():
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.head = eight_bits(torch.randn(4, 3)), nn.Linear(4, 2)

    made = Adaptation.of(Small(), frozenset({"head.weight", "head.bias"}))
    assert set(made.trainable) == {"head.weight", "head.bias"}
    with pytest.raises(AdaptError, match=r"map\.weight is quantized, and cannot be trained"):
        made.only(lambda name: True)


@pytest.mark.slow
def test_the_plan_counts_packed_bytes():
    def planned(*more: str) -> dict[str, Any]:
        words = ["model=mini-bert", "task=sst2", "method=lora", "trainer.precision=bf16"]
        return json.loads(call("plan", *words, "trainer.fast=false", "--json", *more).out)

    plain, packed = planned(), planned("model.quantization=4bit")
    assert packed["params"] == plain["params"]
    config = loading.load_config(Model("mini-bert", "adaptkit:mini-bert"), "sequence", 2)
    h, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    maps = [(h, h)] * 4 + [(inner, h), (h, inner)]
    saved = sum(2 * a * b - packed_bytes("4bit", a, b) for a, b in maps) * layers
    assert plain["memory"]["weights"] - packed["memory"]["weights"] == saved
    assert packed_bytes("8bit", 100, 64) == 6400 + 400
    # 4 bits a weight, 8 a block of 64, 32 for 256 blocks
    assert packed_bytes("4bit", 256, 64 * 10) == 256 * 320 + 2560 + 4 * 10


# ---- with it ----


@pytest.fixture(scope="module")
def package() -> None:
    pytest.importorskip("bitsandbytes")


def load(path: Path, quantization: str | None) -> nn.Module:
    model = Model("m", str(path), quantization=quantization)
    config = loading.load_config(model, "sequence", 2)
    torch.manual_seed(0)
    return loading.load_model(model, config, "sequence").model


def packed_maps(model: nn.Module) -> dict[str, QuantizedLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}


@pytest.mark.parametrize("quantization", BOTH)
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_weights_are_rounded_as_defined(family, quantization, checkpoints, package):
    """And the model computes with the rounded ones."""
    packed, plain = load(checkpoints[family], quantization), load(checkpoints[family], None)
    assert len(packed_maps(packed)) >= 6
    for name, module in packed_maps(packed).items():
        other = plain.get_submodule(name)
        exact = other.weight.detach()
        turned = type(other).__name__ == "Conv1D"
        exact = exact.t() if turned else exact
        rounded = module.matrix(torch.float32)
        if quantization == "8bit":
            # The library looks at the weights in fp16.
            half = exact.abs().amax(1, keepdim=True) / 254
            assert ((rounded - exact).abs() <= 1.2 * half).all(), name
        else:
            blocks = exact.contiguous().view(-1, 64)
            largest = blocks.abs().amax(1, keepdim=True)
            values = torch.tensor(NF4)
            nearest = ((blocks / largest).unsqueeze(-1) - values).abs().argmin(-1)
            expected = values[nearest] * largest
            away = (rounded.view(-1, 64) - expected).abs()
            assert (away <= 0.03 * largest.max()).float().mean() > 0.999, name  # 8-bit scales
        other.weight.data = rounded.t().contiguous() if turned else rounded
    tokenizer = tiny_tokenizer(family)
    add_padding(tokenizer, plain.config)
    batch = tokenizer(SENTENCES[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        mine, theirs = (model.eval()(**batch).logits for model in (packed, plain))
    assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints, package) -> Callable[..., Any]:
    """Settings for a checkpoint without dropout, or for it with its weights rounded."""
    folder, made = tmp_path_factory.mktemp("quantized"), {}
    data = sentiment(folder / "data")

    def model(family: str, rounded: str | None) -> Path:
        if (family, rounded) not in made:
            target = folder / str(rounded) / family
            target.mkdir(parents=True)
            for file in checkpoints[family].iterdir():
                (target / file.name).write_bytes(file.read_bytes())
            config = json.loads((target / "config.json").read_text())
            off = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
            (target / "config.json").write_text(json.dumps({**config, **NO_DROPOUT, **off}))
            if rounded:
                maps = packed_maps(load(checkpoints[family], rounded))
                file = target / "model.safetensors"
                tensors = load_file(file)
                for name, module in maps.items():
                    (stored,) = (n for n in tensors if f".{name}.weight".endswith(f".{n}"))
                    matrix = module.matrix(torch.float32)
                    matrix = matrix.t() if family == "gpt2" else matrix
                    tensors[stored] = matrix.contiguous()
                save_file(tensors, file, {"format": "pt"})
            made[family, rounded] = target
        return made[family, rounded]

    def build(directory: Path, *groups: str, family: str = "bert", rounded: str | None = None,
              **changes: Any) -> Any:  # fmt: skip
        changes = {"trainer.epochs": 1, **changes}
        return configure(directory, model(family, rounded), data, *groups, **changes)

    return build


METHODS = ("lora", "bitfit", "houlsby", "probe")


@pytest.mark.parametrize("quantization", BOTH)
@pytest.mark.parametrize(
    ("family", "method"),
    [*(("bert", method) for method in (*METHODS, "ia3", "vera", "adalora", "prefix", "compacter")),
     *(("gpt2", method) for method in METHODS), *(("llama", m) for m in METHODS if m != "bitfit")],
)  # fmt: skip
def test_a_run_is_that_on_rounded_weights(family, method, quantization, place, tmp_path):
    """Losses, weights, and what verify and eval rebuild."""
    groups = {"family": family, "optimizer.lr": 1e-3, "optimizer.epsilon": 1e-3}
    if method == "probe":
        groups.pop("optimizer.epsilon")
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    record, _ = carry_out(place(packed, f"method={method}", **groups,
                                **{"model.quantization": quantization}))  # fmt: skip
    other, _ = carry_out(place(plain, f"method={method}", **groups, rounded=quantization))
    assert record["params"] == other["params"]
    for mine, theirs in zip(history(packed), history(plain), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    one, two = (load_file(run / "delta.safetensors") for run in (packed, plain))
    for name, tensor in one.items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-4), name
    assert verify(packed) == ""


@pytest.mark.parametrize("quantization", BOTH)
def test_a_kill_changes_nothing(quantization, place, tmp_path):
    changes = {"model.quantization": quantization, "trainer.precision": "bf16",
               "trainer.epochs": 2}  # fmt: skip
    carry_out(place(tmp_path / "once", "method=lora", **changes))

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        carry_out(place(tmp_path / "killed", "method=lora", **changes), at("on_step_end", 9, kill))
    _, said = carry_out(place(tmp_path / "killed", "method=lora", **changes))
    assert "resuming from update 6" in said
    assert outcome(tmp_path / "once") == outcome(tmp_path / "killed")


def test_a_quantized_run_elsewhere(place, tmp_path):
    """Adapters are exported; weights that are packed take nothing in."""
    run = tmp_path / "run"
    record, _ = carry_out(place(run, "method=lora", **{"model.quantization": "4bit"}))
    assert "bitsandbytes" in record["versions"]
    again = call("eval", str(run), f"--output={tmp_path / 'again'}")
    assert again.status == 0, again.err
    assert json.loads((tmp_path / "again" / "result.json").read_text())["score"] == record["score"]
    merged = call("export", str(run), "--format", "merged", "--out", str(tmp_path / "x"))
    assert merged.status == 2 and "cannot be merged into packed weights" in merged.err
    adapter = call("export", str(run), "--format", "peft", "--out", str(tmp_path / "peft"))
    assert adapter.status == 0, adapter.err
    exported, delta = (load_file(folder / file) for folder, file in (
        (tmp_path / "peft", "adapter_model.safetensors"), (run, "delta.safetensors")))  # fmt: skip
    assert sorted(t.shape for n, t in exported.items() if "lora_" in n) == sorted(
        t.shape for n, t in delta.items() if ".lora." in n
    )
    with pytest.raises(AdaptError, match="was trained on weights in 4bit"):
        carry_out(place(tmp_path / "child", "method=lora", **{"model.from_run": str(run)}))
