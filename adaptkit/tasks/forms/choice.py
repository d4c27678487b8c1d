"""The choice form: every alternative is read with the context and scored; the best one wins.

    score_k = head(context, choice_k),   softmax over the K choices of a row

The sequences of all choices stand in one batch, [B K, T], under a classifier with one output: the
families' own choice heads are that, and the families without one can take part (GPT-2, LLaMA, T5,
BART). Rows may have different numbers of choices. The context is cut, never a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.padding import padded_inputs, plain_text, tokenized
from adaptkit.tasks.reading.ids import row_name
from adaptkit.tasks.task import LABEL, Answer, Form, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

STOPS = ".!?"


@dataclass(frozen=True)
class ChoiceForm(Form):
    """A context and several alternatives in, the number of one out."""

    context: str  # column
    choices: tuple[str, ...]  # columns, or one column of lists
    max_length: int  # tokens of context and one choice, special ones included
    connect: str | None = None  # column that says how the context and the choice are connected
    connectives: Mapping[str, str] = field(default_factory=dict)  # its value -> words between them

    head: ClassVar[str] = "sequence"
    votes: ClassVar[bool] = True
    outputs: ClassVar[int] = 1

    @property
    def sequences(self) -> int:
        """One sequence per choice; of a column of lists two are expected."""
        return max(len(self.choices), 2)

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return one example per row: the token ids of each choice with the context.

        Raises:
            AdaptError: a choice alone is longer than the model reads.
        """
        from datasets import Dataset

        longest = reader.length(self.max_length)
        firsts, seconds, sizes = [], [], []
        for row in rows:
            alternatives = alternatives_of(row, self.choices)
            firsts += [self.context_of(row)] * len(alternatives)
            seconds += alternatives
            sizes.append(len(alternatives))
        self._check_room(rows, seconds, sizes, reader, longest)
        flat = tokenized(reader.tokenizer, [firsts, seconds], longest, cut="only_first")
        columns: dict[str, list] = {name: regrouped(values, sizes) for name, values in flat.items()}
        columns["length"] = [max(map(len, ids)) for ids in columns["input_ids"]]
        columns["cut"] = [max(lost) for lost in columns["cut"]]
        columns["row"], columns["texts"] = list(range(len(sizes))), sizes
        if LABEL in rows.column_names:
            columns["target"] = rows[LABEL][:]
        return Dataset.from_dict(columns)

    def context_of(self, row: Mapping[str, Any]) -> str:
        """Return the context of a row, with the words that connect it to a choice."""
        if self.connect is None:
            return row[self.context]
        words = self.connectives.get(str(row[self.connect]), "")
        return f"{row[self.context].rstrip().rstrip(STOPS)} {words}".rstrip()

    def _check_room(
        self,
        rows: Dataset,
        choices: Sequence[str],
        sizes: Sequence[int],
        reader: Reader,
        longest: int,
    ) -> None:
        tokenizer = reader.tokenizer
        room = longest - tokenizer.num_special_tokens_to_add(pair=True) - 1
        plain = plain_text(tokenizer)
        tokens = tokenizer(
            [plain(choice) for choice in choices],
            add_special_tokens=False,
            split_special_tokens=True,
        )
        lengths = map(len, tokens["input_ids"])
        owner = [row for row, size in enumerate(sizes) for _ in range(size)]
        for row, length in zip(owner, lengths, strict=True):
            if length > room:
                raise AdaptError(
                    f"{row_name(rows, row)}: a choice has {length} tokens, and {longest} leave "
                    f"room for {room}. Raise task.max_length, or drop the row."
                )

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [sum of K, T] and the targets [B], if the examples have them."""
        import torch

        names = [name for name in ("input_ids", "token_type_ids") if name in examples[0]]
        sequences = [
            {name: example[name][k] for name in names}
            for example in examples
            for k in range(len(example["input_ids"]))
        ]
        inputs = padded_inputs(sequences, reader.tokenizer)
        rows = [example["row"] for example in examples]
        targets: dict[str, Any] = {"sizes": [len(example["input_ids"]) for example in examples]}
        if "target" not in examples[0]:
            return Batch(inputs, targets, rows, 0)
        targets["target"] = torch.tensor([example["target"] for example in examples])
        return Batch(inputs, targets, rows, len(rows))

    def scores(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the choices' scores [B, K], -inf where a row has fewer."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        parts = outputs.logits.float().squeeze(-1).split(batch.targets["sizes"])
        return pad_sequence(list(parts), batch_first=True, padding_value=-torch.inf)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy over the choices."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(self.scores(outputs, batch), batch.targets["target"], reduction="sum")

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the scores of the choices [B, K]."""
        return self.scores(outputs, batch)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return pairs: the number of the best choice, from 0, and the probabilities [K] of all.

        Of equal scores the first is the best.
        """
        scores = self.scores(outputs, batch)
        shares = zip(scores.softmax(-1).tolist(), batch.targets["sizes"], strict=True)
        every = [row[:size] for row, size in shares]
        return list(zip(scores.argmax(-1).tolist(), every, strict=True))

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the numbers of the best choices."""
        return [number for number, _ in predicted]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the numbers with the probability of every choice."""
        return [{"answer": number, "probabilities": shares} for number, shares in predicted]


def alternatives_of(row: Mapping[str, Any], choices: Sequence[str]) -> list[str]:
    """Return the choices of a row: the columns' texts, or the one column's list."""
    if len(choices) == 1:
        return list(row[choices[0]])
    return [row[name] for name in choices]


def regrouped(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Return flat values as one list per row."""
    rest = iter(values)
    return [[next(rest) for _ in range(size)] for size in sizes]
