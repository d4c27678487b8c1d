"""How much of the texts is read: longer ones are cut, and the user is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptkit.config.settings import Settings

if TYPE_CHECKING:
    from adaptkit.training.batching import Feed
    from adaptkit.training.scorer import Prepared

MANY = 0.1  # share of the rows above which cutting is a warning


def lengths_of(run: Settings, prepared: Prepared, feeds: Mapping[str, Feed]) -> dict[str, Any]:
    """Return the entry of the record: the limit in tokens, and what is cut in each split."""
    reader = prepared.reader
    return {
        "max_length": run.task.max_length,
        "limit": reader.length(run.task.max_length),
        "splits": {name: cut_of(feed) for name, feed in feeds.items()},
    }


def by_split(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the feeds of the scored splits, by suffix, under names that a user knows."""
    return {f"validation{suffix and f' ({suffix})'}": feed for suffix, feed in feeds.items()}


def cut_of(feed: Feed) -> dict[str, int]:
    """Return how many examples are cut, how many tokens they have, and how many are lost.

    If every word needs an answer and a row is read once: also how many words there are, and how
    many have none, because they are cut away or the tokenizer makes nothing of them.
    """
    lost = feed.examples["cut"][:] if "cut" in feed.examples.column_names else []
    whole = [n + k for n, k in zip(feed.lengths, lost, strict=True) if k] if lost else []
    found = {"rows": len(feed), "cut": len(whole), "tokens": sum(whole), "lost_tokens": sum(lost)}
    if "size" not in feed.examples.column_names:
        return found
    words, read = sum(feed.examples["size"][:]), sum(map(len, feed.examples["words"][:]))
    return found | {"words": words, "lost_words": words - read}


def lines_about(lengths: Mapping[str, Any]) -> list[str]:
    """Return what a user must know: a limit below task.max_length, and how much is cut."""
    limit, wanted = lengths["limit"], lengths["max_length"]
    lines = []
    if limit < wanted:
        lines.append(f"task.max_length={wanted}: this model has room for {limit} tokens of text")
    for name, cut in lengths["splits"].items():
        if cut["cut"]:
            lines.append(described(name, cut, limit))
        if cut["cut"] > MANY * cut["rows"]:
            way_out = (
                "Raise task.max_length"
                if limit == wanted
                else "A shorter prompt, or a model with more positions, leaves room for more"
            )
            lines[-1] = f"WARNING: {lines[-1]}. {way_out}."
        if lost := cut.get("lost_words"):
            then = "are not learnt from" if name == "training" else "count as wrong"
            lines.append(f"{lost} of {cut['words']} {name} words have no tokens left and {then}")
    return lines


def described(name: str, cut: Mapping[str, int], limit: int) -> str:
    """Say how many rows of a split are cut, and by how much."""
    share = 100 * cut["lost_tokens"] / max(1, cut["tokens"])
    return (
        f"{cut['cut']} of {cut['rows']} {name} rows are cut to {limit} tokens and lose {share:.0f} "
        "% of their tokens"
    )
