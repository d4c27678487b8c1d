"""Two views of one batch: noise on the embeddings, the distance of two predictions, a bounded head.

distance   KL(p || q) + KL(q || p), a mean over the rows; of numbers (p - q)^2
bounded    y = W x / s + b,   s the largest singular value of W
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adaptkit.models.anatomy import reader
from adaptkit.models.body import bias_of, weight_of, words_of

Kind = Literal["uniform", "normal"]


def distance(first: Tensor, second: Tensor, squared: bool) -> Tensor:
    """Return the mean [] over N of the distance between logits [N, C], or numbers [N, 1].

    A class that is -inf in both has no share. In fp32, and no N gives 0.
    """
    one, two = first.float(), second.float()
    if squared:
        return (one - two).square().sum() / max(len(one), 1)
    p, q = one.log_softmax(-1), two.log_softmax(-1)
    apart = torch.where(torch.isinf(one), 0.0, p - q)
    return ((p.exp() - q.exp()) * apart).sum() / max(len(one), 1)


class Noise:
    """Noise of size `scale` on the word embeddings of a model, while it is switched on.

    uniform in +-scale, or normal with that deviation; added in fp32, before positions and norms.
    """

    def __init__(self, model: nn.Module, scale: float, kind: Kind) -> None:
        self.scale, self.kind = scale, kind
        self.generator: torch.Generator | None = None  # None: off
        self.reading = False
        stack = reader(model)
        # A decoder may look its words up in the same table: they get no noise.
        stack.register_forward_pre_hook(self._begin, prepend=True)
        stack.register_forward_hook(self._end, always_call=True)
        words_of(stack).register_forward_hook(self._add)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Add noise; its numbers follow from the state of torch's own generator."""
        seed = int(torch.randint(2**62, ()))
        self.generator = torch.Generator(device).manual_seed(seed)
        try:
            yield
        finally:
            self.generator = None

    def _begin(self, module: nn.Module, args: Any) -> None:
        self.reading = True

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self.reading = False

    def _add(self, module: nn.Module, args: Any, embeds: Tensor) -> Tensor:
        if self.generator is None or not self.reading:
            return embeds
        noise = torch.empty(embeds.shape, device=embeds.device)
        if self.kind == "normal":
            noise.normal_(0, self.scale, generator=self.generator)
        else:
            noise.uniform_(-self.scale, self.scale, generator=self.generator)
        return embeds.float() + noise


class Draws:
    """The state of torch's generator before the first pass of a batch in training.

    `again` repeats what was drawn since then: another pass gets the same dropout masks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.before = torch.get_rng_state()
        self.ids: Any = None  # of the batch: further passes have the same
        model.register_forward_pre_hook(self._note, prepend=True, with_kwargs=True)

    def _note(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids")
        if model.training and ids is not self.ids:
            self.ids, self.before = ids, state_of(ids.device)

    @contextmanager
    def again(self, device: torch.device) -> Iterator[None]:
        """Draw the same numbers as the first pass; afterwards go on as if nothing had happened."""
        now = state_of(device)
        set_state(self.before, device)
        try:
            yield
        finally:
            set_state(now, device)
            self.ids = None


def state_of(device: torch.device) -> Tensor:
    """Return the state of torch's generator of a device."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def set_state(state: Tensor, device: torch.device) -> None:
    """Set the state of torch's generator of a device."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


class Bounded:
    """A linear map of the head divided by its largest singular value, until `fold`."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        self.handle = module.register_forward_hook(self._divide)

    def norm(self) -> Tensor:
        """Return the largest singular value of W [out, in]."""
        with torch.autocast(self.module.weight.device.type, enabled=False):
            return torch.linalg.matrix_norm(weight_of(self.module).float(), 2)

    def _divide(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        bias = bias_of(module)
        plain = output.float() if bias is None else output.float() - bias
        bounded = plain / self.norm().clamp(min=1e-12)
        return (bounded if bias is None else bounded + bias).to(output.dtype)

    @torch.no_grad()
    def fold(self) -> None:
        """Divide the weight itself, once and for all."""
        self.handle.remove()
        self.module.weight.div_(self.norm().clamp(min=1e-12))
