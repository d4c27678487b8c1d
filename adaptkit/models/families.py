"""The model families as data: encoders and encoder-decoders here, decoders in `decoders.py`.

A new family is one entry, in the words of `layout.py`. No torch at import time.
"""

from __future__ import annotations

from adaptkit.models.decoders import DECODERS, LLAMA
from adaptkit.models.layout import (
    QKV,
    Family,
    Patterns,
    always,
    joined,
    maps,
    past_padding,
    points,
    unlimited,
)


def _bert(names: tuple[str, str, str] = QKV) -> Patterns:
    layer = "encoder.layer.*"
    return {
        **maps(f"{layer}.attention", *(f"self.{name}" for name in names), "output.dense"),
        "up": (f"{layer}.intermediate.dense",),
        "down": (f"{layer}.output.dense",),
        "attention_norm": (f"{layer}.attention.output.LayerNorm",),
        "ffn_norm": (f"{layer}.output.LayerNorm",),
        **points(layer, "attention.output.dropout", "output.dropout", "intermediate"),
    }


_BERT_LAST = ("encoder.layer.*.attention.self", "encoder.layer.*.attention.output")
_ALBERT = "encoder.albert_layer_groups.*.albert_layers.*"
_DISTIL = "transformer.layer.*"
_T5 = ("encoder.block.*.layer.*.SelfAttention", "decoder.block.*.layer.*.SelfAttention",
       "decoder.block.*.layer.*.EncDecAttention")  # fmt: skip
_T5_FFN = ("encoder.block.*.layer.*.DenseReluDense", "decoder.block.*.layer.*.DenseReluDense")
_T5_STACKS = ("encoder.block.*.layer", "decoder.block.*.layer")
_BART = ("encoder.layers.*.self_attn", "decoder.layers.*.self_attn",
         "decoder.layers.*.encoder_attn")  # fmt: skip
_BART_LAYERS = ("encoder.layers.*", "decoder.layers.*")


def _roberta(name: str) -> Family:
    return Family(
        name, _bert(), "encoder.layer.*", ("pooler",), positions=past_padding, post_norm=always,
        last_attention=_BERT_LAST,
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    **DECODERS,
    "bert": Family(
        "BERT",
        _bert(),
        "encoder.layer.*",
        ("pooler",),
        post_norm=always,
        last_attention=_BERT_LAST,
    ),
    "electra": Family(
        "ELECTRA", _bert(), "encoder.layer.*", post_norm=always, last_attention=_BERT_LAST
    ),
    "roberta": _roberta("RoBERTa"),
    "xlm-roberta": _roberta("XLM-RoBERTa"),
    "camembert": _roberta("CamemBERT"),
    "deberta-v2": Family(
        "DeBERTa-v2/v3",
        _bert(names=("query_proj", "key_proj", "value_proj")),
        "encoder.layer.*",
        post_norm=always,
        attention_function=False,
    ),
    "albert": Family(
        "ALBERT",
        {
            **maps(f"{_ALBERT}.attention", "query", "key", "value", "dense"),
            "up": (f"{_ALBERT}.ffn",),
            "down": (f"{_ALBERT}.ffn_output",),
            "attention_norm": (f"{_ALBERT}.attention.LayerNorm",),
            "ffn_norm": (f"{_ALBERT}.full_layer_layer_norm",),
            **points(_ALBERT, "attention.output_dropout", "ffn_output", "ffn"),
        },
        _ALBERT,
        post_norm=always,
        shared_layers=True,
    ),
    "distilbert": Family(
        "DistilBERT",
        {
            **maps(f"{_DISTIL}.attention", "q_lin", "k_lin", "v_lin", "out_lin"),
            "up": (f"{_DISTIL}.ffn.lin1",),
            "down": (f"{_DISTIL}.ffn.lin2",),
            "attention_norm": (f"{_DISTIL}.sa_layer_norm",),
            "ffn_norm": (f"{_DISTIL}.output_layer_norm",),
            **points(_DISTIL, "attention", "ffn"),
        },
        _DISTIL,
        post_norm=always,
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
            **points("layers.*", "attn", "mlp"),
        },
        "layers.*",
        ("final_norm",),
        fused="blocks",
    ),
    "eurobert": Family("EuroBERT", LLAMA, "layers.*", ("norm",)),
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
            **points("layer.*", "rel_attn.dropout", "ff.layer_2", "ff"),
        },
        "layer.*",
        padding="left",
        cls="last",
        positions=unlimited,
        post_norm=always,
        attention_function=False,
    ),
    "t5": Family(
        "T5",
        {
            **maps(_T5, "q", "k", "v", "o"),
            "up": joined(_T5_FFN, "wi", "wi_1"),
            "gate": joined(_T5_FFN, "wi_0"),
            "down": joined(_T5_FFN, "wo"),
            "attention_norm": (
                "encoder.block.*.layer.0.layer_norm",
                "decoder.block.*.layer.0.layer_norm",
                "decoder.block.*.layer.1.layer_norm",
            ),
            "ffn_norm": (
                "encoder.block.*.layer.1.layer_norm",
                "decoder.block.*.layer.2.layer_norm",
            ),
            "after_attention": joined(_T5_STACKS, "0.dropout"),  # not after cross-attention
            "after_ffn": ("encoder.block.*.layer.1.dropout", "decoder.block.*.layer.2.dropout"),
            "before_ffn": _T5_FFN,
        },
        "encoder.block.*",
        ("encoder.final_layer_norm", "decoder.final_layer_norm"),
        cls=None,
        positions=unlimited,
        encoder_decoder=True,
        reader="encoder",
    ),
    "bart": Family(
        "BART",
        {
            **maps(_BART, "q_proj", "k_proj", "v_proj", "out_proj"),
            "up": joined(_BART_LAYERS, "fc1"),
            "down": joined(_BART_LAYERS, "fc2"),
            "attention_norm": (
                *joined(_BART_LAYERS, "self_attn_layer_norm"),
                "decoder.layers.*.encoder_attn_layer_norm",
            ),
            "ffn_norm": joined(_BART_LAYERS, "final_layer_norm"),
            **points(_BART_LAYERS, "self_attn", "fc2", "fc1"),
        },
        "encoder.layers.*",
        post_norm=always,
        encoder_decoder=True,
        reader="encoder",
    ),
}
