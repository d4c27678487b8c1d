"""Trained keys and values in front of those of every attention (Li & Liang 2021, arXiv:2101.00190).

    softmax(q [P_K; K]^T / sqrt(s)) [P_V; V],   P_K, P_V [P, G s],   G key-value heads of size s

Every query sees the whole prefix: padding, causality and sliding windows concern the text only.
Nothing is shifted: the text keeps its positions, prefix keys are not rotated, and T5's bias of
relative positions is 0 for them. Reparametrised, one MLP per kind of attention yields all layers'

    [P_K; P_V] of each layer = W_up tanh(W_down E + b_down) + b_up,   E [P, d], W_down [m, d]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError
from adaptkit.models.attention import Attention, attentions, recomputes_reentrantly, route, stack
from adaptkit.models.body import device_of

NAME = "adaptkit_prefix"  # of the attention function
Pair = tuple[Tensor, Tensor]  # keys and values, each [P, width]
Pairs = Mapping[str, Pair]  # by the attention's name


class Shape(NamedTuple):
    """Number of vectors P, and inner width m of the MLP; m = 0: no MLP."""

    length: int
    hidden: int


class Prefix(nn.Module):
    """The keys and values of one attention, in one of three forms.

    Trained directly (parameters `keys` and `values`), computed by an MLP for every forward pass, or
    fixed at the MLP's last output (buffers `delta_keys` and `delta_values`).
    """

    delta_keys: Tensor
    delta_values: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.given: Pair | None = None

    def train_directly(self, keys: Tensor, values: Tensor) -> None:
        """Make keys and values [P, width] parameters."""
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    def fix(self, keys: Tensor, values: Tensor) -> None:
        """Make keys and values [P, width] buffers that are saved."""
        self.given = None
        self.register_buffer("delta_keys", keys)
        self.register_buffer("delta_values", values)

    def forward(self) -> Pair:
        """Return keys and values [P, width]."""
        if "delta_keys" in self._buffers:
            return self.delta_keys, self.delta_values
        keys, values = (self.keys, self.values) if self.given is None else self.given
        # here, within a layer, and not where they are made: a layer that is computed again for its
        # gradients draws the same
        keys = F.dropout(keys, self.dropout, self.training)
        return keys, F.dropout(values, self.dropout, self.training)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors of one forward pass: their graph cannot be copied."""
        return {**self.__dict__, "given": None}


