"""The dependency form: a token classifier whose outputs score pairs of words.

Of a word's 2 r outputs, the first r are d, what it looks for as a dependent, and the others are h,
what it offers as a head. The score of word j as the head of word i, and its probability among the
words of the sentence:

    s(i, j) = d_i . h_j / sqrt(r)    p(j | i) = softmax over j of s(i, j)    s(i, i): i is the root

With linear maps d = L x and h = R x this is x_i^T A x_j, A = L^T R / sqrt(r): the bilinear probe in
its factored form (Hewitt & Liang 2019, arXiv:1909.03368). With networks it is the arc scorer of
Dozat & Manning (2017, arXiv:1611.01734). Division by sqrt(r), as in attention, keeps scores of any
r in the same range, so that one learning rate suits all. The loss is -log p(head), summed over
words.

A word is read where it stands (`words.py`). Words that a cut row loses, or of which the tokenizer
makes nothing, are not candidates: they have no answer (null). Words that depend on them have no
loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.padding import IGNORED, padded, padded_inputs, targets_of
from adaptkit.tasks.forms.words import placed, windows
from adaptkit.tasks.reading.ids import row_name
from adaptkit.tasks.task import LABEL, Answer, Form, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn


@dataclass(frozen=True)
class DependencyForm(Form):
    """Words in, the number of each word's head out; 0: the root."""

    words: str  # column of lists of words
    rank: int  # r
    max_length: int  # tokens, special ones included

    head: ClassVar[str] = "token"

    @property
    def outputs(self) -> int:
        """Width of the head: a word as a dependent, and as a head."""
        return 2 * self.rank

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return one example per row: its tokens, the words that are read, their places and heads.

        `size` is the number of the row's words, and `cut` that of the tokens it loses. A target is
        the place of the head in the list of words that are read, or a word's own place for the
        root.

        Raises:
            AdaptError: the first word alone is longer than the model reads.
        """
        from datasets import Dataset

        examples = []
        labels = rows[LABEL][:] if LABEL in rows.column_names else None
        longest = reader.length(self.max_length)
        for row, words in enumerate(rows[self.words][:]):
            example = next(windows(words, longest, reader, row_name(rows, row)))
            start, stop = example.pop("start"), example.pop("stop")
            whole = example if stop == len(words) else placed(words, start, len(words), reader)
            example |= {"row": row, "size": len(words), "cut": whole["length"] - example["length"]}
            if labels is not None:
                heads = labels[row]  # from 1; words are counted from 0 here
                order = {word: number for number, word in enumerate(example["words"])}
                example["target"] = [
                    order.get(heads[word] - 1 if heads[word] else word, IGNORED) for word in order
                ]
            examples.append(example)
        return Dataset.from_dict({name: [one[name] for one in examples] for name in examples[0]})

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T], and targets: places [B, W], heads [B, W] or IGNORED, counts [B]."""
        import torch

        targets: dict[str, Any] = {
            "places": padded([example["places"] or [0] for example in examples], 0),
            "counts": torch.tensor([len(example["places"]) for example in examples]),
            **{name: [example[name] for example in examples] for name in ("words", "size")},
        }
        weight = 0
        if "target" in examples[0]:
            heads = [example["target"] or [IGNORED] for example in examples]
            targets |= targets_of(heads)
            weight = targets["kept"].shape[1]
        inputs = padded_inputs(examples, reader.tokenizer)
        return Batch(inputs, targets, [example["row"] for example in examples], weight)

    def scores(self, outputs: Any, batch: Batch) -> Tensor:
        """Return s [B, W, W] of words as dependents and as heads, -inf where there is no word."""
        import torch

        places, counts = batch.targets["places"], batch.targets["counts"]
        logits = outputs.logits.float()
        index = places[..., None].expand(-1, -1, logits.shape[-1])
        dependents, heads = logits.gather(1, index).chunk(2, -1)
        with torch.autocast(logits.device.type, enabled=False):  # bf16 would make many equal
            scores = dependents @ heads.transpose(1, 2) / heads.shape[-1] ** 0.5
        absent = torch.arange(places.shape[1], device=places.device) >= counts[:, None]
        return scores.masked_fill(absent[:, None], float("-inf"))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the words whose head is read."""
        from torch.nn.functional import cross_entropy

        rows, columns = batch.targets["kept"]
        target = batch.targets["target"][rows, columns]
        return cross_entropy(self.compared(outputs, batch), target, reduction="sum")

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the scores [N, W] of the words that have a loss."""
        rows, columns = batch.targets["kept"]
        return self.scores(outputs, batch)[rows, columns]

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return per row, for each of its words, the head and its probability, or two nulls."""
        sure, best = self.scores(outputs, batch).softmax(-1).max(-1)
        t = batch.targets
        answers: list[Answer] = []
        for words, size, numbers, shares in zip(
            t["words"], t["size"], best.tolist(), sure.tolist(), strict=True
        ):
            heads = {
                word: (0 if words[number] == word else words[number] + 1, share)
                for word, number, share in zip(words, numbers, shares, strict=False)
            }
            answers.append([heads.get(word, (None, None)) for word in range(size)])
        return answers

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the heads of each row."""
        return [[head for head, _ in heads] for heads in predicted]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the heads of each row with the probability of every word's head."""
        return [
            {"answer": [head for head, _ in heads], "probabilities": [sure for _, sure in heads]}
            for heads in predicted
        ]
