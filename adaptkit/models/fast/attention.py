"""Attention with dropout on a CPU: two batched products and a softmax in one autograd node.

torch's fused kernel knows no dropout on a CPU, and takes a slow way instead. Here, for each head,

    P = softmax(s Q K' + M)      O = (P * D) V      D: mask of dropout, M: mask of what is hidden

and backward, from G = dL/dO,

    dV = (P * D)' G      dP = (G V') * D      dS = P * (dP - rowsum(P * dP))
    dQ = s dS K          dK = s dS' Q

Rows of P are filled up to whole vectors (VECTOR numbers) with hidden places, whose share is 0: a
softmax over 26 numbers takes four times as long as one over 32. Scores are rounded to bf16, as in
transformers' eager attention. A row that sees nothing at all (a query of padding) spreads over
everything instead of giving 0; nothing reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
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
from adaptkit.models.fast.reading import ONLY_FIRST

STOCK, SUFFIX = "sdpa", "_fast"
HIDDEN = -1e4  # added to a score: its share is 0 in fp32
VECTOR = 32  # bf16 numbers of 512 bits
UNKNOWN = ("softcap", "s_aux")  # what other attentions compute besides
ADDED = "_adaptkit_added"  # attribute of a mask: what is added to the scores, for all layers


class Attend(torch.autograd.Function):
    """Attention of N = B heads sequences: (Q [N, T, s], K, V [N, S, s]) -> O [N, T, s]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, p: float
    ) -> Tensor:
        """Compute O; `mask` [N, T, S filled up] is added to the scores."""
        ctx.seen, ctx.scale = k.shape[1], scale
        k = filled(k, mask.shape[-1])
        shares = torch.softmax(torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale), -1)
        kept = mask_of(torch.Size((*shares.shape[:-1], ctx.seen)), p)
        ctx.save_for_backward(q, k, v, shares, kept)
        return torch.bmm(shares[..., : ctx.seen] * kept, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute dQ, dK and dV."""
        q, k, v, shares, kept = ctx.saved_tensors
        need_q, need_k, need_v, *_ = ctx.needs_input_grad
        dq = dk = dv = None
        if need_v:
            dv = torch.bmm((shares[..., : ctx.seen] * kept).transpose(1, 2), g)
        if need_q or need_k:
            ds = torch.bmm(g, filled(v, k.shape[1]).transpose(1, 2))
            ds[..., : ctx.seen].mul_(kept)
            ds = torch._softmax_backward_data(ds, shares, -1, shares.dtype).mul_(ctx.scale)
            dq = torch.bmm(ds, k) if need_q else None
            dk = torch.bmm(ds.transpose(1, 2), q)[:, : ctx.seen] if need_k else None
        return dq, dk, dv, None, None, None


def filled(states: Tensor, length: int) -> Tensor:
    """Fill states [N, S, s] up to a length with zeros."""
    missing = length - states.shape[1]
    return F.pad(states, (0, 0, 0, missing)) if missing else states


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
    # T5 lets the zeros of cross-attention require gradients when layers are recomputed
    learnt = position_bias is not None and position_bias.grad_fn is not None
    other = learnt or any(options.get(name) is not None for name in UNKNOWN)
    if other or not (fits(query, dropout) and alike(query, key, value)):
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
            position_bias.detach(), attention_mask, causal, query, key
        )
    elif attention_mask is None:
        visible = torch.ones(length, seen, dtype=torch.bool)
        attention_mask = (visible.tril() if causal else visible)[None, None]
    if first := getattr(module, ONLY_FIRST, False):
        query, attention_mask = query[:, :, :1], attention_mask[:, :, :1]
    mask = additive(attention_mask, (batch, heads, query.shape[2], seen), query.dtype)
    flat = [states.reshape(batch * heads, -1, size) for states in (query, key, value)]
    scale = size**-0.5 if scaling is None else scaling
    made = Attend.apply(*flat, mask, scale, dropout).view(batch, heads, -1, size).transpose(1, 2)
    return made.expand(-1, length, -1, -1) if first else made.contiguous(), None


def alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Tell whether the three are in one format and of one width."""
    three = (query, key, value)
    return len({(states.dtype, states.shape[-1]) for states in three}) == 1


def additive(mask: Tensor, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores, [B heads, T, S filled up], made once for all layers."""
    made = getattr(mask, ADDED, None)
    if made is None or (made.dtype, made.shape[:2]) != (dtype, (shape[0] * shape[1], shape[2])):
        if mask.dtype == torch.bool:
            added = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, HIDDEN)
        else:
            added = mask.to(dtype).clamp(min=HIDDEN)
        added = F.pad(added, (0, -shape[-1] % VECTOR), value=HIDDEN)
        made = added.expand(*shape[:3], -1).reshape(-1, shape[2], added.shape[-1])
        setattr(mask, ADDED, made)
    return made


def attend_fast(model: nn.Module) -> None:
    """Let the attentions of `model` use this kernel, around which a method may have put its own.

    A family that computes attention in its own way goes on doing so.
    """
    before = config_of(model)._attn_implementation
    function: Callable[..., Any] | None = attention
    if before != STOCK:  # a function of a method's passes on to the one in `inner`
        outer = ALL_ATTENTION_FUNCTIONS.get(before)
        function = None
        if outer is not None and "inner" in inspect.signature(outer).parameters:
            function = partial(outer, inner=attention)
    if function is not None and family(model).attention_function:
        route(model, before + SUFFIX, function, skip_causal_mask=before == STOCK)
