"""The diagnosis as rows of words, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from adaptkit.reports.data.diagnosis import Diagnosis
from adaptkit.reports.data.split import Split
from adaptkit.reports.data.tokens import Lengths

MOST = 20  # classes in a table
COUNTS = {  # what is shown even if there is none of it, and what only if there is
    "repeats": "text of an earlier row",
    "contradictions": "same text, other label",
    "seen": "text of a training row",
    "empty": "empty text",
    "broken": "broken characters",
    "absent": "answer not in its context",
    "crowded": "question without room",
}
RARE = ("absent", "crowded")


def split_table(found: Diagnosis) -> list[list[str]]:
    """Return a head and lines: one column per split."""
    splits = found.splits
    lines = [["", *(split.name for split in splits)],
             ["rows", *(f"{len(split.ids):,}" for split in splits)]]  # fmt: skip
    for name, words in COUNTS.items():
        counts = [len(getattr(split, name)) for split in splits]
        if any(counts) or name not in RARE:
            lines.append([words, *(f"{count:,}" for count in counts)])
    if any(split.numbers for split in splits):
        shown = [" / ".join(f"{n:.4g}" for n in split.numbers or ()) for split in splits]
        lines.append(["label: least / mean / largest", *shown])
    lines += _lengths("tokens", [s.read.rows if s.read else None for s in splits])
    lines += _lengths("tokens of targets", [s.read.targets if s.read else None for s in splits])
    return lines


def _lengths(what: str, columns: list[Lengths | None]) -> Iterator[list[str]]:
    found = [lengths.as_dict() if lengths else None for lengths in columns]
    if not any(found):
        return
    keys = ("median", "p95", "longest")
    shown = [" / ".join(f"{one[key]:,.0f}" for key in keys) if one else "-" for one in found]
    yield [f"{what}: median / 95 % / longest", *shown]
    limit = next(one["limit"] for one in found if one)
    if any(one and one["windows"] for one in found):
        shown = [f"{one['windows']:,}" if one else "-" for one in found]
        yield [f"windows of {limit}", *shown]
        return
    shown = [f"{one['cut']:,} ({one['cut_share']:.1%})" if one else "-" for one in found]
    yield [f"{what}: cut at {limit}", *shown]


def class_table(found: Diagnosis) -> list[list[str]]:
    """Return a head and lines: classes with counts and shares per split, near-empty ones marked."""
    names = list(dict.fromkeys(name for split in found.splits for name in split.classes))
    if not names:
        return []
    lines = [[name, *(_share(split, name) for split in found.splits)] for name in names[:MOST]]
    more = [[f"and {len(names) - MOST} more"]] if len(names) > MOST else []
    return [["class", *(split.name for split in found.splits)], *lines, *more]


def _share(split: Split, name: str) -> str:
    count, total = split.classes.get(name, 0), max(1, sum(split.classes.values()))
    mark = " !" if name in split.near_empty else ""
    return f"{count:,} ({count / total:.1%}){mark}"


def padding_line(found: Diagnosis) -> list[str]:
    """Return what is known of padding in training batches, in a line or none."""
    if not found.padding:
        return []
    plain, alike = found.padding["shuffled"], found.padding["by_length"]
    return [
        f"padding in batches of {found.batch_size}: {plain:.0%} if shuffled plainly, {alike:.0%} "
        "if texts of similar length share a batch (trainer.group_by_length)"
    ]


def baselines(found: Diagnosis) -> list[str]:
    """Return the scores that a model must beat."""
    shown = [(one, "undefined" if one.score != one.score else f"{one.score:.4f}")
             for one in found.baselines]  # fmt: skip
    return [f"{one.name}: {one.metric} {score}" for one, score in shown]
