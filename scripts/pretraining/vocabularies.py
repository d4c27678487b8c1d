"""The vocabularies: whole words and pieces, bytes, unigrams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import trainers as vocabulary_trainers

SENTINELS = 32
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
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
