"""Scores of classes from those of their words at the slots of a pattern.

    word    log p(word) = sum over its pieces k of log p_k(piece)
    class   one of, over the class's words w:
              mean               mean of log p(w)        (PET: the mean of the logits)
              sum                log of the sum of p(w)  (AutoPrompt)
              mean_probability   log of the mean of p(w)
              max                the largest log p(w)

With one word per class all four are the same. A softmax over the classes follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.tasks.pattern import Words

if TYPE_CHECKING:
    from torch import Tensor

NONE = -1  # pads pieces


def pieces_of(tokenizer: Any, words: Words, left: str) -> list[list[list[int]]]:
    """Return the token ids of each word of each class, as they follow `left` in a text."""
    blank = " " if left.endswith(" ") else ""
    stem = (left.rstrip(" ")[-1:] or "x") if left else ""
    base = _ids(tokenizer, stem) if stem else []
    made: list[list[list[int]]] = []
    for every in words:
        made.append([])
        for word in every:
            ids = _ids(tokenizer, f"{stem}{blank}{word}")
            joined = ids[: len(base)] == base
            made[-1].append(ids[len(base) :] if joined else _ids(tokenizer, blank + word))
    return made


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def check_pieces(
    tokenizer: Any, words: Words, pieces: list[list[list[int]]], longest: int | None
) -> None:
    """Check the words' tokens; `longest`: pieces that a word may have, None: any number.

    Raises:
        AdaptError: a word is unknown to the tokenizer, too long, or not told from another.
    """
    seen: dict[tuple[int, ...], str] = {}
    for names, lists in zip(words, pieces, strict=True):
        for word, ids in zip(names, lists, strict=True):
            if not ids or tokenizer.unk_token_id in ids:
                raise AdaptError(
                    f"task.words: the tokenizer does not know {word!r}. Choose another."
                )
            if longest is not None and len(ids) > longest:
                shown = " ".join(tokenizer.convert_ids_to_tokens(ids))
                raise AdaptError(
                    f"task.words: {word!r} has {len(ids)} pieces in this tokenizer ({shown}). "
                    "Choose a word of one piece, set task.pieces=parallel for a masked model, or "
                    "task.form=text."
                )
    for names, lists in zip(words, pieces, strict=True):
        for word, ids in zip(names, lists, strict=True):
            if (other := seen.setdefault(tuple(ids), word)) != word:
                raise AdaptError(
                    f"task.words: {other!r} and {word!r} are the same to this tokenizer. Choose "
                    "other words."
                )


def table(pieces: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Return pieces as a tensor [C, W, K], padded with NONE."""
    import torch

    width = max(len(words) for words in pieces)
    length = max(len(ids) for words in pieces for ids in words)
    made = torch.full((len(pieces), width, length), NONE)
    for c, words in enumerate(pieces):
        for w, ids in enumerate(words):
            made[c, w, : len(ids)] = torch.tensor(ids)
    return made


def word_scores(logits: Tensor, pieces: Tensor) -> Tensor:
    """Return log p of every word [B, C, W] from logits [B, K, V] and pieces [C, W, K]."""
    import torch

    shares = logits.float().log_softmax(-1)
    total = shares.new_zeros(len(logits), *pieces.shape[:2])
    for k in range(pieces.shape[-1]):
        ids = pieces[..., k]
        total = total + torch.where(ids >= 0, shares[:, k][:, ids.clamp(min=0)], 0.0)
    return total


def class_scores(scores: Tensor, there: Tensor, how: str) -> Tensor:
    """Return the scores of classes [B, C] from those of words [B, C, W]; `there` [C, W] words."""
    import torch

    absent, count = scores.masked_fill(~there, -torch.inf), there.sum(-1)
    if how == "mean":
        return scores.masked_fill(~there, 0.0).sum(-1) / count
    if how == "max":
        return absent.amax(-1)
    summed = absent.logsumexp(-1)
    return summed - count.log() if how == "mean_probability" else summed
