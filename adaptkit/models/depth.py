"""Which layer a parameter belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from adaptkit.models.anatomy import base_prefix, family

if TYPE_CHECKING:
    from torch import nn


def layer_numbers(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Return the layer, from 0, of every parameter that is in one, by its name in the model.

    Both stacks of an encoder-decoder count from 0. What a method adds to a layer belongs to it. If
    all layers share their weights these are layer 0.
    """
    stem = re.escape(base_prefix(model) + family(model).layers).replace(r"\*", r"(\d+)")
    pattern = re.compile(stem.replace("encoder", "(?:encoder|decoder)", 1) + r"\.")
    hits = {name: pattern.match(name) for name in names}
    return {name: int(hit[hit.lastindex or 0]) for name, hit in hits.items() if hit}
