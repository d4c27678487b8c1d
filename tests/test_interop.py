"""PEFT adapters written and read, and plain models: the same logits on both sides."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import LABELS, call, data_root, tiny, write
from families import RARE, SENTENCES, add_padding, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    pipeline,
)

from adaptkit.adaptation import Adaptation, Context
from adaptkit.config.build import build
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_file import PeftFile, read
from adaptkit.interop.peft_read import delta_for, method_for
from adaptkit.interop.peft_write import modules_to_save, peft_form
from adaptkit.methods import METHODS
from adaptkit.methods.adalora import AdaLoRA
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.chain import Chain
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.ia3 import IA3
from adaptkit.methods.lora import LoRA
from adaptkit.methods.pissa import PiSSA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.probe import Probe
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.ptuning import PTuning
from adaptkit.methods.vera import VeRA
from adaptkit.models.loading import head_names
from adaptkit.runs.exchange.base import base_name, licence
from adaptkit.runs.exchange.export import save_form
from adaptkit.runs.exchange.import_peft import check_task_type

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES = ("bert", "roberta", "gpt2", "llama", "t5", "bart", "deberta-v2", "modernbert",
            "gpt_neox", "xlnet", "albert", "distilbert", "electra", "opt", "qwen2")  # fmt: skip
MORE = [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in RARE)]
FEW = ("bert", "gpt2", "llama", "bart", "modernbert", "gpt_neox")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
BARE = {"xlnet": ("up", "down")}  # its attention has no maps that PEFT could adapt


# ---- one adapted model, and PEFT's reading of what we write ----


def body_of(family: str) -> nn.Module:
    model = tiny_model(family)
    add_padding(tiny_tokenizer(family), model.config)
    return model.eval()


def batch_of(family: str, side: str | None = None) -> dict[str, Tensor]:
    tokenizer, config = tiny_tokenizer(family), tiny_model(family).config
    add_padding(tokenizer, config)
    tokenizer.padding_side = side or ("left" if family == "xlnet" else "right")
    return dict(tokenizer(SENTENCES, padding=True, return_tensors="pt"))


@torch.no_grad()
def adapted(model: nn.Module, method: Any, noise: float = 0.1) -> Adaptation:
    """Adapt, put random numbers into everything that learns, and finish."""
    context = Context(None, torch.Generator().manual_seed(0), 20)
    adaptation = method.adapt(Adaptation.of(model, head_names(model)), context)
    generator = torch.Generator().manual_seed(1)
    for parameter in adaptation.trainable.values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    for last in adaptation.finish:
        last()
    adaptation.model.eval()
    return adaptation


def written(adaptation: Adaptation, folder: Path, task_type: str = "SEQ_CLS") -> dict[str, Any]:
    folder.mkdir()
    save_form(peft_form(adaptation, task_type), folder, "the/body", None)
    return json.loads((folder / "adapter_config.json").read_text())


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model.eval()(**batch).logits


@torch.no_grad()
def fresh_head(model: nn.Module) -> nn.Module:
    """A copy whose head is drawn anew, as from_pretrained does."""
    other = copy.deepcopy(model)
    for name in head_names(model):
        other.get_parameter(name).normal_()
    return other


@torch.no_grad()
def exported_like_peft(family: str, method: Any, folder: Path) -> dict[str, Any]:
    body = body_of(family)
    plain, body_only, batch = fresh_head(body), copy.deepcopy(body), batch_of(family)
    adaptation = adapted(body, method)
    mine = logits(adaptation.model, batch)
    config = written(adaptation, folder / "adapter")
    theirs = peft.PeftModel.from_pretrained(plain, folder / "adapter")
    for name in adaptation.head:  # what the body's part of the adapter adds
        body_only.get_parameter(name).copy_(adaptation.delta()[name])
    assert not torch.allclose(mine, logits(body_only, batch), atol=1e-3)
    torch.testing.assert_close(logits(theirs, batch), mine, **TOLERANCE)
    return config


@pytest.mark.parametrize("family", MORE)
def test_lora(family: str, tmp_path: Path) -> None:
    roles = BARE.get(family, ("query", "value", "output"))
    config = exported_like_peft(family, LoRA(4, 6.0, roles=roles), tmp_path)
    assert config["peft_type"] == "LORA"


LOW_RANK = {
    "stabilised": LoRA(4, 6.0, roles=("query", "down"), rank_stabilised=True),
    "ranks": LoRA(4, 6.0, roles=("query", "value", "up"), ranks={"value": 2, "up": 8}),
    "biases": LoRA(4, 6.0, bias="all"),
    "biases of maps": LoRA(4, 6.0, bias="lora_only"),
    "dora": DoRA(4, 6.0, roles=("value", "output")),
    "pissa": PiSSA(4, 6.0),
    "adalora": AdaLoRA(6, 2, 8.0, roles=("query", "value", "output")),
    "ia3": IA3(),
    "vera": VeRA(16),
}


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("name", LOW_RANK)
def test_variants(name: str, family: str, tmp_path: Path) -> None:
    exported_like_peft(family, LOW_RANK[name], tmp_path)


@pytest.mark.parametrize("family", MORE)
def test_ia3(family: str, tmp_path: Path) -> None:
    method = IA3(roles=("down",)) if family == "xlnet" else IA3()
    exported_like_peft(family, method, tmp_path)


@pytest.mark.parametrize("family", ("bert", "opt", "bart", "llama", "t5", "electra"))
def test_embeddings(family: str, tmp_path: Path) -> None:
    exported_like_peft(family, LoRA(4, 6.0, roles=("query", "embeddings")), tmp_path)


def test_low_rank_with_all_biases(tmp_path: Path) -> None:
    method = Chain((LoRA(2, 4.0, roles=("query",)), BitFit()))
    assert exported_like_peft("bert", method, tmp_path)["bias"] == "all"


def test_two_low_rank_methods_on_different_maps(tmp_path: Path) -> None:
    method = Chain((LoRA(2, 4.0, roles=("query",)), PiSSA(3, 9.0, roles=("key",))))
    config = exported_like_peft("gpt2", method, tmp_path)
    assert (config["r"], config["lora_alpha"]) == (8, 16)  # 2 + 2 * 3, with LoRA's alpha / r


def test_peft_type_and_ranks(tmp_path: Path) -> None:
    """VeRA with maps of one shape is written as such; pruned triplets (all but 3) are gone."""
    assert exported_like_peft("bert", VeRA(16), tmp_path)["peft_type"] == "VERA"
    adaptation = adapted(body_of("bert"), AdaLoRA(6, 1, 6.0, roles=("query",)))
    config = written(adaptation, tmp_path / "a")
    file = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert sum(len(t) for n, t in file.items() if "lora_A" in n) == 3
    assert set(config["rank_pattern"].values()) <= {1, 2, 3}


def test_config_is_what_people_write(tmp_path: Path) -> None:
    config = written(adapted(body_of("roberta"), LoRA(4, 6.0)), tmp_path / "a")
    assert config == {
        "peft_type": "LORA", "task_type": "SEQ_CLS", "inference_mode": True, "r": 4,
        "lora_alpha": 6, "lora_dropout": 0.0, "target_modules": ["query", "value"],
        "bias": "none", "fan_in_fan_out": False, "modules_to_save": ["classifier"],
        "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {},
        "init_lora_weights": True, "base_model_name_or_path": "the/body", "revision": None,
    }  # fmt: skip
    keys = set(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    query = "base_model.model.roberta.encoder.layer.0.attention.self.query"
    assert {f"{query}.lora_A.weight", f"{query}.lora_B.weight"} <= keys
    assert "base_model.model.classifier.out_proj.bias" in keys


HEADS = {
    "bert": ["classifier"], "deberta-v2": ["pooler", "classifier"], "gpt2": ["score"],
    "modernbert": ["head", "classifier"], "xlnet": ["sequence_summary", "logits_proj"],
    "bart": ["classification_head"], "t5": ["classification_head"],
    "distilbert": ["pre_classifier", "classifier"],
}  # fmt: skip


@pytest.mark.parametrize("family", HEADS)
def test_every_new_module_is_saved(family: str) -> None:
    model = body_of(family)
    assert modules_to_save(model, head_names(model)) == HEADS[family]


def test_a_new_part_of_the_body_is_saved_with_the_head() -> None:
    model = body_of("bert")
    pooler = {n for n, _ in model.named_parameters() if n.startswith("bert.pooler.")}
    assert modules_to_save(model, head_names(model) | pooler) == ["bert.pooler", "classifier"]
    with pytest.raises(AdaptError, match="no module of its own"):
        modules_to_save(model, head_names(model) | {"bert.embeddings.word_embeddings.bias"})


PROMPTS = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "opt": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


@pytest.mark.parametrize("method", (PromptTuning(5, "random"), PTuning(5)), ids=("own", "encoded"))
@pytest.mark.parametrize("family", PROMPTS)
def test_prompts_of_language_models(family: str, method: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    two = PROMPTS[family] == "SEQ_2_SEQ_LM"
    make = AutoModelForSeq2SeqLM if two else AutoModelForCausalLM
    model = make.from_config(body_of(family).config).eval()
    plain, batch = copy.deepcopy(model), batch_of(family, "right")
    if two:
        batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    context = Context(None, torch.Generator().manual_seed(0), 20)
    adaptation = method.adapt(Adaptation.of(model, frozenset()), context)
    for last in adaptation.finish:
        last()
    written(adaptation, tmp_path / "adapter", PROMPTS[family])
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    found, mine = logits(theirs, batch), logits(adaptation.model, batch)
    if not two:  # PEFT leaves the answers at the prompt in
        found = found[:, 5:]
    real = batch.get("decoder_input_ids", batch["attention_mask"])[:, : mine.shape[1]] != 0
    torch.testing.assert_close(found[real], mine[real], **TOLERANCE)


REFUSED = {
    "head alone": ("bert", Chain((BitFit(),)), "PEFT has no form for .* of its tensors"),
    "full": ("bert", Full(), "PEFT has no form for .* of its tensors"),
    "adapters": ("bert", Houlsby(), "PEFT has no form for .* of its tensors"),
    "probe": ("bert", Probe(), "PEFT has no form for a head only"),
    "behind [CLS]": ("bert", PromptTuning(3, "random"), "before the first token of a BERT model"),
    "classifier": ("gpt2", PromptTuning(3, "random"), "gives a classifier no token ids"),
    "two stacks": ("t5", PTuning(3), "gives a classifier no token ids"),
    "positions": ("gpt2", PrefixTuning(3), "moves the text by the prefix's length"),
    "cross": ("t5", PrefixTuning(3), "gives a prefix to the decoder only"),
    "bare tensors": ("xlnet", LoRA(2, 2.0), "bare tensors here, for which PEFT has no LoRA"),
    "bare scaled": ("xlnet", IA3(), "a bare tensor, for which PEFT has no IA3"),
    "two types": ("bert", Chain((LoRA(2, 2.0), IA3())), "LORA and IA3: one PEFT adapter"),
    "dora with lora": (
        "bert", Chain((LoRA(2, 2.0, roles=("query",)), DoRA(2, 2.0, roles=("value",)))),
        "use_dora is for all maps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_peft_cannot_hold(name: str) -> None:
    family, method, message = REFUSED[name]
    with pytest.raises(AdaptError, match=message) as found:
        peft_form(adapted(body_of(family), method), "SEQ_CLS")
    assert len(str(found.value)) < 300


# ---- adapters that PEFT wrote ----


@torch.no_grad()
def by_peft(family: str, folder: Path, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Save an adapter with random numbers; return PEFT's model and the body without it."""
    body = body_of(family)
    make = peft.IA3Config if "feedforward_modules" in options else peft.LoraConfig
    config = options.pop("make", make)(task_type="SEQ_CLS", **options)
    theirs = peft.get_peft_model(copy.deepcopy(body), config)
    generator = torch.Generator().manual_seed(2)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    theirs.save_pretrained(folder)
    return theirs.eval(), fresh_head(body)