class Reparametrisation(nn.Module):
    """The MLP from E [P, d] to the keys and values [P, width] of `prefixes`, for training only.

    E starts N(0, 1), the maps uniform within 1 / sqrt(fan in), as in the authors' code. It runs
    once per forward pass of `stack`, in fp32, so that `fix` keeps the same function.
    """

    def __init__(
        self,
        targets: Sequence[Attention],
        prefixes: Sequence[Prefix],
        shape: Shape,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        (length, hidden), fan_in = shape, targets[0].fan_in
        self.prefixes = tuple(prefixes)  # in a tuple: they are modules of their attentions
        self.widths = [target.width for target in targets for _ in ("keys", "values")]
        start = torch.randn(length, fan_in, generator=generator)
        self.embedding = nn.Parameter(start.to(device))
        self.down = draw_linear(fan_in, hidden, generator, device)
        self.up = draw_linear(hidden, sum(self.widths), generator, device)

    def forward(self) -> list[Pair]:
        """Return keys and values [P, width] of every attention."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            both = self.up(torch.tanh(self.down(self.embedding)))
        parts = both.split(self.widths, dim=1)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def give(self, stack: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Compute the prefixes of this forward pass: a hook before `stack`."""
        for prefix, pair in zip(self.prefixes, self(), strict=True):
            prefix.given = pair

    @torch.no_grad()
    def fit(self, pairs: Sequence[Pair]) -> None:
        """Let the MLP start at given keys and values [P, width].

        It makes the smallest change of W_up by least squares; E and the rest stay as drawn. The
        authors take 500 steps of Adam on the same loss. Exact for P <= m.
        """
        goal = torch.cat([tensor for pair in pairs for tensor in pair], dim=1)
        goal = goal.to(self.embedding.device)
        inner = torch.tanh(self.down(self.embedding))
        missing = goal - self.up(inner)
        self.up.weight += (torch.linalg.pinv(inner) @ missing).T

    @torch.no_grad()
    def fix(self) -> None:
        """Fix the prefixes at their present values."""
        self.eval()
        for prefix, (keys, values) in zip(self.prefixes, self(), strict=True):
            prefix.fix(keys.clone(), values.clone())


def draw_linear(
    fan_in: int, fan_out: int, generator: torch.Generator, device: torch.device
) -> nn.Linear:
    """Return a map that starts as torch's own, but drawn from `generator`."""
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
    inner: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, by `inner`, with the prefix of `module` in front.

    query [B, heads, T, s], key and value [B, G, S, s], mask [B, 1, T, S] (boolean, or added to the
    scores), position_bias [1, heads, T, S].
    """
    keys, values = module.get_submodule("prefix")()
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
    return inner(
        module, query, prepend(keys, key), prepend(values, value), attention_mask,
        is_causal=False, position_bias=position_bias, **options,
    )  # fmt: skip


def prepend(prefix: Tensor, states: Tensor) -> Tensor:
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
    prefixes: dict[Attention, Prefix] = {}
    for attention in attentions(model):
        module = model.get_submodule(attention.module)
        if "prefix" in dict(module.named_children()):
            raise AdaptError(f"{attention.module} has a prefix already: use one prefix method.")
        module.prefix = prefixes[attention] = Prefix(dropout)
    for kind in kinds_of(prefixes):
        stack(model, kind).register_forward_pre_hook(reject_reentrant)
    route(model, NAME, attend, skip_causal_mask=False)
    return prefixes


def kinds_of(prefixes: Iterable[Attention]) -> list[str]:
    """Return the kinds of attention, each once, in their order."""
    return list(dict.fromkeys(attention.kind for attention in prefixes))


def reject_reentrant(stack: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Stop before gradients get lost: a hook before `stack`.

    Raises:
        AdaptError: layers are recomputed reentrantly. Their inputs need no gradient, so torch would
            give the prefixes none.
    """
    if stack.training and torch.is_grad_enabled() and recomputes_reentrantly(stack):
        raise AdaptError(
            "use_reentrant=True: this way of gradient checkpointing loses the gradients of a "
            "prefix. Set use_reentrant=False."
        )


def attach_prefixes(
    start: Adaptation,
    context: Context,
    shape: Shape,
    dropout: float,
    scale: float,  # standard deviation of the start without the MLP
    pairs: Pairs | None = None,  # keys and values to start from instead
) -> Adaptation:
    """Freeze the body and train a prefix at every attention, and the head.

    Raises:
        AdaptError: the family computes attention in its own way, or there is a prefix already.
    """
    before = {name for name, _ in start.model.named_parameters()}
    prefixes = install(start.model, dropout)
    device, finish = device_of(start.model), None
    if not shape.hidden:
        for attention, prefix in prefixes.items():
            draw = torch.randn(2, shape.length, attention.width, generator=context.generator)
            keys, values = pairs[attention.module] if pairs else draw * scale
            prefix.train_directly(keys.to(device), values.to(device))
    elif context.stage == "restore":
        for attention, prefix in prefixes.items():
            prefix.fix(*torch.zeros(2, shape.length, attention.width, device=device))
    else:
        finish = reparametrise(start.model, prefixes, shape, context.generator, pairs)
    return start.only(lambda name: name not in before).plus(finish=finish)


def reparametrise(
    model: nn.Module,
    prefixes: Mapping[Attention, Prefix],
    shape: Shape,
    generator: torch.Generator,
    pairs: Pairs | None,
) -> Callable[[], None]:
    """Let one MLP per kind of attention yield its prefixes; return the step that drops the MLPs."""
    ends: list[Callable[[], None]] = []
    device = device_of(model)
    for kind in kinds_of(prefixes):
        own = {a: prefix for a, prefix in prefixes.items() if a.kind == kind}
        mlp = Reparametrisation(list(own), list(own.values()), shape, generator, device)
        if pairs:
            mlp.fit([pairs[attention.module] for attention in own])
        holder = stack(model, kind)
        holder.add_module(f"prefix_{kind}", mlp)
        hook = holder.register_forward_pre_hook(mlp.give)
        ends += [mlp.fix, hook.remove, partial(delattr, holder, f"prefix_{kind}")]

    def finish() -> None:
        for end in ends:
            end()

    return finish


def repeat_rows(pairs: Pairs, length: int) -> Pairs:
    """Cut or repeat keys and values [T, width] to [P, width], on the CPU."""

    def fit(states: Tensor) -> Tensor:
        return states.cpu()[torch.arange(length) % len(states)]

    return {name: (fit(keys), fit(values)) for name, (keys, values) in pairs.items()}
