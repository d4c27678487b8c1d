"""What tasks share whose answer can be put in words: a head, a cloze or a text as their form.

    head    a new classifier on the base model
    cloze   a pretrained model fills the slot of a pattern, see `forms.cloze`
    text    text in, text out, see `forms.options`

The words are checked when the classes are known, the tokens of the words when a model is.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptkit.errors import AdaptError, ConfigError, at_least, invalid
from adaptkit.tasks.data import Data
from adaptkit.tasks.forms.text import CUE
from adaptkit.tasks.pattern import FIRST, SLOT, Pattern, Wording, wordings
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Splits
from adaptkit.tasks.template import Template, columns_of

if TYPE_CHECKING:
    from datasets import Dataset

# Not every form reads them; what they are if they are not typed.
OPTIONS = {"template": "", "words": {}, "shots": 0, "aggregate": "mean", "pieces": "one",
           "calibration": "none", "decode": "rank", "normalise": "sum"}  # fmt: skip
T5 = "t5"  # the style that is T5's format, where that differs


@dataclass(frozen=True)
class Worded(TableTask):
    """One text or a pair, whose answer may be a word."""

    reads: ClassVar[dict[str, tuple[str, ...]]] = {  # form -> its options
        "head": (),
        "cloze": ("template", "words", "shots", "aggregate", "pieces", "calibration"),
        "text": ("template", "words", "shots", "decode", "normalise"),
    }

    # one column, or [first,second] for a pair; each may be a template with {column}
    text: tuple[str, ...] = ()
    form: Literal["head", "cloze", "text"] = "head"  # how the task is put to the model
    # a style of `templates`, a text with {label} or a file; empty: the first that fits (text: T5's)
    template: str = ""
    templates: dict[str, Any] = field(default_factory=dict)  # style -> {text, words}
    # class -> its word, or several; empty: those of the template, else the names of the classes
    words: dict[Any, Any] = field(default_factory=dict)
    # cloze: how several words of a class count
    aggregate: Literal["mean", "sum", "mean_probability", "max"] = "mean"
    # cloze: how words of several tokens are read
    pieces: Literal["one", "first", "parallel", "left_to_right", "confident"] = "one"
    # cloze, without training: what the scores are compared with
    calibration: Literal["none", "contextual", "pmi"] = "none"
    decode: Literal["rank", "generate"] = "rank"  # text: rank the classes, or generate
    # text, rank: what the likelihood of an option is divided by
    normalise: Literal["sum", "tokens", "characters"] = "sum"
    shots: int = 0  # rows of each class shown in front of every text, with their answers
    demonstrations: tuple[dict[str, Any], ...] = ()  # the rows that are shown; chosen by `shots`

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts(self.text)
        at_least("task.shots", self.shots, 0)
        for name, default in OPTIONS.items():
            if name not in self.reads[self.form] and getattr(self, name) != default:
                raise self._unread(name)
        if self.decode == "generate" and self.normalise != "sum":
            raise invalid("task.normalise", self.normalise, "is not read with task.decode=generate",
                          "Leave it out")  # fmt: skip
        if self.form != "head" and self.bound:
            self._unshown()

    def _unread(self, name: str) -> ConfigError:
        others = [f"task.form={form}" for form, read in self.reads.items() if name in read]
        way = f"Set {' or '.join(others)}" if others else "Leave it out"
        rule = f"is not read with task.form={self.form}"
        return invalid(f"task.{name}", getattr(self, name), rule, way)

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns."""
        return columns_of(self.text, "task.text")

    @property
    @abstractmethod
    def worded(self) -> tuple[str, ...]:
        """What has words: the names of the classes, or two numbers."""

    def wordings(self) -> tuple[Wording, ...]:
        """Return the patterns and words that may serve, the preferred one first.

        Raises:
            AdaptError: there is none, one is wrong, or the rows that are shown are of another task.
        """
        found = self._unshown()
        if not self.demonstrations:
            return found
        return tuple(replace(one, pattern=self._shown(one)) for one in found)

    def _unshown(self) -> tuple[Wording, ...]:
        """Return the same without the rows that are shown: a run's, perhaps of other classes."""
        if self.form == "text" and not self.template:
            found = self._plain()
        else:
            found = wordings(self.templates, self.template, self.words, self.worded, self.text)
        if not found:
            raise ConfigError(
                f"task.template: must be set, because the task {self.name} brings none. For "
                "example task.template='{first} It was {label}.'"
            )
        for one in found if self.form == "text" else ():
            if several := next((words for words in one.words if len(words) > 1), None):
                raise invalid("task.words", list(several), "a class is one text with "
                              "task.form=text", "Name one word")  # fmt: skip
            if one.pattern.prompted:
                raise invalid("task.template", one.pattern.text, "has places for a prompt, which "
                              "task.form=cloze alone has", "Leave {prompt:N} out")  # fmt: skip
        return found

    def _plain(self) -> tuple[Wording, ...]:
        """Return T5's format: the style t5, or the task's name and `name: text` by the names.

        The words are the names of the classes as they are: not_entailment.
        """
        words = self.words or {name: name for name in self.worded}
        rest = (words, self.worded, self.text)
        if T5 in self.templates:
            text = wordings(self.templates, T5, *rest)[0].pattern.text
            text = text.removesuffix(f"{{{SLOT}}}").rstrip()
        else:
            parts = sorted(
                f"{_name_of(text, i)}: {{{key}}}"
                for i, (text, key) in enumerate(zip(self.text, FIRST, strict=False))
            )
            text = f"{self.name} {' '.join(parts)}"
        every = [f"{text}{cue} {{{SLOT}}}" for cue in ("", CUE)]
        return tuple(wordings({}, one, *rest)[0] for one in every)

    def _shown(self, wording: Wording) -> Pattern:
        word = {n: words[0] for n, words in zip(self.worded, wording.words, strict=True)}
        rows = [self._own(row) for row in self.demonstrations]
        if other := next((row[LABEL] for row in rows if row[LABEL] not in word), None):
            raise AdaptError(
                f"task {self.name}: has the classes {', '.join(word)}, and a row that is shown has "
                f"the class {other}. Choose another task, or say which class its answers count as: "
                "+task.map_answers.CLASS=CLASS."
            )
        texts = (wording.pattern.filled(row, word[row[LABEL]]) for row in rows)
        return replace(wording.pattern, shown="".join(f"{text}\n\n" for text in texts))

    def _own(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a shown row under the names of this task's columns: it may be of another one."""
        texts = [value for name, value in row.items() if name != LABEL]
        if row.keys() >= set(self.columns):
            return row
        if len(texts) != len(self.columns):
            raise AdaptError(
                f"task {self.name}: reads {len(self.columns)} columns ({', '.join(self.columns)}), "
                f"and the rows that are shown have {len(texts)} texts. Choose another task."
            )
        return {**dict(zip(self.columns, texts, strict=True)), LABEL: row[LABEL]}

    def load(self, data: Data, seed: int, train: bool = True, every_row: bool = False) -> Splits:
        """Read the splits; a row that is shown with its answer is not trained on."""
        splits = super().load(data, seed, train, every_row)
        shown = getattr(splits.task, "demonstrations", ())
        if splits.train is None or not shown:
            return splits
        kept = [
            number for number, row in enumerate(splits.train)
            if {name: row[name] for name in (*self.columns, LABEL)} not in shown
        ]  # fmt: skip
        if kept:
            return replace(splits, train=splits.train.select(kept))
        note = "all training rows are shown with their answers, so training on them would teach "
        return replace(splits, notes=(*splits.notes, f"{note}to copy"))

    def chosen_shots(self, rows: Dataset | None, seed: int) -> tuple[dict[str, Any], ...]:
        """Return `shots` rows of each class, in a seeded order.

        Raises:
            AdaptError: a class has too few training rows.
        """
        if not self.shots or self.demonstrations:
            return self.demonstrations
        if rows is None:
            raise AdaptError(
                f"task.shots={self.shots}: there are no training rows to show: they are not read "
                "when a run is evaluated. Train with task.shots."
            )
        generator, by_class = random.Random(seed), defaultdict(list)
        for number, name in enumerate(rows[LABEL][:]):
            by_class[name].append(number)
        picked = []
        for name in self.worded:
            if len(by_class[name]) < self.shots:
                raise AdaptError(
                    f"task.shots={self.shots}: the class {name!r} has {len(by_class[name])} "
                    "training rows. Lower it."
                )
            picked += generator.sample(by_class[name], self.shots)
        generator.shuffle(picked)
        names = (*self.columns, LABEL)
        return tuple({name: rows[number][name] for name in names} for number in picked)


def _name_of(text: str, number: int) -> str:
    """Return how a text is called: its column, or what stands in its place."""
    template = Template(text, "task.text")
    return text if template.parts == (("", text),) else f"text{number + 1}"


def check_texts(text: Sequence[str]) -> None:
    """Check that one or two texts are named, and that each names a column.

    Raises:
        AdaptError: none, or more, or a template cannot be read.
    """
    if len(text) not in (1, 2):
        raise AdaptError(f"task.text={list(text)}: name one column, or two for a pair of texts.")
    for one in text:
        Template(one, "task.text").check()
