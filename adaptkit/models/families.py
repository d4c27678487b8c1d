"""The model families as data: where query, value, feed-forward maps and norms are.

A pattern names modules below the base model; `*` stands for one dotted word, `module@tensor` for a
bare parameter. A new family is one entry here. No torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ROLES = ("query", "key", "value", "output", "up", "gate", "down")  # linear maps of a layer
NORMS = ("attention_norm", "ffn_norm")
# Modules whose output (input, for the last) is that of a sub-layer, before the residual sum.
POINTS = ("after_attention", "after_ffn", "before_ffn")
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
    post_norm: Callable[[Any], bool] = lambda config: False  # norms stand after residual sums
    shared_layers: bool = False  # one set of weights serves all layers
    encoder_decoder: bool = False
    reader: str = ""  # the part below the base model that every task's class gives the words to
    attention_function: bool = True  # transformers looks it up by name, so it can be replaced


def _bert(attention: str = "attention.self", names: tuple[str, str, str] = QKV) -> dict:
    layer = "encoder.layer.*"
    maps = {role: (f"{layer}.{attention}.{name}",) for role, name in zip(QKV, names, strict=True)}
    return maps | {
        "output": (f"{layer}.attention.output.dense",),
        "up": (f"{layer}.intermediate.dense",),
        "down": (f"{layer}.output.dense",),
        "attention_norm": (f"{layer}.attention.output.LayerNorm",),
        "ffn_norm": (f"{layer}.output.LayerNorm",),
        **_points(layer, "attention.output.dropout", "output.dropout", "intermediate"),
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
        **_points("layers.*", "self_attn", "mlp"),
    }


_ALBERT = "encoder.albert_layer_groups.*.albert_layers.*"
_DISTIL = "transformer.layer.*"
_T5 = ("encoder.block.*.layer.*.SelfAttention", "decoder.block.*.layer.*.SelfAttention",
       "decoder.block.*.layer.*.EncDecAttention")  # fmt: skip
_T5_FFN = ("encoder.block.*.layer.*.DenseReluDense", "decoder.block.*.layer.*.DenseReluDense")
_T5_STACKS = ("encoder.block.*.layer", "decoder.block.*.layer")
_BART = (
    "encoder.layers.*.self_attn",
    "decoder.layers.*.self_attn",
    "decoder.layers.*.encoder_attn",
)
_BART_LAYERS = ("encoder.layers.*", "decoder.layers.*")


def _points(
    stems: str | tuple[str, ...], attention: str, ffn: str, ffn_input: str = ""
) -> dict[str, tuple[str, ...]]:
    """Patterns of POINTS; where one module is the whole feed-forward part, it takes the input."""
    stems = (stems,) if isinstance(stems, str) else stems
    leaves = zip(POINTS, (attention, ffn, ffn_input or ffn), strict=True)
    return {role: _each(stems, leaf) for role, leaf in leaves}


def _each(stems: Iterable[str], *leaves: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{leaf}" for stem in stems for leaf in leaves)


def _past_padding(config: Any) -> int:
    # RoBERTa numbers positions from padding_idx + 1.
    return config.max_position_embeddings - (config.pad_token_id or 0) - 1


def _unlimited(config: Any) -> None:
    return None


def _always(config: Any) -> bool:
    return True


_ROBERTA = {
    "parts": _bert(), "layers": "encoder.layer.*", "positions": _past_padding,
    "post_norm": _always,
}  # fmt: skip
_LLAMA = {"parts": _llama(), "layers": "layers.*", "cls": None}

FAMILIES: dict[str, Family] = {
    "bert": Family("BERT", _bert(), "encoder.layer.*", post_norm=_always),
    "electra": Family("ELECTRA", _bert(), "encoder.layer.*", post_norm=_always),
    "roberta": Family("RoBERTa", **_ROBERTA),
    "xlm-roberta": Family("XLM-RoBERTa", **_ROBERTA),
    "camembert": Family("CamemBERT", **_ROBERTA),
    "deberta-v2": Family(
        "DeBERTa-v2/v3",
        _bert(names=("query_proj", "key_proj", "value_proj")),
        "encoder.layer.*",
        post_norm=_always,
        attention_function=False,
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
            **_points(_ALBERT, "attention.output_dropout", "ffn_output", "ffn"),
        },
        _ALBERT,
        post_norm=_always,
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
            **_points(_DISTIL, "attention", "ffn"),
        },
        _DISTIL,
        post_norm=_always,
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
            **_points("layers.*", "attn", "mlp"),
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
            # That dropout is given attention weights as well: four dimensions.
            **_points("layer.*", "rel_attn.dropout", "ff.layer_2", "ff"),
        },
        "layer.*",
        padding="left",
        cls="last",
        positions=_unlimited,
        post_norm=_always,
        attention_function=False,
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
            **_points("h.*", "attn", "mlp"),
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
            **_points("decoder.layers.*", "self_attn", "fc2", "fc1"),
        },
        "decoder.layers.*",
        cls=None,
        reader="decoder",  # its language model passes the base model by
        post_norm=lambda config: not config.do_layer_norm_before,  # OPT-350m
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
            **_points("layers.*", "post_attention_dropout", "post_mlp_dropout", "mlp"),
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
            "after_attention": _each(_T5_STACKS, "0.dropout"),  # not after cross-attention
            "after_ffn": ("encoder.block.*.layer.1.dropout", "decoder.block.*.layer.2.dropout"),
            "before_ffn": _T5_FFN,
        },
        "encoder.block.*",
        cls=None,
        positions=_unlimited,
        encoder_decoder=True,
        reader="encoder",
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
            **_points(_BART_LAYERS, "self_attn", "fc2", "fc1"),
        },
        "encoder.layers.*",
        post_norm=_always,
        encoder_decoder=True,
        reader="encoder",
    ),
}
