"""The tag form: a token classifier that labels words, for part-of-speech tags and entities.

A word is labelled at the piece where it stands (`words.py`). A row that is longer than the model
reads is cut into windows, so that every word is tagged once. The answer is one tag per word; a word
of which the tokenizer makes nothing has none (null) and counts as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.padding import IGNORED, padded_inputs, targets_of, weights_on
from adaptkit.tasks.forms.words import windows
from adaptkit.tasks.reading.ids import row_name
from adaptkit.tasks.task import LABEL, Answer, Form, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn


@dataclass(frozen=True)
class TagForm(Form):
    """Words in, one tag per word out."""

    words: str  # column of lists of words
    classes: tuple[str, ...]
    max_length: int  # tokens of a window, special ones included
    weights: tuple[float, ...] = ()  # of the tags in the loss; none: 1
    smoothing: float = 0.0  # share of the target that all tags get

    head: ClassVar[str] = "token"
    votes: ClassVar[bool] = True
    one_to_one: ClassVar[bool] = False  # a long row gives several windows

    @property
    def outputs(self) -> int:
        """Width of the head: one output per tag."""
        return len(self.classes)

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return windows: input_ids, length, row, and where which word stands, with its tag.

        Raises:
            AdaptError: a word alone is longer than the model reads.
        """
        from datasets import Dataset

        numbers = {name: i for i, name in enumerate(self.classes)}
        columns: dict[str, list] = {}
        labels = rows[LABEL][:] if LABEL in rows.column_names else None
        longest = reader.length(self.max_length)
        for row, words in enumerate(rows[self.words][:]):
            for window in windows(words, longest, reader, row_name(rows, row)):
                if labels is not None:
                    window["target"] = [numbers[labels[row][word]] for word in window["words"]]
                for name, value in {**window, "row": row}.items():
                    columns.setdefault(name, []).append(value)
        return Dataset.from_dict(columns)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T], and targets [B, T] with IGNORED where no word is labelled."""
        inputs = padded_inputs(examples, reader.tokenizer)
        rows = [example["row"] for example in examples]
        names = ("words", "places", "start", "stop")
        targets: dict[str, Any] = {name: [example[name] for example in examples] for name in names}
        if "target" not in examples[0]:
            return Batch(inputs, targets, rows, 0)
        lines = []
        for example in examples:
            line = [IGNORED] * example["length"]
            for place, number in zip(example["places"], example["target"], strict=True):
                line[place] = number
            lines.append(line)
        targets |= targets_of(lines)
        return Batch(inputs, targets, rows, sum(len(example["places"]) for example in examples))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of logits [B, T, C] at the labelled pieces."""
        from torch.nn.functional import cross_entropy

        logits, target = outputs.logits.float(), batch.targets["target"]
        weight = weights_on(logits.device, self.weights)
        return cross_entropy(
            logits.flatten(0, 1), target.flatten(), weight, ignore_index=IGNORED,
            label_smoothing=self.smoothing, reduction="sum",
        )  # fmt: skip

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the logits [N, C] at the labelled pieces."""
        rows, columns = batch.targets["kept"]
        return outputs.logits[rows, columns]

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return per window, for each of its words, a tag and its probability, or two nulls."""
        best, t = outputs.logits.argmax(-1).tolist(), batch.targets
        probabilities = outputs.logits.float().softmax(-1).amax(-1).tolist()
        answers: list[Answer] = []
        for line, sure, start, stop, words, places in zip(
            best, probabilities, t["start"], t["stop"], t["words"], t["places"], strict=True
        ):
            tags = {
                word: (self.classes[line[place]], sure[place])
                for word, place in zip(words, places, strict=True)
            }
            answers.append([tags.get(word, (None, None)) for word in range(start, stop)])
        return answers

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the tags of each row."""
        return [[tag for tag, _ in tags] for tags in joined(predicted, rows)]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the tags of each row with the probability of every word's tag."""
        return [
            {"answer": [tag for tag, _ in tags], "probabilities": [sure for _, sure in tags]}
            for tags in joined(predicted, rows)
        ]


def joined(predicted: Sequence[Answer], rows: Sequence[int]) -> list[list[Any]]:
    """Join the windows of each row."""
    whole: dict[int, list[Any]] = {}
    for row, tags in zip(rows, predicted, strict=True):
        whole.setdefault(row, []).extend(tags)
    return [whole[row] for row in sorted(whole)]
