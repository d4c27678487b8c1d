"""Batches and losses: masked tokens, the next token, hidden spans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pretraining.vocabularies import SENTINELS

IGNORE = -100
Batch = dict[str, torch.Tensor]


@dataclass
class Collator:
    """Turn blocks of tokens into a batch: cut them to ``length`` or, now and then, leave them.

    Whole blocks, ``long_share`` of the batches, let the model see its later positions.
    """

    build: Callable[[torch.Tensor, Collator], Batch]
    tokenizer: PreTrainedTokenizerFast
    length: int
    long_share: float
    rate: float
    seed: int

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def random(self, *shape: int) -> torch.Tensor:
        """Return uniform numbers from the own generator."""
        return torch.rand(*shape, generator=self.generator)

    def __call__(self, blocks: list[torch.Tensor]) -> Batch:
        """Return the batch made of the blocks."""
        ids = torch.stack(blocks)
        if self.random(1).item() >= self.long_share:
            ids = ids.reshape(-1, self.length)
        return self.build(ids, self)


def masked_batch(ids: torch.Tensor, collator: Collator) -> Batch:
    """Mask tokens as BERT does; the second segment begins after the first separator."""
    tokenizer = collator.tokenizer
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    separator = ids == tokenizer.sep_token_id
    types = (separator.cumsum(1) - separator.long()).clamp(max=1)
    chosen = (collator.random(*ids.shape) < collator.rate) & ~separator
    chosen[:, 0] = False
    labels = ids.where(chosen, IGNORE)
    action = collator.random(*ids.shape)
    words_ = (collator.random(*ids.shape) * (len(tokenizer) - 5)).long() + 5
    ids = torch.where(chosen & (action < 0.8), tokenizer.mask_token_id, ids)
    ids = torch.where(chosen & (action >= 0.9), words_, ids)
    return {"input_ids": ids, "token_type_ids": types, "labels": labels}


def causal_batch(ids: torch.Tensor, collator: Collator) -> Batch:
    return {"input_ids": ids, "labels": ids}


def cuts(total: int, pieces: int, collator: Collator) -> np.ndarray:
    """Cut ``total`` into ``pieces`` random lengths of at least one."""
    order = torch.randperm(total - 1, generator=collator.generator)[: pieces - 1]
    places = np.sort(order.numpy()) + 1
    return np.diff(np.concatenate([[0], places, [total]]))


def span_batch(ids: torch.Tensor, collator: Collator) -> Batch:
    """Replace random spans by sentinels; the target lists each sentinel and its span."""
    rows = [corrupt_spans(row, collator) for row in ids.numpy()]
    return {
        "input_ids": torch.from_numpy(np.stack([source for source, _ in rows])),
        "labels": torch.from_numpy(np.stack([target for _, target in rows])),
    }


def corrupt_spans(row: np.ndarray, collator: Collator) -> tuple[np.ndarray, np.ndarray]:
    noise = round(len(row) * collator.rate)
    spans = min(max(round(noise / 3), 1), SENTINELS - 1)
    first, end = len(collator.tokenizer) - SENTINELS, [collator.tokenizer.eos_token_id]
    plain, hidden = cuts(len(row) - noise, spans, collator), cuts(noise, spans, collator)
    source: list[np.ndarray | list[int]] = []
    target: list[np.ndarray | list[int]] = []
    place = 0
    for number, (keep, drop) in enumerate(zip(plain, hidden, strict=True)):
        source += [row[place : place + keep], [first + number]]
        target += [[first + number], row[place + keep : place + keep + drop]]
        place += keep + drop
    return np.concatenate([*source, end]), np.concatenate([*target, end])


def masked_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Loss at the masked positions; only these go through the output layer."""
    hidden = model.bert(batch["input_ids"], token_type_ids=batch["token_type_ids"])[0]
    chosen = batch["labels"] != IGNORE
    return functional.cross_entropy(model.cls(hidden[chosen]).float(), batch["labels"][chosen])


class ChunkedLoss(torch.autograd.Function):
    """Output layer and cross-entropy in one, a few rows at a time so that these stay in cache.

    The gradients are computed with the loss; products in bf16, everything else in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss; keep the gradients for ``backward``."""
        rows, matrix = hidden.bfloat16(), weight.bfloat16()
        ctx.dtype, total = hidden.dtype, torch.zeros(())
        slope, slope_weight = torch.empty_like(rows), torch.zeros_like(weight)
        for start in range(0, len(rows), 512):
            part = slice(start, start + 512)
            log_share = functional.log_softmax((rows[part] @ matrix.T).float(), 1)
            wanted = labels[part, None]
            total = total - log_share.gather(1, wanted).sum()
            error = log_share.exp_()
            error.scatter_add_(1, wanted, error.new_full(wanted.shape, -1.0))
            error = error.bfloat16()
            slope[part] = error @ matrix
            slope_weight += error.T @ rows[part]
        ctx.save_for_backward(slope, slope_weight)
        ctx.count = len(rows)
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients of the hidden states and of the weight."""
        slope, slope_weight = ctx.saved_tensors
        scale = grads[0] / ctx.count
        return (slope * scale).to(ctx.dtype), slope_weight * scale, None


def causal_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    hidden = model.transformer(batch["input_ids"])[0][:, :-1].flatten(0, 1)
    labels = batch["labels"][:, 1:].flatten()
    if torch.is_grad_enabled():
        return ChunkedLoss.apply(hidden, model.lm_head.weight, labels)
    return functional.cross_entropy(model.lm_head(hidden).float(), labels)


def span_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    return model(**batch).loss
