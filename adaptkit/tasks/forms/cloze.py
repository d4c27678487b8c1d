"""The cloze form: a pretrained model fills the slot of a pattern; label words stand for classes.

    masked model       "[CLS] a fine film . It was [MASK] . [SEP]"     the words at the mask
    T5                 encoder: "a fine film. It was <extra_id_0>."    decoder: start <extra_id_0>
    BART               encoder: as a masked model;  decoder: start, the text before the mask
    causal             "a fine film. It was"                           the words that come next

    P(class) = softmax over the classes of their words' scores, see `verbalizer`

The head is pretrained and stays frozen, so nothing is new: without any training this is a prompt,
with training it is pattern-exploiting training (Schick and Schütze 2021, arXiv:2001.07676). A text
that is too long loses its end, the pattern nothing. A number lies between those of two words, at
the share of the second (Gao et al. 2021, arXiv:2012.15723); its loss is the cross-entropy of the
shares.

Calibration (only without training) subtracts the log of what the model says without a text: p
divided by the mean p of "N/A", "" and "[MASK]" (contextual: Zhao et al. 2021, arXiv:2102.09690), or
by the p of the pattern alone (pmi: Holtzman et al. 2021, arXiv:2104.08315).

A pattern may have places for the vectors of a prompt (Liu et al. 2021, arXiv:2103.10385), `slots`.

Words of several pieces get as many masks: `parallel` reads all at once, `left_to_right` fills one
after another, `confident` the likeliest first; training always reads them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError, ConfigError, invalid
from adaptkit.tasks.forms.filling import STEPWISE, stepwise
from adaptkit.tasks.forms.head import with_shares
from adaptkit.tasks.forms.padding import encoded, padded, padded_inputs, weights_on
from adaptkit.tasks.forms.slots import tokens_of
from adaptkit.tasks.forms.verbalizer import (
    check_pieces,
    class_scores,
    pieces_of,
    table,
    word_scores,
)
from adaptkit.tasks.pattern import Wording
from adaptkit.tasks.task import LABEL, Answer, Form, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

SENTINELS = ("<extra_id_0>", "<extra_id_1>")  # T5's slot, and what ends its filling
CONTENT_FREE = {"none": (), "contextual": ("N/A", "", "[MASK]"), "pmi": ("",)}


@dataclass(frozen=True)
class ClozeForm(Form):
    """A row in a pattern, label words at its slot."""

    wordings: tuple[Wording, ...]  # the first that the model can read serves
    classes: tuple[str, ...]  # empty: a number
    max_length: int  # tokens, special ones included
    bounds: tuple[float, float] = (0.0, 1.0)  # numbers of the two words, if there are no classes
    weights: tuple[float, ...] = ()  # of the classes in the loss; none: 1
    smoothing: float = 0.0  # share of the target that all classes get
    aggregate: str = "mean"  # of the words of a class
    pieces: str = "one"  # how words of several pieces are read
    calibration: str = "none"

    head: ClassVar[str] = "words"
    outputs: ClassVar[None] = None

    @property
    def prompted(self) -> int:
        """Number of places that the pattern has for the vectors of a prompt.

        Raises:
            ConfigError: patterns differ in it, so that it depends on the model.
        """
        counts = {one.pattern.prompted for one in self.wordings}
        if len(counts) > 1:
            raise ConfigError("task.template: the styles have different places for a prompt. "
                              "Choose one style.")  # fmt: skip
        return counts.pop()

    def wording(self, reader: Reader) -> Wording:
        """Return the pattern and words for a model: a decoder needs the slot at the end.

        Raises:
            AdaptError: there is none.
        """
        fit = [one for one in self.wordings if one.pattern.at_end or not reader.causal]
        if not fit:
            raise invalid(
                "task.template", self.wordings[0].pattern.text, "has words after {label}, which a "
                "causal model cannot see", "Put {label} at the end",
            )  # fmt: skip
        return fit[0]

    def slot(self, reader: Reader) -> str:
        """Return the token that marks the slot; none for a causal model.

        Raises:
            AdaptError: the tokenizer has none.
        """
        if reader.causal:
            return ""
        if reader.tokenizer.mask_token:
            return reader.tokenizer.mask_token
        if SENTINELS[0] in reader.tokenizer.get_vocab():
            return SENTINELS[0]
        raise AdaptError(
            "the model's tokenizer has no mask, so that no word can be asked for. Use "
            "task.form=head, or another model."
        )

    def word_pieces(self, reader: Reader) -> list[list[list[int]]]:
        """Return the token ids of each word of each class.

        Raises:
            AdaptError: a word cannot be used with this tokenizer.
        """
        wording = self.wording(reader)
        found = pieces_of(reader.tokenizer, wording.words, wording.pattern.left)
        masked = reader.decoder_start is None and not reader.causal
        several = masked and self.pieces not in ("one", "first")
        if self.pieces == "first":
            found = [[ids[:1] for ids in every] for every in found]
        check_pieces(reader.tokenizer, wording.words, found, None if several else 1)
        return found

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return examples: input_ids, `slot`, `length`, `cut`, `row`, and the target if known.

        Raises:
            AdaptError: the pattern or its words do not suit the model.
        """
        numbers = {name: i for i, name in enumerate(self.classes)}
        count = max(len(ids) for every in self.word_pieces(reader) for ids in every)

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            columns = {**self._read(batch, reader, count), "row": indices}
            if LABEL in batch:
                labels = batch[LABEL]
                columns["target"] = [numbers[v] for v in labels] if self.classes else labels
            return columns

        return encoded(rows, examples)

    def _read(self, batch: Mapping[str, list], reader: Reader, count: int) -> dict[str, list]:
        """Return the columns of texts with `count` masks in the slot."""
        room = reader.length(self.max_length)
        return tokens_of(
            self.wording(reader).pattern, batch, reader, self.slot(reader), count, room
        )

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B + F, T], F texts without content, slots [B + F, K] and targets [B]."""
        import torch

        pieces = table(self.word_pieces(reader))
        blanks = self._content_free(reader, pieces.shape[-1])
        every = [*examples, *blanks]
        inputs = padded_inputs([{"input_ids": one["input_ids"]} for one in every], reader.tokenizer)
        first = torch.tensor([one["slot"] for one in every])
        if reader.decoder_start is not None:
            start = [reader.decoder_start]
            ahead = [
                start + ([t for t in one["input_ids"][: one["slot"]] if t >= 0]
                         if reader.tokenizer.mask_token else [one["input_ids"][one["slot"]]])
                for one in every
            ]  # fmt: skip
            inputs["decoder_input_ids"] = padded(ahead, reader.tokenizer.pad_token_id)
            first = torch.tensor([len(ids) - 1 for ids in ahead])
        rows = [one["row"] for one in examples]
        targets: dict[str, Any] = {
            "slots": first[:, None] + torch.arange(pieces.shape[-1]),
            "pieces": pieces,
            "count": len(examples),
        }
        if "target" not in examples[0]:
            return Batch(inputs, targets, rows, 0)
        targets["target"] = torch.tensor([one["target"] for one in examples])
        return Batch(inputs, targets, rows, len(rows))

    def _content_free(self, reader: Reader, count: int) -> list[dict[str, Any]]:
        texts = CONTENT_FREE[self.calibration]
        if not texts:
            return []
        names = self.wording(reader).pattern.template("").columns
        found = self._read({name: list(texts) for name in names}, reader, count)
        lines = zip(*found.values(), strict=True)
        return [dict(zip(found, line, strict=True)) for line in lines]

    def read_at(self, batch: Batch) -> Tensor:
        """Return where the slots are: rows and columns [2, (B + F) K]."""
        import torch

        slots = batch.targets["slots"]
        rows = torch.arange(len(slots), device=slots.device)[:, None].expand_as(slots)
        return torch.stack((rows, slots)).flatten(1)

    def scores(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the classes' scores [B, C] from logits [B + F, T, V], or of the slots alone."""
        import torch

        slots, logits = batch.targets["slots"], outputs.logits
        if logits.shape[:2] == (1, slots.numel()):  # the model computed no others
            found = logits[0].unflatten(0, tuple(slots.shape))
        else:
            found = logits[torch.arange(len(slots), device=slots.device)[:, None], slots]
        return self._calibrated(word_scores(found, batch.targets["pieces"]), batch)

    def _calibrated(self, words: Tensor, batch: Batch) -> Tensor:
        found = class_scores(words, batch.targets["pieces"][..., 0] >= 0, self.aggregate)
        count = batch.targets["count"]
        if len(found) == count:
            return found
        free = found[count:].logsumexp(0)  # of the mean probability, up to a constant
        return found[:count] - free

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the classes, or of the share of a number."""
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        found, target = self.scores(outputs, batch), batch.targets["target"]
        if self.classes:
            weight = weights_on(found.device, self.weights)
            return cross_entropy(
                found, target, weight, label_smoothing=self.smoothing, reduction="sum"
            )
        low, high = self.bounds
        share = ((target.float() - low) / (high - low)).clamp(0, 1)
        return binary_cross_entropy_with_logits(found[:, 1] - found[:, 0], share, reduction="sum")

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the classes' scores [B, C]; those of the two words of a number."""
        return self.scores(outputs, batch)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return the numbers; or pairs of the likeliest class and the probabilities [C] of all."""
        if self.pieces in STEPWISE and batch.targets["pieces"].shape[-1] > 1:
            words = stepwise(model, batch, confident=self.pieces == "confident")
            found = self._calibrated(words, batch)
        else:
            found = self.scores(outputs, batch)
        shares = found.softmax(-1)
        if not self.classes:
            low, high = self.bounds
            return (low + (high - low) * shares[:, 1]).tolist()
        names = [self.classes[number] for number in found.argmax(-1).tolist()]
        return list(zip(names, shares.tolist(), strict=True))

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the classes' names, or the numbers."""
        return [name for name, _ in predicted] if self.classes else list(predicted)

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the answers with the probabilities of the classes; a number has none."""
        if not self.classes:
            return super().detailed(predicted, rows)
        return with_shares(predicted, self.classes)
