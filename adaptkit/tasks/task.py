"""The vocabulary of tasks: what is asked, and how it is put to a model.

A `Task` knows its rows, its answers and its metric; a `Form` knows tokenizers and heads, and no
metric. An answer is one plain JSON value per row: a class's name, a number, a list of tags, a text.

    rows -> form.encode -> examples -> form.collate -> Batch -> model -> form.loss
    outputs of the model -> form.predict -> form.answers -> task.score

One row may give several examples (windows), one example several texts (choices). No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from adaptkit.adaptation import Batch
from adaptkit.tasks.data import Data
from adaptkit.tasks.reading.source import DataSource

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Answer = Any  # plain JSON
Variants = Mapping[str, Sequence[Sequence[Answer]]]
SHOWN, SKEWED = 8, 10  # classes in a line; times as many rows as another class: worth a word
ID, LABEL = "id", "label"  # columns that every task's rows have; a row to predict has no label


@dataclass(frozen=True)
class Reader:
    """What a form may know of the model that reads its texts."""

    tokenizer: PreTrainedTokenizerBase
    limit: int | None = None  # tokens that the model can read; None: any number
    causal: bool = False  # a word sees only what stands before it
    decoder_start: int | None = None  # token that a decoder reads first; None: there is no decoder
    decoder_limit: int | None = None  # tokens that such a decoder can write; a prompt takes none
    epoch: int = 0  # of training, for what a form draws anew in each; scoring has one

    def length(self, wanted: int) -> int:
        """Return the number of tokens that a text may have: what is wanted, within the limit."""
        return min(wanted, self.limit or wanted)


@dataclass(frozen=True)
class Splits:
    """Checked rows with the columns `id` and `label`; the first validation split decides."""

    task: Task  # with all that was read off the data (the classes) filled in
    train: Dataset | None
    validation: dict[str, Dataset]  # by the suffix of their scores
    source: DataSource
    notes: tuple[str, ...] = ()  # how the rows were read, for the user and the record
    selection: Dataset | None = None  # by which an evaluation is chosen; None: by validation

    def seen(self) -> tuple[Dataset, str]:
        """Return the rows whose labels a baseline may know, and a remark if not for training."""
        if self.train is None:
            return self.validation[""], " of these rows"
        return self.train, ""

    def summary(self) -> str:
        """Say how many rows there are, and how many of each class are trained on."""
        parts = [f"{len(v)} validation rows{s and f' ({s})'}" for s, v in self.validation.items()]
        if self.train is not None:
            classes = self._classes_of(self.train) if self.task.classes else ""
            parts.insert(0, f"{len(self.train)} training rows{classes}")
        return "; ".join(parts)

    def _classes_of(self, rows: Dataset) -> str:
        lists = (label if isinstance(label, list) else [label] for label in rows[LABEL][:])
        counts = Counter(name for names in lists for name in names)
        # Names are data: control characters in them are shown, not obeyed.
        names = self.task.classes[:SHOWN]
        shown = [f"{n if n.isprintable() else repr(n)} {counts[n]}" for n in names]
        rest = f" and {more} more" if (more := len(self.task.classes) - SHOWN) > 0 else ""
        found = f" of {len(self.task.classes)} classes ({', '.join(shown)}{rest}"
        most, least = max(counts.values(), default=1), min(counts.values(), default=1)
        skew = f"; imbalanced, {most / least:.0f} to 1" if most >= SKEWED * least else ""
        absent = sum(not counts[name] for name in self.task.classes)
        return f"{found}{skew}{f'; {absent} without a row' if absent else ''})"

    @cached_property
    def fingerprint(self) -> str:
        """Identify the rows: SHA-256 over all values of all columns."""
        digest = hashlib.sha256()
        parts = [("train", self.train), *self.validation.items(), ("selection", self.selection)]
        for name, rows in parts:
            for key in [] if rows is None else sorted(rows.column_names):
                digest.update(f"{name}/{key}/{json.dumps(rows[key][:], default=str)}".encode())
        return digest.hexdigest()


class Form(Protocol):
    """How a task is put to a model. The defaults suit a form with one example per row."""

    redrawn: ClassVar[bool] = False  # the inputs are drawn anew in every epoch

    @property
    def head(self) -> str:
        """Key of models.heads.HEADS, or "text": whichever of its heads generates."""
        ...

    @property
    def outputs(self) -> int | None:
        """Width of the head; None: the model's own vocabulary."""
        ...

    @property
    def one_to_one(self) -> bool:
        """True if every row gives exactly one example; False: windows, to be counted."""
        return True

    @property
    def generates(self) -> bool:
        """True if an answer takes many calls of the model, and not only the outputs of one."""
        return False

    @property
    def prompted(self) -> int:
        """Number of places in the text itself for the vectors of a prompt."""
        return 0

    @property
    def votes(self) -> bool:
        """True if an answer is the largest logit, or a mean of single numbers: prompts can vote."""
        return False

    @property
    def squared(self) -> bool:
        """True if the loss is the squared error between logits [B, 1] and the target [B]."""
        return False

    @property
    def sequences(self) -> int:
        """Number of sequences that the model reads per row, about; examples have it as `texts`."""
        return 1

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return examples: columns of the model, `length` in tokens, `row`, and targets if known.

        Raises:
            AdaptError: a row cannot be put to this model; the message names it.
        """
        ...

    def prepare(self, examples: Dataset, load_base: Callable[[], nn.Module]) -> Dataset:
        """Add to training examples what the untouched model that `load_base` loads says of them."""
        return examples

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Pad and stack examples."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the sum of the losses [] of what `batch.weight` counts."""
        ...

    def read_at(self, batch: Batch) -> Tensor | None:
        """Return where the loss reads a vocabulary's logits: rows and columns [2, N]; None: all."""
        return None

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return what two views of a batch are compared by: logits [N, C], or numbers [N, 1].

        N: the rows, words or tokens of which the loss is a mean. -inf where there is no class.
        """
        ...

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return plain JSON per example, from the outputs or by further calls of `model`."""
        ...

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return one answer per row from those of its examples; `rows` says whose they are."""
        return list(predicted)

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return answers as objects: `answer`, and, where known, how sure the model is of it."""
        return [{"answer": answer} for answer in self.answers(predicted, rows)]

    def variants(self, predicted: Sequence[Answer], rows: Sequence[int]) -> Variants:
        """Return further answers to the same rows, scored next to the answer: suffix -> lists."""
        return {}


