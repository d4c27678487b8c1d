"""The causal families: one stack, in which a word sees only what stands before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptkit.models.layout import QKV, Family, Patterns, maps, points

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _unless_before(config: PreTrainedConfig) -> bool:
    return not config.do_layer_norm_before  # OPT-350m normalises after the sums


LLAMA: Patterns = {
    **maps("layers.*.self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    "up": ("layers.*.mlp.up_proj",),
    "gate": ("layers.*.mlp.gate_proj",),
    "down": ("layers.*.mlp.down_proj",),
    "attention_norm": ("layers.*.input_layernorm",),
    "ffn_norm": ("layers.*.post_attention_layernorm",),
    **points("layers.*", "self_attn", "mlp"),
}


def _llama(name: str) -> Family:
    return Family(name, LLAMA, "layers.*", ("norm",), cls=None)


DECODERS: dict[str, Family] = {
    "gpt2": Family(
        "GPT-2",
        {
            **{role: ("h.*.attn.c_attn",) for role in QKV},
            "output": ("h.*.attn.c_proj",),
            "up": ("h.*.mlp.c_fc",),
            "down": ("h.*.mlp.c_proj",),
            "attention_norm": ("h.*.ln_1",),
            "ffn_norm": ("h.*.ln_2",),
            **points("h.*", "attn", "mlp"),
        },
        "h.*",
        ("ln_f",),
        fused="blocks",
        cls=None,
    ),
    "opt": Family(
        "OPT",
        {
            **maps("decoder.layers.*.self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
            "up": ("decoder.layers.*.fc1",),
            "down": ("decoder.layers.*.fc2",),
            "attention_norm": ("decoder.layers.*.self_attn_layer_norm",),
            "ffn_norm": ("decoder.layers.*.final_layer_norm",),
            **points("decoder.layers.*", "self_attn", "fc2", "fc1"),
        },
        "decoder.layers.*",
        ("decoder.final_layer_norm", "decoder.project_out"),
        cls=None,
        reader="decoder",  # its language model passes the base model by
        post_norm=_unless_before,
    ),
    "modernbert-decoder": Family(
        "ModernBERT decoder",  # Ettin's
        {
            **maps("layers.*.attn", "q_proj", "k_proj", "v_proj", "Wo"),
            "up": ("layers.*.mlp.Wi",),  # gate and up in one map
            "down": ("layers.*.mlp.Wo",),
            "attention_norm": ("layers.*.attn_norm",),
            "ffn_norm": ("layers.*.mlp_norm",),
            **points("layers.*", "attn", "mlp"),
        },
        "layers.*",
        ("final_norm",),
        cls=None,
    ),
    "llama": _llama("LLaMA"),
    "mistral": _llama("Mistral"),
    "qwen2": _llama("Qwen2"),
    "qwen3": _llama("Qwen3"),
    "smollm3": _llama("SmolLM3"),
    "gemma3_text": Family(
        "Gemma 3",
        {
            **LLAMA,
            "ffn_norm": ("layers.*.pre_feedforward_layernorm",),
            # A norm after each sub-layer is its last step before the residual sum.
            **points("layers.*", "post_attention_layernorm", "post_feedforward_layernorm", "mlp"),
        },
        "layers.*",
        ("norm",),
        cls=None,
    ),
    "gpt_neox": Family(
        "GPT-NeoX",
        {
            **{role: ("layers.*.attention.query_key_value",) for role in QKV},
            "output": ("layers.*.attention.dense",),
            "up": ("layers.*.mlp.dense_h_to_4h",),
            "down": ("layers.*.mlp.dense_4h_to_h",),
            "attention_norm": ("layers.*.input_layernorm",),
            "ffn_norm": ("layers.*.post_attention_layernorm",),
            **points("layers.*", "post_attention_dropout", "post_mlp_dropout", "mlp"),
        },
        "layers.*",
        ("final_layer_norm",),
        fused="heads",
        cls=None,
    ),
}
