"""The table of model families: every pattern finds what the config says is there."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, RARE, tiny_config, tiny_model
from shapes import FUSED, HEADS, INNER, LAYERS, WIDTH, expected, shape
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from adaptkit.adaptation import Adaptation
from adaptkit.errors import AdaptError
from adaptkit.models import anatomy
from adaptkit.models.layout import POINTS
from adaptkit.models.loading import head_names
from adaptkit.optimizers import AdamW
from adaptkit.training.arguments import parameter_groups

PREFIX = {
    "deberta-v2": "deberta.", "modernbert": "model.", "xlnet": "transformer.",
    "gpt2": "transformer.", "opt": "model.", "llama": "model.", "mistral": "model.",
    "qwen2": "model.", "gpt_neox": "gpt_neox.", "t5": "transformer.", "bart": "model.",
    **dict.fromkeys(RARE, "model."),
}  # fmt: skip


def gated_t5() -> PreTrainedModel:
    """T5 v1.1: a gated feed-forward map, and attention narrower than the model."""
    config = tiny_config("t5")
    arguments = {**config.to_dict(), "feed_forward_proj": "gated-gelu", "num_heads": 3}
    arguments.pop("dense_act_fn", None)
    config = type(config)(**{k: v for k, v in arguments.items() if k != "is_gated_act"})
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("role", (*anatomy.ROLES, *anatomy.NORMS))
def test_every_role_matches_what_the_config_says(family: str, role: str) -> None:
    model, count = tiny_model(family), expected(family)[role]
    if not count:
        with pytest.raises(AdaptError, match=f"role '{role}' matches nothing .*There is: query"):
            anatomy.sites(model, (role,))
    elif role in anatomy.NORMS:
        patterns = anatomy.FAMILIES[family].parts[role]
        assert len(list(anatomy.matches(model, patterns))) == count
    else:
        sites = anatomy.sites(model, (role,))
        assert len(sites) == len({(s.module, s.parameter) for s in sites}) == count
        assert {(s.fan_in, s.fan_out) for s in sites} == {shape(family, role)}


def test_gated_t5() -> None:
    sites = anatomy.sites(gated_t5(), ("all",))
    found = {role: [s for s in sites if s.role == role] for role in anatomy.ROLES}
    counts = {role: len(hits) for role, hits in found.items()}
    attention = dict.fromkeys(("query", "key", "value", "output"), 3 * LAYERS)
    assert counts == attention | dict.fromkeys(("up", "gate", "down"), 2 * LAYERS)
    assert {s.module.rpartition(".")[2] for s in found["gate"]} == {"wi_0"}
    assert {s.module.rpartition(".")[2] for s in found["up"]} == {"wi_1"}
    assert {(s.fan_in, s.fan_out) for s in found["query"]} == {(WIDTH, 3 * 8)}
    assert {(s.fan_in, s.fan_out) for s in found["output"]} == {(3 * 8, WIDTH)}


def test_every_linear_map_of_a_layer_has_one_role(family: str) -> None:
    model = tiny_model(family)
    sites = anatomy.sites(model, ("all",))
    found = {s.module for s in sites if not s.parameter}
    stacks = ("layer", "layers", "h", "block", "albert_layers")
    there = {
        name
        for name, module in model.base_model.named_modules(prefix=PREFIX.get(family, family))
        if isinstance(module, nn.Linear | Conv1D) and set(stacks) & set(name.split("."))
    }
    assert found == {name.replace("..", ".") for name in there}
    claims = [s.module for s in sites if not s.parameter]
    shared = 3 if family in FUSED else 1
    assert all(claims.count(name) in (1, shared) for name in found)


def test_the_largest_parts_of_the_body_have_a_role(family: str) -> None:
    model = tiny_model(family)
    roles = anatomy.roles_of(model)
    prefix = anatomy.base_prefix(model)
    assert set(roles) == {n for n, _ in model.named_parameters() if n.startswith(prefix)}
    other = {name for name, role in roles.items() if role == "other"}
    # Poolers, projections of narrow embeddings, and XLNet's biases, segments and positions.
    known = r"pooler|project|hidden_mapping_in|\.(mask_emb|r_\w_bias|seg_embed|r)$"
    assert not {name for name in other if not re.search(known, name)}
    assert {role for role in roles.values()} >= {"embeddings", "norms", "up", "down"}


def test_base_prefix(family: str) -> None:
    model = tiny_model(family)
    prefix = anatomy.base_prefix(model)
    assert prefix == PREFIX.get(family, f"{family}.")
    # Tied tensors have one name each in both lists.
    names = {prefix + name for name, _ in model.base_model.named_parameters()}
    assert names <= {name for name, _ in model.named_parameters()}
    assert anatomy.base_prefix(model.base_model) == ""


def test_layer_count(family: str) -> None:
    assert anatomy.layer_count(tiny_model(family)) == LAYERS


@pytest.mark.parametrize("name", ("berd", "gptj", ""))
def test_unknown_architecture_is_refused(name: str) -> None:
    with pytest.raises(AdaptError, match=f"'{name}' is not supported.*Supported: albert") as info:
        anatomy.family_of(name)
    assert ("did you mean bert" in str(info.value)) == (name == "berd")
    with pytest.raises(AdaptError):
        anatomy.family(SimpleNamespace(config=SimpleNamespace(model_type=name)))


@pytest.mark.parametrize("kind", sorted(anatomy.FAMILIES))
def test_every_supported_architecture_is_one_of_hugging_face(kind: str) -> None:
    assert kind in transformers.models.auto.configuration_auto.CONFIG_MAPPING
    mapping = transformers.models.auto.modeling_auto
    assert kind in mapping.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


# ---- what reaches the attention function, role by role ----

INTERFACE = (*FUSED, "bert", "roberta", "distilbert", "albert", "opt", "llama", "qwen2", "bart",
             *RARE)  # fmt: skip
QKV = ("query", "key", "value")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Tensor]]]:
    """What every call of the attention function was given."""
    calls: list[dict[str, Tensor]] = []
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def record(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any
    ) -> Any:
        calls.append({"query": query.clone(), "key": key.clone(), "value": value.clone()})
        return original(module, query, key, value, *args, **kw)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", record)
    yield calls


@torch.no_grad()
def first_call(model: PreTrainedModel, seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    seen.clear()
    ids = torch.arange(10, 22).reshape(2, 6)
    model.base_model(input_ids=ids)
    return seen[0]


@pytest.mark.parametrize("role", QKV)
@pytest.mark.parametrize("family", INTERFACE, indirect=True)
def test_a_role_is_what_it_says(family: str, role: str, seen: list[dict[str, Tensor]]) -> None:
    model = tiny_model(family)
    assert model.config._attn_implementation == "sdpa"
    before = first_call(model, seen)
    site = anatomy.sites(model, (role,))[0]
    weight = model.get_submodule(site.module).weight.data
    weight = weight.t() if isinstance(model.get_submodule(site.module), Conv1D) else weight
    rows = range(weight.shape[0]) if site.rows is None else site.rows
    assert len(rows) == site.fan_out
    for row in rows:
        weight[row] += 1.0  # in place, through the transposed view as well
    after = first_call(model, seen)
    changed = {name: (after[name] - before[name]).abs().amax((0, 2)) > 1e-3 for name in QKV}
    # Rotation mixes two features of a head, so every feature of every head must have moved.
    assert changed[role].all()
    assert not any(changed[name].any() for name in QKV if name != role)


@pytest.mark.parametrize("family", FUSED, indirect=True)
def test_fused_rows_are_a_partition(family: str) -> None:
    sites = anatomy.sites(tiny_model(family), QKV)
    for module in {s.module for s in sites}:
        rows = [row for s in sites if s.module == module for row in s.rows or ()]
        assert sorted(rows) == list(range(3 * WIDTH))


@pytest.mark.parametrize("family", ("gpt_neox", "modernbert", "gpt2"), indirect=True)
def test_fused_rows_are_in_the_order_of_heads_and_features(
    family: str, seen: list[dict[str, Tensor]]
) -> None:
    """Row i of the value role is feature i of the concatenated heads, as in an unfused map."""
    model = tiny_model(family)
    before = first_call(model, seen)["value"]
    site = anatomy.sites(model, ("value",))[0]
    module = model.get_submodule(site.module)
    weight = module.weight.data.t() if isinstance(module, Conv1D) else module.weight.data
    size = WIDTH // HEADS
    for index in (0, size - 1, size, WIDTH - 1):
        weight[site.rows[index]] += 1.0
        after = first_call(model, seen)["value"]
        moved = ((after - before).abs().amax((0, 2)) > 1e-3).nonzero().tolist()
        assert moved == [[index // size, index % size]]
        before = after


def test_xlnet_output_is_used_the_other_way_round() -> None:
    sites = anatomy.sites(tiny_model("xlnet"), ("query", "output"))
    assert {s.parameter for s in sites} == {"q", "o"}
    assert all(s.name.endswith(f"rel_attn.{s.parameter}") for s in sites)


# ---- where adapters hang ----


@pytest.mark.parametrize("role", POINTS)
def test_points_take_and_give_the_residual_streams_width(family: str, role: str) -> None:
    model, seen = tiny_model(family), []
    found = anatomy.points(model, (role,))
    assert len(found) == expected(family)["down"]  # one of each kind per layer, of both stacks

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        tensor = inputs[0] if role == "before_ffn" else output
        tensor = tensor[0] if isinstance(tensor, tuple) else tensor
        if tensor.dim() <= 3:  # XLNet's dropout is given attention weights as well
            seen.append((module, tensor.shape[-1]))

    for _, module in found:
        module.register_forward_hook(note)
    ids = torch.arange(10, 22).reshape(2, 6)
    decoder = {"decoder_input_ids": ids} if family in ("t5", "bart") else {}
    with torch.no_grad():
        model.base_model(input_ids=ids, **decoder)
    assert {width for _, width in seen} == {WIDTH} == {anatomy.width(model)}
    calls = LAYERS if family == "albert" else 1
    assert [module for module, _ in seen] == [module for _, module in found] * calls


def test_points_keep_the_models_order(family: str) -> None:
    model = tiny_model(family)
    found = [name for name, _ in anatomy.points(model, ("after_ffn", "after_attention"))]
    order = [name for name, _ in model.named_modules()]
    assert found == sorted(set(found), key=order.index)


def test_norms_are_all_of_the_bodys(family: str) -> None:
    """By hand: two per layer, three in a decoder with cross-attention, and those outside.

    Gemma has one before and one behind each sub-layer, and like Qwen3 for queries and keys.
    """
    layers, outside = (1 if family == "albert" else LAYERS), OUTSIDE[family]
    per_layer = {"t5": 5, "bart": 5, "gemma3_text": 6, "qwen3": 4}.get(family, 2)
    names = {name.rpartition(".")[0] for name in anatomy.norms(tiny_model(family))}
    without = 1 if family.startswith("modernbert") else 0  # its first attention has none
    assert len(names) == layers * per_layer + outside - without


OUTSIDE = {  # embeddings, the ends of stacks; DeBERTa's relative positions
    **dict.fromkeys(("bert", "roberta", "electra", "albert", "distilbert"), 1),
    **dict.fromkeys(("gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "eurobert",
                     "gemma3_text"), 1),
    **dict.fromkeys(("deberta-v2", "modernbert", "modernbert-decoder", "t5", "bart"), 2),
    "xlnet": 0,
}  # fmt: skip


# ---- biases ----

ALL_BIASES = {  # per layer, then outside the layers, in vectors by width: W (32), I (64)
    "bert": (7, 1, 2), "roberta": (7, 1, 1), "gpt2": (7, 1, 1), "opt": (7, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("family", ("bert", "roberta", "gpt2", "opt"), indirect=True)
def test_biases_by_hand(family: str) -> None:
    """q, k, v, attention output, down and two norms of width W; up of width I."""
    model = tiny_model(family)
    found = anatomy.biases(model, None)
    wide, inner, outside = ALL_BIASES[family]
    total = sum(model.get_parameter(n).numel() for n in found)
    assert total == LAYERS * (wide * WIDTH + inner * INNER) + outside * WIDTH


@pytest.mark.parametrize("family", FUSED, indirect=True)
def test_part_of_a_fused_bias_is_refused(family: str) -> None:
    model = tiny_model(family)
    with pytest.raises(AdaptError, match=r"one bias\. Choose all three, or all\."):
        anatomy.biases(model, ("query",))
    if family != "modernbert":
        assert len(anatomy.biases(model, QKV)) == LAYERS


def test_a_named_role_without_a_bias_is_refused() -> None:
    """It would be left out in silence, next to others that have one."""
    for family, roles in (
        ("modernbert", QKV),
        ("xlnet", ("query", "up")),
        ("qwen2", ("key", "up")),
    ):
        with pytest.raises(AdaptError, match="have no bias there that could be trained"):
            anatomy.biases(tiny_model(family), roles)
    assert anatomy.biases(tiny_model("qwen2"), QKV)


def test_no_bias_and_no_norm_decays(family: str) -> None:
    """Whatever its shape: XLNet keeps biases as matrices, T5 one as a table."""
    model = tiny_model(family)
    adaptation = Adaptation.of(model, head_names(model))
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(adaptation, AdamW(lr=1.0, weight_decay=0.1))
    decays = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    for name, parameter in model.named_parameters():
        module = type(model.get_submodule(name.rpartition(".")[0])).__name__
        spared = "bias" in name or module.endswith("Norm") or parameter.dim() < 2
        assert (name in decays) == (not spared), name
