"""Where a task's rows come from: a local folder or file, or the hub.

    DIR/<task>/<split>.parquet|jsonl|csv    with data.root=DIR
    task.path=DIR                           DIR/<split>.parquet|jsonl|csv
    task.path=FILE.parquet|jsonl|csv        one file; a validation part is cut from it
    task.path=owner/name                    a hub data set, or its cache
    adaptkit/samples/<task>                 a few hundred rows of our own grammar, bundled

`data.source=auto` takes the first that has the task, the sample only where the others cannot be
had, and says so; `hub` and `local` never fall back. No loading scripts are run. A broken row is
an error that names the row.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adaptkit.errors import AdaptError, MachineError, at_least, first_line, invalid
from adaptkit.storage import bundled

if TYPE_CHECKING:
    from datasets import Dataset

EXTENSIONS = ("parquet", "jsonl", "csv")
LONGEST_CELL = 1 << 30  # characters; Python's own limit is below that of a long text
HELD_OUT = 0.1  # share of a single file that becomes the validation split


@dataclass(frozen=True)
class Data:
    """Where rows come from and how many are used."""

    root: str | None = None  # DIR/<task>/<split>.parquet|jsonl|csv
    # auto: local folder, then hub, then sample
    source: Literal["auto", "hub", "local", "sample"] = "auto"
    train_rows: int | None = None  # seeded subset with the classes' proportions; null: all
    eval_rows: int | None = None  # the same of each scored split

    def __post_init__(self) -> None:
        if self.root is not None and not self.root.strip():
            raise invalid(
                "data.root",
                "''",
                "must name a folder",
                "An unset shell variable gives an empty text",
            )
        for name in ("train_rows", "eval_rows"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class DataSource:
    """Which of the sources served, for the record of a run."""

    kind: str  # hub | local | sample
    path: str
    files: tuple[Path, ...] = ()  # of the splits, where they lie on this machine


@dataclass(frozen=True)
class DatasetSpec:
    """A task's data set: its name, where it is, and which source may serve it."""

    name: str
    path: str | None
    subset: str | None
    revision: str | None
    root: str | None
    source: str  # auto | hub | local | sample


def find(spec: DatasetSpec) -> DataSource:
    """Decide where rows come from.

    Raises:
        AdaptError: the source asked for does not have the task.
    """
    if spec.source == "sample":
        return _sample(spec)
    own = Path(spec.path).expanduser() if spec.path else None
    root = Path(spec.root).expanduser() if spec.root else None
    default = os.environ.get("ADAPTKIT_DATA")
    typed = root and not (default and root.absolute() == Path(default).expanduser().absolute())
    if own and own.exists() and spec.source != "hub":
        if typed:
            raise AdaptError(
                f"data.root={spec.root}: task.path={spec.path} names the rows. Leave one out."
            )
        return DataSource("local", str(own))
    if root and spec.source in ("auto", "local"):
        if not root.is_dir():
            raise AdaptError(f"data.root={spec.root}: no such folder.")
        if (root / spec.name).is_dir():
            return DataSource("local", str(root / spec.name))
        if typed:
            raise AdaptError(
                f"data.root={spec.root}: holds no folder {spec.name!r}. Put the splits into "
                f"{root / spec.name} (train.parquet, jsonl or csv ...), or leave data.root out."
            )
    if spec.source == "local":
        raise AdaptError(
            f"data.source=local: {spec.name} is not at "
            f"{Path(spec.root) / spec.name if spec.root else 'data.root (unset)'}. "
            f"Set data.root=DIR so that DIR/{spec.name}/train.parquet (or jsonl, csv) exists."
        )
    if not spec.path:
        raise AdaptError(f"task.path: {spec.name} has no hub id; set task.path or data.root.")
    if spec.path.startswith((".", "/", "~")) or spec.path.endswith(EXTENSIONS):
        raise AdaptError(f"task.path={spec.path}: no such file or folder.")
    if _on_hub(spec):
        return DataSource("hub", spec.path)
    if spec.source == "auto" and (folder := bundled.sample(spec.name)):
        return DataSource("sample", str(folder))
    raise _out_of_reach(spec)


def _out_of_reach(spec: DatasetSpec) -> AdaptError:
    subset = f" ({spec.subset})" if spec.subset else ""
    return AdaptError(
        f"data set {spec.path}{subset}: the hub cannot be reached and its cache does not hold "
        f"it. Set data.root=DIR with DIR/{spec.name}/train.parquet (or environment "
        "ADAPTKIT_DATA), or fetch it once on a machine with a network."
    )


def _sample(spec: DatasetSpec) -> DataSource:
    folder = bundled.sample(spec.name)
    if not folder:
        there = ", ".join(bundled.sampled_tasks())
        raise AdaptError(f"data.source=sample: none for {spec.name}. There is: {there}.")
    return DataSource("sample", str(folder))


def _on_hub(spec: DatasetSpec) -> bool:
    """Tell whether the hub, or its cache, has the data set: asks for its description only."""
    from adaptkit.storage import hub

    hub.go_offline_if_unreachable()
    if hub.reachable():
        return True
    from datasets import load_dataset_builder

    try:
        load_dataset_builder(spec.path, spec.subset, revision=spec.revision)
    except Exception:  # whatever the reason, it is not there
        return False
    return True


