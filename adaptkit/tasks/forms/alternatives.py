"""Alternatives as texts: the right one is learnt as a target, and the likeliest one is the answer.

    continued   source  "The ground was wet because"      targets  "it had rained.", "it was late."
    listed      source  "copa choice1: it had rained. choice2: it was late. premise: ..."
                targets "choice1", "choice2"                                     (T5's COPA)
    entities    source  "record query: ... entities: a, b passage: ..."
                targets "a", "b"                                                 (T5's ReCoRD)

    answer      argmax over the alternatives of log p(alternative | source), see `options`

Source: Raffel et al. 2020 (arXiv:1910.10683) for what T5 reads. Of several right entities the first
that is a candidate is learnt; T5 learns each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.choice import ChoiceForm, alternatives_of
from adaptkit.tasks.forms.gap import GapForm, distinct
from adaptkit.tasks.forms.options import ROOM, ranked
from adaptkit.tasks.forms.text import CUE, SHORTEST, Generation, TextForm
from adaptkit.tasks.forms.written import WrittenForm
from adaptkit.tasks.reading.ids import row_name
from adaptkit.tasks.task import ID, LABEL, Answer, Reader
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

OPTIONS = "options"


class Asked(Protocol):
    """What is read of a row, and what may be the answer."""

    @property
    def source(self) -> str:
        """A template that names what `texts` returns."""
        ...

    @property
    def cue(self) -> str:
        """What ends the source of a causal model."""
        ...

    def texts(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the texts of a row."""
        ...

    def options(self, row: Mapping[str, Any]) -> list[str]:
        """Return the alternatives of a row."""
        ...


