"""Adapters as PEFT's users make them: its defaults, every option, and files that lie."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, data_root
from safetensors.torch import load_file, save_file
from test_interop import (
    HEAD,
    LORA,
    TOLERANCE,
    batch_of,
    by_peft,
    damaged,
    edited,
    logits,
    read_back,
)

from adaptkit.errors import AdaptError
from adaptkit.interop.peft_config import check_pattern
from adaptkit.methods.lora import LoRA
from adaptkit.models.other_maps import required_other_maps

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

IA3 = {"make": peft.IA3Config}
IA3_DEFAULTS = ("bert", "roberta", "deberta-v2", "gpt2", "opt", "llama", "qwen2", "gpt_neox",
                "t5", "bart")  # fmt: skip
ALL_LINEAR = ("bert", "electra", "albert", "roberta", "modernbert", "gpt2", "opt", "t5", "xlnet")
CASES = {
    **{f"IA3's defaults: {family}": (family, IA3) for family in IA3_DEFAULTS},
    **{f"all linear: {f}": (f, {**LORA, "target_modules": "all-linear"}) for f in ALL_LINEAR},
    "all linear with DoRA": ("bert", {**LORA, "use_dora": True, "target_modules": "all-linear"}),
    "lora_bias": ("bert", {**LORA, "lora_bias": True, "target_modules": ["query", "value"]}),
    "lora_bias and all biases": ("opt", {**LORA, "lora_bias": True, "bias": "all"}),
    "lora_bias of a fused map": (
        "gpt2", {**LORA, "lora_bias": True, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "lora_bias, stabilised, by patterns": (
        "bert", {**LORA, "lora_bias": True, "use_rslora": True, "target_modules": ["query", "key"],
                 "rank_pattern": {"key": 2}, "alpha_pattern": {r"layer\.[01].*key": 3}},
    ),
    "patterns that are expressions": (
        "bert", {**LORA, "target_modules": ["query", "value"],
                 "alpha_pattern": {r"encoder\.layer\.\d\.attention\.self\.(query|key)": 3,
                                   "^bert.encoder.layer.1.*value": 5}},
    ),
    "wrong fan_in_fan_out": ("bert", {**LORA, "target_modules": ["key"], "fan_in_fan_out": True}),
    "pooler": ("bert", {**LORA, "target_modules": ["pooler.dense"]}),
    "some layers of all linear": (
        "bert", {**LORA, "target_modules": "all-linear", "exclude_modules": ["query"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_logits_are_pefts(name: str, tmp_path: Path) -> None:
    family, options = CASES[name]
    theirs, body = by_peft(family, tmp_path, modules_to_save=HEAD.get(family), **options)
    adaptation, batch = read_back(tmp_path, copy.deepcopy(body)), batch_of(family)
    mine = logits(adaptation.model, batch)
    torch.testing.assert_close(mine, logits(theirs, batch), **TOLERANCE)
    assert not torch.allclose(mine, logits(body, batch), atol=1e-3)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bias where there is none": (
        "llama", {**LORA, "lora_bias": True, "target_modules": ["q_proj"]},
        r"lora_bias=True: .*q_proj has no bias in this model",
    ),
    "a module of the body": (
        "bert", {**LORA, "target_modules": ["query"], "modules_to_save": ["LayerNorm"]},
        r"LayerNorm.* of the base model was trained as a whole",
    ),
    "a map of the head": (
        "deberta-v2", {**LORA, "target_modules": ["pooler.dense"]},
        r"adapts pooler\.dense, a map of the head whose own weights PEFT did not save",
    ),
    "tokens": (
        "bert", {**LORA, "target_modules": ["query"], "trainable_token_indices": [3, 4]},
        "trainable_token_indices=.* does not compute this",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_ours_cannot_compute(name: str, tmp_path: Path) -> None:
    family, options, message = REFUSED[name]
    _, body = by_peft(family, tmp_path, **options)
    with pytest.raises(AdaptError, match=message) as found:
        read_back(tmp_path, body)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


@pytest.mark.parametrize(
    "options",
    (
        {"make": peft.PromptTuningConfig, "num_virtual_tokens": 3},
        {"make": peft.PrefixTuningConfig, "num_virtual_tokens": 3},
        {"make": peft.PromptEncoderConfig, "num_virtual_tokens": 3},
    ),
    ids=("prompt", "prefix", "encoder"),
)
def test_prompts(options: dict[str, Any], tmp_path: Path) -> None:
    _, body = by_peft("bert", tmp_path, **options)
    with pytest.raises(AdaptError, match="PEFT puts a prompt in front of padding") as found:
        read_back(tmp_path, body)
    assert "\n" not in str(found.value)


def test_other_maps_alone() -> None:
    """Every linear map of a LLaMA has a role; BERT's pooler has none."""
    from families import tiny_model

    model = tiny_model("bert")
    names = {name for name, _ in model.named_parameters()}
    (site,) = required_other_maps(model, names)
    assert (site.module, site.fan_in, site.fan_out) == ("bert.pooler.dense", 32, 32)
    llama = tiny_model("llama")
    with pytest.raises(AdaptError, match="every linear map of this LLaMA model has a role"):
        required_other_maps(llama, {name for name, _ in llama.named_parameters()})
    assert LoRA(roles=("all", "other")).ranks == {}


