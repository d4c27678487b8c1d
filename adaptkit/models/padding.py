"""Padding moved from one side of a batch to the other, and back in what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.models.anatomy import family
from adaptkit.models.calls import named
from adaptkit.models.heads import Head

TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


def order_of(mask: Tensor, left: bool) -> Tensor:
    """Return the columns [B, T] in the order that puts padding on one side; tokens keep theirs."""
    first = mask.bool() != left
    before = first.sum(1, keepdim=True)
    # Counted, not sorted, because ONNX has no stable sort.
    to = torch.where(first, first.cumsum(1), before + (~first).cumsum(1)) - 1
    columns = torch.arange(mask.shape[1], device=mask.device).expand_as(to)
    return torch.zeros_like(to).scatter(1, to, columns)


def realign(inputs: Mapping[str, Any], left: bool) -> dict[str, Any]:
    """Reorder the text's tensors [B, T, ...] so that padding stands on one side."""
    mask = inputs["attention_mask"]
    order = order_of(mask, left)
    return {
        name: columns(value, order)
        if name in TEXT and isinstance(value, Tensor) and value.shape[:2] == mask.shape
        else value
        for name, value in inputs.items()
    }


def columns(values: Tensor, order: Tensor) -> Tensor:
    """Return the columns `order` [B, T] of values [B, T, ...]."""
    if values.dim() == 2:
        return values.gather(1, order)
    return values[torch.arange(len(values), device=values.device).unsqueeze(1), order]


class Alignment:
    """Makes padding harmless: before every call it is moved to the side that the class expects.

    Left padding shifts absolute positions (BERT, GPT-2, BART), and some classes read a fixed end of
    the sequence (XLNet the last token); moving the padding gives all of them one meaning. Outputs
    of single tokens are moved back, so that they stand where their inputs stood.
    """

    def __init__(self, head: Head, left: bool) -> None:
        self.head, self.left = head, left
        self.order: Tensor | None = None  # of the call that is under way

    def attach(self, model: nn.Module) -> nn.Module:
        """Move padding at every call of `model`, and return it."""
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        if self.head.per_token:
            model.register_forward_hook(self._after)
        return model

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        inputs = named(module, args, kwargs)
        mask = inputs.get("attention_mask")
        self.order = None
        if mask is None or mask.dim() != 2:
            return args, kwargs
        self.order = order_of(mask, self.left)
        return (), realign(inputs, self.left)

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if self.order is None:
            return output
        back = self.order.argsort(1)
        for name in self.head.proof:
            if output[name].shape[1] != back.shape[1] or len(output[name]) < len(back):
                continue  # some places alone: see `places`
            answers = len(output[name]) // len(back)  # an ensemble gives several per row
            output[name] = columns(output[name], back.repeat_interleave(answers, 0))
        return output


def with_padding_moved(model: nn.Module, head: Head) -> nn.Module:
    """Make padding harmless for a classifier or masked-word head; return the model.

    Not for heads that generate: they keep a cache whose columns may not move.
    """
    if head.peft in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return model
    return Alignment(head, family(model).padding == "left").attach(model)
