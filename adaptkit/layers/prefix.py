"""Learnt keys and values in front of those of every attention (Li & Liang 2021, arXiv:2101.00190).

    softmax(q [P_K; K]^T / sqrt(s)) [P_V; V],   P_K, P_V [P, G s],   G key-value heads of size s

Every query sees the whole prefix: padding, causality and sliding windows concern the text alone.
Nothing is shifted: the text keeps its positions, prefix keys are not rotated, and T5's bias of
relative positions is 0 for them. Reparametrised, one MLP per kind of attention yields all layers'

    [P_K; P_V] of each layer = W_up tanh(W_down E + b_down) + b_up,   E [P, d], W_down [m, d]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError
from adaptkit.models.attention import Attention, attentions, recomputes_reentrantly, route, stack

NAME = "adaptkit_prefix"  # of the attention function
Pairs = Mapping[str, tuple[Tensor, Tensor]]  # attention's name -> keys, values [P, width]


class Prefix(nn.Module):
    """The keys and values of one attention, in one of three forms.

    Learnt directly (parameters `keys` and `values`), given anew for every forward pass by an MLP,
    or fixed by what the MLP was at last (buffers `delta_keys` and `delta_values`).
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.given: tuple[Tensor, Tensor] | None = None

    def learn(self, keys: Tensor, values: Tensor) -> None:
        """Make keys and values [P, width] parameters."""
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    def fix(self, keys: Tensor, values: Tensor) -> None:
        """Make keys and values [P, width] buffers that are saved."""
        self.given = None
        self.register_buffer("delta_keys", keys)
        self.register_buffer("delta_values", values)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return keys and values [P, width]."""
        if self.given is not None:
            return self.given
        if "delta_keys" in self._buffers:
            return self.delta_keys, self.delta_values
        dropped = (F.dropout(t, self.dropout, self.training) for t in (self.keys, self.values))
        return tuple(dropped)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one forward pass: its graph cannot be copied."""
        return {**self.__dict__, "given": None}


