"""race.json: what a race knows, so that one that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError
from adaptkit.runs.tuning.racing import Candidate, Floor, number_of
from adaptkit.storage.files import write_json


@dataclass(frozen=True)
class State:
    """What a race that goes on must know."""

    file: Path
    words: list[str]
    rungs: list[int]
    candidates: list[Candidate]
    floor: Floor

    def load(self) -> tuple[list[Candidate], Floor]:
        """Return the candidates with what they scored before, and the floor they were judged by.

        Raises:
            AdaptError: the file is damaged, or of another race.
        """
        if not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return [*self.candidates], self.floor  # those beyond the grid will be added
        named = [one.values for one in self.candidates]
        try:
            plain = json.loads(self.file.read_text(encoding="utf-8"))
            larger = self.candidates[0].larger
            before = [Candidate.of(one, larger) for one in plain["candidates"]]
            floor = floor_in(plain.get("floor"))
            same = (plain["words"], plain["rungs"], plain["grid"]) == (
                self.words, self.rungs, named)  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdaptError(f"{self.file}: is damaged. Remove its folder.") from error
        if not same:
            raise AdaptError(
                f"{self.file.parent}: holds a race of other settings, rows or budget. Name another "
                "folder with --out, or remove it."
            )
        return before, floor

    def save(self, candidates: Sequence[Candidate], floor: Floor) -> None:
        """Write what is known now."""
        whole = {"words": self.words, "rungs": self.rungs,
                 "grid": [one.values for one in self.candidates],
                 "floor": list(floor),
                 "candidates": [one.as_dict() for one in candidates]}  # fmt: skip
        write_json(self.file, whole)


def floor_in(value: Any) -> Floor:
    """Return the floor of a file: older races knew none, or that of the score alone."""
    return Floor(*map(number_of, value if isinstance(value, list) else [value]))
