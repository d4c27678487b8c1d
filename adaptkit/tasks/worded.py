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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.errors import AdaptError, ConfigError, at_least
from adaptkit.tasks.pattern import FIRST, SLOT, Pattern, Wording, wordings
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL
from adaptkit.tasks.template import Template, columns_of

if TYPE_CHECKING:
    from datasets import Dataset

CUE = "\nAnswer:"  # ends the source of a causal model
T5 = "t5"  # the style that is T5's format, where that differs


@dataclass(frozen=True)
class Worded(TableTask):
    """One text or a pair, whose answer may be a word."""

    # one column, or [first,second] for a pair; each may be a template with {column}
    text: tuple[str, ...] = ()
    form: Literal["head", "cloze", "text"] = "head"  # how the task is put to the model
    # one of `templates`, a text with {label} or a file; empty: the first that fits, for text T5's
    template: str = ""
    templates: dict[str, Any] = field(default_factory=dict)  # style -> {text, words}
    # class -> its word, or several; empty: those of the template, else the names of the classes
    words: dict[str, Any] = field(default_factory=dict)
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
    demonstrations: tuple[str, ...] = ()  # these rows, filled in; chosen by `shots`

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts(self.text)
        at_least("task.shots", self.shots, 0)
        if self.form == "head":
            for name in ("template", "words", "shots"):
                if getattr(self, name):
                    raise ConfigError(
                        f"task.{name}={getattr(self, name)}: a head reads no words. Set "
                        "task.form=cloze or task.form=text."
                    )
        elif self.bound:
            self.wordings()

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
            ConfigError: there is none, or one is wrong.
        """
        if self.form == "text" and not self.template:
            found = self._plain()
        else:
            found = wordings(self.templates, self.template, self.words, self.worded, self.text)
        if not found:
            raise ConfigError(
                f"task.template: must be set, because the task {self.name} brings none. For "
                "example task.template='{first} It was {label}.'"
            )
        if not self.shots and not self.demonstrations:
            return found
        # The examples are filled in before a model is known: one wording that suits them all.
        ends = [one for one in found if one.pattern.at_end] or [*found]
        one = ends[0] if ends[0].style else ends[-1]
        return (replace(one, pattern=self._shown(one.pattern)),)

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

    def _shown(self, pattern: Pattern) -> Pattern:
        return replace(pattern, shown="".join(f"{text}\n\n" for text in self.demonstrations))

    def chosen_shots(self, rows: Dataset | None, seed: int) -> tuple[str, ...]:
        """Return `shots` rows of each class, filled in, in a seeded order.

        Raises:
            AdaptError: a class has too few training rows.
        """
        if not self.shots or self.demonstrations:
            return self.demonstrations
        if rows is None:
            raise AdaptError(f"task.shots={self.shots}: there are no training rows to show.")
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
            picked += [(number, name) for number in generator.sample(by_class[name], self.shots)]
        generator.shuffle(picked)
        (wording,) = self.wordings()
        word = dict(zip(self.worded, (words[0] for words in wording.words), strict=True))
        return tuple(wording.pattern.filled(rows[number], word[name]) for number, name in picked)


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