class Reparametrisation(nn.Module):
    """The MLP from E [P, d] to the keys and values [P, width] of `prefixes`, for training only.

    E starts N(0, 1), the maps uniform within 1 / sqrt(fan in), as in the authors' code. It runs
    once per forward pass of `stack` and in fp32, so that what `fix` keeps is the same function.
    """

    def __init__(
        self,
        targets: Sequence[Attention],
        prefixes: Sequence[Prefix],
        shape: tuple[int, int],  # P, m
        dropout: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        (length, hidden), fan_in = shape, targets[0].fan_in
        self.prefixes = tuple(prefixes)  # in a tuple: they are modules of their attentions
        self.widths = [target.width for target in targets for _ in ("keys", "values")]
        self.dropout = dropout
        start = torch.randn(length, fan_in, generator=generator)
        self.embedding = nn.Parameter(start.to(device))
        self.down = drawn_linear(fan_in, hidden, generator, device)
        self.up = drawn_linear(hidden, sum(self.widths), generator, device)

    def forward(self) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values [P, width] of every attention."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            both = self.up(torch.tanh(self.down(self.embedding)))
        parts = F.dropout(both, self.dropout, self.training).split(self.widths, dim=1)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def give(self, stack: nn.Module, inputs: Any) -> None:
        """Compute the prefixes of this forward pass: a hook before `stack`."""
        for prefix, pair in zip(self.prefixes, self(), strict=True):
            prefix.given = pair

    @torch.no_grad()
    def fit(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let the MLP start at given keys and values.

        The smallest change of W_up that does so, by least squares, E and the rest as drawn (the
        authors take 500 steps of Adam on the same loss). Exact for P <= m.
        """
        goal = torch.cat([tensor for pair in pairs for tensor in pair], dim=1)
        goal = goal.to(self.embedding.device)
        inner = torch.tanh(self.down(self.embedding))
        missing = goal - self.up(inner)
        self.up.weight += (torch.linalg.pinv(inner) @ missing).T

    @torch.no_grad()
    def fix(self) -> None:
        """Leave the prefixes with what they are now."""
        self.eval()
        for prefix, (keys, values) in zip(self.prefixes, self(), strict=True):
            prefix.fix(keys.clone(), values.clone())


def drawn_linear(
    fan_in: int, fan_out: int, generator: torch.Generator, device: torch.device
) -> nn.Linear:
    """Return a map with torch's default start, drawn from `generator`."""
    linear, bound = nn.Linear(fan_in, fan_out, device="meta"), 1 / math.sqrt(fan_in)
    for name, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
        start = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        setattr(linear, name, nn.Parameter(start.to(device)))
    return linear


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with the prefix of `module` in front.

    query [B, heads, T, s], key and value [B, G, S, s], mask [B, 1, T, S] (boolean, or added to the
    scores), position_bias [1, heads, T, S].
    """
    keys, values = module.prefix()
    causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is None and causal and query.shape[2] > 1:
        # With more keys than queries the stock function would take "causal" from the first key on.
        attention_mask = causal_mask(query.shape[2], key.shape[2], key.device)
    length = len(keys)
    if attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = F.pad(attention_mask, (length, 0), value=visible)
    if position_bias is not None:
        position_bias = F.pad(position_bias, (length, 0))
    return sdpa_attention_forward(
        module, query, in_front(keys, key), in_front(values, value), attention_mask,
        is_causal=False, position_bias=position_bias, **options,
    )  # fmt: skip


def in_front(prefix: Tensor, states: Tensor) -> Tensor:
    """Put prefix [P, G s] before states [B, G, S, s], in their format."""
    batch, heads, _, size = states.shape
    split = prefix.to(states.dtype).view(-1, heads, size).transpose(0, 1)
    return torch.cat([split.expand(batch, -1, -1, -1), states], dim=2)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return the boolean mask [1, 1, T, S] under which the last query sees every key."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(keys - queries)[None, None]


def install(model: nn.Module, dropout: float) -> dict[Attention, Prefix]:
    """Give every attention of `model` an empty prefix and let them run through `attend`.

    Raises:
        AdaptError: the family computes attention in its own way, or there is a prefix already.
    """
    found: dict[Attention, Prefix] = {}
    for attention in attentions(model):
        module = model.get_submodule(attention.module)
        if "prefix" in module._modules:
            raise AdaptError(f"{attention.module} has a prefix already: use one prefix method.")
        module.prefix = found[attention] = Prefix(dropout)
    for kind in {attention.kind: None for attention in found}:
        stack(model, kind).register_forward_pre_hook(refuse_reentrant)
    route(model, NAME, attend, skip_causal_mask=False)
    return found


def refuse_reentrant(stack: nn.Module, inputs: Any) -> None:
    """Stop before gradients get lost: a hook before `stack`.

    Raises:
        AdaptError: layers are recomputed reentrantly. Their inputs need no gradient, so that torch
            would give the prefixes none.
    """
    if stack.training and torch.is_grad_enabled() and recomputes_reentrantly(stack):
        raise AdaptError(
            "use_reentrant=True: this way of gradient checkpointing loses the gradients of a "
            "prefix. Set use_reentrant=False."
        )


def prefixed(
    start: Adaptation,
    context: Context,
    shape: tuple[int, int],  # P, m (0: without the MLP)
    dropout: float,
    scale: float,  # standard deviation of the start without the MLP
    pairs: Pairs | None = None,  # where to start instead
) -> Adaptation:
    """Freeze the model and let a prefix at every attention learn, the head too.

    Raises:
        AdaptError: the family computes attention in its own way, or there is a prefix already.
    """
    model, (length, hidden) = start.model, shape
    device = next(model.parameters()).device
    before = {name for name, _ in model.named_parameters()}
    prefixes = install(model, dropout)
    if hidden and context.stage == "restore":
        for attention, prefix in prefixes.items():
            prefix.fix(*torch.zeros(2, length, attention.width, device=device))
        return start.only(lambda name: False)
    finish = None
    if hidden:
        finish = reparametrise(model, prefixes, shape, dropout, context.generator, pairs)
    else:
        for attention, prefix in prefixes.items():
            draw = torch.randn(2, length, attention.width, generator=context.generator) * scale
            first = pairs[attention.module] if pairs else draw
            prefix.learn(*(tensor.to(device) for tensor in first))
    return start.only(lambda name: name not in before).plus(finish=finish)


def reparametrise(
    model: nn.Module,
    prefixes: Mapping[Attention, Prefix],
    shape: tuple[int, int],
    dropout: float,
    generator: torch.Generator,
    pairs: Pairs | None,
) -> Callable[[], None]:
    """Let one MLP per kind of attention yield its prefixes; return what drops the MLPs again."""
    ends: list[Callable[[], None]] = []
    device = next(model.parameters()).device
    for kind in {attention.kind: None for attention in prefixes}:
        own = {a: prefix for a, prefix in prefixes.items() if a.kind == kind}
        mlp = Reparametrisation(list(own), list(own.values()), shape, dropout, generator, device)
        if pairs:
            mlp.fit([pairs[attention.module] for attention in own])
        place = stack(model, kind)
        place.add_module(f"prefix_{kind}", mlp)
        hook = place.register_forward_pre_hook(mlp.give)
        ends += [mlp.fix, hook.remove, partial(delattr, place, f"prefix_{kind}")]

    def finish() -> None:
        for end in ends:
            end()

    return finish


def cycled(pairs: Pairs, length: int) -> Pairs:
    """Cut or repeat keys and values [T, width] to [P, width], on the CPU."""
    return {
        name: tuple(states.cpu()[torch.arange(length) % len(states)] for states in pair)
        for name, pair in pairs.items()
    }
