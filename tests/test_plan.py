"""`plan` against published and independently computed numbers, and against real training steps."""

import dataclasses
import socket
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, RARE
from runs import carry_out, configure, sentiment
from shapes import NO_BIAS
from torch import Tensor

from adaptkit.adaptation import Adaptation, Context
from adaptkit.config import compose, groups
from adaptkit.config import settings as config
from adaptkit.config.settings import Settings
from adaptkit.methods.chain import apply
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.runs import plan
from adaptkit.runs.plan import Plan

BIG = ("bert-large", "bert-large-cased", "roberta-large", "electra-large", "xlnet-large",
       "t5-base", "t5-v1.1-base", "bart-large", "gpt2-medium", "smollm2-360m", "qwen3-0.6b",
       "ettin-decoder-68m", "ettin-decoder-150m", "ettin-decoder-400m")  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan must need none."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("plan reached for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@cache
def composed(*overrides: str) -> Settings:
    return config.settings(compose.compose(list(overrides)))


@cache
def planned(*overrides: str, outputs: int = 2, memory: bool = False) -> Plan:
    task = {1: "stsb", 2: "sst2", 3: "mnli"}[outputs]
    return plan.plan(composed(f"task={task}", *overrides), "fp32", memory=memory)


def of_model(table: dict[str, Any]) -> list[Any]:
    """Parametrize over models, the big ones being slow."""
    return [
        pytest.param(name, *(v if isinstance(v, tuple) else (v,)), id=name,
                     marks=[pytest.mark.slow] * (name in BIG))
        for name, v in table.items()
    ]  # fmt: skip


# ---- totals, two-class classifiers, from the published shapes ----

TOTALS = {
    "bert-base": 109_483_778, "bert-large": 335_143_938, "roberta-base": 124_647_170,
    "roberta-large": 355_361_794, "electra-small": 13_549_314, "electra-base": 109_483_778,
    "electra-large": 335_143_938, "distilbert": 66_955_010, "albert-base": 11_685_122,
    "deberta-v3-base": 184_423_682, "modernbert-base": 149_606_402, "xlnet-base": 117_310_466,
    "xlnet-large": 361_320_450, "bert-base-cased": 108_311_810, "bert-large-cased": 333_581_314,
    "ettin-17m": 16_863_746, "mmbert-small": 140_642_306, "eurobert-210m": 212_358_146,
    "t5-small": 60_770_306, "bart-base": 140_012_546,  # tables that are one are counted once
}  # fmt: skip


@pytest.mark.parametrize(("name", "total"), of_model(TOTALS))
def test_total(name: str, total: int) -> None:
    params = planned(f"model={name}", "method=full").params
    assert params.total == params.trainable == params.stored == total
    assert params.body_trainable + params.head_trainable == total
    assert params.trainable_percent == 100


# Language models. SmolLM2's are the counts of the published files. The others by hand, in layers L
# of width H, feed-forward maps of width F and heads of width A together, key-value heads K.
LANGUAGE_MODELS = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    # Tables V H, layers 2 H A + 2 H K + 3 H F + 2 H and two norms of a head, a last norm H.
    "qwen3-0.6b": 151_936 * 1024 + 28 * (4096 * 1024 + 2048 * 1024 + 3 * 3_145_728 + 2304) + 1024,
    "gemma3-270m": 262_144 * 640 + 18 * (2048 * 640 + 512 * 640 + 3 * 1_310_720 + 3072) + 640,
    # Embeddings V H and their norm; layers 4 H^2 + 3 H F + 2 H, but for the first norm; a last
    # norm; the head H^2 + H, and its biases V.
    **{f"ettin-decoder-{size}": 50_368 * (h + 1) + layers * (4 * h * h + 3 * h * f + 2 * h) + h
       + h * h + h
       for size, (layers, h, f) in {
           "17m": (7, 256, 384), "32m": (10, 384, 576), "68m": (19, 512, 768),
           "150m": (22, 768, 1152), "400m": (28, 1024, 2624),
       }.items()},
}  # fmt: skip


@pytest.mark.parametrize(("name", "total"), of_model(LANGUAGE_MODELS))
def test_total_of_a_language_model(name: str, total: int) -> None:
    found = plan.plan(composed("task=xsum", f"model={name}", "method=full"), "fp32", memory=False)
    assert found.params.total == found.params.trainable == total


