"""The head form: a sequence classifier over one text or a pair, for classes and for numbers.

classes   logits [B, C], cross-entropy; the answer is the name of the largest
a number  logits [B, 1], squared error; the answer is the number
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.padding import encoded, padded_inputs, tokenized, weights_on
from adaptkit.tasks.task import LABEL, Answer, Form, Reader
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn


@dataclass(frozen=True)
class HeadForm(Form):
    """Text in, one class or number out."""

    text: tuple[str, ...]  # a column or a template, or two for a pair
    classes: tuple[str, ...]  # empty: a number
    max_length: int  # tokens, special ones included; longer texts are cut
    weights: tuple[float, ...] = ()  # of the classes in the loss; none: 1
    smoothing: float = 0.0  # share of the target that all classes get

    head: ClassVar[str] = "sequence"
    votes: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """Width of the head: one output per class."""
        return len(self.classes) or 1

    @property
    def squared(self) -> bool:
        """True for a number."""
        return not self.classes

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Tokenise rows: input_ids (and token_type_ids), length, row, and target if known."""
        longest = reader.length(self.max_length)
        numbers = {name: i for i, name in enumerate(self.classes)}
        templates = [Template(text, "task.text") for text in self.text]

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            columns = tokenized(
                reader.tokenizer, [one.column(batch) for one in templates], longest, cut=True
            )
            columns |= {"length": [len(ids) for ids in columns["input_ids"]], "row": indices}
            if LABEL in batch:
                labels = batch[LABEL]
                columns["target"] = [numbers[v] for v in labels] if self.classes else labels
            return columns

        return encoded(rows, examples)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T] and the targets [B], if the examples have them."""
        import torch

        inputs = padded_inputs(examples, reader.tokenizer)
        rows = [example["row"] for example in examples]
        if "target" not in examples[0]:
            return Batch(inputs, {}, rows, 0)
        target = torch.tensor([example["target"] for example in examples])
        return Batch(inputs, {"target": target}, rows, len(rows))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy or squared error of logits [B, C] or [B, 1]."""
        from torch.nn.functional import cross_entropy, mse_loss

        logits, target = outputs.logits.float(), batch.targets["target"]
        if self.classes:
            weight = weights_on(logits.device, self.weights)
            return cross_entropy(
                logits, target, weight, label_smoothing=self.smoothing, reduction="sum"
            )
        return mse_loss(logits.squeeze(-1), target.float(), reduction="sum")

    def blind_loss(self, labels: Sequence[str]) -> float:
        """Return the least mean cross-entropy of one answer to all rows.

        - sum_c m_c ln(m_c / sum m), where m_c is the share of class c, smoothed and weighted
        """
        counts, total, smoothing = Counter(labels), len(labels), self.smoothing
        weights = self.weights or (1.0,) * len(self.classes)
        shares = [
            weight * ((1 - smoothing) * counts[name] / total + smoothing / len(self.classes))
            for name, weight in zip(self.classes, weights, strict=True)
        ]
        return -sum(share * log(share / sum(shares)) for share in shares if share)

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the logits [B, C], or the numbers [B, 1]."""
        return outputs.logits

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return the numbers; or pairs of the likeliest class and the probabilities [C] of all."""
        if not self.classes:
            return outputs.logits.float().squeeze(-1).tolist()
        names = [self.classes[number] for number in outputs.logits.argmax(-1).tolist()]
        return list(zip(names, outputs.logits.float().softmax(-1).tolist(), strict=True))

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the classes' names, or the numbers."""
        return [name for name, _ in predicted] if self.classes else list(predicted)

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the answers with the probabilities of the classes; a number has none."""
        if not self.classes:
            return super().detailed(predicted, rows)
        return with_shares(predicted, self.classes)


def with_shares(predicted: Sequence[Answer], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return pairs of a class and the probabilities [C] of all as objects."""
    return [
        {"answer": name, "probabilities": dict(zip(classes, shares, strict=True))}
        for name, shares in predicted
    ]