def read_back(folder: Path, body: nn.Module) -> Adaptation:
    file = read(folder)
    chosen = method_for(file, body)
    options = {key: value for key, value in chosen.items() if key != "name"}
    method = build(METHODS[chosen["name"]], options, "method")
    context = Context(None, torch.Generator().manual_seed(0), 1, stage="restore")
    adaptation = method.adapt(Adaptation.of(body, head_names(body)), context)
    adaptation.load_delta(delta_for(file, adaptation))
    return adaptation


LORA = {"r": 4, "lora_alpha": 6}
VERA = {"make": peft.VeraConfig, "r": 4}
HEAD = {"t5": ["classification_head"], "bart": ["classification_head"],
        "deberta-v2": ["pooler", "classifier"], "modernbert": ["head", "classifier"],
        "xlnet": ["sequence_summary", "logits_proj"]}  # fmt: skip
FOREIGN = {
    "lora": ("bert", {**LORA, "target_modules": ["query", "value"]}),
    "roberta": ("roberta", {**LORA, "target_modules": ["query", "key", "value"]}),
    "stabilised": ("llama", {**LORA, "use_rslora": True, "target_modules": ["q_proj", "o_proj"]}),
    "dora": ("bart", {**LORA, "use_dora": True, "target_modules": ["q_proj", "fc1"]}),
    "stable dora": (
        "bert", {**LORA, "use_dora": True, "use_rslora": True, "target_modules": ["query"]},
    ),
    "all linear": ("t5", {**LORA, "target_modules": ["q", "k", "v", "o", "wi", "wo"]}),
    "fused": ("gpt2", {**LORA, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "fused by heads": ("gpt_neox", {**LORA, "target_modules": ["query_key_value"]}),
    "fused dora": ("gpt2", {**LORA, "use_dora": True, "target_modules": ["c_attn"]}),
    "fused in blocks": ("modernbert", {**LORA, "target_modules": ["Wqkv", "Wi"]}),
    "deberta": ("deberta-v2", {**LORA, "target_modules": ["query_proj", "value_proj"]}),
    "xlnet": ("xlnet", {**LORA, "target_modules": ["layer_1", "layer_2"]}),
    "some layers": ("bert", {**LORA, "target_modules": ["value"], "layers_to_transform": [1]}),
    "patterns": (
        "bert",
        {
            **LORA, "target_modules": ["query", "value"],
            "rank_pattern": {"layer.1.attention.self.query": 2, "value": 8},
            "alpha_pattern": {"layer.0.attention.self.value": 3, "query": 5},
        },
    ),
    "dora of some layers": (
        "llama",
        {**LORA, "use_dora": True, "target_modules": ["v_proj"], "layers_to_transform": [0],
         "rank_pattern": {"v_proj": 2}},
    ),
    "biases": ("bert", {**LORA, "target_modules": ["query"], "bias": "all"}),
    "biases of maps": ("opt", {**LORA, "target_modules": ["q_proj"], "bias": "lora_only"}),
    "embeddings": ("opt", {**LORA, "target_modules": ["embed_tokens", "q_proj"]}),
    "vera": ("bert", {**VERA, "target_modules": ["query", "value"]}),
    "vera of several shapes": ("llama", {**VERA, "target_modules": ["q_proj", "v_proj"]}),
    "vera of high rank": ("bert", {**VERA, "r": 64, "target_modules": ["query", "value"]}),
    "vera of high rank on wide maps": (
        "bert", {**VERA, "r": 100, "target_modules": ["query", "intermediate.dense"]},
    ),
    "lora of high rank": (
        "bert", {**LORA, "r": 100, "target_modules": ["query", "intermediate.dense"]},
    ),
    "fused dora of high rank": (
        "gpt2", {**LORA, "r": 50, "use_dora": True, "target_modules": ["c_attn", "c_fc"]},
    ),
    "vera with biases": ("bert", {**VERA, "bias": "vera_only", "target_modules": ["query"]}),
    "vera of fused": ("gpt2", {**VERA, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "ia3": ("t5", {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}),
    "llama ia3": (
        "llama",
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_read_from_peft(name: str, tmp_path: Path) -> None:
    family, options = FOREIGN[name]
    theirs, body = by_peft(family, tmp_path, modules_to_save=HEAD.get(family), **options)
    adaptation, batch = read_back(tmp_path, copy.deepcopy(body)), batch_of(family)
    mine = logits(adaptation.model, batch)
    torch.testing.assert_close(mine, logits(theirs, batch), **TOLERANCE)


@torch.no_grad()
def adalora_of(body: nn.Module, folder: Path, keep: int = 6, **options: Any) -> None:
    """Save PEFT's AdaLoRA with random numbers, the first `keep` of six triplets kept."""
    options = {"init_r": 6, "target_r": 2, "total_step": 9, "lora_alpha": 8,
               "target_modules": ["query", "value"], **options}  # fmt: skip
    theirs = peft.get_peft_model(copy.deepcopy(body), peft.AdaLoraConfig("SEQ_CLS", **options))
    generator = torch.Generator().manual_seed(2)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if keep < 6:
        names = [n for n, _ in theirs.named_parameters() if "lora_E" in n]
        pattern = {n.removeprefix("base_model.model.").removesuffix(".default"):
                   [i < keep for i in range(6)] for n in names}  # fmt: skip
        theirs.peft_config["default"].rank_pattern = pattern
    theirs.save_pretrained(folder)


@pytest.mark.parametrize(
    "options",
    ({}, {"keep": 2}, {"keep": 0}, {"lora_alpha": 0}, {"lora_alpha": -3, "keep": 2},
     {"alpha_pattern": {"query": 2}}, {"bias": "lora_only", "keep": 0}),
    ids=str,
)  # fmt: skip
def test_read_adalora_of_all_kinds(options: dict[str, Any], tmp_path: Path) -> None:
    body, batch = body_of("roberta"), batch_of("roberta")
    adalora_of(body, tmp_path, **options)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(body), tmp_path).eval()
    mine = logits(read_back(tmp_path, fresh_head(copy.deepcopy(body))).model, batch)
    torch.testing.assert_close(mine, logits(loaded, batch), **TOLERANCE)


def test_read_adalora(tmp_path: Path) -> None:
    body, batch = body_of("roberta"), batch_of("roberta")
    config = peft.AdaLoraConfig(
        task_type="SEQ_CLS", init_r=4, target_r=1, tinit=1, tfinal=1, deltaT=1, total_step=5,
        lora_alpha=6, target_modules=["query", "value", "intermediate.dense"],
    )  # fmt: skip
    theirs = peft.get_peft_model(copy.deepcopy(body), config)
    optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], 2.0)
    for step in range(5):
        optimizer.zero_grad()
        theirs(**batch, labels=torch.tensor([0, 1] * 9)[: len(batch["input_ids"])]).loss.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(step)
    theirs.save_pretrained(tmp_path)
    ranks = {len(t) for n, t in load_file(tmp_path / "adapter_model.safetensors").items()
             if "lora_A" in n}  # fmt: skip
    assert len(ranks) > 1  # it did prune
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(body), tmp_path).eval()
    adaptation = read_back(tmp_path, fresh_head(copy.deepcopy(body)))
    mine = logits(adaptation.model, batch)
    torch.testing.assert_close(mine, logits(loaded, batch), **TOLERANCE)
    assert not torch.allclose(mine, logits(body, batch), atol=1e-3)


def damaged(folder: Path, part: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change the first tensor of the file whose name holds `part`."""
    place = folder / "adapter_model.safetensors"
    tensors = load_file(place)
    name = next(n for n in tensors if part in n)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, place)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    _, body = by_peft("bert", tmp_path / "a", **VERA, target_modules=["query"],
                      save_projection=False)  # fmt: skip
    with pytest.raises(AdaptError, match="Save it with save_projection=True"):
        read_back(tmp_path / "a", body)
    broken = {"lora_E": r"tensors of .*query do not fit each other \(6, 6, 5\)"}
    for part, message in broken.items():
        body = body_of("bert")
        adalora_of(body, tmp_path / part)
        damaged(tmp_path / part, part, lambda tensor: tensor[:5])
        with pytest.raises(AdaptError, match=message):
            read_back(tmp_path / part, body)
    _, body = by_peft("bert", tmp_path / "nan", **LORA, target_modules=["query"])
    damaged(tmp_path / "nan", "lora_A", lambda tensor: tensor * float("nan"))
    with pytest.raises(AdaptError, match=r"lora_A\.weight' holds numbers that are not finite"):
        read_back(tmp_path / "nan", body)
    for alpha in (0, -2):
        options = {**LORA, "lora_alpha": alpha, "target_modules": ["query"]}
        _, body = by_peft("bert", tmp_path / str(alpha), **options)
        with pytest.raises(AdaptError, match=f"lora_alpha={alpha}: .*above 0"):
            read_back(tmp_path / str(alpha), body)
    _, body = by_peft("bart", tmp_path / "b", **LORA, target_modules=["encoder.embed_tokens"])
    with pytest.raises(AdaptError, match="share a table in this model, but the file does not"):
        read_back(tmp_path / "b", body)
    _, body = by_peft("bert", tmp_path / "c", **LORA, target_modules=["position_embeddings"])
    with pytest.raises(AdaptError, match="position_embeddings, which no role"):
        read_back(tmp_path / "c", body)
    _, body = by_peft("bert", tmp_path / "d", **LORA, use_dora=True,
                      target_modules=["word_embeddings"])  # fmt: skip
    with pytest.raises(AdaptError, match="no DoRA of embeddings"):
        read_back(tmp_path / "d", body)


@pytest.mark.parametrize("family", ("bert", "gpt2", "gpt_neox", "bart"))
@pytest.mark.parametrize(
    "method",
    (LoRA(4, 6.0), DoRA(3, 6.0), VeRA(4), IA3(), AdaLoRA(4, 2)),
    ids=("lora", "dora", "vera", "ia3", "adalora"),
)
def test_there_and_back(method: Any, family: str, tmp_path: Path) -> None:
    adaptation, batch = adapted(body_of(family), method), batch_of(family)
    mine = logits(adaptation.model, batch)
    written(adaptation, tmp_path / "a")
    again = read_back(tmp_path / "a", fresh_head(body_of(family)))
    torch.testing.assert_close(logits(again.model, batch), mine, **TOLERANCE)


@pytest.mark.parametrize("family", ("bert", "bart", "t5", "llama"))
def test_embeddings_there_and_back(family: str, tmp_path: Path) -> None:
    method = LoRA(4, 6.0, roles=("embeddings", "value"))
    adaptation, batch = adapted(body_of(family), method), batch_of(family)
    mine = logits(adaptation.model, batch)
    written(adaptation, tmp_path / "a")
    again = read_back(tmp_path / "a", fresh_head(body_of(family)))
    torch.testing.assert_close(logits(again.model, batch), mine, **TOLERANCE)


def edited(folder: Path, **changes: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"peft_type": "PREFIX_TUNING"}, "peft_type=PREFIX_TUNING is not imported: PEFT puts"),
        ({"peft_type": "OFT"}, "peft_type=OFT is not imported. There is: LORA, ADALORA, VERA, IA3"),
        ({"peft_type": None}, "peft_type=None"),
        ({"use_qalora": True}, "use_qalora=True: adaptkit does not compute this"),
        ({"something_new": {"x": 1}}, "something_new="),
        ({"init_lora_weights": "pissa_niter_4"}, "it belongs to a changed body"),
        ({"use_dora": True}, "it was made for another body"),
    ),
)
def test_what_is_not_imported(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, body = by_peft("bert", tmp_path, **LORA, target_modules=["query"])
    with pytest.raises(AdaptError, match=message):
        read_back(edited(tmp_path, **changes), body)


def test_another_body(tmp_path: Path) -> None:
    by_peft("bert", tmp_path, **LORA, target_modules=["query"])
    with pytest.raises(AdaptError, match="this RoBERTa model does not have: it was made for anoth"):
        read_back(tmp_path, body_of("roberta"))
    file = load_file(tmp_path / "adapter_model.safetensors")
    wide = {n: torch.zeros(4, 48) if "lora_A" in n else t for n, t in file.items()}
    save_file(wide, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdaptError, match=r"maps 32 to 32 numbers.*lora_A \(4, 48\)"):
        read_back(tmp_path, body_of("bert"))


def test_a_head_that_peft_left_as_drawn(tmp_path: Path) -> None:
    _, body = by_peft("deberta-v2", tmp_path, **LORA, target_modules=["query_proj"])
    with pytest.raises(AdaptError, match=r"holds no pooler\.dense\.bias, which is new"):
        read_back(tmp_path, body)


def test_ia3_elsewhere(tmp_path: Path) -> None:
    for side, name, inputs in (("input", "query", ["query"]), ("output", "down", [])):
        target = {"query": "query", "down": "layer.1.output.dense"}[name]
        folder = tmp_path / name
        _, body = by_peft("bert", folder, target_modules=[target], feedforward_modules=inputs)
        with pytest.raises(AdaptError, match=rf"IA3 scales the {side} of bert.* \({name}\)"):
            read_back(folder, body)


@pytest.mark.parametrize("damage", ("adapter_config.json", "adapter_model.safetensors"))
def test_damaged_adapters(damage: str, tmp_path: Path) -> None:
    by_peft("bert", tmp_path, **LORA, target_modules=["query"])
    (tmp_path / damage).write_text("{")
    with pytest.raises(AdaptError, match="is not a PEFT adapter, which holds"):
        read(tmp_path)
    (tmp_path / damage).unlink()
    with pytest.raises(AdaptError, match="is not a PEFT adapter, which holds"):
        read(tmp_path)


# ---- the commands ----


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interop")
    data_root(folder / "data")
    return folder


@pytest.fixture(scope="module")
def run_of(place: Path, checkpoints: Any) -> Callable[..., Path]:
    """Return a function that trains (family, method) once and returns the run directory."""

    def make(family: str, method: str, *more: str) -> Path:
        directory = place / f"{family}-{method}"
        if not directory.is_dir():
            done = call(
                "train", *tiny(checkpoints[family], f"method={method}", *more), "task=sst2",
                f"data.root={place / 'data'}", f"output_dir={directory}", "trainer.precision=fp32",
                "optimizer.lr=0.01",
            )  # fmt: skip
            assert done.status == 0, done.err
        return directory

    return make


def predictions(directory: Path) -> list[str]:
    lines = (directory / "predictions.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def answers(model: nn.Module, family: str, place: Path) -> list[str]:
    tokenizer = tiny_tokenizer(family)
    add_padding(tokenizer, model.config)
    tokenizer.padding_side = "left" if family == "xlnet" else "right"
    lines = (place / "data" / "sst2" / "validation.jsonl").read_text().splitlines()
    texts = [json.loads(line)["sentence"] for line in lines]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return [LABELS[number] for number in logits(model, batch).argmax(-1).tolist()]


MERGED = (
    ("bert", "full"), ("bert", "bitfit"), ("gpt2", "lora"), ("xlnet", "lora"), ("t5", "ia3"),
    ("deberta-v2", "dora"), ("modernbert", "pissa"), ("bart", "vera"), ("llama", "adalora"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "method"),
    [
        pytest.param(*one, marks=[pytest.mark.slow] * (place > 3))
        for place, one in enumerate(MERGED)
    ],
)
def test_export_merged(family: str, method: str, run_of: Any, place: Path, tmp_path: Path) -> None:
    directory, out = run_of(family, method), tmp_path / "plain"
    done = call("export", directory, "--format", "merged", "--out", out)
    assert done.status == 0, done.err
    assert [p.name for p in tmp_path.iterdir()] == ["plain"]
    plain = AutoModelForSequenceClassification.from_pretrained(out)
    assert plain.config.id2label == {0: "negative", 1: "positive"}
    assert plain.config.label2id == {"negative": 0, "positive": 1}
    assert plain.dtype == torch.float32
    assert answers(plain, family, place) == predictions(directory)
    assert (out / "tokenizer_config.json").is_file()


@pytest.mark.parametrize("family", ("bert", "deberta-v2", "gpt2"))
def test_export_peft(
    family: str, run_of: Any, place: Path, tmp_path: Path, checkpoints: Any
) -> None:
    directory, out = run_of(family, "lora"), tmp_path / "adapter"
    done = call("export", directory, "--format", "peft", "--out", out)
    assert done.status == 0, done.err
    assert "PEFT adapter LORA" in done.out
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoints[family])
    body = AutoModelForSequenceClassification.from_pretrained(checkpoints[family], num_labels=2)
    theirs = peft.PeftModel.from_pretrained(body, out)
    assert answers(theirs, family, place) == predictions(directory)
    assert str(checkpoints[family].parent) not in (out / "README.md").read_text()


def test_the_card_of_an_adapter(
    run_of: Any, place: Path, tmp_path: Path, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is run as it stands, in a folder where the base model lies under its own name."""
    directory, out = run_of("bert", "lora"), tmp_path / "this folder"
    assert call("export", directory, "--format", "peft", "--out", out).status == 0
    card = (out / "README.md").read_text()
    record = json.loads((directory / "result.json").read_text())
    low, high = record["score_interval"]
    scores = f"{record['score']:.4f} | {low:.4f} to {high:.4f} | {record['baseline']['value']:.4f}"
    assert f"| `accuracy` (decides) | {scores} |" in card
    assert "| validation, 12 rows | score | 95 % interval | majority class (no training) |" in card
    assert "local files `sst2`; 32 rows for training, 12 scored" in card
    assert "| base model | `bert` |" in card
    (tmp_path / "bert").symlink_to(checkpoints["bert"])
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    lines = (place / "data" / "sst2" / "validation.jsonl").read_text().splitlines()
    texts = [json.loads(line)["sentence"] for line in lines]
    answers = pipeline("text-classification", names["model"], tokenizer=names["tokenizer"])(texts)
    assert [answer["label"] for answer in answers] == predictions(directory)


@pytest.mark.parametrize(
    ("path", "revision", "name"),
    (
        ("google-bert/bert-base-uncased", "v1", ("google-bert/bert-base-uncased", "v1")),
        ("adaptkit:mini-bert", None, ("adaptkit:mini-bert", None)),
        ("{here}/models--owner--name/snapshots/0a1b2c", None, ("owner/name", "0a1b2c")),
        ("{here}/my-model/", None, ("my-model", None)),
    ),
)
def test_a_base_model_is_named_as_a_user_would(
    path: str, revision: str | None, name: tuple[str, str | None], tmp_path: Path
) -> None:
    place = path.format(here=tmp_path)
    if "{" in path:
        Path(place).mkdir(parents=True)
    assert base_name(place, revision) == name


@pytest.mark.parametrize(
    ("text", "found"),
    (
        ("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A model\n", "cc-by-4.0"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("# A model\nlicense: mit\n", None),
        ("---\nlicense: [a](http://x)\n---\n", None),
    ),
)
def test_the_licence_of_a_base_model(text: str, found: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence(str(tmp_path), None) == found
    assert licence("adaptkit:mini-bert", None) == "apache-2.0"


@pytest.mark.parametrize("family", ("bert", "gpt2"))
def test_import(family: str, run_of: Any, place: Path, tmp_path: Path) -> None:
    directory, adapter, again = run_of(family, "lora"), tmp_path / "a", tmp_path / "again"
    assert call("export", directory, "--format", "peft", "--out", adapter).status == 0
    data = f"data.root={place / 'data'}"
    done = call("import", adapter, "task=sst2", data, "trainer.precision=fp32", "--out", again)
    assert done.status == 0, done.err
    assert predictions(again) == predictions(directory)
    assert {p.name for p in again.iterdir()} == {p.name for p in directory.iterdir()} - {
        "train.log"
    }
    record = json.loads((again / "result.json").read_text())
    first = json.loads((directory / "result.json").read_text())
    assert record.keys() == {*first, "imported_from"}
    assert (record["status"], record["scores"]) == ("done", first["scores"])
    assert record["imported_from"] == str(adapter)
    assert call("verify", again).status == 0
    assert call("eval", again, "task=sst2", data).status == 0
    assert call("export", again, "--format", "merged", "--out", tmp_path / "plain").status == 0


def test_an_imported_adapter_keeps_the_names_of_its_outputs(
    place: Path, tmp_path: Path, checkpoints: Any
) -> None:
    """Trained with the classes in another order than that in which they are read off the data."""
    lines = (place / "data" / "sst2" / "train.jsonl").read_text().splitlines()
    named = [{"text": row["sentence"], "label": LABELS[row["label"]]}
             for row in map(json.loads, lines)]  # fmt: skip
    for split in ("train", "validation"):
        write(tmp_path / "mine" / f"{split}.jsonl", named)
    own = ["task=classify", f"task.path={tmp_path / 'mine'}", "task.text=text", "task.label=label"]
    words = [*own, "model=auto", f"model.path={checkpoints['bert']}", "trainer.max_steps=4"]
    run, adapter = tmp_path / "run", tmp_path / "adapter"
    classes = f"task.labels=[{LABELS[1]},{LABELS[0]}]"
    assert call("train", *words, classes, "method=lora", f"output_dir={run}").status == 0
    assert call("export", run, "--format", "peft", "--out", adapter).status == 0
    done = call("import", adapter, *own, "--out", tmp_path / "again")
    assert done.status == 0, done.err
    assert predictions(tmp_path / "again") == predictions(run)
    other = call("import", adapter, *own, "task.labels=[a,b]", "--out", tmp_path / "other")
    assert other.status == 2
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(tensors, adapter / "adapter_model.safetensors")  # as PEFT itself writes it
    done = call("import", adapter, *own, "--out", tmp_path / "nameless")
    assert done.status == 0
    assert "the order of its outputs is taken to be negative,positive" in done.err


def test_bundled_body_is_named_by_its_folder(place: Path, tmp_path: Path) -> None:
    directory, out = tmp_path / "run", tmp_path / "adapter"
    done = call(
        "train", "model=mini-bert", "model.pooling=null", "method=lora", "trainer=debug",
        "task=sst2", f"data.root={place / 'data'}", f"output_dir={directory}",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert call("export", directory, "--format", "peft", "--out", out).status == 0
    card = (out / "README.md").read_text()
    assert 'bundled.model("adaptkit:mini-bert")' in card and str(tmp_path) not in card
    config = json.loads((out / "adapter_config.json").read_text())
    assert (Path(config["base_model_name_or_path"]) / "config.json").is_file()
    # The bundled model's own pooling, which no adapter knows, is not that of an imported run.
    words = ["model=mini-bert", "task=sst2", f"data.root={place / 'data'}"]
    done = call("import", out, *words, "--out", tmp_path / "again")
    assert done.status == 0, done.err
    assert predictions(tmp_path / "again") == predictions(directory)


def test_refusals_of_export(run_of: Any, tmp_path: Path) -> None:
    def refused(directory: Path, kind: str, out: Path) -> str:
        done = call("export", directory, "--format", kind, "--out", out)
        assert done.status == 2 and done.err.count("\n") == 1, done.err
        return done.err

    directory = run_of("bert", "houlsby")
    assert "method=houlsby: PEFT has no form" in refused(directory, "peft", tmp_path / "a")
    assert "there is no plain model" in refused(directory, "merged", tmp_path / "a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "is a folder that is not empty" in refused(directory, "peft", tmp_path / "full")
    assert "is a file" in refused(directory, "peft", tmp_path / "full" / "mine.txt")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert "is not a run directory" in refused(tmp_path, "peft", tmp_path / "a")
    assert call("export", directory, "--format", "tflite", "--out", tmp_path / "a").status == 2


def test_a_plain_model_with_other_logits_is_not_kept(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaptkit.runs.exchange import export as export_run

    honest = export_run.outputs_of

    def scaled(model: nn.Module, batch: Any, names: Any) -> dict[str, Tensor]:
        factor = len(list(model.modules()))
        return {name: tensor * factor for name, tensor in honest(model, batch, names).items()}

    monkeypatch.setattr(export_run, "outputs_of", scaled)
    done = call("export", run_of("gpt2", "lora"), "--format", "merged", "--out", tmp_path / "out")
    assert done.status == 1 and "gives other logits than the run" in done.err
    assert not list(tmp_path.iterdir())


def test_refusals_of_import(place: Path, tmp_path: Path, checkpoints: Any) -> None:
    by_peft("bert", tmp_path / "a", **LORA, target_modules=["query"])
    out, data = tmp_path / "out", f"data.root={place / 'data'}"

    def refused(*words: str) -> str:
        done = call("import", *words, "--out", out)
        assert done.status == 2, done.err
        assert not out.exists()
        return done.err

    adapter = str(tmp_path / "a")
    assert "names no body" in refused(adapter, "task=sst2", data)
    other = ["task=sst2", data, "model=auto", f"model.path={checkpoints['roberta']}"]
    assert "it was made for another body" in refused(adapter, *other)
    assert "method.rank: the adapter says" in refused(adapter, "method.rank=4")
    own = ["task=sst2", data, "model=auto", f"model.path={checkpoints['bert']}"]
    assert "Leave it out" in refused(adapter, *own, "model.pooling=mean")
    assert "is not a PEFT adapter" in refused(str(tmp_path), "task=sst2")


@pytest.mark.parametrize(("stated", "task"), [("TOKEN_CLS", "sst2"), ("SEQ_CLS", "ud_ewt")])
def test_an_adapter_of_another_kind_is_refused(stated: str, task: str, tmp_path: Path) -> None:
    """Its head may have a fitting shape all the same."""
    file = PeftFile(tmp_path, {"task_type": stated}, {}, {})
    with pytest.raises(AdaptError, match=rf"task_type={stated}, but task {task} needs"):
        check_task_type(file, settings(compose([f"task={task}"])))
    check_task_type(PeftFile(tmp_path, {}, {}, {}), settings(compose([f"task={task}"])))
