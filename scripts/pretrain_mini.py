"""Pretrain one of three mini language models from scratch on a CPU.

The models are small enough to ship with a package (below 8 MB each as bf16 safetensors plus
tokenizer) and load with plain ``from_pretrained``:

- ``mini-bert``: BERT encoder, masked language modelling, lower-cased WordPiece vocabulary;
- ``mini-gpt2``: GPT-2 decoder, next-token prediction, lower-casing byte-level BPE;
- ``mini-t5``: T5 encoder-decoder, span corruption, lower-cased Unigram with sentinel tokens.

What a run does, in order:

1. reads the texts (``--data``), drops repeated ones and every one that shares an n-gram of 13
   words with a text named by ``--exclude`` or ``--heldout``, and proves by a second, independent
   pass that no such n-gram is left (``ngram_report.json``);
2. trains the vocabulary, tokenises once, and keeps both in ``--cache``;
3. starts the token embeddings from the counts of which tokens stand near each other (``vectors``);
4. trains with the Hugging Face ``Trainer``: packed sequences, small batches, no dropout, bf16
   autocast, the learning rate scheduled on the processor time of a thread (``--minutes``), so that
   it reaches zero at the end whatever else the machine does meanwhile;
5. writes the model, ``curve.jsonl`` and ``result.json`` to ``--output``. Checkpoints in float32
   go to ``OUTPUT/checkpoints``; the same command line continues from the newest one, also with
   larger ``--minutes`` after the run is finished.

Usage::

    python scripts/pretrain_mini.py --model mini-bert --output out/mini-bert --minutes 50 \\
        --data corpus/train.parquet:text --data snli/train.parquet:premise+hypothesis \\
        --exclude 'sets/*/validation*.parquet' --exclude 'sets/*/test*.parquet' \\
        --heldout corpus/validation.parquet:text

On a machine with other work to do, set ``OMP_WAIT_POLICY=PASSIVE``: otherwise the threads wait for
each other busily, and one busy core slows a step ten times.

A file is Parquet or JSON lines (``FILE:column``, or ``FILE:first+second`` for the texts of two
columns in one document) or plain text (documents separated by blank lines).
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import logging
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import trainers as vocabulary_trainers
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

LOGGER = logging.getLogger("pretrain_mini")
WORD = re.compile(r"\w+")
SENTINELS = 32
IGNORE = -100
Document = list[str]
Batch = dict[str, torch.Tensor]


# ---------------------------------------------------------------------------------- reading text


@dataclass(frozen=True)
class Source:
    """A file and the columns whose texts make up one document (none: every text column)."""

    path: Path
    columns: tuple[str, ...] = ()

    @classmethod
    def parse(cls, spec: str) -> list[Source]:
        """Read ``FILE``, ``PATTERN`` or ``FILE:column+column``."""
        pattern, colon, names = spec.partition(":")
        paths = sorted(glob.glob(pattern))
        if not paths:
            raise SystemExit(f"no file matches {pattern}")
        columns = tuple(names.split("+")) if colon else ()
        return [cls(Path(path), columns) for path in paths]

    @property
    def name(self) -> str:
        """Return the file in its folder and the columns, for reports."""
        short = "/".join(self.path.parts[-2:])
        return f"{short}:{'+'.join(self.columns)}" if self.columns else short

    def fingerprint(self) -> list[str]:
        """Return the name and a hash of the content."""
        return [self.name, hashlib.sha256(self.path.read_bytes()).hexdigest()]

    def documents(self) -> Iterator[Document]:
        """Yield the documents, each as the list of its parts."""
        if self.path.suffix == ".txt":
            for block in re.split(r"\n\s*\n", self.path.read_text(encoding="utf-8")):
                yield [block.strip()]
            return
        for row in self._rows():
            parts = [row[name] for name in self.columns or row]
            yield [part.strip() for part in parts if isinstance(part, str)]

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.path.suffix in {".jsonl", ".json"}:
            with self.path.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines)
            return
        file = pq.ParquetFile(self.path)
        columns = list(self.columns) or [
            field.name for field in file.schema_arrow if pa.types.is_string(field.type)
        ]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def sources(specs: Iterable[str]) -> list[Source]:
    return [source for spec in specs for source in Source.parse(spec)]


def fingerprint(*parts: Any) -> str:
    """Return a short key that changes with any of the parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------ leak check


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


