"""Pieces of Markdown in which names of data stay what they are: text, never marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\s]+")


def plain(value: object) -> str:
    """Return a value as one line without control characters."""
    return UNSEEN.sub(" ", str(value)).strip()


def text(value: object) -> str:
    """Return a value as a line of text, with a backslash before whatever would be a mark."""
    return MARKS.sub(r"\\\1", plain(value))


def code(value: object) -> str:
    """Return a value as code within a line; it may stand in a table."""
    inner = plain(value).replace("`", "'").replace("|", "\\|")
    return f"`{inner}`" if inner else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def block(language: str, content: str) -> str:
    """Return a block of code, fenced by more backticks than it holds."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}\n"
