"""Options as texts: the right one is learnt as a target, and an answer is ranked or generated.

    source    "sst2 sentence: a fine film"  target "positive"; causal: "\\nAnswer:" ends the source

    rank      log p(option | source) = sum over its tokens, its end included; the largest wins.
              normalise: sum | tokens | characters   divides it by their number (characters: of the
              option as it is written, without its end)
    generate  the generated text must be an option, letter by letter; any other is not an answer

The loss is that of the text form, at the right option (Raffel et al. 2020, arXiv:1910.10683). The
options are the words of the classes, or the row's own alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptkit.adaptation import Batch
from adaptkit.tasks.forms.head import with_shares
from adaptkit.tasks.forms.padding import plain_text
from adaptkit.tasks.forms.text import Generation, TextForm, losses_of
from adaptkit.tasks.forms.verbalizer import check_pieces
from adaptkit.tasks.forms.written import WrittenForm
from adaptkit.tasks.pattern import Wording, ending
from adaptkit.tasks.task import LABEL, Answer, Reader
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

ROOM = 512  # tokens of an option, its end included; more than any has


@dataclass(frozen=True)
class OptionsForm(WrittenForm):
    """A row in a pattern, the word of a class as the text after it."""

    wordings: tuple[Wording, ...]  # without a style: the one for two stacks, that for causal models
    classes: tuple[str, ...]
    max_length: int  # tokens of the source, special ones included
    decode: str = "rank"
    normalise: str = "sum"

    def wording(self, reader: Reader) -> Wording:
        """Return the pattern and words for a model: the first with the slot at its end.

        Raises:
            AdaptError: there is none.
        """
        return ending(self.wordings, reader.causal)

    def source(self, reader: Reader) -> Template:
        """Return what stands before an answer; special tokens in shown rows are plain text."""
        pattern = self.wording(reader).pattern
        return replace(pattern, shown=plain_text(reader.tokenizer)(pattern.shown)).before()

    def texts(self, reader: Reader) -> tuple[str, ...]:
        """Return the text of every class: the first of its words, as the tokenizer writes it.

        Raises:
            AdaptError: it does not know one, or writes two alike.
        """
        words = tuple(every[0] for every in self.wording(reader).words)
        free = TextForm(self.source(reader), self.max_length, ROOM)
        pieces = [ids[:-1] for ids in free.targets(words, reader)]
        check_pieces(
            reader.tokenizer, tuple((word,) for word in words), [[ids] for ids in pieces], None
        )
        read = reader.tokenizer.batch_decode(pieces, skip_special_tokens=True)
        return tuple(text.strip() for text in read)

    def inner(self, reader: Reader) -> TextForm:
        """Return the form of source and target; targets have room for the longest option."""
        source = self.source(reader)
        free = TextForm(source, self.max_length, ROOM)
        longest = max(map(len, free.targets(self.texts(reader), reader)))
        return TextForm(source, self.max_length, longest, Generation(max_new_tokens=longest))

    def targets(self, rows: Dataset, reader: Reader) -> list[str]:
        """Return the words of the classes."""
        word = dict(zip(self.classes, self.texts(reader), strict=True))
        return [word[name] for name in rows[LABEL][:]]

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return pairs: a class and the shares [C] of all; or a class, if any, and the text."""
        inner, texts = self.inner(reader), self.texts(reader)
        if self.decode == "generate":
            found = dict(zip(texts, self.classes, strict=True))
            made = inner.predict(model, outputs, batch, reader)
            return [(found.get(text), text) for text in made]
        scores = ranked(model, inner, batch, reader, [texts] * len(batch.rows), self.normalise)
        shares = scores.softmax(-1).tolist()
        best = scores.argmax(-1).tolist()
        return [(self.classes[k], line) for k, line in zip(best, shares, strict=True)]

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the classes' names; None for a text that is none."""
        return [name for name, _ in predicted]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the answers with the shares of the options, or the text that was generated."""
        if self.decode == "generate":
            return [{"answer": name, "text": text} for name, text in predicted]
        return with_shares(predicted, self.classes)


def ranked(
    model: nn.Module,
    inner: TextForm,
    batch: Batch,
    reader: Reader,
    options: Sequence[Sequence[str]],
    normalise: str,
) -> Tensor:
    """Return the scores of every row's options [B, K], -inf where a row has fewer."""
    import torch

    sources, device = batch.targets["source"], batch.inputs["input_ids"].device
    most = max(map(len, options))
    scores = torch.full((len(sources), most), -torch.inf, device=device)
    for k in range(most):
        rows = [i for i, texts in enumerate(options) if len(texts) > k]
        texts = [options[i][k] for i in rows]
        targets = inner.targets(texts, reader)
        examples = [
            {"input_ids": sources[i], "target": target, "row": i}
            for i, target in zip(rows, targets, strict=True)
        ]
        part = inner.collate(examples, reader).to(device)
        with torch.no_grad():
            lost = losses_of(model(**part.inputs), part).split(list(map(len, targets)))
        found = -torch.stack([one.sum() for one in lost])
        sizes = {"tokens": list(map(len, targets)), "characters": list(map(len, texts))}
        if normalise != "sum":
            found = found / torch.tensor(sizes[normalise], device=device)
        scores[rows, k] = found
    return scores
