"""Where a task's rows come from: a local folder or file, or the hub.

    DIR/<task>/<split>.EXTENSION    with data.root=DIR; files.EXTENSIONS lists the formats
    task.path=DIR                   DIR/<split>.EXTENSION
    task.path=FILE                  one file; a validation part is held out of it
    task.path=owner/name            a hub data set, or its cache
    adaptkit/samples/<task>         rows of our own grammar, bundled

`data.source=auto` takes the first that has the task, the sample only where the others cannot be
had and no other path, subset or revision is given, and says so; `hub` and `local` never fall back.
No loading scripts are run. A broken row is an error that names the row.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, MachineError, first_line, invalid
from adaptkit.storage import bundled
from adaptkit.tasks.reading import conll
from adaptkit.tasks.reading.files import ENDINGS, EXTENSIONS, Table, kind_of, read_file

if TYPE_CHECKING:
    from datasets import Dataset

OTHERS = (".txt", ".xlsx", ".xls", ".zip", ".xml", ".arrow")  # files too, which cannot be read
HELD_OUT = 0.1  # share of a single file that becomes the validation split


@dataclass(frozen=True)
class DataSource:
    """Which of the sources served, for the record of a run."""

    kind: str  # hub | local | sample
    path: str
    files: tuple[Path, ...] = ()  # of the splits, where they lie on this machine

    @property
    def one_file(self) -> bool:
        """True if all rows are in one file, and no file says which of them are to be scored."""
        return self.kind == "local" and Path(self.path).is_file()


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
    own = Path(spec.path).expanduser() if spec.path else None
    root = Path(spec.root).expanduser() if spec.root else None
    default = os.environ.get("ADAPTKIT_DATA")
    typed = root and not (default and root.resolve() == Path(default).expanduser().resolve())
    other = bundled.of_another_set(spec.name, asdict(spec))
    if spec.source == "sample":
        idle = ({"data.root": spec.root} if typed else {}) | other
        idle |= {"task.path": spec.path} if own and own.exists() else {}
        for option, value in idle.items():
            raise invalid(option, value, "is not read with data.source=sample", "Leave one out")
        return _sample(spec)
    if own and own.exists() and spec.source != "hub":
        if typed:
            raise AdaptError(
                f"data.root={spec.root}: task.path={spec.path} names the rows. Leave one out."
            )
        return DataSource("local", str(own))
    if root and spec.source in ("auto", "local"):
        if not root.is_dir():
            raise AdaptError(f"data.root={spec.root}: no such folder.")
        for option, value in other.items() if typed else ():
            raise AdaptError(
                f"data.root={spec.root}: {option}={value} names another data set than that of "
                f"{spec.name}. Give one of the two."
            )
        if not other and (root / spec.name).is_dir():
            return DataSource("local", str(root / spec.name))
        if typed:
            raise AdaptError(
                f"data.root={spec.root}: holds no folder {spec.name!r}. Put train{ENDINGS} "
                f"into {root / spec.name}, or leave data.root out."
            )
    if spec.source == "local":
        for option, value in other.items():
            raise AdaptError(f"{option}={value}: is not on this machine. Set task.path=DIR.")
        raise AdaptError(
            f"data.source=local: {spec.name} is not at "
            f"{Path(spec.root) / spec.name if spec.root else 'data.root (unset)'}. "
            f"Set data.root=DIR so that DIR/{spec.name} holds train{ENDINGS}."
        )
    if not spec.path:
        raise AdaptError(f"task.path: {spec.name} has no hub id; set task.path or data.root.")
    if spec.path.startswith((".", "/", "~")) or kind_of(spec.path) or spec.path.endswith(OTHERS):
        raise AdaptError(f"task.path={spec.path}: no such file or folder.")
    if _on_hub(spec):
        return DataSource("hub", spec.path)
    if spec.source == "auto" and not other and (folder := bundled.sample(spec.name)):
        return DataSource("sample", str(folder))
    raise _out_of_reach(spec)


def _out_of_reach(spec: DatasetSpec) -> AdaptError:
    other = bundled.of_another_set(spec.name, asdict(spec))
    subset = f" ({spec.subset})" if spec.subset else ""
    here = "there is no such file or folder, " if other and spec.source != "hub" else ""
    place = f"data.root=DIR with DIR/{spec.name}/train.parquet (or environment ADAPTKIT_DATA)"
    return AdaptError(
        f"data set {spec.path}{subset}: {here}the hub cannot be reached, and its cache does not "
        f"hold it. Set {'task.path=DIR' if other else place}, or fetch it once on a machine with a "
        "network."
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
    if not hub.may_have_cached(spec.path or ""):
        return False
    from datasets import load_dataset_builder

    try:
        load_dataset_builder(spec.path, spec.subset, revision=spec.revision)
    except Exception:  # whatever the reason, it is not there
        return False
    return True


def read(
    spec: DatasetSpec, origin: DataSource, split: str, columns: Collection[str] | None = None
) -> Table:
    """Return one split, or the one file.

    `columns`: the only ones that are read of a local file, as far as it has them.

    Raises:
        AdaptError: the split does not exist, or a row is broken.
        MachineError: the hub cannot be reached and its cache does not hold the data set.
    """
    if origin.kind == "hub":
        rows = _from_hub(spec, split)
        return Table(rows, rows.column_names)
    place = Path(origin.path)
    if origin.one_file:
        return read_file(place, columns)
    if file := file_of(place, split):
        return read_file(file, columns)
    files = sorted(p.name for p in place.iterdir() if kind_of(p.name))
    there = ", ".join(files) or "nothing"
    raise AdaptError(
        f"task {spec.name}: no split {split!r} in {place} (there is: {there}). "
        f"Expected {split}{ENDINGS}."
    )


def file_of(place: Path, split: str) -> Path | None:
    """Return the file that holds a split: `place` itself, or one in that folder.

    Raises:
        AdaptError: several files hold it.
    """
    if place.is_file():
        return place
    names = (f"{split}.{extension}" for extension in (*EXTENSIONS, *conll.FORMATS))
    files = [place / name for name in names if (place / name).is_file()]
    if len(files) > 1:
        raise AdaptError(
            f"{place}: the split {split} is in several files "
            f"({', '.join(file.name for file in files)}). Leave one of them."
        )
    return files[0] if files else None


def held_out(strata: Sequence[Hashable], where: str) -> tuple[list[int], list[int]]:
    """Cut rows into those to train on and a tenth to score, always in the same way.

    `strata` holds one value (a class) per row: the tenth keeps their proportions, and at least one
    row of each is trained on.

    Raises:
        AdaptError: no row can be held out; `where` names the file.
    """
    import numpy as np

    members: dict[Hashable, list[int]] = defaultdict(list)
    for i in np.random.default_rng(0).permutation(len(strata)).tolist():
        members[strata[i]].append(i)
    # The rank of a row within its class, relative to the size of the class; the last one stays.
    ranks = {
        i: (place + 0.5) / len(rows)
        for rows in members.values()
        for place, i in enumerate(rows[:-1])
    }
    if not ranks:
        raise AdaptError(
            f"{where}: {len(strata)} rows cannot be cut into two splits, because one row of each "
            "class stays in training. Give a folder with a file of each split."
        )
    count = max(1, round(len(strata) * HELD_OUT))
    held = set(sorted(ranks, key=ranks.__getitem__)[:count])
    return [i for i in range(len(strata)) if i not in held], sorted(held)


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


def with_column(rows: Dataset, name: str, values: Sequence[Any]) -> Dataset:
    """Return rows with a column added, or replaced."""
    from datasets.fingerprint import generate_random_fingerprint

    # Nothing reads the fingerprints of `datasets`; hashing the values takes longer than the rest.
    new = generate_random_fingerprint()
    kept = rows.remove_columns([c for c in rows.column_names if c == name], new_fingerprint=new)
    return kept.add_column(name, list(values), new_fingerprint=new)


def empty_texts(rows: Dataset | None, columns: Sequence[str]) -> tuple[str, ...]:
    """Return a remark if training rows have nothing to read in any column."""
    texts = [] if rows is None else [rows[name][:] for name in columns]
    empty = sum(not any(map(has_text, row)) for row in zip(*texts, strict=True))
    return (f"{empty} of {len(rows or ())} training rows have no text",) if empty else ()


def has_text(value: Any) -> bool:
    """Tell whether a value, or one of a list of values, holds more than blanks."""
    return any(map(has_text, value)) if isinstance(value, list) else bool(str(value).strip())
