"""Where query, value, feed-forward maps and norms are, per model family: data, not code.

A pattern names modules below the base model; `*` stands for one dotted word. This file, and
`adaptkit.models.loading`, are the only ones that know names inside Hugging Face models.
No torch at import time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.errors import AdaptError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

ROLES = ("query", "key", "value", "output", "up", "gate", "down")  # linear maps of a layer
NORMS = ("attention_norm", "ffn_norm")
FFN = ("up", "gate", "down")
QKV = ("query", "key", "value")


@dataclass(frozen=True)
class Family:
    """One architecture: its name, where its parts are, and how it reads positions and padding."""

    name: str
    parts: Mapping[str, tuple[str, ...]]  # role -> patterns; "module@parameter" for bare tensors
    layers: str  # pattern of one layer (of the encoder, where there are two stacks)
    fused: Literal["", "blocks", "heads"] = ""  # query, key and value in one map, how arranged
    padding: Literal["right", "left"] = "right"  # on which side the classifier expects padding
    cls: Literal["first", "last"] | None = "first"  # which token was trained to sum up the text
    positions: Callable[[Any], int | None] = field(  # config -> longest input, None: no limit
        default=lambda config: config.max_position_embeddings
    )
    shared_layers: bool = False  # one set of weights serves all layers
    encoder_decoder: bool = False


def _bert(attention: str = "attention.self", names: tuple[str, str, str] = QKV) -> dict:
    layer = "encoder.layer.*"
    maps = {role: (f"{layer}.{attention}.{name}",) for role, name in zip(QKV, names, strict=True)}
    return maps | {
        "output": (f"{layer}.attention.output.dense",),
        "up": (f"{layer}.intermediate.dense",),
        "down": (f"{layer}.output.dense",),
        "attention_norm": (f"{layer}.attention.output.LayerNorm",),
        "ffn_norm": (f"{layer}.output.LayerNorm",),
    }


def _llama() -> dict:
    return {
        "query": ("layers.*.self_attn.q_proj",),
        "key": ("layers.*.self_attn.k_proj",),
        "value": ("layers.*.self_attn.v_proj",),
        "output": ("layers.*.self_attn.o_proj",),
        "up": ("layers.*.mlp.up_proj",),
        "gate": ("layers.*.mlp.gate_proj",),
        "down": ("layers.*.mlp.down_proj",),
        "attention_norm": ("layers.*.input_layernorm",),
        "ffn_norm": ("layers.*.post_attention_layernorm",),
    }


_ALBERT = "encoder.albert_layer_groups.*.albert_layers.*"
_DISTIL = "transformer.layer.*"
_T5 = ("encoder.block.*.layer.*.SelfAttention", "decoder.block.*.layer.*.SelfAttention",
       "decoder.block.*.layer.*.EncDecAttention")  # fmt: skip
_T5_FFN = ("encoder.block.*.layer.*.DenseReluDense", "decoder.block.*.layer.*.DenseReluDense")
_BART = (
    "encoder.layers.*.self_attn",
    "decoder.layers.*.self_attn",
    "decoder.layers.*.encoder_attn",
)
_BART_LAYERS = ("encoder.layers.*", "decoder.layers.*")


def _each(stems: Iterable[str], *leaves: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{leaf}" for stem in stems for leaf in leaves)


def _past_padding(config: Any) -> int:
    # RoBERTa numbers positions from padding_idx + 1.
    return config.max_position_embeddings - (config.pad_token_id or 0) - 1


def _unlimited(config: Any) -> None:
    return None


_ROBERTA = {"parts": _bert(), "layers": "encoder.layer.*", "positions": _past_padding}
_LLAMA = {"parts": _llama(), "layers": "layers.*", "cls": None}

FAMILIES: dict[str, Family] = {
    "bert": Family("BERT", _bert(), "encoder.layer.*"),
    "electra": Family("ELECTRA", _bert(), "encoder.layer.*"),
    "roberta": Family("RoBERTa", **_ROBERTA),
    "xlm-roberta": Family("XLM-RoBERTa", **_ROBERTA),
    "camembert": Family("CamemBERT", **_ROBERTA),
    "deberta-v2": Family(
        "DeBERTa-v2/v3", _bert(names=("query_proj", "key_proj", "value_proj")), "encoder.layer.*"
    ),
    "albert": Family(
        "ALBERT",
        {
            "query": (f"{_ALBERT}.attention.query",),
            "key": (f"{_ALBERT}.attention.key",),
            "value": (f"{_ALBERT}.attention.value",),
            "output": (f"{_ALBERT}.attention.dense",),
            "up": (f"{_ALBERT}.ffn",),
            "down": (f"{_ALBERT}.ffn_output",),
            "attention_norm": (f"{_ALBERT}.attention.LayerNorm",),
            "ffn_norm": (f"{_ALBERT}.full_layer_layer_norm",),
        },
        _ALBERT,
        shared_layers=True,
    ),
    "distilbert": Family(
        "DistilBERT",
        {
            "query": (f"{_DISTIL}.attention.q_lin",),
            "key": (f"{_DISTIL}.attention.k_lin",),
            "value": (f"{_DISTIL}.attention.v_lin",),
            "output": (f"{_DISTIL}.attention.out_lin",),
            "up": (f"{_DISTIL}.ffn.lin1",),
            "down": (f"{_DISTIL}.ffn.lin2",),
            "attention_norm": (f"{_DISTIL}.sa_layer_norm",),
            "ffn_norm": (f"{_DISTIL}.output_layer_norm",),
        },
        _DISTIL,
    ),
    "modernbert": Family(
        "ModernBERT",
        {
            **{role: ("layers.*.attn.Wqkv",) for role in QKV},
            "output": ("layers.*.attn.Wo",),
            "up": ("layers.*.mlp.Wi",),  # gate and up in one map
            "down": ("layers.*.mlp.Wo",),
            "attention_norm": ("layers.*.attn_norm",),
            "ffn_norm": ("layers.*.mlp_norm",),
        },
        "layers.*",
        fused="blocks",
    ),
    "xlnet": Family(
        "XLNet",
        {
            "query": ("layer.*.rel_attn@q",),
            "key": ("layer.*.rel_attn@k",),
            "value": ("layer.*.rel_attn@v",),
            "output": ("layer.*.rel_attn@o",),
            "up": ("layer.*.ff.layer_1",),
            "down": ("layer.*.ff.layer_2",),
            "attention_norm": ("layer.*.rel_attn.layer_norm",),
            "ffn_norm": ("layer.*.ff.layer_norm",),
        },
        "layer.*",
        padding="left",
        cls="last",
        positions=_unlimited,
    ),
    "gpt2": Family(
        "GPT-2",
        {
            **{role: ("h.*.attn.c_attn",) for role in QKV},
            "output": ("h.*.attn.c_proj",),
            "up": ("h.*.mlp.c_fc",),
            "down": ("h.*.mlp.c_proj",),
            "attention_norm": ("h.*.ln_1",),
            "ffn_norm": ("h.*.ln_2",),
        },
        "h.*",
        fused="blocks",
        cls=None,
    ),
    "opt": Family(
        "OPT",
        {
            "query": ("decoder.layers.*.self_attn.q_proj",),
            "key": ("decoder.layers.*.self_attn.k_proj",),
            "value": ("decoder.layers.*.self_attn.v_proj",),
            "output": ("decoder.layers.*.self_attn.out_proj",),
            "up": ("decoder.layers.*.fc1",),
            "down": ("decoder.layers.*.fc2",),
            "attention_norm": ("decoder.layers.*.self_attn_layer_norm",),
            "ffn_norm": ("decoder.layers.*.final_layer_norm",),
        },
        "decoder.layers.*",
        cls=None,
    ),
    "llama": Family("LLaMA", **_LLAMA),
    "mistral": Family("Mistral", **_LLAMA),
    "qwen2": Family("Qwen2", **_LLAMA),
    "qwen3": Family("Qwen3", **_LLAMA),
    "gpt_neox": Family(
        "GPT-NeoX",
        {
            **{role: ("layers.*.attention.query_key_value",) for role in QKV},
            "output": ("layers.*.attention.dense",),
            "up": ("layers.*.mlp.dense_h_to_4h",),
            "down": ("layers.*.mlp.dense_4h_to_h",),
            "attention_norm": ("layers.*.input_layernorm",),
            "ffn_norm": ("layers.*.post_attention_layernorm",),
        },
        "layers.*",
        fused="heads",
        cls=None,
    ),
    "t5": Family(
        "T5",
        {
            "query": _each(_T5, "q"),
            "key": _each(_T5, "k"),
            "value": _each(_T5, "v"),
            "output": _each(_T5, "o"),
            "up": _each(_T5_FFN, "wi", "wi_1"),
            "gate": _each(_T5_FFN, "wi_0"),
            "down": _each(_T5_FFN, "wo"),
            "attention_norm": (
                "encoder.block.*.layer.0.layer_norm",
                "decoder.block.*.layer.0.layer_norm",
                "decoder.block.*.layer.1.layer_norm",
            ),
            "ffn_norm": (
                "encoder.block.*.layer.1.layer_norm",
                "decoder.block.*.layer.2.layer_norm",
            ),
        },
        "encoder.block.*",
        cls=None,
        positions=_unlimited,
        encoder_decoder=True,
    ),
    "bart": Family(
        "BART",
        {
            "query": _each(_BART, "q_proj"),
            "key": _each(_BART, "k_proj"),
            "value": _each(_BART, "v_proj"),
            "output": _each(_BART, "out_proj"),
            "up": _each(_BART_LAYERS, "fc1"),
            "down": _each(_BART_LAYERS, "fc2"),
            "attention_norm": (
                *_each(_BART_LAYERS, "self_attn_layer_norm"),
                "decoder.layers.*.encoder_attn_layer_norm",
            ),
            "ffn_norm": _each(_BART_LAYERS, "final_layer_norm"),
        },
        "encoder.layers.*",
        encoder_decoder=True,
    ),
}


@dataclass(frozen=True)
class Site:
    """One linear map of the body, its slice in a fused map, or a bare tensor used as one."""

    role: str
    module: str  # full name in the task's model
    fan_in: int
    fan_out: int
    rows: tuple[int, ...] | None = None  # outputs of a fused map that belong to this role
    parameter: str | None = None  # the module's bare tensor (XLNet) instead of the module itself

    @property
    def name(self) -> str:
        """The map's full name, for messages."""
        return f"{self.module}.{self.parameter}" if self.parameter else self.module


