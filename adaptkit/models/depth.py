"""How deep a part of the base model lies: its layers, and what follows the last one.

No torch at import time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError, invalid
from adaptkit.models.anatomy import base_prefix, family, matches

if TYPE_CHECKING:
    from torch import nn


def stacks(model: nn.Module, option: str) -> list[list[str]]:
    """Return the layers' full names, the lowest first: one list, or encoder and decoder.

    `option`: what tells layers apart, for the message.

    Raises:
        AdaptError: all layers share one set of weights.
    """
    kind = family(model)
    if kind.shared_layers:
        raise AdaptError(
            f"{option}: the layers of {kind.name} share one set of weights, so they cannot be told "
            "apart. Choose another model."
        )
    patterns = [kind.layers]
    if kind.encoder_decoder:
        patterns.append(kind.layers.replace("encoder", "decoder", 1))
    found = [[name for name, _, _ in matches(model, (pattern,))] for pattern in patterns]
    return [stack for stack in found if stack]  # T5 has a class without a decoder


def last_of(stack: list[str], last: int, field: str) -> list[str]:
    """Return the names of the last `last` layers of a stack.

    Raises:
        ConfigError: there are fewer.
    """
    if last > len(stack):
        raise invalid(field, last, f"this model has {len(stack)} layers")
    return stack[len(stack) - last :]


def parameters_in(model: nn.Module, modules: Iterable[str]) -> set[str]:
    """Return the full names of the parameters of modules."""
    inside = tuple(f"{module}." for module in modules)
    return {name for name, _ in model.named_parameters() if name.startswith(inside)}


def after_layers(model: nn.Module) -> set[str]:
    """Return the names of the base model's parameters after its last layer: norm, pooler."""
    return parameters_in(model, (name for name, _, _ in matches(model, family(model).top)))


def layer_numbers(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Return the layer, from 0, of every parameter that is in one, by its name in the model.

    Both stacks of an encoder-decoder count from 0. What a method adds to a layer belongs to it. If
    all layers share their weights these are layer 0.
    """
    stem = re.escape(base_prefix(model) + family(model).layers).replace(r"\*", r"(\d+)")
    pattern = re.compile(stem.replace("encoder", "(?:encoder|decoder)", 1) + r"\.")
    hits = {name: pattern.match(name) for name in names}
    return {name: int(hit[hit.lastindex or 0]) for name, hit in hits.items() if hit}
