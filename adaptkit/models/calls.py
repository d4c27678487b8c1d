"""The inputs of a call by name, and a check that a hook overlooks none of them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from adaptkit.errors import AdaptError


def named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all inputs of a call by their names, those given by position included."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names[: len(args)], args, strict=True)), **kwargs}


def cache_in(inputs: Mapping[str, Any]) -> Cache | None:
    """Return the cache of keys and values, whatever its name: transformers 5.24 changed it."""
    return next((value for value in inputs.values() if isinstance(value, Cache)), None)


def check_known(
    module: nn.Module, inputs: Mapping[str, Any], shape: tuple[int, int], known: Collection[str]
) -> None:
    """Stop before a hook passes by an input that it should have changed.

    Raises:
        AdaptError: a tensor as long as the text, [B, T, ...] of `shape`, is not among the `known`,
            or the attention mask is not [B, T].
    """
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            continue
        if name not in known and tuple(value.shape[:2]) == shape and value.dim() > 1:
            raise AdaptError(
                f"{type(module).__name__} was called with {name} {list(value.shape)}, which "
                "belongs to the text but which adaptkit cannot change along with it. It knows: "
                f"{', '.join(sorted(known))}."
            )
        if name == "attention_mask" and value.dim() != 2:
            raise AdaptError(
                f"{type(module).__name__} was called with attention_mask {list(value.shape)}: "
                "must be [B, T]."
            )
