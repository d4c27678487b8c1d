"""Patterns: a row as a text with a slot for its answer (Schick and Schütze 2021, arXiv:2001.07676).

    pattern     "{sentence} It was {label}."       {column}: the row's text,  {label}: the slot
    verbalizer  negative -> terrible, positive -> great

`{first}` and `{second}` are the task's own texts (task.text), whatever their columns are called, so
that data sets of one kind can share their patterns. `{prompt:3}` are three places for the vectors
of a trained prompt. Nothing in a pattern is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adaptkit.errors import AdaptError, ConfigError, invalid, unknown
from adaptkit.tasks.template import Template, columns_of, written

SLOT = "label"
FIRST = ("first", "second")  # names of the task's own texts
PLACE = "\0"  # in a fixed text: where a vector of a prompt goes
PLACES = re.compile(r"(?<!\{)\{prompt(?::(\d+))?\}")
Words = tuple[tuple[str, ...], ...]  # of each class, in the order of the classes


@dataclass(frozen=True)
class Pattern:
    """A text with the slot `{label}`; `texts` are what {first} and {second} stand for."""

    text: str
    texts: tuple[str, ...]
    where: str = "task.template"
    shown: str = ""  # filled examples in front of it, with their answers

    @cached_property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a fixed text and the column or slot after it, as Template has them.

        Raises:
            ConfigError: the slot is not there once, {second} is named and there is none, or a place
                for a prompt does not say how many vectors it has.
        """
        if PLACE in self.text:
            raise invalid(self.where, self.text, "holds a character that no text has")
        found = Template(PLACES.sub(self._places, self.text), self.where).parts
        names = [name for _, name in found]
        if names.count(SLOT) != 1:
            raise invalid(self.where, self.text, "must hold {label} once, the place of the answer")
        made: list[tuple[str, str]] = []
        for fixed, name in found:
            if name not in FIRST:
                made.append((fixed, name))
                continue
            number = FIRST.index(name)
            if number >= len(self.texts):
                raise invalid(
                    self.where, self.text, f"names {{{name}}}, and task.text has one text"
                )
            inner = Template(self.texts[number], "task.text").parts
            made += [(fixed + inner[0][0], inner[0][1]), *inner[1:]]
        return tuple(made)

    def _places(self, hole: re.Match[str]) -> str:
        if hole[1] is None and "prompt" in columns_of(self.texts, "task.text"):
            return hole[0]  # a column of this name
        count = int(hole[1] or 0)
        if not count:
            raise invalid(self.where, self.text, "must say how many vectors a prompt has there",
                          "Write {prompt:3} for three")  # fmt: skip
        return PLACE * count

    @property
    def prompted(self) -> int:
        """Number of places for the vectors of a prompt."""
        return sum(fixed.count(PLACE) for fixed, _ in self.parts)

    @property
    def prompted_before(self) -> int:
        """Number of those in front of the slot."""
        return sum(fixed.count(PLACE) for fixed, _ in self.parts[: self._slot + 1])

    def check(self, columns: Sequence[str]) -> None:
        """Check the pattern against the columns that the task reads.

        Raises:
            ConfigError: it cannot be read, names no column, or one that the task does not read.
        """
        named = [name for _, name in self.parts if name and name != SLOT]
        if not named:
            raise invalid(self.where, self.text, "must name a text as well, as {first}")
        for name in named:
            if name not in columns:
                raise unknown(f"{self.where}: {{...}}", name, [*columns, *FIRST[: len(self.texts)]])

    def template(self, slot: str, tight: bool = False) -> Template:
        """Return the pattern with `slot` in the place of the answer; `tight`: no blank before."""
        parts = [(f.rstrip(" ") if tight and n == SLOT else f, n) for f, n in self.parts]
        return self._joined([(f + slot, "") if n == SLOT else (f, n) for f, n in parts])

    def before(self) -> Template:
        """Return what stands before the slot, without the blanks at its end."""
        kept = list(self.parts[: self._slot])
        fixed = self.parts[self._slot][0].rstrip(" ")
        if not fixed and not kept:
            raise invalid(self.where, self.text, "has nothing before {label}")
        return self._joined([*kept, (fixed, "")])

    @property
    def at_end(self) -> bool:
        """True if nothing but punctuation follows the slot, so that a decoder can fill it."""
        rest = self.parts[self._slot + 1 :]
        return not any(name or any(c.isalnum() or c == PLACE for c in f) for f, name in rest)

    @property
    def left(self) -> str:
        """What stands right before the slot and is fixed: tells how a word is joined to it."""
        fixed = self.parts[self._slot][0]
        if fixed.rstrip(" ").endswith(PLACE):  # a word of its own follows
            return "x "
        return fixed or ("x" if self._slot else "")

    def filled(self, row: Mapping[str, Any], word: str) -> str:
        """Return a row's text with `word` in the slot, examples in front of it left out."""
        values = {SLOT: word, "": "", **{n: written(v) for n, v in row.items() if n != SLOT}}
        return "".join(fixed.replace(PLACE, "") + values[name] for fixed, name in self.parts)

    @property
    def _slot(self) -> int:
        return [name for _, name in self.parts].index(SLOT)

    def _joined(self, parts: Sequence[tuple[str, str]]) -> Template:
        text = "".join(_escaped(f) + (f"{{{n}}}" if n else "") for f, n in parts)
        where = "task.shots" if self.shown else self.where  # what is to blame if it is too long
        return Template(_escaped(self.shown) + text, where)