@dataclass(frozen=True)
class Continued:
    """A context with its connecting words; a choice is what follows."""

    choice: ChoiceForm
    source: str = "{source}"
    cue: str = ""

    def texts(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the context."""
        return {"source": self.choice.context_of(row)}

    def options(self, row: Mapping[str, Any]) -> list[str]:
        """Return the choices."""
        return alternatives_of(row, self.choice.choices)


@dataclass(frozen=True)
class Listed:
    """All choices and the context in the order of their names; an answer is a choice's name."""

    name: str  # of the task
    choice: ChoiceForm
    cue: str = CUE

    @cached_property
    def source(self) -> str:
        """T5's format; choices of one column are called choice1, choice2, ..."""
        one = self.choice
        names = sorted([one.context, *one.choices, *([one.connect] if one.connect else [])])
        single = one.choices[0] if len(one.choices) == 1 else None
        parts = [f"{{{name}}}" if name == single else f"{name}: {{{name}}}" for name in names]
        return " ".join([self.name, *parts])

    def texts(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return context, choices and the word that connects them."""
        one = self.choice
        found = {name: str(row[name]) for name in (one.context, one.connect) if name}
        if len(one.choices) > 1:
            return {**found, **{name: row[name] for name in one.choices}}
        pairs = zip(self.options(row), alternatives_of(row, one.choices), strict=True)
        return {**found, one.choices[0]: " ".join(f"{name}: {text}" for name, text in pairs)}

    def options(self, row: Mapping[str, Any]) -> list[str]:
        """Return the names of the choices."""
        if len(self.choice.choices) > 1:
            return list(self.choice.choices)
        count = len(alternatives_of(row, self.choice.choices))
        return [f"choice{k}" for k in range(1, count + 1)]


@dataclass(frozen=True)
class Entities:
    """A text with a gap, candidates and a context; an answer is a candidate."""

    name: str  # of the task
    gap: GapForm
    cue: str = CUE

    @property
    def source(self) -> str:
        """T5's format."""
        query, entities, passage = (f"{{{name}}}" for name in self.columns)
        return f"{self.name} query: {query} entities: {entities} passage: {passage}"

    @property
    def columns(self) -> tuple[str, str, str]:
        """The columns of query, candidates and context."""
        return self.gap.query, self.gap.candidates, self.gap.context

    def texts(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return query, candidates and context."""
        texts = (row[self.gap.query], ", ".join(self.options(row)), joined(row[self.gap.context]))
        return dict(zip(self.columns, texts, strict=True))

    def options(self, row: Mapping[str, Any]) -> list[str]:
        """Return the candidates, each once."""
        return distinct(row[self.gap.candidates])


@dataclass(frozen=True)
class AlternativesForm(WrittenForm):
    """A row in, the likeliest of several texts out."""

    asked: Asked
    max_length: int  # tokens of the source, special ones included
    normalise: str = "sum"  # what the likelihood is divided by: sum | tokens | characters
    by_name: bool = False  # answers and labels are the texts; else numbers, counted from 0

    def inner(self, reader: Reader, longest: int = ROOM) -> TextForm:
        """Return the form of source and target, of `longest` tokens at most."""
        source = Template(self.asked.source, "task.text")
        generation = Generation(max_new_tokens=longest)
        return TextForm(source, self.max_length, longest, generation, self.asked.cue)

    def targets(self, rows: Dataset, reader: Reader) -> list[str]:
        """Return the right alternatives; of several the first that is a candidate."""
        pairs = zip(rows[LABEL][:], map(self.asked.options, rows), strict=True)
        if not self.by_name:
            return [texts[number] for number, texts in pairs]
        return [next((name for name in names if name in texts), names[0]) for names, texts in pairs]

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Encode as the text form does; `options` are the alternatives of every row."""
        from datasets import Dataset

        options = [self.asked.options(row) for row in rows]
        found = [self.asked.texts(row) for row in rows]
        columns: dict[str, list] = {name: [one[name] for one in found] for name in found[0]}
        if ID in rows.column_names:
            columns[ID] = rows[ID][:]
        if LABEL in rows.column_names:
            columns[LABEL] = self.targets(rows, reader)
        longest = self._longest(rows, options, reader)
        made = self.inner(reader, longest).encode(Dataset.from_dict(columns), reader)
        return made.add_column(OPTIONS, options)

    def _longest(self, rows: Dataset, options: list[list[str]], reader: Reader) -> int:
        every = list(dict.fromkeys(text for texts in options for text in texts))
        targets = self.inner(reader).targets(every, reader)
        sizes = dict(zip(every, map(len, targets), strict=True))
        # one stack reads source and target after each other
        limit = reader.limit and reader.limit - SHORTEST if reader.causal else reader.decoder_limit
        most = min(ROOM - 1, limit or ROOM)
        for row, texts in enumerate(options):
            where = row_name(rows, row)
            if max(map(sizes.__getitem__, texts)) > most:
                raise AdaptError(
                    f"{where}: an alternative has more tokens than the {most} that can be ranked. "
                    "Drop the row."
                )
            if self.normalise == "characters" and "" in texts:
                raise AdaptError(
                    f"{where}: an alternative is empty, so that nothing can be divided by its "
                    "characters. Set task.normalise=tokens, or drop the row."
                )
        return max(sizes.values())

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Collate as the text form does, with the alternatives."""
        batch = super().collate(examples, reader)
        options = [example[OPTIONS] for example in examples]
        return batch._replace(targets={**batch.targets, OPTIONS: options})

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return pairs: the likeliest alternative, the first of equal ones, and all shares."""
        options = batch.targets[OPTIONS]
        scores = ranked(model, self.inner(reader), batch, reader, options, self.normalise)
        found: list[Answer] = []
        lines = zip(scores.argmax(-1).tolist(), scores.softmax(-1).tolist(), options, strict=True)
        for k, line, texts in lines:
            shares = line[: len(texts)]
            named = (texts[k], dict(zip(texts, shares, strict=True)))
            found.append(named if self.by_name else (k, shares))
        return found

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the numbers or names of the likeliest."""
        return [answer for answer, _ in predicted]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return them with the shares of all alternatives."""
        return [{"answer": answer, "probabilities": shares} for answer, shares in predicted]


def joined(passage: str) -> str:
    """Return a passage with ReCoRD's highlights joined to its text, as T5 reads them."""
    sentence_ends = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage)
    return sentence_ends.replace("\n@highlight\n", ". ")