# ---- a file that is not as PEFT wrote it ----


def deep(levels: int) -> str:
    return '{"peft_type": ' + "[" * levels + "]" * levels + "}"


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "text as alpha": ({"lora_alpha": "x"}, "lora_alpha='x': must be a number"),
    "no number as alpha": ({"lora_alpha": float("nan")}, "lora_alpha=nan: must be a number"),
    "no number that can be used": ({"lora_alpha": 10**400}, "lora_alpha=10+.*: must be a number"),
    "negative rank": ({"r": -1}, "r=-1: must be a whole number of 1 or more"),
    "another rank": ({"r": 16}, "has rank 4 in .* says r=16"),
    "text as a flag": ({"use_rslora": "false"}, "use_rslora='false': must be true or false"),
    "list as a pattern": ({"alpha_pattern": ["a"]}, "alpha_pattern=.*must give names"),
    "text in a pattern": ({"alpha_pattern": {"query": "8"}}, "alpha_pattern=.*must give names"),
    "list of ranks": ({"rank_pattern": [4]}, "rank_pattern=.*must give names of maps ranks"),
    "another bias": ({"bias": "some"}, "bias='some': must be one of none, all"),
    "number as a model": ({"base_model_name_or_path": 3}, "base_model_name_or_path=3: must be"),
    "list as a kind": ({"peft_type": ["LORA"]}, r"peft_type=\['LORA'\] is not imported"),
    "an escape code": ({"peft_type": "\x1b[31m"}, r"peft_type='\\x1b\[31m' is not imported"),
    "an escape code as a key": ({"\x1b[31m": 1}, r"'\\x1b\[31m'=1: adaptkit does not compute"),
    "a long value": ({"new": "x" * 9000}, r"new='x{100,120}\.\.\.: adaptkit does not"),
    "code as a kind of task": ({"task_type": "\x07"}, r"task_type='\\x07': must be a name"),
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "a"
    by_peft("bert", folder, **LORA, target_modules=["query"])
    return folder


@pytest.fixture
def mine(adapter: Path, tmp_path: Path) -> Path:
    import shutil

    return shutil.copytree(adapter, tmp_path / "mine")


@pytest.mark.parametrize("name", CONFIGS)
def test_values_of_another_kind(name: str, mine: Path) -> None:
    from families import tiny_model

    changes, message = CONFIGS[name]
    with pytest.raises(AdaptError, match=message) as found:
        read_back(edited(mine, **changes), tiny_model("bert"))
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)


