"""Inputs by their names, and padding moved from one side of a batch to the other."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


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


def named(module: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Return all inputs of a call by their names, those given by position included."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names[: len(args)], args, strict=True)), **kwargs}
