"""The three models, and all that differs between their trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from pretraining.objectives import (
    Batch,
    Collator,
    causal_batch,
    causal_loss,
    masked_batch,
    masked_loss,
    span_batch,
    span_loss,
)
from pretraining.vocabularies import bert_vocabulary, gpt2_vocabulary, t5_vocabulary


def vectors(tokens: np.ndarray, size: int, width: int, window: int = 5) -> torch.Tensor:
    """Return a vector for every token from its company, [size, width], of variance one.

    Left singular vectors, times the root of the singular values, of the positive pointwise mutual
    information of tokens within ``window`` places of each other (Levy, Goldberg and Dagan 2015).
    """
    counts = np.zeros(size * size, np.float32)
    line = tokens.astype(np.int64)
    for distance in range(1, window + 1):
        for start in range(0, len(line) - distance, 4_000_000):
            part = slice(start, min(start + 4_000_000, len(line) - distance))
            pairs = line[part] * size + line[part.start + distance : part.stop + distance]
            counts += np.bincount(pairs, minlength=size * size).astype(np.float32) / distance
    table = torch.from_numpy(counts.reshape(size, size))
    table = table + table.T
    share = (table.sum(1) + 1).pow(0.75)
    expected = (table.sum(1)[:, None] * (share / share.sum())).clamp(min=1e-3)
    information = (table / expected).clamp(min=1.0).log()
    left, values, _ = torch.svd_lowrank(information, width, niter=4)
    result = left * values.sqrt()
    known = result.norm(dim=1) > 0
    result = result - result[known].mean(0)
    result = result / result.norm(dim=1, keepdim=True).clamp(min=1e-6) * width**0.5
    return torch.where(known[:, None], result, torch.randn(size, width))


def place_waves(table: torch.nn.Embedding) -> None:
    """Start position embeddings as sine waves: neighbours are found much sooner than by chance."""
    count, width = table.weight.shape
    rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(count)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    table.weight.data.copy_(waves * 0.04)


def bert_model(tokenizer: PreTrainedTokenizerFast, positions: int) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=224,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=448,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertForMaskedLM(config)
    place_waves(model.bert.embeddings.position_embeddings)
    return model


def gpt2_model(tokenizer: PreTrainedTokenizerFast, positions: int) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=256,
        n_layer=4,
        n_head=4,
        n_inner=512,
        activation_function="gelu_pytorch_tanh",  # the usual one, in one pass
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    place_waves(model.transformer.wpe)
    return model


def t5_model(tokenizer: PreTrainedTokenizerFast, positions: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=192,
        d_kv=32,
        num_heads=6,
        d_ff=512,
        num_layers=3,
        num_decoder_layers=3,
        n_positions=positions,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config)


@dataclass(frozen=True)
class Recipe:
    """All that differs between the three models."""

    vocabulary: Callable[[Iterable[str], int], Tokenizer]
    special: dict[str, str]
    joint: str
    build: Callable[[PreTrainedTokenizerFast, int], PreTrainedModel]
    batch: Callable[[torch.Tensor, Collator], Batch]
    loss: Callable[[PreTrainedModel, Batch], torch.Tensor]
    dropouts: tuple[str, ...]
    auto: str
    size: int = 6000
    rate: float = 0.15
    learning_rate: float = 1e-3


RECIPES = {
    "mini-bert": Recipe(
        bert_vocabulary,
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        "[SEP]",
        bert_model,
        masked_batch,
        masked_loss,
        ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "AutoModelForMaskedLM",
        size=9000,
        rate=0.2,
    ),
    "mini-gpt2": Recipe(
        gpt2_vocabulary,
        dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
        "\n",
        gpt2_model,
        causal_batch,
        causal_loss,
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        "AutoModelForCausalLM",
    ),
    "mini-t5": Recipe(
        t5_vocabulary,
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "\n",
        t5_model,
        span_batch,
        span_loss,
        ("dropout_rate",),
        "AutoModelForSeq2SeqLM",
    ),
}
