"""Sparse differences to pretrained weights, learnt with hard-concrete gates.

    theta = theta0 + z * w                     w [..] from 0
    z = min(1, max(0, l + (r - l) s)),  s = sigmoid(log u - log(1 - u) + alpha),  u ~ U(0, 1)
    l = -1.5, r = 1.5:   P(z != 0) = sigmoid(alpha - log(-l / r)) = sigmoid(alpha)

Structured: z is the product of the gate of the number and the gate of its tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from adaptkit.adaptation import Step
from adaptkit.layers.child import largest

LOW, HIGH = -1.5, 1.5


def gate(alpha: Tensor, noise: Tensor | None) -> Tensor:
    """Return z for uniform `noise`, or without any: min(1, max(0, l + (r - l) sigmoid(alpha)))."""
    if noise is not None:
        u = noise.clamp(1e-4, 0.9999)
        alpha = u.log() - (1 - u).log() + alpha
    return (LOW + (HIGH - LOW) * alpha.sigmoid()).clamp(0, 1)


def active(alpha: Tensor) -> Tensor:
    """Return P(z != 0)."""
    return (alpha - math.log(-LOW / HIGH)).sigmoid()


class Diff(nn.Module):
    """The differences of parameters `base`, by their names.

    Stage 1 learns w and the gates. `fix` keeps the largest differences, exactly round(density N) of
    all N, and stage 2 trains those alone. `freeze` keeps them as indices and values:
    `delta_indices` [K] count through all tensors in the model's order, `delta_values` [K].
    """

    delta_indices: Tensor | None
    delta_values: Tensor | None

    def __init__(
        self, base: Mapping[str, nn.Parameter], density: float, alpha: float, structured: bool
    ) -> None:
        super().__init__()
        self.base, self.density = dict(base), density
        self.count = sum(p.numel() for p in base.values())
        self.kept = round(density * self.count)
        some = next(iter(base.values()))
        named = {name.replace(".", "/"): p for name, p in base.items()}
        # Pairs keep their order; a dict would be sorted.
        self.w = nn.ParameterDict(
            [(name, torch.zeros_like(p, dtype=torch.float32)) for name, p in named.items()]
        )
        self.alpha = nn.ParameterDict(
            [(name, torch.full_like(p, alpha, dtype=torch.float32)) for name, p in named.items()]
        )
        groups = torch.full((len(base),), alpha, device=some.device) if structured else None
        self.group = None if groups is None else nn.Parameter(groups)
        self.register_buffer("delta_indices", None)
        self.register_buffer("delta_values", None)
        self.masks: list[Tensor] | None = None  # of stage 2
        self.made: tuple[tuple[int, int], dict[str, Tensor]] | None = None

    # ---- what takes the place of the parameters ----

    def tensors(self) -> dict[str, Tensor]:
        """Return theta by name, in fp32: in less, small changes would be lost."""
        if self.delta_values is not None:
            return self._frozen()
        changes = self.differences(sample=self.training and self.masks is None)
        pairs = zip(self.base.items(), changes, strict=True)
        return {name: p.float() + change for (name, p), change in pairs}

    def differences(self, sample: bool) -> Iterator[Tensor]:
        """Yield theta - theta0 tensor by tensor; `sample`: with gates that are drawn."""
        for number, (name, w) in enumerate(self.w.items()):
            if self.masks is not None:
                yield w * self.masks[number]
                continue
            alpha = self.alpha[name]
            z = gate(alpha, torch.rand_like(alpha) if sample else None)
            if self.group is not None:
                whole = self.group[number]
                z = z * gate(whole, torch.rand_like(whole) if sample else None)
            yield w * z

    def _frozen(self) -> dict[str, Tensor]:
        values, indices = self.delta_values, self.delta_indices
        if values is None or indices is None:
            return {}
        version = (values._version, indices._version)
        if self.made is None or self.made[0] != version:
            with torch.no_grad():
                flat = torch.zeros(self.count, device=values.device)
                flat[indices.long()] = values
                parts = flat.split([p.numel() for p in self.base.values()])
                pairs = zip(self.base.items(), parts, strict=True)
                found = {n: p.float() + part.view_as(p) for (n, p), part in pairs}
            self.made = (version, found)
        return self.made[1]

    # ---- training ----

    def expected(self, product: bool) -> Tensor:
        """Return the mean over all N of the probability that a difference is not 0.

        Structured, with `product`: the probability that neither of the two gates is 0. Without it,
        as in the authors' code: the sum over all gates of numbers and of tensors, divided by N.
        """
        if self.masks is not None:
            return self.zero()
        total = self.zero()
        for number, alpha in enumerate(self.alpha.values()):
            own = active(alpha).sum()
            if self.group is not None:
                whole = active(self.group[number])
                own = own * whole if product else own + whole
            total = total + own
        return total / self.count

    def zero(self) -> Tensor:
        """Return 0 on the model's device."""
        return next(iter(self.base.values())).new_zeros((), dtype=torch.float32)

    @torch.no_grad()
    def fix(self) -> None:
        """Keep the largest differences, and let only those be trained from now on."""
        changes = list(self.differences(sample=False))
        scores = {name: c.abs() for name, c in zip(self.base, changes, strict=True)}
        missing = self.kept - int(sum((score > 0).sum() for score in scores.values()))
        if missing > 0:  # too many gates are closed: the rest are the largest of those
            for score, w in zip(scores.values(), self.w.values(), strict=True):
                score.copy_(torch.where(score > 0, torch.inf, w.abs()))
        self.masks = list(largest(scores, self.density).values())
        for w, change in zip(self.w.values(), changes, strict=True):
            w.copy_(change)

    @torch.no_grad()
    def freeze(self, values: bool = True) -> None:
        """Keep the differences as indices and values; drop what trained them.

        Without `values` only the sizes are right.
        """
        device = self.zero().device
        wide = sum(w.numel() for w in self.base.values()) > torch.iinfo(torch.int32).max
        number = torch.int64 if wide else torch.int32
        self.delta_indices = torch.zeros(self.kept, dtype=number, device=device)
        self.delta_values = torch.zeros(self.kept, device=device)
        if values:
            if self.masks is None:
                self.fix()
            flat = torch.cat([w.flatten() for w in self.w.values()])
            mask = torch.cat([mask.flatten() for mask in self.masks or ()])
            indices = mask.nonzero().squeeze(-1)
            self.delta_indices, self.delta_values = indices.to(number), flat[indices].clone()
        self.w, self.alpha, self.group = nn.ParameterDict(), nn.ParameterDict(), None

    @torch.no_grad()
    def merge(self) -> None:
        """Add the differences to the parameters themselves, without the noise of the gates."""
        self.eval()
        for name, tensor in self.tensors().items():
            self.base[name].copy_(tensor)


class Fixing:
    """The hook after an update that ends stage 1; its state is the masks of stage 2."""

    def __init__(self, diff: Diff, share: float) -> None:
        self.diff, self.share = diff, share

    def __call__(self, step: Step) -> None:
        """Fix the masks once `share` of all updates are made."""
        if self.diff.masks is None and step.index >= round(self.share * step.total):
            self.diff.fix()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks, if there are any."""
        return {str(n): mask.to(torch.uint8) for n, mask in enumerate(self.diff.masks or ())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""
        self.diff.masks = [state[str(n)].bool() for n in range(len(state))] or None