class WordCodes(dict[str, int]):
    """A fixed 64-bit number for every word."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        self[word] = int.from_bytes(digest, "little")
        return self[word]


@dataclass
class Ngrams:
    """N-grams of words, as numbers (fast) and as text (exact).

    A text shorter than ``size`` words counts as one n-gram if it has ``shortest`` words or more.
    """

    size: int = 13
    shortest: int = 8
    codes: WordCodes = field(default_factory=WordCodes)

    def numbers(self, text: str) -> np.ndarray:
        """Return one number for every n-gram of the text."""
        sequence = words(text)
        if len(sequence) < self.shortest:
            return np.empty(0, np.uint64)
        width = min(self.size, len(sequence))
        code = np.fromiter((self.codes[word] for word in sequence), np.uint64, len(sequence))
        total = np.full(len(sequence) - width + 1, width, np.uint64)
        for offset in range(width):
            total = total * np.uint64(0x9E3779B97F4A7C15) + code[offset : offset + len(total)]
        return total

    def texts(self, text: str) -> Iterator[str]:
        """Yield every n-gram of the text as words."""
        sequence = words(text)
        if len(sequence) < self.shortest:
            return
        width = min(self.size, len(sequence))
        for start in range(len(sequence) - width + 1):
            yield " ".join(sequence[start : start + width])

    def hits(self, documents: list[Document], banned: np.ndarray) -> list[bool]:
        """Tell for every document whether it holds one of the banned (sorted) n-grams."""
        found = []
        for parts in documents:
            grams = np.concatenate([self.numbers(part) for part in parts])
            place = np.searchsorted(banned, grams).clip(max=max(len(banned) - 1, 0))
            found.append(bool(len(banned)) and bool((banned[place] == grams).any()))
        return found


def distinct(documents: Iterable[Document], seen: set[bytes]) -> tuple[list[Document], int]:
    """Return the documents not seen before (compared by their words) and the number dropped."""
    kept, dropped = [], 0
    for parts in documents:
        key = hashlib.blake2b("\n".join(" ".join(words(p)) for p in parts).encode()).digest()[:16]
        dropped += key in seen
        if key not in seen and any(parts):
            kept.append(parts)
        seen.add(key)
    return kept, dropped


def clean_documents(
    data: list[Source], excluded: list[Source], ngrams: Ngrams
) -> tuple[list[Document], dict[str, Any]]:
    """Read the training texts without repeats and without any text of the excluded files."""
    texts = sorted({p for source in excluded for parts in source.documents() for p in parts})
    banned = np.unique(np.concatenate([ngrams.numbers(t) for t in texts] or [np.empty(0)]))
    LOGGER.info("excluded: %d texts, %d n-grams", len(texts), len(banned))
    seen: set[bytes] = set()
    documents: list[Document] = []
    rows = []
    for source in data:
        unique, repeated = distinct(source.documents(), seen)
        hits = ngrams.hits(unique, banned)
        kept = [parts for parts, hit in zip(unique, hits, strict=True) if not hit]
        count = sum(len(words(part)) for parts in kept for part in parts)
        row = {"source": source.name, "documents": len(unique) + repeated, "repeated": repeated}
        rows.append(row | {"overlapping": sum(hits), "kept": len(kept), "words_kept": count})
        LOGGER.info("%s", rows[-1])
        documents += kept
    report = {
        "ngram_words": ngrams.size,
        "whole_texts_from_words": ngrams.shortest,
        "excluded_files": [source.name for source in excluded],
        "excluded_texts": len(texts),
        "excluded_ngrams": len(banned),
        "sources": rows,
        "dropped_for_overlap": sum(row["overlapping"] for row in rows),
        "proof": prove_disjoint(documents, texts, ngrams),
    }
    return documents, report


def prove_disjoint(documents: list[Document], texts: list[str], ngrams: Ngrams) -> dict[str, int]:
    """Compare the kept documents with the excluded texts again, by the words themselves."""
    banned = {gram for text in texts for gram in ngrams.texts(text)}
    checked = remaining = 0
    for parts in documents:
        for part in parts:
            grams = list(ngrams.texts(part))
            checked += len(grams)
            remaining += sum(gram in banned for gram in grams)
    if remaining:
        raise SystemExit(f"{remaining} n-grams of excluded texts are left in the training texts")
    return {"ngrams_checked": checked, "ngrams_remaining": remaining}


def load_documents(args: argparse.Namespace) -> tuple[list[Document], dict[str, Any], str]:
    """Return the cleaned training documents (cached), the report and the key of both."""
    data, excluded = sources(args.data), sources(args.exclude + args.heldout)
    prints = [[source.fingerprint() for source in group] for group in (data, excluded)]
    key = fingerprint(prints, args.ngram, args.shortest)
    stored, note = args.cache / f"documents-{key}.jsonl", args.cache / f"ngrams-{key}.json"
    if stored.exists() and note.exists():
        lines = stored.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line], read_json(note), key
    documents, report = clean_documents(data, excluded, Ngrams(args.ngram, args.shortest))
    stored.write_text("\n".join(json.dumps(parts) for parts in documents), encoding="utf-8")
    write_json(note, report)
    return documents, report, key


# ------------------------------------------------------------------------------------ vocabulary

PIECES = 1200  # of words that are too rare to be entries of mini-bert's vocabulary


def bert_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """Make a vocabulary of whole words, the most frequent ones, and PIECES pieces of all others.

    With so few entries the usual merges spend half of them on pieces of frequent words, and cut
    "brilliant" in three; here a third fewer words of a text are cut.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    ranked = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = vocabulary_trainers.WordPieceTrainer(
        vocab_size=PIECES, special_tokens=special, limit_alphabet=100, show_progress=False
    )
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    rare = ranked[size - PIECES :]
    pieces.train_from_iterator((word for word in rare for _ in range(counts[word])), trainer)
    entries = dict.fromkeys(sorted(pieces.get_vocab(), key=pieces.get_vocab().get))
    for word in ranked:
        if len(entries) == size:
            break
        entries[word] = None
    numbered = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(numbered, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, special.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def gpt2_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = vocabulary_trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def t5_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a Unigram vocabulary.

    The pieces come from byte pair merges and are weighed by their use: with so few of them this
    needs a tenth fewer tokens than the pieces that the Unigram trainer itself prefers.
    """
    plain = [re.sub(r"[^\x00-\u024f\u2010-\u2026]", "", text) for text in texts]
    special = ["<pad>", "</s>", "<unk>"]
    merges = t5_frame(models.BPE(unk_token="<unk>"))
    trainer = vocabulary_trainers.BpeTrainer(
        vocab_size=size - SENTINELS, special_tokens=special, show_progress=False
    )
    merges.train_from_iterator(plain, trainer)
    uses = np.ones(merges.get_vocab_size())
    for encoding in merges.encode_batch_fast(plain, add_special_tokens=False):
        np.add.at(uses, encoding.ids, 1)
    scores = np.log(uses / uses.sum())
    names = [merges.id_to_token(number) for number in range(len(uses))]
    pieces = [(name, 0.0 if name in special else float(scores[i])) for i, name in enumerate(names)]
    tokenizer = t5_frame(models.Unigram(pieces, unk_id=special.index("<unk>")))
    sentinels = [AddedToken(f"<extra_id_{i}>", lstrip=True) for i in range(SENTINELS)]
    tokenizer.add_special_tokens([*special, *sentinels])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def t5_frame(model: models.Model) -> Tokenizer:
    """Return a tokenizer around the model that lower-cases and splits at blanks and marks."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


# ---------------------------------------------------------------------------- batches and losses


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


# ---------------------------------------------------------------------------------------- models


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


# ----------------------------------------------------------------------------- tokenising, cached


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


# -------------------------------------------------------------------------------------- training


@dataclass
class Clock:
    """Processor time spent training, per thread: waiting for other processes does not count."""

    total: float
    warmup: float
    seconds: float = 0.0
    saved: float = 0.0
    last: float | None = None

    @staticmethod
    def now() -> float:
        """Return the processor time of a thread so far."""
        return time.process_time() / torch.get_num_threads()

    def tick(self) -> None:
        """Count the time since the last call."""
        now = self.now()
        if self.last is not None:
            self.seconds += now - self.last
        self.last = now

    def factor(self) -> float:
        """Return the share of the peak learning rate: linear warm-up, linear decay."""
        progress = self.seconds / self.total
        if progress < self.warmup:
            return max(progress / self.warmup, 0.01)
        return max((1 - progress) / (1 - self.warmup), 0.0)


class Progress(TrainerCallback):
    """Keeps the clock, stops in time, asks for checkpoints and writes the curve."""

    def __init__(self, clock: Clock, curve: Path, tokens: int, save_every: float) -> None:
        self.clock, self.curve, self.tokens, self.every = clock, curve, tokens, save_every

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock with the first step."""
        if self.clock.last is None:
            self.clock.last = self.clock.now()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop when the time is up; ask for a checkpoint when one is due."""
        self.clock.tick()
        control.should_training_stop = self.clock.seconds >= self.clock.total
        due = self.clock.seconds - self.clock.saved >= self.every
        control.should_save = due or control.should_training_stop

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as complete and keep the time spent so far with it."""
        self.clock.saved = self.clock.seconds
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / "clock.json", {"seconds": self.clock.seconds})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Add a row to the curve."""
        logs = more["logs"]
        if "loss" not in logs:
            return
        row = {
            "step": state.global_step,
            "seconds": round(self.clock.seconds, 1),
            "tokens": state.global_step * self.tokens,
            "loss": float(logs["loss"]),
            "lr": float(logs["learning_rate"]),
            "grad_norm": round(float(logs["grad_norm"]), 3),
        }
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        LOGGER.info("%s", row)


class MiniTrainer(Trainer):
    """Trainer with the recipe's loss under autocast and a learning rate that follows the clock."""

    def __init__(self, recipe: Recipe, clock: Clock, **more: Any) -> None:
        super().__init__(**more)
        self.recipe, self.clock = recipe, clock

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Let the learning rate follow the clock instead of the steps."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda _step: self.clock.factor()
        )
        return self.lr_scheduler

    def compute_loss(
        self, model: PreTrainedModel, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """Return the recipe's loss, computed in bf16 where that is safe."""
        with torch.autocast(self.args.device.type, torch.bfloat16):
            return self.recipe.loss(model, inputs)


def training_arguments(args: argparse.Namespace, recipe: Recipe) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(args.output / "checkpoints"),
        per_device_train_batch_size=max(1, args.batch_tokens // args.positions),
        max_steps=10_000_000,  # the clock ends the run
        learning_rate=args.learning_rate or recipe.learning_rate,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_steps=args.log_steps,
        save_strategy="no",  # the clock asks for checkpoints
        save_total_limit=2,
        seed=args.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


def newest_checkpoint(args: argparse.Namespace) -> Path | None:
    """Return the checkpoint to continue from: the one asked for or the newest complete one."""
    if args.resume == "none":
        return None
    if args.resume != "auto":
        return Path(args.resume)
    folders = [note.parent for note in args.output.glob("checkpoints/checkpoint-*/clock.json")]
    return max(folders, key=lambda folder: int(folder.name.split("-")[1]), default=None)


def restore(clock: Clock, checkpoint: Path | None, curve: Path) -> None:
    """Set the clock to the checkpoint's time and cut the curve back to it."""
    step = -1
    if checkpoint:
        clock.seconds = clock.saved = read_json(checkpoint / "clock.json")["seconds"]
        step = int(checkpoint.name.split("-")[1])
        LOGGER.info("continuing from %s at %.0f s", checkpoint, clock.seconds)
    lines = curve.read_text(encoding="utf-8").splitlines() if curve.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    curve.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    tokens: np.ndarray,
    args: argparse.Namespace,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train until the clock runs out; return the model and the figures of the run."""
    torch.manual_seed(args.seed)
    model = recipe.build(tokenizer, args.positions)
    table = model.get_input_embeddings().weight
    if args.vectors:
        table.data.copy_(vectors(tokens, *table.shape) * table.std())
    model.set_attn_implementation("eager")  # on a CPU faster than the fused kernels' backward
    LOGGER.info("%d parameters, %d training tokens", model.num_parameters(), len(tokens))
    clock = Clock(args.minutes * 60, args.warmup)
    checkpoint = newest_checkpoint(args)
    restore(clock, checkpoint, args.output / "curve.jsonl")
    settings = training_arguments(args, recipe)
    batch_tokens = settings.per_device_train_batch_size * args.positions
    trainer = MiniTrainer(
        recipe,
        clock,
        model=model,
        args=settings,
        train_dataset=Blocks(tokens, args.positions),
        data_collator=collator(recipe, tokenizer, args, args.long_share),
        callbacks=[Progress(clock, args.output / "curve.jsonl", batch_tokens, args.save_seconds)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if clock.seconds < clock.total:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    else:
        model = type(model).from_pretrained(checkpoint)
    steps = trainer.state.global_step
    figures = {"steps": steps, "seconds": round(clock.seconds, 1), "tokens": steps * batch_tokens}
    return model, figures


def collator(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, share: float
) -> Collator:
    rate = args.mask or recipe.rate
    return Collator(recipe.batch, tokenizer, args.length, share, rate, args.seed)


# -------------------------------------------------------------------------------- saving, testing


def save_model(model: PreTrainedModel, recipe: Recipe, folder: Path) -> None:
    """Save the weights as bf16, with the usual dropout for later fine-tuning.

    The configuration says float32, so that loading gives float32 weights without being asked.
    """
    for name in recipe.dropouts:
        setattr(model.config, name, 0.1)
    model.config.use_cache = True  # switched off by the trainer
    model.to(torch.bfloat16).save_pretrained(folder)
    config = read_json(folder / "config.json")
    config.pop("torch_dtype", None)
    write_json(folder / "config.json", config | {"dtype": "float32"})


@torch.no_grad()
def heldout_loss(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> dict[str, float]:
    """Load the saved model and return its loss on the held-out texts."""
    model = getattr(transformers, recipe.auto).from_pretrained(args.output).eval()
    documents = [parts for source in sources(args.heldout) for parts in source.documents()]
    blocks = Blocks(tokenise(recipe, tokenizer, documents), args.positions)
    collate = collator(recipe, tokenizer, args, 0.0)
    total, count = 0.0, 0
    for start in range(0, len(blocks), 8):
        batch = collate([blocks[i] for i in range(start, min(start + 8, len(blocks)))])
        number = int((batch["labels"] != IGNORE).sum())
        total += recipe.loss(model, batch).item() * number
        count += number
    loss = total / max(count, 1)
    return {"loss": loss, "perplexity": math.exp(loss), "positions": count}


def finish(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
    args: argparse.Namespace,
    notes: dict[str, Any],
) -> None:
    """Save model and tokenizer, test what was saved, and write the result."""
    notes["parameters"] = model.num_parameters()
    save_model(model.cpu(), recipe, args.output)
    save_tokenizer(tokenizer, args.output)
    files = ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json")
    notes["bytes"] = {name: (args.output / name).stat().st_size for name in files}
    if args.heldout:
        notes["heldout"] = heldout_loss(recipe, tokenizer, args)
    write_json(args.output / "result.json", notes)
    LOGGER.info("done: %s", {key: notes.get(key) for key in ("heldout", "bytes", "parameters")})


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    shown = argparse.ArgumentParser(
        description="Pretrain a mini language model from scratch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = shown.add_argument
    add("--model", choices=sorted(RECIPES), required=True, help="which model to train")
    add("--output", type=Path, required=True, help="folder for model, checkpoints and reports")
    many = {"action": "append", "metavar": "FILE[:COLUMN[+COLUMN]]"}
    add("--data", required=True, help="training text: parquet, jsonl or txt, or a pattern", **many)
    add("--exclude", default=[], help="text not to train on (no COLUMN: all text columns)", **many)
    add("--heldout", default=[], help="text for the final test; excluded as well", **many)
    add("--cache", type=Path, help="folder for prepared data (default: OUTPUT/cache)")
    add("--minutes", type=float, default=50, help="processor time a thread, without preparation")
    add("--resume", default="auto", help="checkpoint; 'auto': the newest in OUTPUT; or 'none'")
    add("--seed", type=int, default=0, help="seed of initialisation, order and masking")
    add("--threads", type=int, default=0, help="CPU threads (0: torch decides)")
    add_sizes(shown)
    return shown


def add_sizes(shown: argparse.ArgumentParser) -> None:
    add = shown.add_argument
    add("--vocabulary", type=int, help="tokens in the vocabulary (default: the model's recipe)")
    add("--vocabulary-words", type=int, default=4_000_000, help="words to train it on, about")
    add("--positions", type=int, default=512, help="longest sequence of the model")
    add("--length", type=int, default=128, help="sequence length in training")
    add("--vectors", action=argparse.BooleanOptionalAction, default=True, help="start from counts")
    add("--long-share", type=float, default=0.1, help="share of batches in full length instead")
    add("--batch-tokens", type=int, default=4096, help="tokens in a batch")
    add("--learning-rate", type=float, help="peak learning rate (default: the model's recipe)")
    add("--warmup", type=float, default=0.03, help="share of the time with rising learning rate")
    add("--mask", type=float, help="share of tokens to predict (default: the model's recipe)")
    add("--ngram", type=int, default=13, help="words in an n-gram of the leak check")
    add("--shortest", type=int, default=8, help="shorter texts are not compared")
    add("--save-seconds", type=float, default=300, help="training time between checkpoints")
    add("--log-steps", type=int, default=50, help="steps between rows of curve.jsonl")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    if args.positions % args.length:
        raise SystemExit("--positions must be a multiple of --length")
    args.cache = args.cache or args.output / "cache"
    for folder in (args.output, args.cache):
        folder.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = RECIPES[args.model]
    tokenizer, tokens, report = prepare(recipe, args)
    write_json(args.output / "ngram_report.json", report)
    model, figures = train(recipe, tokenizer, tokens, args)
    notes = {"model": args.model, "training": figures, "settings": vars(args)}
    notes |= {"training_tokens": len(tokens), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
    notes |= {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    finish(recipe, tokenizer, model, args, notes | {"ngram_report": report})


if __name__ == "__main__":
    main()
