"""Numbers of parameters: of the whole model, of what trains, of what is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptkit.adaptation import Adaptation

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Params:
    """Numbers of parameters; the head is counted apart, because papers differ in this."""

    total: int  # of the adapted model, shared tensors once
    trainable: int
    body_trainable: int
    head_trainable: int
    stored: int  # what delta.safetensors holds; final once the method's `finish` was called
    trainable_percent: float  # trainable / total


def numbers(parameter: nn.Parameter) -> int:
    """Return how many numbers a parameter holds; 4 bits are stored two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def count(adaptation: Adaptation) -> Params:
    """Count an adaptation's parameters."""
    total = sum(numbers(p) for p in adaptation.model.parameters())
    body = sum(p.numel() for p in adaptation.body_trainable().values())
    trainable = sum(p.numel() for p in adaptation.trainable.values())
    stored = sum(tensor.numel() for tensor in adaptation.delta().values())
    percent = round(100 * trainable / total, 6)
    return Params(total, trainable, body, trainable - body, stored, percent)