@dataclass(frozen=True)
class Wording:
    """A pattern and its verbalizer, under the name of its style."""

    style: str
    pattern: Pattern
    words: Words


def ending(found: Sequence[Wording], causal: bool) -> Wording:
    """Return the wording for an answer that is written after a text: the slot ends it.

    Of wordings without a style the last is that for causal models.

    Raises:
        ConfigError: there is none.
    """
    fit = [one for one in found if one.pattern.at_end]
    if not fit:
        raise invalid(
            "task.template", found[0].pattern.text, "has words after {label}, and an answer that "
            "is written comes last", "Put {label} at the end",
        )  # fmt: skip
    return fit[-1] if causal and not fit[0].style else fit[0]


def wordings(
    templates: Mapping[str, Any],
    chosen: str,
    words: Mapping[str, Any],
    classes: Sequence[str],
    texts: tuple[str, ...],
) -> tuple[Wording, ...]:
    """Return the wordings that may serve, the preferred one first.

    `templates`: style -> {text, words} of the task; `chosen`: a style, a text, or empty for all;
    `words`: class -> word or words, instead of those that the templates bring. No `classes`: no
    words, but an answer that is written.

    Raises:
        ConfigError: a template, style or word is wrong; the message names it.
    """
    columns = columns_of(texts, "task.text")
    if "{" in chosen:
        found: dict[str, Any] = {"": {"text": chosen}}
    elif chosen and chosen not in templates:
        known = [*templates] or ["a text with {label}"]
        raise unknown("task.template", chosen, known)
    else:
        found = {chosen: templates[chosen]} if chosen else dict(templates)
    made = []
    for style, entry in found.items():
        where = f"task.templates.{style}" if style else "task.template"
        if not isinstance(entry, Mapping) or not {"text"} <= set(entry) <= {"text", "words"}:
            raise invalid(where, entry, "must have a text, and may have words")
        pattern = Pattern(str(entry["text"]), texts, where)
        pattern.check(columns)
        named = words or entry.get("words") or {}
        made.append(Wording(style, pattern, verbalizer(named, classes) if classes else ()))
    return tuple(made)


def verbalizer(words: Mapping[Any, Any], classes: Sequence[str]) -> Words:
    """Return the words of every class; without any, a class is called by its name.

    Raises:
        ConfigError: a class has none, or a word stands for two classes.
    """
    by_name = {_class(name, classes): value for name, value in words.items()}
    if not by_name:
        by_name = {name: name.replace("_", " ") for name in classes}
    for name in by_name:
        if name not in classes:
            raise unknown("task.words", name, list(classes))
    made = []
    for name in classes:
        value = by_name.get(name)
        every = value if isinstance(value, list | tuple) else [value]
        if not every or value is None:
            raise ConfigError(f"task.words: has no word for the class {name!r}. Add one.")
        made.append(tuple(dict.fromkeys(_word(name, one) for one in every)))
    seen: dict[str, str] = {}
    for name, every in zip(classes, made, strict=True):
        for word in every:
            if seen.setdefault(word, name) != name:
                raise AdaptError(
                    f"task.words: {word!r} stands for {seen[word]!r} and for {name!r}. Every class "
                    "needs words of its own."
                )
    return tuple(made)


def _class(name: Any, classes: Sequence[str]) -> str:
    """Return the class that a key means: YAML reads yes, no, true and false as truth values."""
    if not isinstance(name, bool):
        return str(name)
    known = ("true", "yes") if name else ("false", "no")
    return next((c for c in classes if c.casefold() in known), str(name))


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        quote = 'Put quotes around it, as in "no"' if isinstance(value, bool) else ""
        raise invalid(f"task.words.{name}", value, "must be a word", quote)
    return value.strip()


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
