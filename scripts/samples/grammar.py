"""What all the grammars share: filling templates from tables, drawing distinct rows, polish.

A template holds slots: `{noun}` draws from the table `noun`; `{noun#1}` draws once and repeats
the draw wherever `#1` of that table comes again in the same call (`#2` is another draw, never the
same entry); `{verb.2}` takes the third form of an entry written `see/sees/saw`. An entry may hold
slots of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Tables = Mapping[str, Sequence[str]]
Row = dict[str, Any]
Splits = dict[str, list[Row]]

SLOT = re.compile(r"\{(\w+)(?:#(\w+))?(?:\.(\d))?\}")
ARTICLE = re.compile(r"\b([Aa]) (?=[\"']?[aeiouAEIOU])(?!(?:[Uu]ni[tfvoq]|[Uu]s[eu]|[Oo]ne|[Ee]u))")
SILENT_H = re.compile(r"\b([Aa]) (?=(?:hour|hono|heir))")
TRIES = 400  # draws for one new row before the grammar counts as exhausted


def words(text: str) -> list[str]:
    """Split a table written as entries between commas."""
    return [" ".join(entry.split()) for entry in text.split(",") if entry.strip()]


def phrases(text: str) -> list[str]:
    """Split a table written as one entry on each line (a backslash continues a line)."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


class Grammar:
    """Tables of entries and a source of random numbers."""

    def __init__(self, tables: Tables, rng: random.Random):
        self.tables = tables
        self.rng = rng

    def pick(self, table: str) -> str:
        """Return one entry of a table, its slots unfilled."""
        return self.rng.choice(self.tables[table])

    def fill(self, *templates: str) -> list[str]:
        """Fill several templates that share their numbered draws."""
        bound: dict[tuple[str, str], str] = {}
        return [polish(self._expand(template, bound)) for template in templates]

    def say(self, template: str) -> str:
        """Fill one template."""
        return self.fill(template)[0]

    def _expand(self, text: str, bound: dict[tuple[str, str], str]) -> str:
        def put(slot: re.Match[str]) -> str:
            table, key, form = slot[1], slot[2], int(slot[3] or 0)
            forms = self._entry(table, key, bound).split("/")
            return forms[min(form, len(forms) - 1)]

        return SLOT.sub(put, text)

    def _entry(self, table: str, key: str | None, bound: dict[tuple[str, str], str]) -> str:
        if key is None:
            return self._expand(self.pick(table), bound)
        if (table, key) not in bound:
            taken = {value for (name, _), value in bound.items() if name == table}
            bound[table, key] = self._fresh(table, taken, bound)
        return bound[table, key]

    def _fresh(self, table: str, taken: set[str], bound: dict[tuple[str, str], str]) -> str:
        for _ in range(TRIES):
            value = self._expand(self.pick(table), bound)
            if value not in taken:
                return value
        raise ValueError(f"table {table!r} has no entry left")


def polish(text: str) -> str:
    """Mend `a`/`an` and blanks."""
    text = ARTICLE.sub(r"\1n ", text)
    text = SILENT_H.sub(r"\1n ", text)
    return " ".join(text.split(" ")) if "\n" in text else " ".join(text.split())


def sentence(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]


def draw(
    make: Callable[[int], Row], counts: Mapping[str, int], key: Callable[[Row], Any], cycle: int
) -> Splits:
    """Make splits of distinct rows; `make` gets a running number modulo `cycle` (the class)."""
    seen: set[Any] = set()
    return {name: list(_distinct(make, count, key, cycle, seen)) for name, count in counts.items()}


def _distinct(
    make: Callable[[int], Row], count: int, key: Callable[[Row], Any], cycle: int, seen: set[Any]
) -> Iterator[Row]:
    for number in range(count):
        for _ in range(TRIES):
            row = make(number % cycle)
            if (mark := key(row)) not in seen:
                seen.add(mark)
                yield row
                break
        else:
            raise ValueError(f"the grammar has no new row after {number}")


def shuffled(splits: Splits, rng: random.Random, numbered: bool = True) -> Splits:
    """Shuffle each split and give its rows their `idx`."""
    for rows in splits.values():
        rng.shuffle(rows)
        for number, row in enumerate(rows):
            if numbered:
                row["idx"] = number
    return splits


def weighted(rng: random.Random, kinds: Mapping[str, float]) -> str:
    """Draw one of the kinds by its weight."""
    return rng.choices(list(kinds), list(kinds.values()))[0]
