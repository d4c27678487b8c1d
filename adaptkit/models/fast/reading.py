"""After the last attention, only the place that is read.

A classifier that reads the first token needs no other place of the last layer: neither as a query
of the last attention, nor behind it, where every place is computed by itself. Exact, dropout
included: the masks of places that nobody reads are simply not drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaptkit.models.anatomy import family, matches

ONLY_FIRST = "_adaptkit_only_first"  # attribute of an attention whose first query alone is read


def read_first(model: nn.Module) -> None:
    """In training, drop all places but the first behind the last attention, if the family can."""
    last = family(model).last_attention
    if last is not None:
        (*_, (_, attention, _)), (*_, (_, join, _)) = (matches(model, (one,)) for one in last)
        setattr(attention, ONLY_FIRST, True)
        join.register_forward_pre_hook(first_place)


def first_place(module: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Cut states [B, T, H] to [B, 1, H]: a hook before the module that adds the attention."""
    if not (module.training and torch.is_grad_enabled()):
        return None
    return tuple(one[:, :1] for one in states)
