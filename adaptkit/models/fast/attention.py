"""Attention with dropout on a CPU: two batched products and a softmax in one autograd node.

torch's fused kernel knows no dropout on a CPU, and takes a slow way instead. Here, for each head,

    P = softmax(s Q K' + M)      O = (P * D) V      D: mask of dropout, M: mask of what is hidden

and backward, from G = dL/dO,

    dV = (P * D)' G      dP = (G V') * D      dS = P * (dP - rowsum(P * dP))
    dQ = s dS K          dK = s dS' Q

A row that sees nothing at all (a query of padding) spreads over everything instead of giving 0;
nothing reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import (
    create_position_bias_mask,
    repeat_kv,
    sdpa_attention_forward,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptkit.models.anatomy import family
from adaptkit.models.attention import route
from adaptkit.models.body import config_of
from adaptkit.models.fast.dropout import fits, mask_of

STOCK, SUFFIX = "sdpa", "_fast"
HIDDEN = -1e4  # added to a score: its share is 0 in fp32


class Attend(torch.autograd.Function):
    """Attention of N = B heads sequences: (Q [N, T, s], K, V [N, S, s]) -> O [N, T, s]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, p: float
    ) -> Tensor:
        """Compute O; `mask` [N, T, S] is added to the scores."""
        if mask is None:
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
        else:
            scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)
        shares = torch.softmax(scores, -1)
        kept = mask_of(shares.shape, p)
        ctx.save_for_backward(q, k, v, shares, kept)
        ctx.scale = scale
        return torch.bmm(shares * kept, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute dQ, dK and dV."""
        q, k, v, shares, kept = ctx.saved_tensors
        need_q, need_k, need_v, *_ = ctx.needs_input_grad
        dq = dk = dv = None
        if need_v:
            dv = torch.bmm((shares * kept).transpose(1, 2), g)
        if need_q or need_k:
            ds = torch.bmm(g, v.transpose(1, 2)).mul_(kept)
            ds = torch._softmax_backward_data(ds, shares, -1, shares.dtype).mul_(ctx.scale)
            dq = torch.bmm(ds, k) if need_q else None
            dk = torch.bmm(ds.transpose(1, 2), q) if need_k else None
        return dq, dk, dv, None, None, None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as `sdpa_attention_forward`, which is called where this kernel does not fit.

    query [B, heads, T, s], key and value [B, G, S, s], mask [B or 1, 1, T, S].
    """
    learnt = position_bias is not None and position_bias.requires_grad
    if learnt or not (
        torch.is_grad_enabled() and fits(query, dropout) and alike(query, key, value)
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias,
            **options,
        )  # fmt: skip
    (batch, heads, length, size), seen = query.shape, key.shape[2]
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = causal and attention_mask is None and length > 1
    if position_bias is not None:
        attention_mask = create_position_bias_mask(
            position_bias, attention_mask, causal, query, key
        )
    elif causal:
        attention_mask = torch.ones(length, seen, dtype=torch.bool).tril()[None, None]
    mask = None
    if attention_mask is not None:
        added = additive(attention_mask, query.dtype)
        mask = added.expand(batch, heads, length, seen).reshape(-1, length, seen)
    flat = [states.reshape(batch * heads, -1, size) for states in (query, key, value)]
    scale = size**-0.5 if scaling is None else scaling
    made = Attend.apply(*flat, mask, scale, dropout)
    return made.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Tell whether the three are in one format and of one width."""
    three = (query, key, value)
    return len({(states.dtype, states.shape[-1]) for states in three}) == 1


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask that is added to the scores."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, HIDDEN)
    return mask.to(dtype).clamp(min=HIDDEN)


def attend_fast(model: nn.Module) -> None:
    """Let the attentions of `model` use this kernel, around which a method may have put its own.

    A family that computes attention in its own way goes on doing so.
    """
    before = config_of(model)._attn_implementation
    if not family(model).attention_function or not (
        before == STOCK or before in ALL_ATTENTION_FUNCTIONS
    ):
        return
    function: Callable[..., Any] = attention
    if before != STOCK:  # a function of a method's: it passes on to the one in `inner`
        function = partial(ALL_ATTENTION_FUNCTIONS[before], inner=attention)
    route(model, before + SUFFIX, function, skip_causal_mask=before == STOCK)
