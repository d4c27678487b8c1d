"""CHECKS: what a user should know of the data, as named findings. Nothing is rejected.

A check is a function from all that was seen to its findings. A new one is a function and an entry
of CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaptkit.reports.data.split import Split
from adaptkit.runs.lengths import MANY
from adaptkit.tasks.forms.cloze import ClozeForm
from adaptkit.tasks.forms.verbalizer import pieces_of
from adaptkit.tasks.task import Reader, Task

SHOWN = 5  # ids of rows in a finding
CLASSES = 8  # names of classes in a finding
FAR = 20  # times the usual length: an outlier


@dataclass(frozen=True)
class Finding:
    """Something in the data that costs scores, or makes them wrong."""

    name: str
    split: str
    count: int  # of rows, or of classes
    rows: tuple[str, ...]  # ids of the first few of them
    text: str  # what is the matter
    advice: str  # what to do about it

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "rows": list(self.rows)}

    def line(self) -> str:
        """Return it as a user reads it."""
        count = f"{self.count:,} row{'s' if self.count > 1 else ''}"
        more = ", ..." if self.count > len(self.rows) else ""
        which = f"{count} (id {', '.join(self.rows)}{more}). " if self.rows else ""
        return f"{self.name}, {self.split}: {which}{self.text} {self.advice}"


@dataclass(frozen=True)
class Seen:
    """All that checks may look at."""

    task: Task
    reader: Reader
    splits: tuple[Split, ...]  # the training rows first, if there are any
    unread: str  # why the training rows could not be read, if so


def findings_of(seen: Seen) -> list[Finding]:
    """Return the findings of all checks."""
    return [finding for check in CHECKS for finding in check(seen)]


def of_rows(
    name: str, split: Split, rows: Sequence[int], text: str, advice: str
) -> Iterator[Finding]:  # fmt: skip
    """Yield a finding if there are rows to name."""
    if rows:
        ids = tuple(split.ids[row] for row in rows[:SHOWN])
        yield Finding(name, split.name, len(rows), ids, text, advice)


def no_training_rows(seen: Seen) -> Iterator[Finding]:
    """Find that a run could not be trained on these data."""
    if seen.unread:
        text = f"The training rows cannot be read: {seen.unread}"
        advice = "Data that are only scored need none."
        yield Finding("no_training_rows", "train", 0, (), text, advice)


def rejected(seen: Seen) -> Iterator[Finding]:
    """Find that a run would reject a split, with its own message."""
    for split in seen.splits:
        if split.rejected:
            text = f"A run would be rejected: {split.rejected}"
            yield Finding("rejected", split.name, 0, (), text, "Lengths were not measured.")


def near_empty_classes(seen: Seen) -> Iterator[Finding]:
    """Find classes with too few rows to learn from, or to be scored on."""
    for split in seen.splits:
        if names := split.near_empty:
            listed = ", ".join(f"{name!r} {split.classes[name]}" for name in names[:CLASSES])
            more = f" and {len(names) - CLASSES} more" if len(names) > CLASSES else ""
            text = f"Classes with hardly any row: {listed}{more}."
            advice = "Collect more, join classes, or leave the class out of task.labels."
            yield Finding("near_empty_class", split.name, len(names), (), text, advice)


def duplicates(seen: Seen) -> Iterator[Finding]:
    """Find rows that repeat another row of their split."""
    for split in seen.splits:
        text = "The text is that of an earlier row."
        advice = "Keep one of each, unless it is meant to weigh more."
        yield from of_rows("duplicates", split, split.repeats, text, advice)


def contradictions(seen: Seen) -> Iterator[Finding]:
    """Find equal texts with different labels."""
    for split in seen.splits:
        text = "Rows of the same text have different labels, and no model can answer all of them."
        advice = "Decide on one label, or leave them out."
        yield from of_rows("contradictory_labels", split, split.contradictions, text, advice)


def overlap(seen: Seen) -> Iterator[Finding]:
    """Find rows that are trained on and scored."""
    for split in seen.splits:
        text = "The text is that of a training row, so that the score shows what was memorised."
        yield from of_rows("overlap", split, split.seen, text, "Leave them out of training.")


def empty_texts(seen: Seen) -> Iterator[Finding]:
    """Find rows with nothing to read."""
    for split in seen.splits:
        text, advice = "A text that the model reads is empty.", "Fill it in, or drop the row."
        yield from of_rows("empty_text", split, split.empty, text, advice)


def broken_characters(seen: Seen) -> Iterator[Finding]:
    """Find characters that are left of a wrong decoding."""
    for split in seen.splits:
        text = "Characters are left of a wrong decoding."
        advice = "Convert the original file to UTF-8 again."
        yield from of_rows("broken_characters", split, split.broken, text, advice)


def outliers(seen: Seen) -> Iterator[Finding]:
    """Find rows that are far longer than nearly all others."""
    for split in seen.splits:
        sizes = split.read.rows.tokens if split.read else []
        usual = split.read.rows.as_dict()["p95"] if split.read else 0
        rows = [split.measured[i] for i, size in enumerate(sizes) if size > FAR * usual]
        text = f"More than {FAR} times as many tokens as 95 % of the rows have ({usual})."
        advice = "A quote or the end of a line may be missing in the file."
        yield from of_rows("outlier_length", split, rows, text, advice)


def truncated(seen: Seen) -> Iterator[Finding]:
    """Find that more than a tenth of the rows is cut, or of the texts to write."""
    for split in seen.splits:
        read, options = split.read, {"rows": "max_length", "targets": "max_target_length"}
        for what, option in options.items():
            lengths = getattr(read, what) if read else None
            if lengths and len(lengths.cut) > MANY * len(lengths.tokens):
                lost = 100 * lengths.lost / sum(lengths.tokens)
                of = "" if what == "rows" else " of their targets"
                text = f"Too long: {lost:.0f} % of all tokens{of} are cut."
                advice = f"Raise task.{option} (now {lengths.limit}), if the model has room."
                rows = [split.measured[i] for i in lengths.cut]
                yield from of_rows(f"truncated_{what}", split, rows, text, advice)


def answers(seen: Seen) -> Iterator[Finding]:
    """Find answers that no part of the text can be, and questions that crowd it out."""
    for split in seen.splits:
        text = "The context holds none of the right answers."
        advice = "Correct it; task.on_missing=skip leaves such rows out of training."
        yield from of_rows("answer_not_in_context", split, split.absent, text, advice)
        text = "The question leaves no more room for the context than task.stride."
        advice = "Raise task.max_length, lower task.stride, or drop the row."
        yield from of_rows("long_question", split, split.crowded, text, advice)


def split_words(seen: Seen) -> Iterator[Finding]:
    """Find label words that are several tokens, or none, to this model."""
    form = seen.task.posed if seen.task.bound else None
    if not isinstance(form, ClozeForm):
        return
    tokenizer, told = seen.reader.tokenizer, set[str]()
    for wording in form.wordings:
        found = pieces_of(tokenizer, wording.words, wording.pattern.left)
        several = [
            f"{word!r} ({' '.join(tokenizer.convert_ids_to_tokens(ids))})"
            for words, lists in zip(wording.words, found, strict=True)
            for word, ids in zip(words, lists, strict=True)
            if len(ids) != 1 and word not in told
        ]
        told |= {word for words in wording.words for word in words}
        if several:
            style = wording.style or wording.pattern.text
            text = f"Label words of the template {style!r} are not one token: {', '.join(several)}."
            advice = "Choose others in task.words, or set task.pieces."
            yield Finding("label_word_splits", "words", len(several), (), text, advice)


CHECKS: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    no_training_rows,
    rejected,
    near_empty_classes,
    duplicates,
    contradictions,
    overlap,
    empty_texts,
    broken_characters,
    outliers,
    truncated,
    answers,
    split_words,
)
