"""Patterns as token ids: where the slot of the answer is, and where the vectors of a prompt go.

A slot and the places of a prompt are written with one special token, and told from each other by
their order in the pattern. A place then gets an id that no word has:

    "{first} {prompt:2} It was {label}."      a fine film -1 -2 It was [MASK] .

-1 stands for the first vector, -2 for the second, see `layers.prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from adaptkit.errors import AdaptError, invalid
from adaptkit.tasks.forms.padding import fitted, plain_text
from adaptkit.tasks.pattern import PLACE, Pattern
from adaptkit.tasks.task import Reader


def tokens_of(
    pattern: Pattern, batch: Mapping[str, list], reader: Reader, slot: str, count: int, room: int
) -> dict[str, list]:
    """Return columns of filled patterns: `input_ids`, `slot` (its place), `cut` and `length`.

    `slot`: the token to be filled, `count` of them; empty for a causal model, whose answer follows.
    `room`: tokens, special ones included.

    Raises:
        AdaptError: the pattern leaves no room for a text, or holds the token of the slot itself.
    """
    tokenizer, end = reader.tokenizer, reader.tokenizer.eos_token_id
    plain = plain_text(tokenizer, always=True)
    pattern = replace(pattern, shown=plain(pattern.shown))
    places, first = pattern.prompted, pattern.prompted_before
    mark = slot or (mark_of(tokenizer) if places else "")
    tight = bool(mark) and has_own_blank(tokenizer, mark)
    template = pattern.template(slot * count, tight) if slot else pattern.before()
    if places:
        before = " *" if tight else ""
        text = re.sub(f"{before}({PLACE}+)", lambda hit: mark * len(hit[1]), template.text)
        template = replace(template, text=text)
    number: Any = tokenizer.convert_tokens_to_ids(mark) if mark else None
    own = int(bool(mark) and tokenizer("x")["input_ids"][:1] == [number])  # OPT's start
    marks = own + places + (count if slot else 0)

    def read(texts: Iterable[str]) -> list[list[int]]:
        made = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
        if reader.causal:  # an end that the tokenizer adds, unless it is a place
            made = [
                ids[:-1] if ids[-1:] == [end] and (number != end or ids.count(end) > marks) else ids
                for ids in made
            ]
        return [ids or [end] for ids in made]  # some give an empty text no token at all

    try:
        made = fitted(template, batch, room, read, plain)
    except AdaptError as error:
        if not pattern.shown:
            raise
        raise AdaptError(
            f"task.shots: the examples leave no room for a text in {room} tokens. Lower "
            "task.shots, or raise task.max_length."
        ) from error
    if mark and made[0][0].count(number) != marks:  # those in the texts of rows are broken up
        raise invalid(pattern.where, pattern.text, f"must not hold {mark} itself", "Write "
                      "{label} in the place of the answer")  # fmt: skip
    slots = []
    for ids, _ in made:
        at = [k for k, token in enumerate(ids) if token == number][own:]
        slots.append(at[first] if slot else len(ids) - 1)
        for vector, k in enumerate(at[:first] + at[first + (count if slot else 0) :]):
            ids[k] = -1 - vector
    return {
        "input_ids": [ids for ids, _ in made],
        "slot": slots,
        "cut": [lost for _, lost in made],
        "length": [len(ids) for ids, _ in made],
    }


def mark_of(tokenizer: Any) -> str:
    """Return a special token that marks places for a causal model.

    Raises:
        AdaptError: the tokenizer has none.
    """
    if not tokenizer.eos_token:  # an unknown token may stand in the rows themselves
        raise AdaptError(
            "the model's tokenizer has no token to mark the places of {prompt:N} with. Name one in "
            "tokenizer_config.json (eos_token)."
        )
    return str(tokenizer.eos_token)


def has_own_blank(tokenizer: Any, mark: str) -> bool:
    """Tell whether a blank before a mark is a token, where a word would take it in itself."""
    with_blank, without = (tokenizer.tokenize(f"x{blank}{mark}") for blank in (" ", ""))
    return len(with_blank) > len(without)
