"""What forms share: texts as token ids, and examples of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.tasks.template import Template, no_room, written

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # a target without a loss


def encoded(
    rows: Dataset,
    examples: Callable[[dict[str, list], list[int]], dict[str, list]],
    batch_size: int = 1000,
) -> Dataset:
    """Return what `examples(batch, row numbers)` makes of rows, in memory."""
    from datasets.fingerprint import generate_random_fingerprint

    return rows.map(
        examples, batched=True, with_indices=True, remove_columns=rows.column_names,
        batch_size=batch_size, keep_in_memory=True, load_from_cache_file=False,
        new_fingerprint=generate_random_fingerprint(),  # nothing is cached: no hash of it all
    )  # fmt: skip


def targets_of(lists: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return `target` [B, T], IGNORED where there is none, and `kept` [2, N]: where there is one.

    Rows and columns, found on the host: a GPU would have to be waited for to learn their number.
    """
    import torch

    target = padded(lists, IGNORED)
    return {"target": target, "kept": torch.stack((target != IGNORED).nonzero(as_tuple=True))}


def weights_on(device: torch.device, weights: tuple[float, ...]) -> Tensor | None:
    """Return the weights of classes [C], fp32; their copy to the device is not waited for."""
    import torch

    return torch.tensor(weights).to(device, non_blocking=True) if weights else None


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

    `texts` holds one list, or two of the same length; `cut` is the tokenizer's `truncation`. The
    column `cut` counts the tokens that each loses.

    Raises:
        AdaptError: nothing stands between the texts of a pair.
    """
    plain = plain_text(tokenizer)
    columns = [[plain(text) for text in column] for column in texts]
    if len(texts) == 2:
        check_separator(tokenizer)
    tokens = tokenizer(
        *columns, truncation=cut, max_length=longest, split_special_tokens=True,
        return_attention_mask=False,
    )  # fmt: skip
    lists: dict[str, list] = dict(tokens)
    lost = [0] * len(columns[0])
    full = [i for i, ids in enumerate(lists["input_ids"]) if len(ids) >= longest]
    if full:
        uncut = tokenizer(
            *([column[i] for i in full] for column in columns),
            split_special_tokens=True, return_attention_mask=False, verbose=False,
        )["input_ids"]  # fmt: skip
        for i, ids in zip(full, uncut, strict=True):
            lost[i] = len(ids) - len(lists["input_ids"][i])
    # A tokenizer that adds no special token gives an empty text no token at all: it gets one.
    alone = {"input_ids": tokenizer.eos_token_id or 0}
    found = {name: [ids or [alone.get(name, 0)] for ids in rows] for name, rows in lists.items()}
    return {**found, "cut": lost}


def check_separator(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that something stands between the texts of a pair, so that its cut is not lost.

    Raises:
        AdaptError: nothing does.
    """
    from adaptkit.models.pairs import joins_pairs

    if joins_pairs(tokenizer):
        raise AdaptError(
            "the task has pairs of texts, and the model's tokenizer puts nothing between two texts "
            "and has no token for it. Name one in tokenizer_config.json (sep_token or eos_token)."
        )


def fitted(
    template: Template,
    batch: Mapping[str, list],
    room: int,
    read: Callable[[Iterable[str]], list[list[int]]],
    plain: Callable[[str], str],
) -> list[tuple[list[int], int]]:
    """Return the tokens of every row's filled template, and how many were cut to fit in `room`.

    The longest column loses its end, the words of the template never. `plain` breaks up special
    tokens in the columns' texts, `read` turns filled templates into tokens.

    Raises:
        AdaptError: nothing would be left of a row's texts.
    """
    names = template.columns
    columns = [[plain(written(value)) for value in batch[name]] for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    made = []
    for row, whole in zip(rows, read(map(template.filled, rows)), strict=True):
        ids = whole
        while len(ids) > room:
            row = template.shortened(row, 1 - room / len(ids))
            (ids,) = read([template.filled(row)])
            if not any(row.values()):
                raise no_room(template.where)
        made.append((ids, len(whole) - len(ids)))
    return made


def plain_text(tokenizer: PreTrainedTokenizerBase, always: bool = False) -> Callable[[str], str]:
    """Return what breaks up special tokens in a text where `split_special_tokens` does not.

    A unigram model (T5, XLNet, ALBERT) has them in its vocabulary and finds them by itself.
    `always`: for a text that gets special tokens of its own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not always and type(getattr(backend, "model", None)).__name__ != "Unigram":
        return lambda text: text

    # T5's <extra_id_0> may be among the added ones only.
    added = [one.content for one in tokenizer.added_tokens_decoder.values() if one.special]
    special = dict.fromkeys([*tokenizer.all_special_tokens, *added])

    def broken_up(text: str) -> str:
        for token in special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    return broken_up
