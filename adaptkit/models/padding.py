"""Padding moved from one side of a batch to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def realign(inputs: Mapping[str, Any], left: bool) -> dict[str, Any]:
    """Reorder every [B, T] tensor so that padding stands on one side; token order is kept."""
    mask = inputs["attention_mask"]
    real = mask.bool()
    order = torch.argsort(real if left else ~real, dim=1, stable=True)
    return {
        name: value.gather(1, order)
        if isinstance(value, Tensor) and value.shape == mask.shape
        else value
        for name, value in inputs.items()
    }
