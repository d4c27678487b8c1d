"""Optimizers and schedules: `optimizer=adamw optimizer.lr=1e-4`.

Every optimizer is a frozen dataclass with `build(groups)`. `state_bytes` is the size of its memory
per trained number, for `adaptkit plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from adaptkit.errors import above, at_least, within

if TYPE_CHECKING:
    from torch.optim import Optimizer

Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
Groups: TypeAlias = list[dict[str, Any]]  # each with params, lr and weight_decay


class OptimizerSettings(Protocol):
    """What the trainer and the plan must know of an optimizer."""

    @property
    def lr(self) -> float:
        """The highest learning rate."""
        ...

    @property
    def weight_decay(self) -> float:
        """Decay of matrices; vectors and scalars do not decay."""
        ...

    @property
    def state_bytes(self) -> int:
        """Bytes that it remembers per trained number."""
        ...

    def share(self, update: int, total: int) -> float:
        """Return the share of `lr` at update 0, 1, ... of `total`."""
        ...

    def build(self, groups: Groups) -> Optimizer:
        """Return the torch optimizer over parameter groups that carry lr and weight_decay."""
        ...


@dataclass(frozen=True)
class _Common:
    lr: float  # highest learning rate
    weight_decay: float = 0.0  # of matrices; vectors and scalars do not decay
    warmup_ratio: float = 0.06  # share of all updates during which the rate rises
    schedule: Schedule = "linear"  # after the warm-up: to 0 by a line or half cosine, or constant

    def __post_init__(self) -> None:
        above("optimizer.lr", self.lr, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        within("optimizer.warmup_ratio", self.warmup_ratio, 0, 1)

    def share(self, update: int, total: int) -> float:
        """Return the share of `lr` at update u = 0, 1, ... of N = `total`.

        (u + 1) / (W + 1) while u < W = ceil(warmup_ratio N): no update has rate 0. After that, with
        d = (u - W) / (N - W): 1 - d (linear), (1 + cos(pi d)) / 2 (cosine) or 1 (constant).
        """
        warmup = math.ceil(self.warmup_ratio * total)
        if update < warmup:
            return (update + 1) / (warmup + 1)
        done = min(1.0, (update - warmup) / max(1, total - warmup))
        if self.schedule == "linear":
            return 1 - done
        return (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1.0


@dataclass(frozen=True)
class AdamW(_Common):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    w <- w - lr (m' / (sqrt v' + epsilon) + weight_decay w);   m', v' the moments m, v corrected for
    their start at 0. Without that, as in BERT's own code, w moves by lr m / (sqrt v + epsilon):
    (1 - beta1^t) / sqrt(1 - beta2^t) times as far at update t, 3.2 at the first, 6.6 at the 12th
    (Mosbach et al. 2021, arXiv:2006.04884; Zhang et al. 2021, arXiv:2006.05987).
    """

    beta1: float = 0.9  # decay of the mean gradient
    beta2: float = 0.999  # decay of the mean squared gradient
    epsilon: float = 1e-8  # added to the denominator
    bias_correction: bool = True  # of the moments, which start at 0; false: as BERT's own code

    state_bytes = 8  # two moments in fp32

    def __post_init__(self) -> None:
        super().__post_init__()
        within("optimizer.beta1", self.beta1, 0, 1)
        within("optimizer.beta2", self.beta2, 0, 1)
        above("optimizer.epsilon", self.epsilon, 0)

    def build(self, groups: Groups) -> Optimizer:
        """Return torch's AdamW over the groups."""
        from torch.optim import AdamW as TorchAdamW

        # One fused kernel per group: the same numbers, without a Python loop over tensors.
        optimizer = TorchAdamW(groups, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True)
        if not self.bias_correction:
            _start_late(optimizer)
        return optimizer


def _start_late(optimizer: Optimizer) -> None:
    """Begin after infinitely many updates: the corrections 1 - beta^t of the moments are 1."""
    import torch

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(math.inf, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


@dataclass(frozen=True)
class SGD(_Common):
    """Stochastic gradient descent with heavy-ball momentum (Polyak 1964)."""

    momentum: float = 0.9  # share of the last step that is kept

    state_bytes = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        within("optimizer.momentum", self.momentum, 0, 1)

    def build(self, groups: Groups) -> Optimizer:
        """Return torch's SGD over the groups."""
        from torch.optim import SGD as TorchSGD

        return TorchSGD(groups, momentum=self.momentum)


@dataclass(frozen=True)
class Adafactor(_Common):
    """Adafactor with a given learning rate (Shazeer & Stern 2018, arXiv:1804.04235).

    No relative steps and no scaling by the size of the parameters: `lr` is the size of a step.
    """

    state_bytes = 0  # one row and one column per matrix

    def build(self, groups: Groups) -> Optimizer:
        """Return transformers' Adafactor over the groups."""
        from transformers.optimization import Adafactor as HuggingFaceAdafactor

        return HuggingFaceAdafactor(groups, scale_parameter=False, relative_step=False)


OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "sgd": SGD, "adafactor": Adafactor}
