"""The linear maps of a body that no role names: BERT's pooler, ALBERT's and ELECTRA's way in.

With them and `all`, every linear map of the body is adapted, as PEFT's `all-linear` does. No torch
at import time.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import ROLES, Site, base_prefix, family, matches
from adaptkit.models.body import shape_of

if TYPE_CHECKING:
    from torch import nn


def other_maps(model: nn.Module, loaded: Container[str]) -> list[Site]:
    """Return the maps without a role whose weights are among the names `loaded`, as 'other'."""
    prefix, parts = base_prefix(model), family(model).parts
    patterns = [pattern for role in ROLES for pattern in parts.get(role, ())]
    named = {name for name, _, _ in matches(model, patterns)}
    return [
        _site(name, module)
        for name, module in model.named_modules()
        if name.startswith(prefix) and name not in named and f"{name}.weight" in loaded
        if type(module).__name__ in ("Linear", "Conv1D", "QuantizedLinear")  # not packed yet
    ]


def required_other_maps(model: nn.Module, loaded: Container[str]) -> list[Site]:
    """Return the same, for a method that was told to adapt them.

    Raises:
        AdaptError: every map has a role.
    """
    found = other_maps(model, loaded)
    if not found:
        raise AdaptError(
            f"role 'other' matches nothing: every linear map of this {family(model).name} model "
            "has a role of its own. Use 'all'."
        )
    return found


def _site(name: str, module: nn.Module) -> Site:
    fan_out, fan_in = shape_of(module)
    return Site("other", name, fan_in, fan_out)
