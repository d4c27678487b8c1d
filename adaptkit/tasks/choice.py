"""Multiple choice: which of several alternatives fits a context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from adaptkit.errors import AdaptError, invalid, one_of
from adaptkit.tasks.forms.alternatives import AlternativesForm, Continued, Listed
from adaptkit.tasks.forms.choice import ChoiceForm, alternatives_of
from adaptkit.tasks.labels import whole
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Form, Splits

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Choice(TableTask):
    """One of K alternatives per row; the label is its number, counted from 0."""

    text: str = ""  # column of the context
    choices: tuple[str, ...] = ()  # columns, or one column of lists
    connect: str | None = None  # column that says how the context and the choice are connected
    connectives: dict[str, str] = field(default_factory=dict)  # its value -> words between them
    metric: str = "accuracy"  # share of right choices
    # how the task is put to the model; text: the likeliest choice is the answer
    form: Literal["head", "text"] = "head"
    # text: what the likelihood of a choice is divided by
    normalise: Literal["sum", "tokens", "characters"] = "sum"
    listed: bool = False  # text: the model reads all choices and answers with the name of one (T5)

    answer = "one of several choices"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("accuracy",))
        if self.form == "head" and self.normalise != "sum":
            raise invalid("task.normalise", self.normalise, "is not read with task.form=head",
                          "Set task.form=text")  # fmt: skip
        if self.form == "head" and self.listed:
            raise invalid("task.listed", True, "is not read with task.form=head",
                          "Set task.form=text")  # fmt: skip
        super().__post_init__()
        if not self.choices:
            raise invalid("task.choices", [], "must name columns, or one column of lists")
        if self.connect is not None and not self.connectives:
            raise invalid("task.connectives", {}, f"must say what each task.connect={self.connect} "
                          "means", "For example {cause: because, effect: so}")  # fmt: skip

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return ("accuracy",)

    @property
    def columns(self) -> tuple[str, ...]:
        """Context, choices, and the column that connects them."""
        return (self.text, *self.choices, *([self.connect] if self.connect else []))

    @property
    def posed(self) -> Form:
        """A classifier with one output per choice's sequence, or the choices' likelihoods."""
        choice = ChoiceForm(
            self.text, self.choices, self.max_length, self.connect, self.connectives
        )
        if self.form == "head":
            return choice
        asked = Listed(self.name, choice) if self.listed else Continued(choice)
        return AlternativesForm(asked, self.max_length, self.normalise)

    def check(self, rows: Dataset, split: str) -> None:
        """Check the texts, that there are two choices or more, and the connecting words.

        Raises:
            AdaptError: a row breaks a rule; the message names it.
        """
        several = len(self.choices) > 1
        self.check_texts(rows, split, (self.text, *(self.choices if several else ())))
        for number, row in enumerate(rows, 1):
            where = f"task {self.name}, split {split}, row {number}"
            texts = alternatives_of(row, self.choices) if several else row[self.choices[0]]
            are_texts = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            if not are_texts or len(texts) < 2:
                raise AdaptError(
                    f"{where}: {str(texts)[:60]} is not a list of two texts or more. Every row "
                    "needs at least two choices."
                )
            if self.connect and str(row[self.connect]) not in self.connectives:
                raise AdaptError(
                    f"{where}: {self.connect} is {row[self.connect]!r}, and task.connectives knows "
                    f"{', '.join(self.connectives)}."
                )

    def read_labels(self, rows: Dataset, split: str) -> list[int]:
        """Return the number of the right choice of every row, counted from 0.

        Raises:
            AdaptError: a value is not the number of a choice.
        """
        numbers = []
        for number, row in enumerate(rows, 1):
            value, count = whole(row[self.label]), len(alternatives_of(row, self.choices))
            if not isinstance(value, int) or not 0 <= value < count:
                hidden = " The labels of this split are withheld." if value == -1 else ""
                raise AdaptError(
                    f"task {self.name}, split {split}, row {number}: label {value!r} is not the "
                    f"number of one of its {count} choices, counted from 0.{hidden}"
                )
            numbers.append(int(value))
        return numbers

    def strata(self, labels: Sequence[int]) -> list[str]:
        """Return the numbers of the choices."""
        return [str(number) for number in labels]

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the share of right choices."""
        from adaptkit.metrics.glue import Glue

        glue = Glue(config_name="accuracy", keep_in_memory=True)
        return glue.compute(predictions=list(answers), references=rows[LABEL][:])

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the commonest number of the training rows."""
        seen, where = splits.seen()
        (number, _), *_ = Counter(seen[LABEL][:]).most_common(1)
        return f"majority choice{where}", [[number] * len(rows)]
