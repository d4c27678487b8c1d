"""predictions.jsonl: one plain JSON answer per scored row, enough to compute metrics again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError
from adaptkit.runs.directory import PREDICTIONS
from adaptkit.storage.files import write_lines
from adaptkit.tasks.task import ID, LABEL, Answer

if TYPE_CHECKING:
    from adaptkit.training.scorer import Scored

RELATIVE, ABSOLUTE = 1e-4, 1e-5  # by which a predicted number may differ


def identities(suffix: str, scored: Scored) -> list[str]:
    """Return the ids of a split's rows; those of further splits carry the split's name."""
    return [f"{suffix}/{name}" if suffix else name for name in scored.rows[ID][:]]


def write_predictions(directory: Path, parts: Mapping[str, Scored]) -> None:
    """Write one line per scored row."""
    lines = [
        json.dumps({"id": identity, "prediction": answer, "label": label}, ensure_ascii=False)
        for suffix, scored in parts.items()
        for identity, answer, label in zip(
            identities(suffix, scored), scored.answers, scored.rows[LABEL][:], strict=True
        )
    ]
    write_lines(directory / PREDICTIONS, lines)


def read_predictions(directory: Path) -> dict[str, tuple[Answer, Answer]]:
    """Return {id: (prediction, label)}.

    Raises:
        AdaptError: the file is missing or damaged.
    """
    try:
        lines = filter(None, (directory / PREDICTIONS).read_text(encoding="utf-8").split("\n"))
        rows = json.loads(f"[{','.join(lines)}]")  # three times as fast as line by line
        return {row["id"]: (row["prediction"], row["label"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdaptError(f"{directory / PREDICTIONS} is missing or damaged: {error}.") from error


def same(one: Answer, other: Answer) -> bool:
    """Compare answers: numbers within a tolerance, everything else exactly."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return one == other
