"""history.jsonl: one line per logged step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptkit.storage.files import is_main_process, to_json


class History:
    """The file in a run's folder."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "history.jsonl"
        self.written = 0  # lines

    def write(self, entries: Sequence[dict[str, Any]]) -> None:
        """Append what is new; the first time write all again, without what was undone."""
        new, mode = entries[self.written :], "a" if self.written else "w"
        self.written = len(entries)
        if is_main_process():
            with self.path.open(mode, encoding="utf-8") as file:
                file.writelines(f"{to_json(entry)}\n" for entry in new)
