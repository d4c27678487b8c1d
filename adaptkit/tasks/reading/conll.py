"""Tagged words, one per line with an empty line between sentences: CoNLL's formats.

.conll     columns of one kind of blank; the first is `tokens`, the last `tags`, those between
           are `column2`, `column3` ...; lines with -DOCSTART- begin a document and are left out
.conllu    Universal Dependencies: tokens, lemmas, upos, xpos, feats, head, deprel; lines of
           several words (1-2) and of words that are left out (1.1) are no words of the text
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError

FORMATS = ("conll", "conllu", "conll.gz", "conllu.gz")
TOKENS, BLANKS = "tokens", " \t"
UD = (None, TOKENS, "lemmas", "upos", "xpos", "feats", "head", "deprel", None, None)


def sentences(text: str, file: Path, kind: str) -> list[dict[str, Any]]:
    """Return one row per sentence, with a list per column.

    Raises:
        AdaptError: a line has another number of columns than the first one.
    """
    universal = kind.startswith("conllu")
    rows: list[dict[str, Any]] = []
    names: list[str | None] = list(UD) if universal else []
    sentence: list[list[str]] = []
    # Words may hold other blanks and ends of lines, which Python would split at.
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip(BLANKS):
            if sentence:
                columns = zip(names, zip(*sentence, strict=True), strict=True)
                rows.append({name: list(cells) for name, cells in columns if name})
            sentence = []
            continue
        if line.startswith("-DOCSTART-") or (universal and line.startswith("#")):
            continue
        cells = line.split("\t") if universal or "\t" in line else re.split(" +", line.strip(" "))
        names = names or named(len(cells))
        if len(cells) != len(names):
            raise AdaptError(
                f"{file}: line {number}: number of columns is {len(cells)}, but must be "
                f"{len(names)}. Every word needs one line, and an empty line ends a sentence."
            )
        if not universal or cells[0].isdigit():
            sentence.append(cells)
    return rows


def named(count: int) -> list[str | None]:
    """Return the names of so many columns: the first holds the words, the last the tags."""
    between = [f"column{number}" for number in range(2, count)]
    return [TOKENS, *between, "tags"] if count > 1 else [TOKENS]
