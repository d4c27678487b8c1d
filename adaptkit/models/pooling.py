"""Summing up the hidden states of a text [B, T, H] in one vector [B, H]."""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput

from adaptkit.models.body import base_of
from adaptkit.models.calls import named


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """Sum up hidden states [B, T, H] over the real tokens of mask [B, T] -> [B, H].

    how: mean | max | first | last (position of the first or last real token).
    """
    real = mask.bool().unsqueeze(-1)
    if how == "mean":
        return hidden.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)
    if how == "max":
        return hidden.masked_fill(~real, -torch.inf).amax(1)
    steps = torch.arange(mask.shape[1], device=mask.device)
    at = (mask.bool() * (steps + 1)).argmax(1) if how == "last" else mask.bool().int().argmax(1)
    return hidden[torch.arange(len(hidden), device=mask.device), at]


class Pooled:
    """Lets the task's head read pool(H) [B, H] instead of the position its class reads.

    Every position of the body's output becomes the pooled vector: whichever of them a class reads,
    it reads that one, and so does a pooler within the body, run once more (BERT, ALBERT). Computed
    in fp32.
    Attached before any method, so that it sees the text as the head does: without a prompt. Of two
    stacks the decoder's output is pooled, which the head reads.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.mask: Tensor | None = None  # of the call that is under way

    def attach(self, body: nn.Module) -> None:
        """Pool at every call of `body`."""
        body.register_forward_pre_hook(self._before, with_kwargs=True)
        body.register_forward_hook(self._after)

    def _before(self, body: nn.Module, args: tuple, kwargs: dict) -> None:
        self.mask = named(body, args, kwargs).get("attention_mask")

    def _after(self, body: nn.Module, args: tuple, output: Any) -> Any:
        hidden = output["last_hidden_state"]
        mask = hidden.new_ones(hidden.shape[:2]) if self.mask is None else self.mask
        pooled = pool(hidden.float(), mask, self.how).to(hidden.dtype)
        output["last_hidden_state"] = pooled.unsqueeze(1).expand_as(hidden)
        if output.get("pooler_output") is not None:
            output["pooler_output"] = summary(body, output["last_hidden_state"])
        return output


def read_end(model: nn.Module) -> None:
    """Let a classifier of two stacks read the decoder's state at the last token by the mask.

    That is the end token, which their own classes (T5, BART) look for among the token ids. The
    outcome is the same, but they wait for the GPU in every step.
    """
    model.forward = MethodType(_at_the_end, model)


def _at_the_end(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> Seq2SeqSequenceClassifierOutput:
    """Return the logits [B, C] of ids [B, T], which the decoder reads moved right by one."""
    if options.keys() & {"labels", "return_dict"}:  # of no concern to us
        return type(model).forward(model, input_ids, attention_mask, **options)
    if hasattr(model, "_shift_right"):  # T5; the body of BART does that by itself
        options.setdefault("decoder_input_ids", model._shift_right(input_ids))
    output = base_of(model)(input_ids, attention_mask=attention_mask, **options)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    logits = model.classification_head(pool(output["last_hidden_state"], mask, "last"))
    others = {name: value for name, value in output.items() if name != "last_hidden_state"}
    return Seq2SeqSequenceClassifierOutput(logits=logits, **others)


def summary(body: nn.Module, hidden: Tensor) -> Tensor:
    """Return what the body's own pooler makes of hidden states [B, T, H]: [B, H]."""
    pooler = cast("nn.Module", body.pooler)
    if isinstance(pooler, nn.Linear):  # ALBERT
        return cast("nn.Module", body.pooler_activation)(pooler(hidden[:, 0]))
    return pooler(hidden)