@pytest.mark.parametrize("size", ["17m", "150m"])
def test_encoder_and_decoder_of_a_pair_are_of_one_size(size: str) -> None:
    names = (f"ettin-{size}", f"ettin-decoder-{size}")
    one, other = (planned(f"model={name}", "method=lora").params for name in names)
    assert one.total == other.total + 2  # two biases of the classifier
    assert one.body_trainable == other.body_trainable


# Heads: a linear map (BERT), a dense layer before it (RoBERTa, ELECTRA), a pooler of the
# classifier's own (DeBERTa, ModernBERT without bias but with a norm of gains, XLNet's summary).
HEADS = {
    "bert-base": 1_538, "roberta-base": 592_130, "electra-small": 66_306, "electra-base": 592_130,
    "distilbert": 592_130, "albert-base": 1_538, "deberta-v3-base": 592_130,
    "modernbert-base": 768 * 768 + 768 + 1_538, "xlnet-base": 592_130, "gpt2": 2 * 768,
    "bart-base": 592_130,
}  # fmt: skip


@pytest.mark.parametrize(("name", "head"), of_model(HEADS))
def test_head(name: str, head: int) -> None:
    assert planned(f"model={name}", "method=lora").params.head_trainable == head


@pytest.mark.parametrize(("outputs", "head"), [(1, 769), (2, 1_538), (3, 2_307)])
def test_head_follows_the_task(outputs: int, head: int) -> None:
    assert planned("model=bert-base", "method=lora", outputs=outputs).params.head_trainable == head


# ---- LoRA: r (in + out) per map ----

QUERY_VALUE = {  # rank 8; other ranks in proportion
    "bert-base": 294_912, "bert-large": 786_432, "roberta-base": 294_912, "roberta-large": 786_432,
    "electra-small": 98_304, "electra-base": 294_912, "electra-large": 786_432,
    "distilbert": 147_456, "albert-base": 24_576, "deberta-v3-base": 294_912, "gpt2": 294_912,
    "gpt2-medium": 786_432, "opt-125m": 294_912, "t5-small": 294_912, "t5-base": 884_736,
    "t5-v1.1-small": 344_064, "t5-v1.1-base": 884_736, "bart-base": 442_368,
    "bart-large": 1_179_648,
}  # fmt: skip
ALL_LINEAR = {  # rank 8, every map of the layers, no pooler
    "bert-base": 1_327_104, "bert-large": 3_555_328 - 16_384, "roberta-base": 1_327_104,
    "roberta-large": 3_538_944, "electra-small": 442_368, "electra-base": 1_327_104,
    "distilbert": 663_552, "deberta-v3-base": 1_339_392 - 12_288, "opt-125m": 1_327_104,
    "t5-small": 1_081_344, "t5-base": 3_244_032, "t5-v1.1-small": 1_277_952,
    "t5-v1.1-base": 3_391_488, "bart-base": 1_622_016, "bart-large": 4_325_376,
}  # fmt: skip


