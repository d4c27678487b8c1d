"""Language modelling: how well a causal model predicts texts, and training on texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError, at_least, invalid, one_of
from adaptkit.tasks.forms.lm import LMForm
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import Answer, Splits

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class LM(TableTask):
    """Texts without labels."""

    text: str = "text"  # column
    label: str = ""  # there is none
    metric: str = "perplexity"  # bits per byte of the text; perplexity by tokens and by words
    max_length: int = 256  # tokens of a window
    context: int = 1  # tokens that each token sees at least, after the first window of a text

    answer = "the probability of the text"
    larger_is_better = False

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("perplexity",))
        super().__post_init__()
        at_least("task.context", self.context, 1)
        if self.context >= self.max_length:
            raise invalid("task.context", self.context, f"must be below task.max_length="
                          f"{self.max_length}: it is a part of the window")  # fmt: skip

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return ("bits_per_byte", "perplexity", "word_perplexity")

    @property
    def columns(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    @property
    def posed(self) -> LMForm:
        """A causal model that predicts every next token."""
        return LMForm(self.text, self.max_length, self.context)

    def read_labels(self, rows: Dataset, split: str) -> list[None]:
        """Return no label for any row.

        Raises:
            AdaptError: all texts are empty.
        """
        check_any(rows[self.text][:], f"task {self.name}, split {split}: every {self.text}")
        return [None] * len(rows)

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the scores of all texts together: long ones weigh more than short ones.

        bits_per_byte    nll / (ln 2 x UTF-8 bytes of the texts); the same for every tokenizer
        perplexity       exp(nll / tokens)
        word_perplexity  exp(nll / words), words are what blanks separate
        """
        nll = math.fsum(answer["nll"] for answer in answers)
        texts = rows[self.text][:]
        tokens = sum(answer["tokens"] for answer in answers)
        size = sum(len(text.encode()) for text in texts)
        words = sum(len(text.split()) for text in texts)
        return {
            "bits_per_byte": nll / (math.log(2) * size) if size else math.nan,
            "perplexity": power(nll, tokens),
            "word_perplexity": power(nll, words),
        }

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Predict every byte by its share of the training texts, each byte counted once more.

        It has no tokens, so that its perplexity is undefined.
        """
        seen, where = splits.seen()
        counts = Counter(byte for text in seen[self.text][:] for byte in text.encode())
        total = sum(counts.values()) + 256
        nats = [-math.log((counts[byte] + 1) / total) for byte in range(256)]
        texts = rows[self.text][:]
        sums = (math.fsum(nats[byte] for byte in text.encode()) for text in texts)
        return f"bytes by frequency{where}", [[{"nll": nll, "tokens": 0} for nll in sums]]


def check_any(texts: Sequence[str], what: str) -> None:
    """Reject texts that are all empty.

    Raises:
        AdaptError: they are.
    """
    if not any(texts):
        raise AdaptError(f"{what} is empty.")


def power(nll: float, count: int) -> float:
    """Return exp(nll / count); nan of nothing, infinity if it is too large for a number."""
    if not count:
        return math.nan
    return math.exp(nll / count) if nll / count < 700 else math.inf
