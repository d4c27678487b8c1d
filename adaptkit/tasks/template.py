"""Texts with holes: `{column}` stands for a row's text, `{{` and `}}` for braces.

Numbers and truth values are written as in JSON: 5, 0.5, true.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError, ConfigError, invalid

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Template:
    """A text in which columns are named. A bare name of a column is that column alone."""

    text: str
    where: str  # the option that it is written in, for messages

    @cached_property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a fixed text, and the column that follows it (empty: none).

        Raises:
            ConfigError: a brace is not closed, or a hole holds more than a name.
        """
        if "{" not in self.text and "}" not in self.text:
            return (("", self.text),)
        try:
            found = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise invalid(self.where, self.text, f"has a brace too many or too few ({error})",
                          "Write {{ and }} for braces") from error  # fmt: skip
        for _, name, how, kind in found:
            if name is not None and (how or kind or not name.strip()):
                raise invalid(self.where, self.text, "may hold names of columns only, as {column}")
        return tuple((fixed, name or "") for fixed, name, _, _ in found)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, each once."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name))

    def check(self) -> None:
        """Check the template.

        Raises:
            ConfigError: it cannot be read, or names no column.
        """
        if not self.columns:
            raise ConfigError(f"{self.where}={self.text}: must name a column, as {{column}}.")

    def filled(self, row: Mapping[str, str | float]) -> str:
        """Return the text with the row's own values in it."""
        return "".join(fixed + (written(row[name]) if name else "") for fixed, name in self.parts)

    def column(self, batch: Mapping[str, list]) -> list[str]:
        """Return the texts of a batch of rows, given as columns."""
        rows = zip(*(batch[name] for name in self.columns), strict=True)
        return [self.filled(dict(zip(self.columns, row, strict=True))) for row in rows]

    def shortened(self, row: Mapping[str, str], share: float) -> dict[str, str]:
        """Return the row with its longest text cut at the end, by a share of all its characters.

        Raises:
            AdaptError: there is nothing left to cut.
        """
        sizes = {name: len(row[name]) for name in self.columns}
        longest = max(sizes, key=sizes.__getitem__)
        if not sizes[longest]:
            raise no_room(self.where)
        cut = max(1, math.floor(share * sum(sizes.values())))
        return {**row, longest: row[longest][: max(0, sizes[longest] - cut)]}


def no_room(where: str) -> AdaptError:
    """Return what a template says that leaves no room for a text."""
    return AdaptError(
        f"{where}: the template leaves no room for a text in what the model reads. Shorten it, or "
        "raise task.max_length."
    )


def columns_of(texts: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the columns that templates name, each once."""
    return tuple(dict.fromkeys(name for text in texts for name in Template(text, where).columns))


def written(value: str | float) -> str:
    """Return a value as a text; 5.0 is 5, because a column of Parquet holds both alike."""
    if isinstance(value, str):
        return value
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return json.dumps(int(value) if whole else value)


def hold_texts(
    rows: Dataset, columns: Sequence[str], where: str, inside: Collection[str] = ()
) -> None:
    """Check that columns hold texts; those `inside` a template may hold numbers and truth values.

    Raises:
        AdaptError: a value is not a text; the message names row and column.
    """
    for column in columns:
        for number, value in enumerate(rows[column][:], 1):
            known = column in inside and isinstance(value, int | float) and math.isfinite(value)
            if not isinstance(value, str) and not known:
                raise AdaptError(
                    f"{where}, row {number}: {column} is {value!r:.60}, not a text. Write it as "
                    'one ("5"), or name another column.'
                )