class Task(Protocol):
    """What is asked. Frozen dataclasses; their fields are the keys of conf/task/*.yaml."""

    @property
    def name(self) -> str:
        """Name of the data set."""
        ...

    @property
    def version(self) -> int:
        """Changes when scores stop being comparable."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once, special ones included."""
        ...

    @property
    def answer(self) -> str:
        """What an answer is, in words."""
        ...

    @property
    def headline(self) -> str:
        """Name of the score by which runs and checkpoints are compared."""
        ...

    @property
    def larger_is_better(self) -> bool:
        """Direction of the headline score."""
        ...

    @property
    def bound(self) -> bool:
        """True if nothing has to be read off the data any more."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none for numbers and texts."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a row to predict must have."""
        ...

    @property
    def posed(self) -> Form:
        """The form of a bound task."""
        ...

    def with_classes(self, classes: tuple[str, ...]) -> Task:
        """Return the task with the same classes in another order (of a head's outputs)."""
        ...

    def check(self, rows: Dataset, split: str) -> None:
        """Check the values of `columns`.

        Raises:
            AdaptError: one is of the wrong kind; the message names row and column.
        """
        ...

    @property
    def split(self) -> str:
        """Name of the validation split that decides."""
        ...

    def origin(self, data: Data) -> DataSource:
        """Return where the rows will come from."""
        ...

    def load(self, data: Data, seed: int, train: bool = True, every_row: bool = False) -> Splits:
        """Read, check and sample the splits.

        `every_row`: if all rows are in one file, score them all, and hold none out.

        Raises:
            AdaptError: a split, column or value is missing or wrong; the message names it.
        """
        ...

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the task's metrics of one answer per row."""
        ...

    def row_scores(self, answers: Sequence[Answer], rows: Dataset) -> list[float] | None:
        """Return a score per row of which the headline is the mean; None if it is not a mean."""
        ...

    def parts(
        self, answers: Sequence[Answer], rows: Dataset
    ) -> tuple[list[float], list[float]] | None:
        """Return two numbers per group of rows, the headline is sum by sum; None if it is not."""
        ...

    def details(self, answers: Sequence[Mapping[str, Any]], rows: Dataset) -> dict[str, Any]:
        """Return what the record holds about detailed answers next to the scores."""
        ...

    def baseline(self, splits: Splits) -> tuple[str, float]:
        """Return the name of a trivial predictor, and its headline score on the validation rows."""
        ...