@pytest.mark.parametrize(
    "rank", [8, pytest.param(4, marks=pytest.mark.slow), pytest.param(16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("name", "count"), of_model(QUERY_VALUE))
def test_lora_on_query_and_value(name: str, count: int, rank: int) -> None:
    override = [] if rank == 8 else [f"method.rank={rank}"]
    found = planned(f"model={name}", "method=lora", *override)
    assert found.params.body_trainable * 8 == count * rank
    assert found.roles["query"] + found.roles["value"] == found.params.body_trainable
    assert found.params.stored == found.params.trainable
    assert found.delta_bytes == 4 * found.params.stored


@pytest.mark.parametrize(("name", "count"), of_model(ALL_LINEAR))
def test_lora_on_all_linear_maps(name: str, count: int) -> None:
    found = planned(f"model={name}", "method=lora", "method.roles=[all]")
    assert found.params.body_trainable == count


@pytest.mark.parametrize(
    ("name", "count"), of_model({"xlnet-base": 737_280, "xlnet-large": 1_966_080})
)
def test_lora_on_xlnets_feed_forward_maps(name: str, count: int) -> None:
    assert (
        planned(f"model={name}", "method=lora", "method.roles=[ffn]").params.body_trainable == count
    )


def test_lora_with_grouped_keys_and_values() -> None:
    """LLaMA 3.2 1B: 16 layers, width 2048, eight key-value heads of 64: value maps to 512."""
    found = planned("model=llama-3.2-1b", "method=lora")
    assert found.params.body_trainable == 16 * 8 * ((2048 + 2048) + (2048 + 512))


def test_roberta_lora_with_head_is_the_published_file() -> None:
    """The authors' checkpoint of RoBERTa-base on MNLI (three classes) holds 887,811 numbers."""
    found = planned("model=roberta-base", "method=lora", outputs=3)
    assert found.params.stored == 887_811
    assert abs(found.delta_bytes - 3_568_073) < 20_000


# ---- BitFit ----

BITFIT = {  # all biases; with a head for two classes; percent of encoder
    "bert-base-cased": (102_912, 104_450, 0.0950), "bert-base": (102_912, 104_450, 0.0940),
    "bert-large-cased": (272_384, 274_434, 0.0817), "bert-large": (272_384, 274_434, 0.0813),
    "roberta-base": (102_144, 694_274, 0.0823), "roberta-large": (271_360, 1_323_010, 0.0766),
}  # fmt: skip


@pytest.mark.parametrize(("name", "biases", "with_head", "percent"), of_model(BITFIT))
def test_bitfit(name: str, biases: int, with_head: int, percent: float) -> None:
    params = planned(f"model={name}", "method=bitfit").params
    assert (params.body_trainable, params.trainable) == (biases, with_head)
    encoder = params.total - params.head_trainable
    assert 100 * biases / encoder == pytest.approx(percent, abs=5e-5)


SUBSETS = {  # of BERT-base, without the pooler's bias that the authors' script adds
    "query": 9_216, "key": 9_216, "value": 9_216, "up": 36_864, "output,down": 18_432,
    "attention_norm,ffn_norm": 18_432, "attention_norm": 9_216, "query,up": 46_080,
    "query_up": 46_080, "all": 102_912,
}  # fmt: skip


@pytest.mark.parametrize(("components", "count"), SUBSETS.items())
def test_bitfit_on_components(components: str, count: int) -> None:
    found = planned("model=bert-base", "method=bitfit", f"method.components=[{components}]")
    assert found.params.body_trainable == count


@pytest.mark.slow
@pytest.mark.parametrize(("components", "count"), [("query", 24_576), ("up", 98_304),
                                                   ("query_up", 122_880)])  # fmt: skip
def test_bitfit_on_components_of_the_large_model(components: str, count: int) -> None:
    found = planned("model=bert-large", "method=bitfit", f"method.components=[{components}]")
    assert found.params.body_trainable == count


@pytest.mark.parametrize(("outputs", "trainable"), [(1, 103_681), (3, 102_912 + 2_307)])
def test_bitfit_heads(outputs: int, trainable: int) -> None:
    assert (
        planned("model=bert-base", "method=bitfit", outputs=outputs).params.trainable == trainable
    )


# ---- norms, last layers ----

NORMS = {"bert-base": 38_400, "bert-large": 100_352, "bert-base-cased": 38_400}


@pytest.mark.parametrize(("name", "count"), of_model(NORMS))
def test_layernorm(name: str, count: int) -> None:
    assert planned(f"model={name}", "method=layernorm").params.body_trainable == count


TOP_K = {  # with a head for two classes; percent of the whole model
    ("bert-base", 1): (7_680_002, 7.01), ("bert-base", 2): (14_767_874, 13.49),
    ("bert-base", 4): (28_943_618, 26.44), ("bert-base", 6): (43_119_362, 39.38),
    ("bert-base", 0): (592_130, 0.54),
    ("bert-large-cased", 1): (13_647_874, 4.09), ("bert-large-cased", 2): (26_244_098, 7.87),
    ("bert-large-cased", 4): (51_436_546, 15.42), ("bert-large-cased", 6): (76_628_994, 22.97),
    ("roberta-base", 1): (592_130 + 7_087_872, 6.16), ("roberta-base", 2): (None, 11.85),
    ("roberta-base", 4): (None, 23.22), ("roberta-base", 6): (None, 34.59),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "last"),
    [pytest.param(*k, marks=[pytest.mark.slow] * (k[0] in BIG or k[1] > 2)) for k in TOP_K],
)
def test_top_k(name: str, last: int) -> None:
    count, percent = TOP_K[name, last]
    params = planned(f"model={name}", "method=top_k", f"method.last={last}").params
    assert count in (None, params.trainable)
    assert params.trainable_percent == pytest.approx(percent, abs=0.005)


def test_top_k_by_number() -> None:
    """Layers 11 and 12 are the last two of BERT-base; one of them weighs as much as any other."""
    last = planned("model=bert-base", "method=top_k").params
    named = planned("model=bert-base", "method=top_k", "method.layers=[12,11]").params
    other = planned("model=bert-base", "method=top_k", "method.layers=[1,5]").params
    assert last == named == other and last.trainable == 14_767_874


@pytest.mark.slow
def test_top_k_of_other_families() -> None:
    """GPT-2: a norm of 2 H; T5: both stacks, a gain each; 2 and 3 norms, 4 and 8 maps a layer."""
    layer = 12 * 768**2 + 13 * 768
    gpt2 = planned("model=gpt2", "method=top_k", "method.last=3").params
    assert gpt2.body_trainable == 3 * layer + 2 * 768
    t5 = planned("model=t5-small", "method=top_k", "method.last=1").params
    attention, ffn = 4 * 512 * 512, 2 * 512 * 2048
    assert t5.body_trainable == 3 * attention + 2 * ffn + 5 * 512 + 2 * 512


def test_probe_learns_its_own_map_alone() -> None:
    found = planned("model=bert-base", "method=probe").params
    assert (found.body_trainable, found.head_trainable) == (0, 768 * 2 + 2)


# ---- every model of conf/ can be planned ----


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in groups.options("model") if name != "auto"])
def test_every_model_of_conf_can_be_planned(name: str) -> None:
    found = planned(f"model={name}", "method=lora", memory=True)
    assert 0 < found.params.body_trainable < 0.1 * found.params.total
    assert found.memory.total > 4 * found.params.total


