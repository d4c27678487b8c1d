"""Words of several pieces, filled into their masks one after another (PET's MultiMaskTaskHelper).

    left_to_right   the first mask, then the second given the first, ...
    confident       the mask whose piece is likeliest, then the likeliest of the others, ...

The log-probability of the word is the sum over the steps. Every word is read with as many masks as
it has pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from adaptkit.adaptation import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPWISE = ("left_to_right", "confident")


def stepwise(model: nn.Module, batch: Batch, confident: bool) -> Tensor:
    """Return log p of every word [B, C, W] of a cloze batch; `confident`: the likeliest first."""
    import torch

    pieces, slots = batch.targets["pieces"], batch.targets["slots"]
    made = torch.zeros(len(slots), *pieces.shape[:2], device=slots.device)
    for c, w in (pieces[..., 0] >= 0).nonzero().tolist():
        ids = pieces[c, w][pieces[c, w] >= 0]
        inputs = _without(batch.inputs, slots[:, len(ids) :])
        made[:, c, w] = _word(model, inputs, slots[:, : len(ids)], ids, confident)
    return made


def _word(
    model: nn.Module, inputs: dict[str, Tensor], slots: Tensor, ids: Tensor, confident: bool
) -> Tensor:
    """Return log p [B] of a word of K pieces `ids` at its masks `slots` [B, K]."""
    import torch

    lines = torch.arange(len(slots), device=slots.device)
    inputs = {**inputs, "input_ids": inputs["input_ids"].clone()}
    total = torch.zeros(len(slots), device=slots.device)
    empty = torch.ones_like(slots, dtype=torch.bool)
    for step in range(len(ids)):
        with torch.no_grad():
            logits = model(**inputs).logits[lines[:, None], slots].float()
        found = logits.log_softmax(-1)[:, torch.arange(len(ids), device=ids.device), ids]
        likeliest = found.masked_fill(~empty, -torch.inf).argmax(-1)
        k = likeliest if confident else torch.full_like(likeliest, step)
        total = total + found[lines, k]
        empty[lines, k] = False
        inputs["input_ids"][lines, slots[lines, k]] = ids[k]
    return total


def _without(inputs: Mapping[str, Tensor], spare: Tensor) -> dict[str, Tensor]:
    """Return inputs [B, T] without the tokens at `spare` [B, S]."""
    import torch

    if spare.shape[1] == 0:
        return dict(inputs)
    kept = torch.ones_like(inputs["input_ids"], dtype=torch.bool).scatter(1, spare, False)
    return {name: values[kept].view(len(values), -1) for name, values in inputs.items()}
