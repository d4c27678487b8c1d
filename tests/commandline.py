"""The command as tests call it: in this process, with what it printed and how it ended."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from families import rows

from adaptkit.cli.main import main

LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Answer:
    """What one command printed, and its exit status."""

    status: int
    out: str
    err: str


def call(*words: str | Path) -> Answer:
    """Run `adaptkit WORDS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse and Hydra's --help
            status = end.code or 0
    return Answer(status, out.getvalue(), err.getvalue())


def write(
    file: Path, table: Sequence[dict[str, Any]], classes: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write rows as Parquet, JSONL or CSV, as the file's name says.

    `classes`: names that a Parquet file stores with a column of numbers.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        from datasets import ClassLabel, Dataset

        stored = Dataset.from_list(list(table))
        for column, names in (classes or {}).items():
            stored = stored.cast_column(column, ClassLabel(names=list(names)))
        stored.to_parquet(file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in table), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return file


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def data_root(folder: Path, task: str = "sst2", train: int = 32, validation: int = 12) -> Path:
    """Make DIR/<task>/{train,validation}.jsonl of sentiment rows; return DIR."""
    write(folder / task / "train.jsonl", rows(train, seed=1))
    write(folder / task / "validation.jsonl", rows(validation, seed=2))
    return folder


def tiny(checkpoint: Path, *more: str) -> list[str]:
    """Return the overrides of a run that takes a second: four updates on a tiny checkpoint."""
    return [
        "model=auto", f"model.path={checkpoint}", f"model.name={checkpoint.name}", "trainer=debug",
        "tracker=none", *more,
    ]  # fmt: skip