# ---- memory ----


@pytest.mark.slow
def test_memory_of_what_learns() -> None:
    full, lora = (
        planned("model=bert-base", f"method={method}", memory=True) for method in ("full", "lora")
    )
    total, learnt = TOTALS["bert-base"], 294_912 + 1_538
    assert full.memory.weights == 4 * total
    assert full.memory.gradients == 4 * total
    assert full.memory.optimizer == 8 * total  # Adam's two moments
    assert lora.memory.weights == 4 * (total + 294_912)
    assert (lora.memory.gradients, lora.memory.optimizer) == (4 * learnt, 8 * learnt)
    assert 0 < lora.memory.activations < full.memory.activations
    words = ("task=sst2", "model=bert-base", "method=lora", "trainer.device=cpu")
    half = plan.plan(composed(*words, "trainer.fast=false"), "bf16")
    assert half.memory.weights < 0.6 * lora.memory.weights
    assert half.memory.activations < lora.memory.activations
    maps = 12 * (4 * 768 * 768 + 2 * 768 * 3072)  # attention's four and the two of the block
    laid_out = plan.plan(composed(*words), "bf16").memory.weights - half.memory.weights
    assert laid_out >= 2 * maps  # of 2 bytes each, beside the weights


def real_activations(settings: Settings, tokens: int) -> int:
    """Bytes that torch keeps for the backward pass of a real step, without parameters."""
    model_config = loading.load_config(settings.model, "sequence", 2)
    loaded = loading.load_model(settings.model, model_config, "sequence")
    generator = torch.Generator().manual_seed(0)
    context = Context(None, generator, 1)
    methods = (settings.method, *settings.regularizers.values())
    adaptation = apply(Adaptation.of(loaded.model, loaded.head), methods, context)
    own = {p.untyped_storage().data_ptr() for p in adaptation.model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # alive, so that no address is used twice
        return tensor

    size = settings.trainer.batch_size
    ids = torch.randint(10, 60, (size, tokens), generator=generator)
    if model_config.model_type in ("bart", "t5"):  # their classifiers read the end token
        ids[:, -1] = model_config.eos_token_id
    mask = torch.ones_like(ids)
    mask[0, : tokens // 2] = 0  # as good as every batch has padding
    adaptation.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = adaptation.model(input_ids=ids, attention_mask=mask)
    assert output.logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("family", "method"),
    [
        pytest.param(f, m, marks=[pytest.mark.slow] * (f in RARE or (m != "lora" and f != "bert")))
        for f in FAMILIES
        for m in ("full", "lora", "bitfit")
        if m != "bitfit" or f not in NO_BIAS
    ],
)
def test_activations_are_what_torch_keeps(family: str, method: str, checkpoints: Any) -> None:
    settings = composed("task=sst2", "model=bert-base", f"method={method}", "trainer.batch_size=8",
                        "task.max_length=96")  # fmt: skip
    model = Model(family, str(checkpoints[family]))
    settings = dataclasses.replace(settings, model=model)
    found = plan.plan(settings, "fp32").memory
    assert (found.batch_size, found.tokens) == (8, 96)
    assert found.activations == pytest.approx(real_activations(settings, 96), rel=0.10)


@pytest.mark.parametrize("task", ["ud_ewt", "sst2"])
def test_a_prompt_of_a_model_with_and_without_its_decoder(task: str) -> None:
    """T5 tags words with its encoder alone, and classifies with both stacks."""
    settings = composed(f"task={task}", "model=mini-t5", "method=prompt", "model.pooling=null")
    if task == "ud_ewt":
        settings = settings.bind(dataclasses.replace(settings.task, labels=("NOUN", "VERB")))
    found = plan.plan(settings, "fp32")
    assert found.memory.activations > 0
    assert found.params.body_trainable == found.extra_tokens * 192


@pytest.mark.parametrize("method", ["full", "lora", "probe"])
def test_what_passes_by_is_counted(method: str) -> None:
    """A step holds more than what autograd saves; an evaluation of 64 rows more than a probe."""
    found = planned("model=mini-bert", f"method={method}", memory=True).memory
    assert found.libraries > 0
    parts = (found.weights, found.gradients, found.optimizer, found.activations, found.passing)
    assert found.total == sum(parts) + found.libraries
    if method == "probe":  # at least all hidden states and one inner layer of 64 rows
        assert found.passing > 64 * found.tokens * 4 * 128
    if method == "lora":
        assert found.passing > 0


@pytest.mark.parametrize(
    ("words", "copies"),
    [
        (("method=full",), 0),
        (("method=lora",), 0),
        (("method=lora", "regularizer=[l2_sp]"), 1),
        (("method=full", "regularizer=[recadam]"), 1),
        (("method=full", "regularizer=[weight_decay_to_pretrained]"), 1),
        (("method=adalora",), 2),  # means of importance and of its variation
    ],
)
def test_copies_of_what_trains_are_counted(words: tuple[str, ...], copies: int) -> None:
    found = planned("model=mini-bert", *words, memory=True)
    assert found.memory is not None
    close = pytest.approx(4 * copies * found.params.body_trainable, rel=0.002)
    assert found.memory.copies == close
    assert found.memory.total > found.memory.copies


def test_a_run_records_what_it_planned_and_took(checkpoints: Any, tmp_path: Path) -> None:
    data = sentiment(tmp_path / "data")
    changes = {"trainer.max_steps": 1}
    made = configure(tmp_path / "run", checkpoints["bert"], data, "method=lora", **changes)
    memory = carry_out(made)[0]["memory"]
    bound = made.bind(made.task.with_classes(("negative", "positive")))
    assert memory["planned_bytes"] == plan.plan(bound, "fp32").memory.total
    assert memory["measured_bytes"] >= 0


def test_tokens_are_limited_by_the_body(checkpoints: Any) -> None:
    settings = composed("task=sst2", "model=bert-base", "method=lora", "task.max_length=4000")
    model = Model("roberta", str(checkpoints["roberta"]))
    settings = dataclasses.replace(settings, model=model)
    # 130 positions, of which the first two are never used.
    assert plan.plan(settings, "fp32").memory.tokens == 128
