"""Judged pairs of sentences, a second objective for an encoder beside the masked words.

    u, v = mean hidden states of the two sentences [B, H], read apart from each other
    loss = cross-entropy of W2 relu(W1 [u ; v ; |u - v| ; u v])     (Conneau et al. 2017)

Whether one sentence follows from another or contradicts it tells words of like company apart, good
from bad, which the words that stand around them hardly do. The judge is dropped after training.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import pyarrow.parquet as pq
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pretraining.objectives import IGNORE, Batch, Collator
from pretraining.recipes import Recipe
from pretraining.texts import Document, Source

LONGEST = 40  # tokens of one sentence
POOL = 16  # batches drawn together, of which one of like lengths is kept


def add_arguments(shown: argparse.ArgumentParser) -> None:
    add = shown.add_argument
    add("--pairs", action="append", default=[], metavar="FILE:FIRST+SECOND+LABEL",
        help="judged pairs (parquet, labels from 0 on) of texts that --data has too")  # fmt: skip
    add("--pair-share", type=float, default=0.7, help="share of the batches that are pairs")
    add("--pair-batch", type=int, default=64, help="pairs in a batch")


@dataclass(frozen=True)
class Pairs:
    """Token ids of the first and second sentences, and the judgements."""

    first: list[list[int]]
    second: list[list[int]]
    labels: torch.Tensor

    @property
    def classes(self) -> int:
        """The number of judgements there are."""
        return int(self.labels.max()) + 1


def read_pairs(
    specs: list[str], documents: list[Document], tokenizer: PreTrainedTokenizerFast
) -> Pairs:
    """Read the pairs which are among the documents: those have passed the leak check.

    A label below zero means that there is no judgement.
    """
    known = {tuple(parts) for parts in documents}
    rows = []
    for spec in specs:
        for source in Source.parse(spec):
            table = pq.read_table(source.path, columns=list(source.columns))
            rows += zip(*(table[name].to_pylist() for name in source.columns), strict=True)
    kept = [(a, b, y) for a, b, y in rows if y >= 0 and (a.strip(), b.strip()) in known]
    if not kept:
        raise SystemExit(f"--pairs: none of {len(rows)} pairs is among the texts of --data")
    first, second = (
        tokenizer([row[side] for row in kept], truncation=True, max_length=LONGEST)["input_ids"]
        for side in (0, 1)
    )
    return Pairs(first, second, torch.tensor([row[2] for row in kept]))


@dataclass
class PairCollator:
    """Replaces a share of the batches of text by batches of pairs."""

    text: Collator
    pairs: Pairs
    share: float
    size: int

    def __call__(self, blocks: list[torch.Tensor]) -> Batch:
        """Return a batch of the blocks, or one of pairs: B first sentences, then B second ones."""
        if self.text.random(1).item() >= self.share:
            return self.text(blocks)
        total, generator = len(self.pairs.labels), self.text.generator
        drawn = torch.randint(total, (POOL * self.size,), generator=generator).tolist()
        drawn.sort(key=lambda i: len(self.pairs.first[i]) + len(self.pairs.second[i]))
        start = self.size * int(torch.randint(POOL, (1,), generator=generator))
        chosen = drawn[start : start + self.size]
        rows = [side[i] for side in (self.pairs.first, self.pairs.second) for i in chosen]
        return self.masked(rows) | {"judgement": self.pairs.labels[chosen]}

    def masked(self, rows: list[list[int]]) -> Batch:
        """Pad, and mask words as in running text, but always by [MASK]."""
        tokenizer = self.text.tokenizer
        padded = [torch.tensor(row) for row in rows]
        ids = nn.utils.rnn.pad_sequence(padded, True, tokenizer.pad_token_id)
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        chosen = (self.text.random(*ids.shape) < self.text.rate) & ~special
        return {
            "input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id),
            "attention_mask": (ids != tokenizer.pad_token_id).long(),
            "token_type_ids": torch.zeros_like(ids),
            "labels": ids.where(chosen, IGNORE),
        }


def judge(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4 * width, 256), nn.ReLU(), nn.Linear(256, classes))


def with_pairs(recipe: Recipe) -> Recipe:
    """Return the recipe whose loss adds that of the judgements, where a batch holds some."""

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        if "judgement" not in batch:
            return recipe.loss(model, batch)
        mask = batch["attention_mask"]
        hidden = model.bert(batch["input_ids"], mask, token_type_ids=batch["token_type_ids"])[0]
        chosen = batch["labels"] != IGNORE
        words = functional.cross_entropy(model.cls(hidden[chosen]).float(), batch["labels"][chosen])
        real = mask.unsqueeze(-1)
        u, v = ((hidden.float() * real).sum(1) / real.sum(1)).chunk(2)
        scores = model.judge(torch.cat([u, v, (u - v).abs(), u * v], 1)).float()
        return words + functional.cross_entropy(scores, batch["judgement"])

    return replace(recipe, loss=loss)
