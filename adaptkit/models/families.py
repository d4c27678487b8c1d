"""The model families as data: the names of query, value, feed-forward maps and norms.

A pattern names modules below the base model; `*` stands for one dotted word, `module@tensor` for a
bare parameter. A new family is one entry here. No torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Patterns = Mapping[str, tuple[str, ...]]  # role -> patterns; "module@parameter" for bare tensors

ROLES = ("query", "key", "value", "output", "up", "gate", "down")  # linear maps of a layer
NORMS = ("attention_norm", "ffn_norm")
# Modules whose output (input, for the last) is that of a sub-layer, before the residual sum.
POINTS = ("after_attention", "after_ffn", "before_ffn")
FFN, QKV = ("up", "gate", "down"), ("query", "key", "value")


def _longest(config: PreTrainedConfig) -> int | None:
    return config.max_position_embeddings


def past_padding(config: PreTrainedConfig) -> int | None:
    """Return the longest input of RoBERTa, which numbers positions from padding_idx + 1."""
    return config.max_position_embeddings - (config.pad_token_id or 0) - 1


def _unlimited(_: PreTrainedConfig) -> None:
    return None


def _always(config: PreTrainedConfig) -> bool:
    return True


def _unless_before(config: PreTrainedConfig) -> bool:
    return not config.do_layer_norm_before  # OPT-350m normalises after the sums


@dataclass(frozen=True)
class Family:
    """One architecture: its name, its parts, and how it reads positions and padding."""

    name: str
    parts: Patterns
    layers: str  # pattern of one layer (of the encoder, if there are two stacks)
    fused: Literal["", "blocks", "heads"] = ""  # query, key and value in one map, how arranged
    padding: Literal["right", "left"] = "right"  # on which side the classifier expects padding
    cls: Literal["first", "last"] | None = "first"  # which token was trained to sum up the text
    positions: Callable[[PreTrainedConfig], int | None] = _longest  # longest input; None: no limit
    post_norm: Callable[[PreTrainedConfig], bool] = lambda _: (
        False
    )  # norms stand after residual sums
    shared_layers: bool = False  # one set of weights serves all layers
    encoder_decoder: bool = False
    reader: str = ""  # the part below the base model that every task's class gives the words to
    attention_function: bool = True  # transformers looks it up by name, so it can be replaced

    @property
    def causal(self) -> bool:
        """True if a word sees only what stands before it, in all of the model."""
        return self.cls is None and not self.encoder_decoder


def _bert(names: tuple[str, str, str] = QKV) -> Patterns:
    layer = "encoder.layer.*"
    return {
        **_maps(f"{layer}.attention", *(f"self.{name}" for name in names), "output.dense"),
        "up": (f"{layer}.intermediate.dense",),
        "down": (f"{layer}.output.dense",),
        "attention_norm": (f"{layer}.attention.output.LayerNorm",),
        "ffn_norm": (f"{layer}.output.LayerNorm",),
        **_points(layer, "attention.output.dropout", "output.dropout", "intermediate"),
    }


_ALBERT = "encoder.albert_layer_groups.*.albert_layers.*"
_DISTIL = "transformer.layer.*"
_T5 = ("encoder.block.*.layer.*.SelfAttention", "decoder.block.*.layer.*.SelfAttention",
       "decoder.block.*.layer.*.EncDecAttention")  # fmt: skip
_T5_FFN = ("encoder.block.*.layer.*.DenseReluDense", "decoder.block.*.layer.*.DenseReluDense")
_T5_STACKS = ("encoder.block.*.layer", "decoder.block.*.layer")
_BART = ("encoder.layers.*.self_attn", "decoder.layers.*.self_attn",
         "decoder.layers.*.encoder_attn")  # fmt: skip
_BART_LAYERS = ("encoder.layers.*", "decoder.layers.*")


def _points(
    stems: str | tuple[str, ...], attention: str, ffn: str, ffn_input: str = ""
) -> Patterns:
    """Patterns of POINTS; a module that is the whole feed-forward part takes the input as well."""
    leaves = zip(POINTS, (attention, ffn, ffn_input or ffn), strict=True)
    return {role: _each(stems, leaf) for role, leaf in leaves}


def _maps(stems: str | tuple[str, ...], *leaves: str) -> Patterns:
    """Patterns of an attention's four maps, in the order of ROLES."""
    return {role: _each(stems, leaf) for role, leaf in zip(ROLES[:4], leaves, strict=True)}


def _each(stems: str | tuple[str, ...], *leaves: str) -> tuple[str, ...]:
    stems = (stems,) if isinstance(stems, str) else stems
    return tuple(f"{stem}.{leaf}" for stem in stems for leaf in leaves)


_LLAMA: Patterns = {
    **_maps("layers.*.self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    "up": ("layers.*.mlp.up_proj",),
    "gate": ("layers.*.mlp.gate_proj",),
    "down": ("layers.*.mlp.down_proj",),
    "attention_norm": ("layers.*.input_layernorm",),
    "ffn_norm": ("layers.*.post_attention_layernorm",),
    **_points("layers.*", "self_attn", "mlp"),
}


def _roberta(name: str) -> Family:
    return Family(name, _bert(), "encoder.layer.*", positions=past_padding, post_norm=_always)


def _llama(name: str) -> Family:
    return Family(name, _LLAMA, "layers.*", cls=None)


FAMILIES: dict[str, Family] = {
    "bert": Family("BERT", _bert(), "encoder.layer.*", post_norm=_always),
    "electra": Family("ELECTRA", _bert(), "encoder.layer.*", post_norm=_always),
    "roberta": _roberta("RoBERTa"),
    "xlm-roberta": _roberta("XLM-RoBERTa"),
    "camembert": _roberta("CamemBERT"),
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
            **_maps(f"{_ALBERT}.attention", "query", "key", "value", "dense"),
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
            **_maps(f"{_DISTIL}.attention", "q_lin", "k_lin", "v_lin", "out_lin"),
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
            **_maps("decoder.layers.*.self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
            "up": ("decoder.layers.*.fc1",),
            "down": ("decoder.layers.*.fc2",),
            "attention_norm": ("decoder.layers.*.self_attn_layer_norm",),
            "ffn_norm": ("decoder.layers.*.final_layer_norm",),
            **_points("decoder.layers.*", "self_attn", "fc2", "fc1"),
        },
        "decoder.layers.*",
        cls=None,
        reader="decoder",  # its language model passes the base model by
        post_norm=_unless_before,
    ),
    "llama": _llama("LLaMA"),
    "mistral": _llama("Mistral"),
    "qwen2": _llama("Qwen2"),
    "qwen3": _llama("Qwen3"),
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
            **_maps(_T5, "q", "k", "v", "o"),
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
            **_maps(_BART, "q_proj", "k_proj", "v_proj", "out_proj"),
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
