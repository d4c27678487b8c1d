"""Texts as one line of token numbers, kept from run to run."""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pretraining.recipes import Recipe
from pretraining.texts import Document, fingerprint, load_documents, read_json, write_json

LOGGER = logging.getLogger("pretrain_mini")


def train_vocabulary(
    recipe: Recipe, documents: list[Document], args: argparse.Namespace
) -> PreTrainedTokenizerFast:
    """Train the vocabulary on evenly spaced documents of about ``--vocabulary-words`` words."""
    total = sum(len(part) for parts in documents for part in parts) / 5.5
    stride = max(1, math.floor(total / args.vocabulary_words))
    texts = (part for parts in documents[::stride] for part in parts)
    raw = recipe.vocabulary(texts, args.vocabulary or recipe.size)
    inputs = ["input_ids", "attention_mask"]
    if "cls_token" in recipe.special:
        inputs.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=args.positions,
        model_input_names=inputs,
        **recipe.special,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save compactly, under the class name that every version of the library knows."""
    tokenizer.save_pretrained(folder)
    whole = folder / "tokenizer.json"
    compact = json.dumps(read_json(whole), ensure_ascii=False, separators=(",", ":"))
    whole.write_text(compact, encoding="utf-8")
    config = read_json(folder / "tokenizer_config.json")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = tokenizer.model_input_names
    write_json(folder / "tokenizer_config.json", config)


def tokenise(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> np.ndarray:
    """Return all documents as one line of token numbers, a separator after each."""
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    raw = tokenizer.backend_tokenizer
    pieces = []
    for start in range(0, len(documents), 1000):
        texts = [recipe.joint.join(parts) for parts in documents[start : start + 1000]]
        for encoding in raw.encode_batch_fast(texts, add_special_tokens=False):
            pieces.append(np.array([*encoding.ids, end], np.uint16))
    return np.concatenate(pieces)


def prepare(
    recipe: Recipe, args: argparse.Namespace
) -> tuple[PreTrainedTokenizerFast, np.ndarray, dict[str, Any]]:
    """Return the tokenizer, the training tokens and the report, from the cache where possible."""
    documents, report, key = load_documents(args)
    size = args.vocabulary or recipe.size
    key = fingerprint(key, args.model, size, args.vocabulary_words, args.positions)
    folder, tokens = args.cache / f"tokenizer-{key}", args.cache / f"tokens-{key}.npy"
    if not tokens.exists():
        LOGGER.info("training the vocabulary on %d documents", len(documents))
        tokenizer = train_vocabulary(recipe, documents, args)
        save_tokenizer(tokenizer, folder)
        shuffled = np.random.default_rng(args.seed).permutation(len(documents))
        LOGGER.info("tokenising")
        np.save(tokens, tokenise(recipe, tokenizer, [documents[i] for i in shuffled]))
    return AutoTokenizer.from_pretrained(folder), np.load(tokens), report


class Blocks(torch.utils.data.Dataset):
    """The line of tokens cut into blocks of equal length."""

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        count = len(tokens) // length
        self.blocks = tokens[: count * length].reshape(count, length)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.blocks[index].astype(np.int64))
