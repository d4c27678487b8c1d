"""Optimizers and schedules: `optimizer=adamw optimizer.lr=1e-4`.

Every optimizer is a frozen dataclass with `build(groups)`; `state_bytes` says what it remembers
per trained number, for `adaptkit plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from adaptkit.errors import above, at_least, within

Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class _Common:
    lr: float
    weight_decay: float = 0.0
    warmup_ratio: float = 0.06  # share of all updates during which the rate rises from 0
    schedule: Schedule = "linear"  # after the warm-up: to 0 in a line, a half cosine, or constant

    def __post_init__(self) -> None:
        above("optimizer.lr", self.lr, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        within("optimizer.warmup_ratio", self.warmup_ratio, 0, 1)


@dataclass(frozen=True)
class AdamW(_Common):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    state_bytes = 8  # two moments in fp32

    def __post_init__(self) -> None:
        super().__post_init__()
        within("optimizer.beta1", self.beta1, 0, 1)
        within("optimizer.beta2", self.beta2, 0, 1)
        above("optimizer.epsilon", self.epsilon, 0)

    def build(self, groups: list[dict[str, Any]]) -> Any:
        """Return the torch optimizer over parameter groups that carry lr and weight_decay."""
        from torch.optim import AdamW as TorchAdamW

        # One fused kernel per group: the same numbers, without a Python loop over tensors.
        return TorchAdamW(groups, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True)


@dataclass(frozen=True)
class SGD(_Common):
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9

    state_bytes = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        within("optimizer.momentum", self.momentum, 0, 1)

    def build(self, groups: list[dict[str, Any]]) -> Any:
        """Return the torch optimizer over parameter groups that carry lr and weight_decay."""
        from torch.optim import SGD as TorchSGD

        return TorchSGD(groups, momentum=self.momentum)


@dataclass(frozen=True)
class Adafactor(_Common):
    """Adafactor with a given learning rate (Shazeer & Stern 2018, arXiv:1804.04235).

    No relative steps and no scaling by the size of the parameters, so that `lr` means what it says.
    """

    state_bytes = 0  # one row and one column per matrix

    def build(self, groups: list[dict[str, Any]]) -> Any:
        """Return the optimizer over parameter groups that carry lr and weight_decay."""
        from transformers.optimization import Adafactor as HuggingFaceAdafactor

        return HuggingFaceAdafactor(groups, scale_parameter=False, relative_step=False)


OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "sgd": SGD, "adafactor": Adafactor}