def family_of(model_type: str) -> Family:
    """Return the family of a config's model_type.

    Raises:
        AdaptError: adaptkit does not know this architecture.
    """
    if model_type not in FAMILIES:
        raise AdaptError(
            f"model: architecture {model_type!r} is not supported; "
            f"{did_you_mean(model_type, FAMILIES)}Supported: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def family(model: nn.Module) -> Family:
    """Return the family of a Hugging Face model."""
    return family_of(model.config.model_type)


def expand(roles: Iterable[str]) -> tuple[str, ...]:
    """Replace 'ffn' and 'all' by the roles they stand for, each once, in a fixed order."""
    named = {"ffn": FFN, "all": ROLES}
    wanted = {r for role in roles for r in named.get(role, (role,))}
    return tuple(r for r in (*ROLES, *NORMS) if r in wanted)


def base_prefix(model: nn.Module) -> str:
    """Return the dotted prefix of the base model's names inside the task's model."""
    base = model.base_model
    return next(f"{n}." if n else "" for n, module in model.named_modules() if module is base)


def matches(model: nn.Module, patterns: Iterable[str]) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (full name, module, bare parameter or '') for every hit, in the model's order."""
    prefix = base_prefix(model)
    wanted = [pattern.partition("@") for pattern in patterns]
    compiled = [
        (re.compile(re.escape(prefix + stem).replace(r"\*", r"[^.]+")), tensor)
        for stem, _, tensor in wanted
    ]
    for name, module in model.named_modules():
        for pattern, tensor in compiled:
            if pattern.fullmatch(name):
                yield name, module, tensor


def sites(model: nn.Module, roles: Iterable[str]) -> list[Site]:
    """Return every linear map with one of `roles`, in the model's order.

    Raises:
        AdaptError: a role matches nothing; the message lists the roles that exist.
    """
    found: list[Site] = []
    wanted = tuple(roles)
    for role in wanted:
        hits = [_site(model, role, *hit) for hit in matches(model, _patterns(model, role))]
        # Under 'ffn' and 'all' a family without a gate is no mistake.
        if not hits and not (role == "gate" and len(wanted) > 1):
            raise AdaptError(_no_such_role(model, role))
        found += hits
    return found


def _patterns(model: nn.Module, role: str) -> tuple[str, ...]:
    return family(model).parts.get(role, ())


def _no_such_role(model: nn.Module, role: str) -> str:
    there = [r for r in (*ROLES, *NORMS) if any(matches(model, _patterns(model, r)))]
    return f"role {role!r} matches nothing in this {family(model).name} model. " + (
        f"There is: {', '.join(there)}."
    )


def _site(model: nn.Module, role: str, name: str, module: nn.Module, tensor: str) -> Site:
    if tensor:  # XLNet: [H, heads, head size]; `o` is used the other way round
        width, heads, size = getattr(module, tensor).shape
        turned = tensor == "o"
        fan_in, fan_out = (heads * size, width) if turned else (width, heads * size)
        return Site(role, name, fan_in, fan_out, parameter=tensor)
    fan_in, fan_out = module.weight.shape if is_conv1d(module) else module.weight.shape[::-1]
    if role in QKV and family(model).fused:
        rows = fused_rows(model, QKV.index(role), fan_out)
        return Site(role, name, fan_in, len(rows), rows=rows)
    return Site(role, name, fan_in, fan_out)


def fused_rows(model: nn.Module, part: int, fan_out: int) -> tuple[int, ...]:
    """Return which outputs of a fused map are query (part 0), key (1) or value (2)."""
    third = fan_out // 3
    if family(model).fused == "blocks":
        return tuple(range(part * third, (part + 1) * third))
    size = third // model.config.num_attention_heads  # GPT-NeoX: q, k, v of head 0, of head 1, ...
    return tuple(
        head * 3 * size + part * size + i
        for head in range(model.config.num_attention_heads)
        for i in range(size)
    )


def is_conv1d(module: nn.Module) -> bool:
    """Tell GPT-2's transposed linear map (weight [in, out]) from torch's."""
    return type(module).__name__ == "Conv1D"


def is_bias(name: str) -> bool:
    """Tell whether a parameter's name is that of a bias (XLNet's attention biases included)."""
    return name.endswith("bias")


def biases(model: nn.Module, components: Iterable[str] | None) -> set[str]:
    """Return the names of all of the body's biases, or of those of the named roles.

    Raises:
        AdaptError: a role stands for part of a fused map, whose bias cannot be split.
    """
    prefix = base_prefix(model)
    body = {n for n, _ in model.named_parameters() if n.startswith(prefix) and is_bias(n)}
    if components is None:
        return body
    names: set[str] = set()
    for role in components:
        if role in QKV and family(model).fused and not set(QKV) <= set(components):
            raise AdaptError(
                f"method.components={role}: {family(model).name} keeps query, key and value in "
                "one bias. Choose all three, or all."
            )
        hits = list(matches(model, _patterns(model, role)))
        if not hits and role != "gate":
            raise AdaptError(_no_such_role(model, role))
        names |= {f"{name}.bias" for name, _, tensor in hits if not tensor}
    return names & body


def layer_count(model: nn.Module) -> int:
    """Return the number of layers (of the encoder, where there are two stacks)."""
    if family(model).shared_layers:
        return model.config.num_hidden_layers
    return sum(1 for _ in matches(model, (family(model).layers,)))


def encoder(model: nn.Module) -> nn.Module:
    """Return the part that reads the text: the base model, or the encoder of two stacks."""
    base = model.base_model
    return base.encoder if family(model).encoder_decoder else base


def roles_of(model: nn.Module) -> dict[str, str]:
    """Return for every parameter of the body its role, 'embeddings', 'norms' or 'other'."""
    prefix = base_prefix(model)
    owners = {
        name + ("@" + tensor if tensor else ""): role
        for role in (*ROLES, *NORMS)
        for name, _, tensor in matches(model, _patterns(model, role))
    }
    if family(model).fused:
        owners = {n: "query+key+value" if r in QKV else r for n, r in owners.items()}
    named = [n for n, _ in model.named_parameters() if n.startswith(prefix)]
    return {name: _role(name, owners) for name in named}


def _role(name: str, owners: Mapping[str, str]) -> str:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        owner = ".".join(parts[:end])
        tensor = ".".join(parts[: end - 1]) + "@" + parts[end - 1]
        if owner in owners or tensor in owners:
            role = owners.get(owner) or owners[tensor]
            return "norms" if role in NORMS else role
    if re.search(r"norm|\bln_f\b", name, re.IGNORECASE) and "embed" not in name.lower():
        return "norms"
    is_embedding = re.search(r"embed|\bwte\b|\bwpe\b|shared|relative_attention_bias", name)
    return "embeddings" if is_embedding else "other"
