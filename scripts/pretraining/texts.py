"""Reading texts, and the check that none of them is among the texts of a test."""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LOGGER = logging.getLogger("pretrain_mini")
WORD = re.compile(r"\w+")
Document = list[str]


@dataclass(frozen=True)
class Source:
    """A file and the columns whose texts make up one document (none: every text column)."""

    path: Path
    columns: tuple[str, ...] = ()

    @classmethod
    def parse(cls, spec: str) -> list[Source]:
        """Read ``FILE``, ``PATTERN`` or ``FILE:column+column``."""
        pattern, colon, names = spec.partition(":")
        paths = sorted(glob.glob(pattern))
        if not paths:
            raise SystemExit(f"no file matches {pattern}")
        columns = tuple(names.split("+")) if colon else ()
        return [cls(Path(path), columns) for path in paths]

    @property
    def name(self) -> str:
        """Return the file in its folder and the columns, for reports."""
        short = "/".join(self.path.parts[-2:])
        return f"{short}:{'+'.join(self.columns)}" if self.columns else short

    def fingerprint(self) -> list[str]:
        """Return the name and a hash of the content."""
        return [self.name, hashlib.sha256(self.path.read_bytes()).hexdigest()]

    def documents(self) -> Iterator[Document]:
        """Yield the documents, each as the list of its parts."""
        if self.path.suffix == ".txt":
            for block in re.split(r"\n\s*\n", self.path.read_text(encoding="utf-8")):
                yield [block.strip()]
            return
        for row in self._rows():
            parts = [row[name] for name in self.columns or row]
            yield [part.strip() for part in parts if isinstance(part, str)]

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.path.suffix in {".jsonl", ".json"}:
            with self.path.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines)
            return
        file = pq.ParquetFile(self.path)
        columns = list(self.columns) or [
            field.name for field in file.schema_arrow if pa.types.is_string(field.type)
        ]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def sources(specs: Iterable[str]) -> list[Source]:
    return [source for spec in specs for source in Source.parse(spec)]


def fingerprint(*parts: Any) -> str:
    """Return a short key that changes with any of the parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------ leak check


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


class WordCodes(dict[str, int]):
    """A fixed 64-bit number for every word."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        self[word] = int.from_bytes(digest, "little")
        return self[word]


@dataclass
class Ngrams:
    """N-grams of words, as numbers (fast) and as text (exact).

    A text shorter than ``size`` words counts as one n-gram if it has ``shortest`` words or more.
    """

    size: int = 13
    shortest: int = 8
    codes: WordCodes = field(default_factory=WordCodes)

    def numbers(self, text: str) -> np.ndarray:
        """Return one number for every n-gram of the text."""
        sequence = words(text)
        if len(sequence) < self.shortest:
            return np.empty(0, np.uint64)
        width = min(self.size, len(sequence))
        code = np.fromiter((self.codes[word] for word in sequence), np.uint64, len(sequence))
        total = np.full(len(sequence) - width + 1, width, np.uint64)
        for offset in range(width):
            total = total * np.uint64(0x9E3779B97F4A7C15) + code[offset : offset + len(total)]
        return total

    def texts(self, text: str) -> Iterator[str]:
        """Yield every n-gram of the text as words."""
        sequence = words(text)
        if len(sequence) < self.shortest:
            return
        width = min(self.size, len(sequence))
        for start in range(len(sequence) - width + 1):
            yield " ".join(sequence[start : start + width])

    def hits(self, documents: list[Document], banned: np.ndarray) -> list[bool]:
        """Tell for every document whether it holds one of the banned (sorted) n-grams."""
        found = []
        for parts in documents:
            grams = np.concatenate([self.numbers(part) for part in parts])
            place = np.searchsorted(banned, grams).clip(max=max(len(banned) - 1, 0))
            found.append(bool(len(banned)) and bool((banned[place] == grams).any()))
        return found


def distinct(documents: Iterable[Document], seen: set[bytes]) -> tuple[list[Document], int]:
    """Return the documents not seen before (compared by their words) and the number dropped."""
    kept, dropped = [], 0
    for parts in documents:
        key = hashlib.blake2b("\n".join(" ".join(words(p)) for p in parts).encode()).digest()[:16]
        dropped += key in seen
        if key not in seen and any(parts):
            kept.append(parts)
        seen.add(key)
    return kept, dropped


def clean_documents(
    data: list[Source], excluded: list[Source], ngrams: Ngrams
) -> tuple[list[Document], dict[str, Any]]:
    """Read the training texts without repeats and without any text of the excluded files."""
    texts = sorted({p for source in excluded for parts in source.documents() for p in parts})
    banned = np.unique(np.concatenate([ngrams.numbers(t) for t in texts] or [np.empty(0)]))
    LOGGER.info("excluded: %d texts, %d n-grams", len(texts), len(banned))
    seen: set[bytes] = set()
    documents: list[Document] = []
    rows = []
    for source in data:
        unique, repeated = distinct(source.documents(), seen)
        hits = ngrams.hits(unique, banned)
        kept = [parts for parts, hit in zip(unique, hits, strict=True) if not hit]
        count = sum(len(words(part)) for parts in kept for part in parts)
        row = {"source": source.name, "documents": len(unique) + repeated, "repeated": repeated}
        rows.append(row | {"overlapping": sum(hits), "kept": len(kept), "words_kept": count})
        LOGGER.info("%s", rows[-1])
        documents += kept
    report = {
        "ngram_words": ngrams.size,
        "whole_texts_from_words": ngrams.shortest,
        "excluded_files": [source.name for source in excluded],
        "excluded_texts": len(texts),
        "excluded_ngrams": len(banned),
        "sources": rows,
        "dropped_for_overlap": sum(row["overlapping"] for row in rows),
        "proof": prove_disjoint(documents, texts, ngrams),
    }
    return documents, report


def prove_disjoint(documents: list[Document], texts: list[str], ngrams: Ngrams) -> dict[str, int]:
    """Compare the kept documents with the excluded texts again, by the words themselves."""
    banned = {gram for text in texts for gram in ngrams.texts(text)}
    checked = remaining = 0
    for parts in documents:
        for part in parts:
            grams = list(ngrams.texts(part))
            checked += len(grams)
            remaining += sum(gram in banned for gram in grams)
    if remaining:
        raise SystemExit(f"{remaining} n-grams of excluded texts are left in the training texts")
    return {"ngrams_checked": checked, "ngrams_remaining": remaining}


def load_documents(args: argparse.Namespace) -> tuple[list[Document], dict[str, Any], str]:
    """Return the cleaned training documents (cached), the report and the key of both."""
    data, excluded = sources(args.data), sources(args.exclude + args.heldout)
    prints = [[source.fingerprint() for source in group] for group in (data, excluded)]
    key = fingerprint(prints, args.ngram, args.shortest)
    stored, note = args.cache / f"documents-{key}.jsonl", args.cache / f"ngrams-{key}.json"
    if stored.exists() and note.exists():
        lines = stored.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line], read_json(note), key
    documents, report = clean_documents(data, excluded, Ngrams(args.ngram, args.shortest))
    stored.write_text("\n".join(json.dumps(parts) for parts in documents), encoding="utf-8")
    write_json(note, report)
    return documents, report, key


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
