"""What forms share: texts as token ids, and examples of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # a target without a loss


def padded(lists: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return lists of numbers as one tensor [N, T], padded on the right with `value`."""
    import numpy as np
    import torch

    # Six times faster than a tensor of padded lists.
    array = np.full((len(lists), max(map(len, lists))), value, dtype=np.int64)
    for line, numbers in zip(array, lists, strict=True):
        line[: len(numbers)] = numbers
    return torch.from_numpy(array)


def padded_inputs(
    sequences: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Return input_ids, token_type_ids (if there) and attention_mask [N, T] of sequences."""
    import torch

    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    names = [name for name in fill if name in sequences[0]]
    inputs = {name: padded([s[name] for s in sequences], fill[name]) for name in names}
    sizes = torch.tensor([len(sequence["input_ids"]) for sequence in sequences])
    inputs["attention_mask"] = (torch.arange(int(sizes.max())) < sizes[:, None]).long()
    return inputs


def tokenized(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Sequence[str]],
    longest: int,
    cut: bool | str,
) -> dict[str, list]:
    """Return token ids of single texts or pairs; special tokens written in a text are plain text.

    `texts` holds one list, or two of the same length; `cut` is the tokenizer's `truncation`.
    """
    plain = plain_text(tokenizer)
    columns = [[plain(text) for text in column] for column in texts]
    tokens = tokenizer(
        *columns, truncation=cut, max_length=longest, split_special_tokens=True,
        return_attention_mask=False,
    )  # fmt: skip
    # A tokenizer that adds no special token gives an empty text no token at all: it gets one.
    alone = {"input_ids": tokenizer.eos_token_id or 0}
    return {
        name: [values or [alone.get(name, 0)] for values in lists] for name, lists in tokens.items()
    }


def plain_text(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """Return what breaks up special tokens in a text where `split_special_tokens` does not.

    A unigram model (T5, XLNet, ALBERT) has them in its vocabulary and finds them by itself.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "Unigram":
        return lambda text: text

    def broken_up(text: str) -> str:
        for token in tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    return broken_up
