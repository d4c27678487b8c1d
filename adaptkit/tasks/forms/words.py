"""Rows of words as tokens: which word stands at which piece.

The words are joined by blanks and tokenised as a text, so that every family reads them in its own
way. A word stands at its first piece, or at its last if the model is causal and has seen the whole
word only then. A row that is longer than the model reads is cut between words into windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.padding import plain_text
from adaptkit.tasks.task import Reader

if TYPE_CHECKING:
    from datasets import Dataset


def windows(
    words: Sequence[str], longest: int, reader: Reader, row: str
) -> Iterator[dict[str, Any]]:
    """Yield the windows of one row: tokens, the words in them, and each word's position.

    Raises:
        AdaptError: a word alone is longer than the model reads.
    """
    start = 0
    while start < len(words) or not start:
        stop = min(len(words), start + longest)  # more words than tokens never fit
        window = placed(words, start, stop, reader)
        while len(window["input_ids"]) > longest:
            # As many words as fit by their share of the tokens, and fewer until they do.
            fitting = (stop - start) * longest // len(window["input_ids"])
            stop = min(stop - 1, start + max(fitting, 1))
            if stop <= start:
                raise AdaptError(
                    f"{row}: the word {words[start][:40]!r} alone has "
                    f"{len(window['input_ids'])} tokens, the model reads {longest}. Raise "
                    "task.max_length, or drop the row."
                )
            window = placed(words, start, stop, reader)
        yield window
        start = max(stop, 1)


def placed(words: Sequence[str], start: int, stop: int, reader: Reader) -> dict[str, Any]:
    """Return the tokens of words[start:stop], which words have a piece, and where these stand."""
    plain = plain_text(reader.tokenizer)
    texts = [plain(word) for word in words[start:stop]]
    owner: list[int | None] = []  # of every character; a blank between words has none
    for number, text in enumerate(texts, start):
        owner += [*[number] * len(text), None]
    tokens = reader.tokenizer(
        " ".join(texts), split_special_tokens=True, return_offsets_mapping=True,
        return_special_tokens_mask=True, return_attention_mask=False,
    )  # fmt: skip
    places: dict[int, int] = {}
    special = tokens.pop("special_tokens_mask")
    for place, (first, last) in enumerate(tokens.pop("offset_mapping")):
        if special[place] or last <= first:
            continue
        # A piece may begin with the blank before its word, or be that blank.
        word = next((w for w in reversed(owner[first:last]) if w is not None), None)
        if word is not None and (reader.causal or word not in places):
            places[word] = place
    ids = tokens["input_ids"] or [reader.tokenizer.eos_token_id or 0]
    kept = {"input_ids": ids, "length": len(ids)}
    if "token_type_ids" in tokens:
        kept["token_type_ids"] = tokens["token_type_ids"] or [0]
    inside = sorted(places)
    return kept | {"words": inside, "places": [places[word] for word in inside],
                   "start": start, "stop": stop}  # fmt: skip


def check_words(rows: Dataset, column: str, where: str) -> None:
    """Check that every row holds a list of words.

    Raises:
        AdaptError: one does not; the message names it.
    """
    for number, words in enumerate(rows[column][:], 1):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise AdaptError(
                f"{where}, row {number}: {column} is {str(words)[:60]}, not a list of words."
            )
