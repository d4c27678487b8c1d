"""Text in, text out: summaries, translations, questions with free answers, text from tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.errors import AdaptError, above, at_least, invalid, one_of, share_of_one, within
from adaptkit.tasks.forms.text import Generation, TextForm, first_of
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Splits
from adaptkit.tasks.template import Template, written
from adaptkit.tasks.trivial import lead

if TYPE_CHECKING:
    from datasets import Dataset

METRICS = {
    "rouge": ("rougeL", "rouge1", "rouge2", "rougeLsum"),
    "bleu": ("bleu", "chrf", "rougeL"),
    "exact_match": ("exact_match", "chrf"),
}


@dataclass(frozen=True)
class Seq2Seq(TableTask):
    """A text per row, generated. The label is a text, or a list of texts that are all right."""

    source: str = ""  # column, or a text that names columns: 'summarize: {document}'
    label: str = "target"  # column of the texts to generate
    metric: str = "rouge"  # rouge, bleu (with chrF) or exact_match
    stemmer: bool = True  # ROUGE compares the stems of words
    grouped: bool = False  # rows with the same source are one item with several references
    # whose score is shown next to the run's: sentences of the source, all of it, or one answer
    trivial: Literal["lead-1", "lead-3", "source", "commonest"] = "lead-1"
    max_length: int = 512  # tokens of the source, special ones included
    max_target_length: int = 64  # tokens of a target that is trained on, its end included
    max_new_tokens: int | None = None  # of a generated text; null: max_target_length
    min_new_tokens: int = 0  # of a generated text
    num_beams: int = 1  # of the search; 1: greedy
    length_penalty: float = 1.0  # exponent of the length by which a beam's score is divided
    no_repeat_ngram_size: int = 0  # length of the sequences of tokens that may occur once; 0: none
    do_sample: bool = False  # draw tokens at random
    temperature: float = 1.0  # divides the logits before sampling
    top_p: float = 1.0  # probability mass that tokens are sampled from (nucleus)

    answer = "a text"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, METRICS)
        super().__post_init__()
        for name, low in (("max_target_length", 2), ("min_new_tokens", 0), ("num_beams", 1),
                          ("no_repeat_ngram_size", 0)):  # fmt: skip
            at_least(f"task.{name}", getattr(self, name), low)
        if self.max_new_tokens is not None:
            at_least("task.max_new_tokens", self.max_new_tokens, 1)
        longest = self.max_new_tokens or self.max_target_length
        if self.min_new_tokens > longest:
            raise invalid("task.min_new_tokens", self.min_new_tokens,
                          f"must be at most {longest}, the longest answer")  # fmt: skip
        within("task.length_penalty", self.length_penalty, -10, 10)
        above("task.temperature", self.temperature, 0)
        share_of_one("task.top_p", self.top_p)
        for name, works, switch in (
            ("temperature", self.do_sample, "task.do_sample=true"),
            ("top_p", self.do_sample, "task.do_sample=true"),
            ("length_penalty", self.num_beams > 1, "task.num_beams=4"),
        ):
            if getattr(self, name) != 1 and not works:
                raise invalid(f"task.{name}", getattr(self, name), f"needs {switch}, for example")
        self.template.check()

    @property
    def template(self) -> Template:
        """How a row is written."""
        return Template(self.source, "task.source")

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return METRICS[self.metric]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source."""
        return self.template.columns

    def option_of(self, column: str) -> str:
        """Return the option that names a column: the source names several."""
        return "task.source" if column in self.columns else super().option_of(column)

    @property
    def posed(self) -> TextForm:
        """A model that reads the source and writes the target."""
        names = ("min_new_tokens", "num_beams", "length_penalty", "no_repeat_ngram_size",
                 "do_sample", "temperature", "top_p")  # fmt: skip
        generation = Generation(
            max_new_tokens=self.max_new_tokens or self.max_target_length,
            **{name: getattr(self, name) for name in names},
        )
        return TextForm(self.template, self.max_length, self.max_target_length, generation)

    def read_labels(self, rows: Dataset, split: str) -> list[Any]:
        """Return the text, or the texts, of every row.

        Raises:
            AdaptError: a value is neither, or a row has none.
        """
        labels = []
        for number, value in enumerate(rows[self.label][:], 1):
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise AdaptError(
                    f"task {self.name}, split {split}, row {number}: {self.label} is "
                    f"{value!r:.60}, not a text or a list of texts."
                )
            if not texts or not texts[0].strip():
                raise AdaptError(
                    f"task {self.name}, split {split}, row {number}: {self.label} is empty. Drop "
                    "the row: it teaches nothing."
                )
            labels.append(value)
        return labels

    def references(self, rows: Dataset) -> list[list[str]]:
        """Return all right texts of every row."""
        own = [[label] if isinstance(label, str) else label for label in rows[LABEL][:]]
        if not self.grouped:
            return own
        sources = list(zip(*(rows[name][:] for name in self.columns), strict=True))
        groups: dict[Any, list[str]] = {}
        for source, texts in zip(sources, own, strict=True):
            groups.setdefault(source, []).extend(texts)
        return [groups[source] for source in sources]

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the metric of texts; of rows that are one item the first alone counts."""
        from adaptkit.metrics.text import Text

        references = self.references(rows)
        kept = list(range(len(rows)))
        if self.grouped:
            sources = zip(*(rows[name][:] for name in self.columns), strict=True)
            kept = sorted({source: i for i, source in reversed(list(enumerate(sources)))}.values())
        return Text(config_name=self.metric, keep_in_memory=True).compute(
            predictions=[answers[i] for i in kept],
            references=[references[i] for i in kept],
            stemmer=self.stemmer,
        )

    def row_scores(self, answers: Sequence[Answer], rows: Dataset) -> list[float] | None:
        """Return the score of every row; None for BLEU and chrF, which are of all rows at once."""
        from adaptkit.metrics.text import KINDS, exact, rouge

        if self.headline == "exact_match":
            return exact(answers, self.references(rows))
        if self.headline not in KINDS or self.grouped:
            return None
        found = rouge(answers, self.references(rows), (self.headline,), self.stemmer)
        return [row[self.headline] for row in found]

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the first sentences of the source, the source, or the commonest training text."""
        first = [written(value) for value in rows[self.columns[0]][:]]
        if self.trivial == "source":
            return self.trivial, [first]
        if self.trivial != "commonest":
            return self.trivial, [[lead(text, int(self.trivial[-1])) for text in first]]
        seen, where = splits.seen()
        ((text, _),) = Counter(map(first_of, seen[LABEL][:])).most_common(1)
        return f"{self.trivial}{where}", [[text] * len(rows)]
