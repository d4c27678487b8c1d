"""What the hooks on a model need."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


def named(module: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Return all inputs of a call by their names, those given by position included."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names[: len(args)], args, strict=True)), **kwargs}
