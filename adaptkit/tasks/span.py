"""Extractive question answering: the answer is a part of a text, or there is none.

A row's right answers are SQuAD's `{text: [...], answer_start: [...]}`, a list of such, or plain
texts, which are looked for in the row's text. A row without any has no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.errors import AdaptError, at_least, invalid, one_of, unknown, within
from adaptkit.tasks.data import Data
from adaptkit.tasks.forms.span import SpanForm
from adaptkit.tasks.forms.text import CUE, Generation, TextForm
from adaptkit.tasks.reading.ids import row_name
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Form, Splits
from adaptkit.tasks.template import Template
from adaptkit.tasks.trivial import lead

if TYPE_CHECKING:
    from datasets import Dataset

METRICS = {
    "squad": ("f1", "exact_match"),
    "squad_v2": (
        "f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_accuracy",
        "best_f1", "best_f1_threshold", "best_exact_match", "best_exact_match_threshold",
    ),
}  # fmt: skip
READ = {  # options that one form alone reads
    "head": ("stride", "windows", "max_answer_length", "n_best", "null_threshold"),
    "text": ("template", "max_target_length"),
}


@dataclass(frozen=True)
class Span(TableTask):
    """A part of a text that answers a question."""

    question: str = "question"  # column
    context: str = "context"  # column of the texts that hold the answers
    label: str = "answers"  # column of the right answers
    metric: str = "squad"  # F1 of words and exact match; squad_v2: rows may have no answer
    max_length: int = 384  # tokens of question and text, special ones included
    stride: int = 128  # tokens by which the windows of a long text overlap
    # windows that are trained on; answered: those that hold the answer
    windows: Literal["all", "answered"] = "all"
    max_answer_length: int = 30  # tokens
    n_best: int = 20  # best starts and best ends that are combined
    null_threshold: float = 0.0  # by which "no answer" must beat the best part of the text
    # a right answer that its text does not hold; skip: leave the row out of training
    on_missing: Literal["error", "skip"] = "error"
    # how the task is put to the model; text: the answer is written
    form: Literal["head", "text"] = "head"
    # text: what the model reads; empty: question: {question} context: {context}
    template: str = ""
    max_target_length: int = 32  # text: tokens of an answer, its end included

    answer = "a part of the text"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, METRICS)
        super().__post_init__()
        for name, low in (("stride", 0), ("max_answer_length", 1), ("n_best", 1)):
            at_least(f"task.{name}", getattr(self, name), low)
        within("task.null_threshold", self.null_threshold, -1000, 1000)
        at_least("task.max_target_length", self.max_target_length, 2)
        for name in READ["text" if self.form == "head" else "head"]:
            default = next(field.default for field in fields(self) if field.name == name)
            if (value := getattr(self, name)) != default:
                rule = f"is not read with task.form={self.form}"
                raise invalid(f"task.{name}", value, rule, f"Leave it at {default!r}")
        if self.template:
            for name in Template(self.template, "task.template").columns:
                if name not in self.columns:
                    raise unknown("task.template: {...}", name, self.columns)
        if self.form == "head" and self.stride >= self.max_length:
            raise invalid("task.stride", self.stride, f"must be below task.max_length="
                          f"{self.max_length}: it is the overlap of windows")  # fmt: skip

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return METRICS[self.metric]

    @property
    def columns(self) -> tuple[str, ...]:
        """Question and text."""
        return (self.question, self.context)

    @property
    def posed(self) -> Form:
        """A head that marks the first and the last token, or a model that writes the answer."""
        if self.form == "text":
            longest = self.max_target_length
            source = self.template or f"question: {{{self.question}}} context: {{{self.context}}}"
            return TextForm(
                Template(source, "task.template"), self.max_length, longest,
                Generation(max_new_tokens=longest), cue=CUE * (not self.template),
            )  # fmt: skip
        return SpanForm(
            self.question, self.context, self.max_length, self.stride, self.max_answer_length,
            self.n_best, self.metric == "squad_v2", self.null_threshold,
            self.windows == "answered",
        )  # fmt: skip

    def read_labels(self, rows: Dataset, split: str) -> list[dict[str, list]]:
        """Return the right answers of every row: `text` and `answer_start`, -1 if not found.

        Raises:
            AdaptError: a value is neither, or a row has no answer although every row needs one.
        """
        labels = []
        columns = zip(rows[self.label][:], rows[self.context][:], strict=True)
        for number, (value, context) in enumerate(columns, 1):
            found = right_answers(value, context)
            where = f"task {self.name}, split {split}, row {number}"
            if found is None:
                raise AdaptError(
                    f"{where}: {self.label} is {str(value)[:60]}, not {{text: [...], answer_start: "
                    "[...]}, a text or a list of texts."
                )
            if not found["text"] and self.metric == "squad":
                raise AdaptError(f"{where}: has no answer. Use task.metric=squad_v2.")
            labels.append(found)
        return labels

    def load(self, data: Data, seed: int, train: bool = True, every_row: bool = False) -> Splits:
        """Read the splits; a right answer that its text does not hold cannot be learnt.

        Raises:
            AdaptError: as for every task, or there is such an answer in the training rows.
        """
        splits = super().load(data, seed, train, every_row)
        if self.form == "text":  # which can be written all the same
            return splits
        rows, notes = splits.train, list(splits.notes)
        if rows is not None and (missing := without_place(rows)):
            first = f"the answer of {len(missing)} of {len(rows)} training rows is not in its text"
            if self.on_missing == "error":
                raise AdaptError(
                    f"task {self.name}: {first}, for example {row_name(rows, missing[0])}. "
                    "Correct them, or leave them out: task.on_missing=skip."
                )
            if len(missing) == len(rows):
                raise AdaptError(
                    f"task {self.name}: none of the {len(rows)} training rows has an answer that "
                    "is in its text, so that none is left. Correct the answers or task.context."
                )
            notes.append(f"{first}, so that they are left out")
            rows = rows.select(sorted({*range(len(rows))} - {*missing}))
        for suffix, scored in splits.validation.items():
            if missing := without_place(scored):
                name = f"validation{suffix and f' ({suffix})'}"
                notes.append(
                    f"no answer of {len(missing)} of {len(scored)} {name} rows is in its text"
                )
        return replace(splits, train=rows, notes=tuple(notes))

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the metric; an answer is a text, or for squad_v2 what the form says of it."""
        from adaptkit.metrics.squad import Squad

        metric = Squad(config_name=self.metric, keep_in_memory=True)
        return metric.compute(
            predictions=[whole(answer) for answer in answers],
            references=[label["text"] for label in rows[LABEL][:]],
        )

    def row_scores(self, answers: Sequence[Answer], rows: Dataset) -> list[float] | None:
        """Return the F1, or whether it is an exact match, of every row."""
        from adaptkit.metrics.squad import best_of, exact, f1

        kind = {"f1": f1, "exact_match": exact}.get(self.headline)
        if kind is None:
            return None
        return [
            best_of(kind, whole(answer)["answer"], label["text"], self.metric == "squad_v2")
            for answer, label in zip(answers, rows[LABEL][:], strict=True)
        ]

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the first sentence of every text, or none if rows may have no answer."""
        if self.metric == "squad_v2":
            return "no answer", [[""] * len(rows)]
        return "first sentence", [[lead(text, 1) for text in rows[self.context][:]]]


def whole(answer: Answer) -> dict[str, Any]:
    """Return an answer with the keys of squad_v2; a plain text is certain of itself."""
    if isinstance(answer, Mapping):
        return dict(answer)
    return {"answer": answer, "span": answer, "no_answer": 0.0}


def right_answers(value: Any, context: str) -> dict[str, list] | None:
    """Return `text` and `answer_start` of what a file holds, or None if it is neither.

    A place that does not fit is replaced by the nearest that does, else by -1.
    """
    if value is None:
        return {"text": [], "answer_start": []}
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        texts, starts = [v.get("text") for v in value], [v.get("answer_start") for v in value]
    else:
        texts, starts = value, None
    texts = [texts] if isinstance(texts, str) else texts
    starts = [starts] if isinstance(starts, int) else starts
    if starts is None and isinstance(texts, list):
        starts = [None] * len(texts)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    if not isinstance(starts, list) or len(starts) != len(texts):
        return None
    # A row that may have no answer is written as an empty text by some.
    pairs = [(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]
    places = [place_of(text, start if isinstance(start, int) else None, context)
              for text, start in pairs]  # fmt: skip
    return {"text": [text for text, _ in pairs], "answer_start": places}


def place_of(text: str, start: int | None, context: str) -> int:
    """Return where a text stands in another, next to where it should, or -1."""
    if start is None:
        return context.find(text)
    if context[start : start + len(text)] == text and start >= 0:
        return start
    places, at = [], context.find(text)
    while at >= 0:
        places.append(at)
        at = context.find(text, at + 1)
    return min(places, key=lambda place: abs(place - start), default=-1)


def without_place(rows: Dataset) -> list[int]:
    """Return the numbers of the rows that have answers, none of which was found."""
    places = [label["answer_start"] for label in rows[LABEL][:]]
    return [i for i, starts in enumerate(places) if starts and max(starts) < 0]
