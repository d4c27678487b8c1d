"""The masked-language-model form (Devlin et al. 2019, arXiv:1810.04805): words that were hidden.

    of n tokens max(1, round(share n)) are chosen; special tokens never
    80 % of these become the mask, 10 % a random token, 10 % stay
    loss = - sum over the chosen tokens of log p(token | the text with its masks)

A long text is cut into windows without overlap. The draw depends on (seed, tokens of the window,
epoch) alone: scoring has one epoch, so that two models with one tokenizer are scored on the same
masks; training draws others in every epoch (Liu et al. 2019, arXiv:1907.11692).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
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

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens


@dataclass(frozen=True)
class MLMForm(VocabularyForm):
    """A text with hidden tokens in, their probability out."""

    text: str  # column
    max_length: int  # tokens of a window, special ones included
    share: float  # of the tokens that are chosen
    seed: int  # of the choice

    head: ClassVar[str] = "mlm"
    redrawn: ClassVar[bool] = True
    one_to_one: ClassVar[bool] = False  # a long text gives several windows

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return windows: tokens, which of them are special, length and row.

        Raises:
            AdaptError: the tokenizer has no mask.
        """
        tokenizer, plain = reader.tokenizer, plain_text(reader.tokenizer)
        if tokenizer.mask_token_id is None:
            raise AdaptError(
                "the model's tokenizer has no mask, so that no word can be hidden. Name one in "
                "tokenizer_config.json (mask_token)."
            )
        longest = reader.length(self.max_length)

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            tokens = tokenizer(
                [plain(text) for text in batch[self.text]], truncation=True, max_length=longest,
                return_overflowing_tokens=True, return_special_tokens_mask=True,
                split_special_tokens=True, return_attention_mask=False,
            )  # fmt: skip
            ids = [window or [tokenizer.mask_token_id] for window in tokens["input_ids"]]
            return {
                "input_ids": ids,
                "special": [mask or [1] for mask in tokens["special_tokens_mask"]],
                "length": [len(window) for window in ids],
                "row": [indices[owner] for owner in tokens["overflow_to_sample_mapping"]],
            }

        return encoded(rows, examples)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T], and the hidden tokens [B, T] with IGNORED at all others."""
        drawn = [self.hidden(example, reader) for example in examples]
        targets = targets_of([target for _, target in drawn])
        return Batch(
            padded_inputs([{"input_ids": ids} for ids, _ in drawn], reader.tokenizer),
            targets,
            [example["row"] for example in examples],
            targets["kept"].shape[1],
        )

    def hidden(self, example: Mapping[str, Any], reader: Reader) -> tuple[list[int], list[int]]:
        """Return a window's tokens with the chosen ones hidden, and what these were."""
        import numpy as np

        ids, target = list(example["input_ids"]), [IGNORED] * example["length"]
        places = [place for place, special in enumerate(example["special"]) if not special]
        text = zlib.crc32(np.asarray(ids).tobytes())
        random = np.random.default_rng((self.seed, text, reader.epoch))
        count = max(1, round(self.share * len(places)))
        for place in random.permutation(places)[:count].astype(int):  # of an empty text none
            target[place] = ids[place]
            kind, other = random.random(), int(random.integers(len(reader.tokenizer)))
            if kind < MASKED + RANDOM:
                ids[place] = reader.tokenizer.mask_token_id if kind < MASKED else other
        return ids, target

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of logits [B, T, V] at the hidden tokens."""
        return self.summed_loss(outputs, batch)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return per window minus the log-probability of its hidden tokens, right ones, number."""
        from torch.nn.functional import cross_entropy

        found = []
        for logits, target in zip(outputs.logits, batch.targets["target"], strict=True):
            kept = target != IGNORED
            chosen, tokens = logits[kept].float(), target[kept]
            nll = cross_entropy(chosen, tokens, reduction="sum")
            found.append((float(nll), int((chosen.argmax(-1) == tokens).sum()), len(tokens)))
        return found

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return per row `nll`, in nats, `right` and `tokens`, added up over its windows."""
        sums: dict[int, list[float]] = {}
        for row, values in zip(rows, predicted, strict=True):
            before = sums.setdefault(row, [0.0, 0, 0])
            sums[row] = [one + other for one, other in zip(before, values, strict=True)]
        return [
            dict(zip(("nll", "right", "tokens"), sums[row], strict=True)) for row in sorted(sums)
        ]
