"""The attentions of a body, and the function through which transformers computes them.

Most families look their attention function up by name (`ALL_ATTENTION_FUNCTIONS`), and build the
mask by a function of the same name. A function registered under both sees every query, key and
value of the model without a line of its code being changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import encoder, family, matches, sites

KINDS = ("encoder", "decoder", "cross")  # of two stacks, in the order of their patterns
LISTEN = "adaptkit_listen"


@dataclass(frozen=True)
class Attention:
    """One attention of the body."""

    kind: str  # "self"; "encoder", "decoder" or "cross" where there are two stacks
    module: str  # full name in the task's model
    fan_in: int  # width of the states that its keys are made of
    width: int  # of a key, all key-value heads together


def attentions(model: nn.Module) -> list[Attention]:
    """Return every attention of the body, by kind, each kind in the model's order.

    Raises:
        AdaptError: this family does not look its attention function up by name.
    """
    kind = family(model)
    if not kind.attention_function:
        raise AdaptError(
            f"{kind.name} models compute attention in a way of their own, where no keys and values "
            "can be put in front. Choose a method that changes maps or biases, such as lora."
        )
    keys = {site.module: site for site in sites(model, ("key",))}
    patterns = kind.parts["key"]
    return [
        Attention(name, module.rpartition(".")[0], keys[module].fan_in, keys[module].fan_out)
        for name, pattern in zip(KINDS if len(patterns) > 1 else ("self",), patterns, strict=True)
        for module, _, _ in matches(model, (pattern,))
    ]


def stack(model: nn.Module, kind: str) -> nn.Module:
    """Return the module whose forward pass runs all attentions of a kind."""
    return model.base_model.decoder if kind in ("decoder", "cross") else encoder(model)


def route(model: nn.Module, name: str, function: Callable, skip_causal_mask: bool) -> None:
    """Let all attentions of `model` run through `function`, registered as `name`.

    `skip_causal_mask`: the mask may be left out where it says no more than "causal".
    """

    def mask(*args: Any, **options: Any) -> Tensor | None:
        return sdpa_mask(*args, **options if skip_causal_mask else options | NEVER_SKIP)

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)
    model.set_attn_implementation(name)


NEVER_SKIP = {"allow_is_causal_skip": False}


@torch.no_grad()
def keys_and_values(model: nn.Module, ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Run the body on ids [T]; return what each attention attends to: keys and values [T, width].

    By the attention's name, as they enter it (positions rotated in), fp32. A decoder of two stacks
    reads the same ids after its start token, which is left out of what is returned. An attention
    that serves several layers (ALBERT) keeps those of the last.
    """
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def listen(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *a: Any, **o: Any):
        found[module] = key[0], value[0]  # [heads, T, size]
        return sdpa_attention_forward(module, query, key, value, *a, **o)

    base, training = model.base_model, model.training
    before = model.config._attn_implementation
    route(model, LISTEN, listen, skip_causal_mask=True)
    inputs = {"input_ids": ids[None]}
    if family(model).encoder_decoder:
        start = ids.new_tensor([model.config.decoder_start_token_id])
        inputs["decoder_input_ids"] = torch.cat([start, ids])[None]
    base.eval()
    base(**inputs)
    base.train(training)
    model.set_attn_implementation(before)
    return {
        attention.module: tuple(
            states[:, -len(ids) :].transpose(0, 1).flatten(1).float()
            for states in found[model.get_submodule(attention.module)]
        )
        for attention in attentions(model)
    }


def recomputes_reentrantly(model: nn.Module) -> bool:
    """Tell whether layers are checkpointed in the way that runs them without gradients first."""
    return any(
        getattr(module, "gradient_checkpointing", False)
        and module._gradient_checkpointing_func.keywords.get("use_reentrant", True)
        for module in model.modules()
    )
