"""The tag form: a token classifier that labels words, for part-of-speech tags and entities.

The words are joined by blanks and tokenised as a text, so that every family reads them in its own
way. A word is labelled at its first piece, or at its last if the model is causal and has seen the
whole word only then. A row that is longer than the model reads is cut between words into windows,
so that every word is tagged once. The answer is one tag per word; a word of which the tokenizer
makes nothing has none (null) and counts as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.padding import IGNORED, padded, padded_inputs, plain_text
from adaptkit.tasks.ids import row_name
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
        for row, words in enumerate(rows[self.words][:]):
            for window in self.windows(words, reader, row_name(rows, row)):
                if labels is not None:
                    window["target"] = [numbers[labels[row][word]] for word in window["words"]]
                for name, value in {**window, "row": row}.items():
                    columns.setdefault(name, []).append(value)
        return Dataset.from_dict(columns)

    def windows(self, words: Sequence[str], reader: Reader, row: str) -> Iterator[dict[str, Any]]:
        """Yield the windows of one row: tokens, the words in them, and each word's position.

        Raises:
            AdaptError: a word alone is longer than the model reads.
        """
        longest, start = reader.length(self.max_length), 0
        while start < len(words) or not start:
            stop = min(len(words), start + longest)  # more words than tokens never fit
            window = self._window(words, start, stop, reader)
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
                window = self._window(words, start, stop, reader)
            yield window
            start = max(stop, 1)

    def _window(
        self, words: Sequence[str], start: int, stop: int, reader: Reader
    ) -> dict[str, Any]:
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
        targets["target"] = padded(lines, IGNORED)
        return Batch(inputs, targets, rows, sum(len(example["places"]) for example in examples))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of logits [B, T, C] at the labelled pieces."""
        from torch.nn.functional import cross_entropy

        logits, target = outputs.logits.float(), batch.targets["target"]
        weight = logits.new_tensor(self.weights) if self.weights else None
        return cross_entropy(
            logits.flatten(0, 1), target.flatten(), weight, ignore_index=IGNORED,
            label_smoothing=self.smoothing, reduction="sum",
        )  # fmt: skip

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the logits [N, C] at the labelled pieces."""
        return outputs.logits[batch.targets["target"] != IGNORED]

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