@pytest.mark.parametrize("text", (deep(100_000), "[1]", "null", "\ufeff{}", ""), ids=repr)
def test_a_config_that_is_no_mapping(text: str, mine: Path) -> None:
    from families import tiny_model

    (mine / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(AdaptError, match=r"is not a PEFT adapter|peft_type=None is not imported"):
        read_back(mine, tiny_model("bert"))


TENSORS: dict[str, tuple[Any, str]] = {
    "scalar": (lambda key, t: {key: torch.tensor(1.0)}, "has 0 dimensions"),
    "vector": (lambda key, t: {key: t[0]}, "has 1 dimensions"),
    "no rank": (lambda key, t: {key: t[:0]}, "has rank 0|made for another body"),
    "missing": (lambda key, t: {}, "made for another body"),
    "extra": (lambda key, t: {key: t, "base_model.model.bert.new": t}, "does not fit this model"),
    "unknown": (lambda key, t: {key: t, "base_model.model.x.lora_C": t}, "kind of tensor"),
    "escape code": (lambda key, t: {key: t, "\x1b[1mlora_": t}, "kind of tensor"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_another_kind(name: str, mine: Path) -> None:
    from families import tiny_model

    change, message = TENSORS[name]
    tensors = load_file(mine / "adapter_model.safetensors")
    key = next(key for key in tensors if "lora_A" in key)
    tensor = tensors.pop(key)
    changed = {name: t.contiguous().clone() for name, t in change(key, tensor).items()}
    save_file({**tensors, **changed}, mine / "adapter_model.safetensors")
    with pytest.raises(AdaptError, match=message) as found:
        read_back(mine, tiny_model("bert"))
    assert "\x1b" not in str(found.value)


def test_parts_of_dora_and_vera_of_another_shape(tmp_path: Path) -> None:
    cases = {
        "magnitude": ({**LORA, "use_dora": True, "target_modules": ["c_attn"]}, lambda t: t[:, :1]
                      if t.dim() == 2 else t[:1], "made for another body"),
        "vera_A": ({"make": peft.VeraConfig, "r": 4, "target_modules": ["c_attn"]},
                   lambda t: t[0], "are not matrices"),
    }  # fmt: skip
    for part, (options, change, message) in cases.items():
        _, body = by_peft("gpt2", tmp_path / part, **options)
        damaged(tmp_path / part, part, change)
        with pytest.raises(AdaptError, match=message):
            read_back(tmp_path / part, body)


EVIL = ("(a+)+$", "(.*a){20}", "(.*)*x", "((.)*)*", ".*.*.*.*x", "(?=.*)+", "a{1000}{1000}",
        "(a|a)*b", "[", "x" * 1000, "(?:.*)+", r"(.)\1+")  # fmt: skip


@pytest.mark.parametrize("pattern", EVIL, ids=lambda p: p[:20])
def test_a_pattern_that_never_ends(pattern: str, mine: Path) -> None:
    from families import tiny_model

    before = time.process_time()
    with pytest.raises(AdaptError, match=r"alpha_pattern: .* Write the names of the maps instead"):
        read_back(edited(mine, alpha_pattern={pattern: 2}), tiny_model("bert"))
    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    "pattern", ("query", "layer.0.attention.self.query", r"^model\.layers\.(0|1)\..*q_proj", "h.*",
                r"encoder\.layer\.[0-9]+\.attention", "q-proj"),
)  # fmt: skip
def test_a_pattern_as_people_write_it(pattern: str) -> None:
    check_pattern(Path(), pattern)


@pytest.mark.parametrize(
    ("named", "shown"),
    (
        ("${oc.env:ADAPTKIT_SECRET}", "'${oc.env:ADAPTKIT_SECRET}', which is neither"),
        ("${oc.env:ADAPTKIT_SECRET}/x", "which is neither"),
        ("/home/somebody/model", "'/home/somebody/model', which is neither a folder here nor"),
        ("a b', trainer.epochs=9", "which is neither"),
        ("\x1b[31mred", r"'\x1b[31mred', which is neither"),
        ("https://host/model", "which is neither"),
        ("x" * 5000, "which is neither"),
    ),
    ids=lambda text: text[:20],
)
def test_a_base_model_is_a_name_and_nothing_else(
    named: str, shown: str, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither resolved, nor an override, nor asked of the hub."""
    monkeypatch.setenv("ADAPTKIT_SECRET", "sesame")
    monkeypatch.setattr("adaptkit.storage.hub.check_model", lambda *_: pytest.fail("asked"))
    data = f"data.root={data_root(tmp_path / 'data')}"
    done = call("import", edited(mine, base_model_name_or_path=named), "task=sst2", data,
                "--out", tmp_path / "out")  # fmt: skip
    assert done.status == 2 and done.err.count("\n") == 1 and len(done.err) < 500, done.err
    assert shown.partition("which")[0] in done.err and "which is neither" in done.err
    assert "sesame" not in done.err and "\x1b" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_revision_is_a_name_as_well(mine: Path, tmp_path: Path, checkpoints: Any) -> None:
    changes = {"base_model_name_or_path": "owner/model", "revision": "${oc.env:HOME}"}
    done = call("import", edited(mine, **changes), "task=sst2", "--out", tmp_path / "out")
    assert done.status == 2 and "revision='${oc.env:HOME}' is not a revision" in done.err


def test_a_folder_of_this_machine_is_the_base_model(
    mine: Path, tmp_path: Path, checkpoints: Any
) -> None:
    edited(mine, base_model_name_or_path=str(checkpoints["bert"]))
    words = ["task=sst2", f"data.root={data_root(tmp_path / 'data')}"]
    done = call("import", mine, *words, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["model"] == "bert"
    again = call("import", mine, *words, "--out", tmp_path / "out")
    assert again.status == 2 and "is a folder that is not empty" in again.err


def test_a_bundled_model_of_another_machine(mine: Path, tmp_path: Path) -> None:
    """It is known by its place in the package; this adapter is of another width."""
    there = "/opt/site-packages/adaptkit/models/mini/mini-bert"
    words = ["task=sst2", f"data.root={data_root(tmp_path / 'data')}"]
    done = call("import", edited(mine, base_model_name_or_path=there), *words,
                "--out", tmp_path / "out")  # fmt: skip
    assert done.status == 2 and "maps 224 to 224 numbers in this model" in done.err
