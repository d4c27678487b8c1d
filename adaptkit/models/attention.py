"""The attentions of a body, and the function through which transformers computes them.

Most families look their attention function up by name (`ALL_ATTENTION_FUNCTIONS`), and build the
mask by a function of the same name. A function registered under both sees every query, key and
value of the model without a line of its code being changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import family, matches, reader, sites
from adaptkit.models.body import base_of, config_of

KINDS = ("encoder", "decoder", "cross")  # of two stacks, in the order of their patterns
LISTEN, KNOWN = "adaptkit_listen", "adaptkit_sdpa"
HIDES: ContextVar[bool | None] = ContextVar("HIDES", default=None)


@dataclass(frozen=True)
class Attention:
    """One attention of the body."""

    kind: str  # "self"; "encoder", "decoder" or "cross" if there are two stacks
    module: str  # full name in the task's model
    fan_in: int  # width of the states that its keys are made of
    width: int  # of a key, all key-value heads together


def attentions(model: nn.Module) -> list[Attention]:
    """Return every attention of the body, by kind, each kind in the model's order.

    Raises:
        AdaptError: this family does not look its attention function up by name.
    """
    check_replaceable(model)
    keys = {site.module: site for site in sites(model, ("key",))}
    patterns = family(model).parts["key"]
    kinds = KINDS if len(patterns) > 1 else ("self",)
    return [
        Attention(kind, name.rpartition(".")[0], keys[name].fan_in, keys[name].fan_out)
        for kind, pattern in zip(kinds, patterns, strict=True)
        for name, _, _ in matches(model, (pattern,))
    ]


def check_replaceable(model: nn.Module) -> None:
    """Reject a family whose attention function cannot be replaced.

    Raises:
        AdaptError: this family does not look its attention function up by name.
    """
    if not family(model).attention_function:
        raise AdaptError(
            f"{family(model).name} models compute attention in their own way, so no keys and "
            "values can be put in front. Choose a method that changes maps or biases, such as "
            "lora."
        )


def stack(model: nn.Module, kind: str) -> nn.Module:
    """Return the module whose forward pass runs all attentions of a kind."""
    if kind in ("decoder", "cross"):
        return base_of(model).get_submodule("decoder")
    return reader(model)  # OPT's language model passes its base model by


def route(
    model: nn.Module, name: str, function: Callable[..., Any], skip_causal_mask: bool
) -> None:
    """Let all attentions of `model` run through `function`, registered as `name`.

    Their masks are made as `known_masks` says. skip_causal_mask: the mask may be left out when it
    says no more than "causal".
    """

    def mask(attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        if not skip_causal_mask:
            options["allow_is_causal_skip"] = False
        hides = None if torch.compiler.is_compiling() else HIDES.get()
        if hides:  # it is needed whatever its values are
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(attention_mask=None if hides is False else attention_mask, **options)

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)
    cast(PreTrainedModel, model).set_attn_implementation(name)


@contextmanager
def known_masks(hides: bool | None) -> Iterator[None]:
    """Say of a batch whether any of its masks hides anything; None: that is not known.

    transformers would read the values, and wait for all that a GPU has to do, in every step.
    """
    before = HIDES.set(hides)
    try:
        yield
    finally:
        HIDES.reset(before)


def heed_known_masks(model: nn.Module) -> None:
    """Let torch's attention in `model` heed `known_masks`; what `route` has replaced does already.

    A family that computes attention in its own way reads nothing.
    """
    if family(model).attention_function and config_of(model)._attn_implementation == "sdpa":
        route(model, KNOWN, sdpa_attention_forward, skip_causal_mask=True)


@torch.no_grad()
def keys_and_values(model: nn.Module, ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Run the body on ids [T]; return the keys and values [T, width] of each attention.

    By the attention's name, as they enter it (positions rotated in), fp32. A decoder of two stacks
    reads the same ids after its start token, whose key and value are left out. An attention that
    serves several layers (ALBERT) keeps those of the last.
    """
    heard: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def listen(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
    ) -> tuple[Tensor, None]:
        heard[module] = key[0], value[0]  # [heads, T, size]
        return sdpa_attention_forward(module, query, key, value, *rest, **options)

    base, training, config = base_of(model), model.training, config_of(model)
    before = config._attn_implementation
    route(model, LISTEN, listen, skip_causal_mask=True)
    inputs = {"input_ids": ids[None]}
    if family(model).encoder_decoder:
        start = ids.new_tensor([config.decoder_start_token_id])
        inputs["decoder_input_ids"] = torch.cat([start, ids])[None]
    base.eval()
    base(**inputs)
    base.train(training)
    cast(PreTrainedModel, model).set_attn_implementation(before)

    def flatten(states: Tensor) -> Tensor:  # [heads, T, size] -> [T, width]
        return states[:, -len(ids) :].transpose(0, 1).flatten(1).float()

    pairs = {a.module: heard[model.get_submodule(a.module)] for a in attentions(model)}
    return {name: (flatten(keys), flatten(values)) for name, (keys, values) in pairs.items()}


def recomputes_reentrantly(model: nn.Module) -> bool:
    """Tell whether layers are checkpointed in the way that runs them without gradients first."""
    return any(
        getattr(module, "gradient_checkpointing", False)
        and cast(Any, module)._gradient_checkpointing_func.keywords.get("use_reentrant", True)
        for module in model.modules()
    )
