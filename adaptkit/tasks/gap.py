"""A gap in a text, and which of several candidates fills it (ReCoRD, Zhang et al. 2018).

Candidates are texts. An answer is scored as in SQuAD, against the right one that suits best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adaptkit.errors import AdaptError, invalid, one_of
from adaptkit.tasks.forms.alternatives import AlternativesForm, Entities
from adaptkit.tasks.forms.gap import GapForm, distinct
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Form, Splits

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Gap(TableTask):
    """One of several candidates per row; the label is a list of all that are right."""

    text: str = ""  # column of the context
    query: str = "query"  # column of the texts with a gap
    gap: str = "@placeholder"  # what stands in the place of the gap
    candidates: str = "candidates"  # column of lists of texts
    label: str = "answers"  # column of the right candidates: a text or a list
    metric: str = "record"  # F1 of words and exact match, as in SQuAD
    # how the task is put to the model; text: the likeliest candidate is the answer
    form: Literal["head", "text"] = "head"
    # text: what the likelihood of a candidate is divided by
    normalise: Literal["sum", "tokens", "characters"] = "sum"
    max_length: int = 384  # tokens of context and text, special ones included

    answer = "one of the candidates"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("record",))
        if self.form == "head" and self.normalise != "sum":
            raise invalid("task.normalise", self.normalise, "is not read with task.form=head",
                          "Set task.form=text")  # fmt: skip
        super().__post_init__()
        if not self.gap:
            raise invalid("task.gap", self.gap, "must say what stands in the place of the gap")

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return ("f1", "exact_match")

    @property
    def columns(self) -> tuple[str, ...]:
        """Context, text with a gap, and candidates."""
        return (self.text, self.query, self.candidates)

    @property
    def posed(self) -> Form:
        """A classifier with one output per candidate's sequence, or the candidates' likelihoods."""
        gap = GapForm(self.text, self.query, self.gap, self.candidates, self.max_length)
        if self.form == "head":
            return gap
        asked = Entities(self.name, gap)
        return AlternativesForm(asked, self.max_length, self.normalise, by_name=True)

    def check(self, rows: Dataset, split: str) -> None:
        """Check the texts, that there is a gap, and that there are two candidates or more.

        Raises:
            AdaptError: a row breaks a rule; the message names it.
        """
        self.check_texts(rows, split, (self.text, self.query))
        pairs = zip(rows[self.query][:], rows[self.candidates][:], strict=True)
        for number, (query, names) in enumerate(pairs, 1):
            where = f"task {self.name}, split {split}, row {number}"
            if self.gap not in query:
                raise AdaptError(
                    f"{where}: {self.query} {query!r:.60} has no gap: {self.gap!r} (task.gap)."
                )
            are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
            if not are_texts or len(distinct(names)) < 2:
                raise AdaptError(
                    f"{where}: {self.candidates} {str(names)[:60]} is not a list of two different "
                    "texts or more."
                )

    def read_labels(self, rows: Dataset, split: str) -> list[list[str]]:
        """Return the right candidates of every row.

        Raises:
            AdaptError: a row has none, or in training none of them is a candidate.
        """
        labels = []
        pairs = zip(rows[self.label][:], rows[self.candidates][:], strict=True)
        for number, (value, names) in enumerate(pairs, 1):
            where = f"task {self.name}, split {split}, row {number}"
            right = [value] if isinstance(value, str) else value
            if not isinstance(right, list) or not all(isinstance(one, str) for one in right):
                raise AdaptError(
                    f"{where}: {self.label} is {value!r:.60}, not a text or a list of texts."
                )
            if not right:
                raise AdaptError(f"{where}: has no right answer. The labels may be withheld.")
            if split == self.train and not {*right} & {*names}:
                raise AdaptError(
                    f"{where}: the right answer {right[0]!r:.60} is not one of its candidates. Add "
                    "it, or drop the row."
                )
            labels.append(right)
        return labels

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return F1 and exact match."""
        from adaptkit.metrics.super_glue import SuperGlue

        metric = SuperGlue(config_name=self.metric, keep_in_memory=True)
        return metric.compute(predictions=list(answers), references=rows[LABEL][:])

    def row_scores(self, answers: Sequence[Answer], rows: Dataset) -> list[float] | None:
        """Return the F1, or whether it is an exact match, of every row."""
        from adaptkit.metrics.squad import best_of, exact, f1

        kind = {"f1": f1, "exact_match": exact}.get(self.headline)
        if kind is None:
            return None
        pairs = zip(answers, rows[LABEL][:], strict=True)
        return [best_of(kind, answer, right, False) for answer, right in pairs]

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the candidate that its context names most often; of equal ones the first."""
        pairs = zip(rows[self.text][:], rows[self.candidates][:], strict=True)
        return "commonest candidate", [[commonest(distinct(names), text) for text, names in pairs]]


def commonest(names: Sequence[str], text: str) -> str:
    """Return the name that a text holds most often."""
    counts = Counter({name: text.count(name) for name in names})
    return counts.most_common(1)[0][0]
