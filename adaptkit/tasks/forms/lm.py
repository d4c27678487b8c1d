"""The language-modelling form: every token of a text is predicted from those before it.

    -log p(x) = - sum_t log p(x_t | x_<t),   the first token from the tokenizer's beginning (or end)

A text that is longer than the model reads is cut into windows. Every token is predicted exactly
once, in training and in scoring; after the first window it sees at least `context` tokens of the
text. The end of a text is not predicted. The answer is the sum for a row and the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.padding import (
    IGNORED,
    encoded,
    padded_inputs,
    plain_text,
    targets_of,
)
from adaptkit.tasks.forms.vocabulary import VocabularyForm
from adaptkit.tasks.task import Answer, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn


@dataclass(frozen=True)
class LMForm(VocabularyForm):
    """A text in, the probability of its tokens out."""

    text: str  # column
    max_length: int  # tokens of a window
    context: int  # tokens of the text that a token sees at least, after the first window

    head: ClassVar[str] = "lm"
    one_to_one: ClassVar[bool] = False  # a long text gives several windows

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return windows: tokens, the token that each of them predicts, length and row.

        Raises:
            AdaptError: a window has no room for new tokens.
        """
        longest, plain = reader.length(self.max_length), plain_text(reader.tokenizer)
        if self.context > longest:
            raise AdaptError(
                f"task.context={self.context}: the model reads {longest} tokens at once, so there "
                "is no room for new ones. Lower it, or raise task.max_length."
            )
        tokenizer = reader.tokenizer
        begins = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
                  if token is not None]  # fmt: skip

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            texts = tokenizer(
                [plain(text) for text in batch[self.text]], add_special_tokens=False,
                split_special_tokens=True, return_attention_mask=False, verbose=False,
            )["input_ids"]  # fmt: skip
            found: dict[str, list] = {"input_ids": [], "target": [], "length": [], "row": []}
            for row, ids in zip(indices, texts, strict=True):
                for read, target in windows(ids, (begins or [0])[0], longest, self.context):
                    values = (read, target, len(read), row)
                    for name, value in zip(found, values, strict=True):
                        found[name].append(value)
            return found

        return encoded(rows, examples)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T], and the next tokens [B, T] with IGNORED where none is predicted."""
        targets = targets_of([example["target"] for example in examples])
        return Batch(
            padded_inputs(examples, reader.tokenizer),
            targets,
            [example["row"] for example in examples],
            targets["kept"].shape[1],
        )

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of logits [B, T, V]."""
        return self.summed_loss(outputs, batch)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return per window minus the log-probability of its tokens, and their number."""
        from torch.nn.functional import cross_entropy

        found = []
        for logits, target in zip(outputs.logits, batch.targets["target"], strict=True):
            kept = target != IGNORED
            nll = cross_entropy(logits[kept].float(), target[kept], reduction="sum")
            found.append((float(nll), int(kept.sum())))
        return found

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return per row `nll`, in nats, and `tokens`, added up over its windows."""
        sums: dict[int, list[float]] = {}
        for row, (nll, tokens) in zip(rows, predicted, strict=True):
            one = sums.setdefault(row, [0.0, 0])
            one[0] += nll
            one[1] += tokens
        return [{"nll": sums[row][0], "tokens": sums[row][1]} for row in sorted(sums)]


def windows(
    ids: Sequence[int], begin: int, longest: int, context: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield windows of at most `longest` tokens: what is read, and which token each predicts.

    The first window predicts as many tokens as it can. Each further one predicts those that follow,
    at most longest - context + 1 of them, and reads as many before them as there is room for.
    """
    whole = [begin, *ids]  # ids[t] is predicted from whole[: t + 1]
    start, stop = 0, min(longest, len(ids))
    while True:
        first = max(0, stop - longest)
        read = whole[first : max(stop, 1)]
        target = [IGNORED] * (start - first) + list(ids[start:stop])
        yield read, target or [IGNORED]
        if stop >= len(ids):
            return
        start, stop = stop, min(stop + longest - context + 1, len(ids))