def read(spec: DatasetSpec, origin: DataSource, split: str) -> Dataset:
    """Return one split as a `datasets.Dataset`.

    Raises:
        AdaptError: the split does not exist, or a row is broken.
        MachineError: the hub cannot be reached and its cache does not hold the data set.
    """
    if origin.kind == "hub":
        return _from_hub(spec, split)
    place = Path(origin.path)
    if place.is_file():
        return _part(_from_file(place), split, place)
    if file := file_of(place, split):
        return _from_file(file)
    files = sorted(p.name for p in place.iterdir() if p.suffix.lstrip(".") in EXTENSIONS)
    there = ", ".join(files) or "nothing"
    raise AdaptError(
        f"task {spec.name}: no split {split!r} in {place} (there is: {there})."
        f" Expected {split}.parquet, .jsonl or .csv."
    )


def file_of(place: Path, split: str) -> Path | None:
    """Return the file that holds a split: `place` itself, or one in that folder."""
    if place.is_file():
        return place
    files = (place / f"{split}.{extension}" for extension in EXTENSIONS)
    return next((file for file in files if file.is_file()), None)


def _part(rows: Dataset, split: str, file: Path) -> Dataset:
    """Cut the one file into train and validation, always in the same way."""
    if len(rows) < 2:
        raise AdaptError(f"task.path={file}: {len(rows)} rows cannot be cut into two splits.")
    parts = rows.train_test_split(test_size=max(1, round(len(rows) * HELD_OUT)), seed=0)
    return parts["train" if split == "train" else "test"]


def _from_file(file: Path) -> Dataset:
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".csv": _csv}
    if file.suffix not in readers:
        raise AdaptError(f"task.path={file}: must end in .parquet, .jsonl or .csv.")
    rows = readers[file.suffix](file)
    if len(rows) == 0:
        raise AdaptError(f"{file}: has no rows. An empty split cannot be used.")
    return rows


def _parquet(file: Path) -> Dataset:
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset, Features

    try:
        table = pyarrow.parquet.read_table(file)
        features = Features.from_arrow_schema(table.schema)  # keeps class names, where stored
        return Dataset(table.cast(features.arrow_schema)).cast(features)
    except (pyarrow.ArrowException, OSError) as error:
        raise AdaptError(f"{file}: is not a readable Parquet file: {first_line(error)}.") from error


def _jsonl(file: Path) -> Dataset:
    lines = enumerate(_text(file).split("\n"), 1)
    return _from_rows([_object(line, file, number) for number, line in lines if line.strip()], file)


def _text(file: Path) -> str:
    """Return a file's text, without the byte order mark that spreadsheets write."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AdaptError(f"{file}: line {line} is not UTF-8. Convert the file to UTF-8.") from error


def _object(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise AdaptError(f"{file}: row {number} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise AdaptError(f"{file}: row {number} is not an object with columns: {line.strip()[:60]}")
    return row


def _csv(file: Path) -> Dataset:
    rows = []
    csv.field_size_limit(LONGEST_CELL)
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(_text(file)), strict=True), 1):
            if None in row or None in row.values():
                raise AdaptError(
                    f"{file}: row {number} has another number of cells than the header."
                )
            rows.append(row)
    except csv.Error as error:
        raise AdaptError(f"{file}: row {len(rows) + 1} is broken: {error}.") from error
    return _from_rows(rows, file)


def _from_rows(rows: list[dict[str, Any]], file: Path) -> Dataset:
    from datasets import Dataset

    columns = list(rows[0]) if rows else []
    for number, row in enumerate(rows, 1):
        if absent := [c for c in columns if c not in row]:
            raise AdaptError(f"{file}: row {number} lacks the column {absent[0]!r}.")
    try:
        return Dataset.from_dict({c: [row[c] for row in rows] for c in columns})
    except Exception as error:  # pyarrow raises several kinds for mixed types
        raise AdaptError(f"{file}: {odd_one(rows, columns) or first_line(error)}.") from error


def odd_one(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str | None:
    """Name the first value that is of another type than those above it."""
    for column in columns:
        first: type | None = None
        for number, row in enumerate(rows, 1):
            if row[column] is None:
                continue
            kind = type(row[column])
            first = first or kind
            if kind is not first:
                return (
                    f"row {number}: {column} is {row[column]!r}, but earlier rows "
                    f"hold {first.__name__}; a column holds values of one type"
                )
    return None


def _from_hub(spec: DatasetSpec, split: str) -> Dataset:
    from adaptkit.storage import hub

    hub.go_offline_if_unreachable()
    from datasets import load_dataset

    try:
        return load_dataset(spec.path, spec.subset, split=split, revision=spec.revision)
    except Exception as error:
        if not hub.reachable():
            raise _out_of_reach(spec) from error
        where = f"data set {spec.path}" + (f" ({spec.subset})" if spec.subset else "")
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise MachineError(f"{where}: {first_line(error)}.") from error
        raise AdaptError(f"{where}, split {split!r}: {first_line(error)}.") from error


def subset(
    rows: Dataset, count: int | None, seed: int, labels: Sequence[str] | None = None
) -> Dataset:
    """Return `count` rows, seeded, with the proportions of `labels` (one per row) kept.

    Nested: of two counts with one seed the smaller subset is part of the larger one.
    """
    if count is None or count >= len(rows):
        return rows
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    if labels is not None:  # sort rows by their relative rank within their class
        total, before, rank = Counter(labels), Counter[str](), {}
        for i in order:
            rank[i] = (before[labels[i]] + 0.5) / total[labels[i]]
            before[labels[i]] += 1
        order = sorted(order, key=rank.__getitem__)
    return rows.select(sorted(order[:count]))
