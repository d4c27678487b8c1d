"""Classes: which there are in a column, and which one a stored value means."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, invalid

if TYPE_CHECKING:
    from datasets import Dataset

MOST = 1000  # classes; more are taken for something else
# Of a whole number; longer ones, and those like 007, are names.
NUMERAL = re.compile(r"[+-]?(0|[1-9]\d{0,17})(\.0*)?", re.ASCII)


def whole(value: Any) -> Any:
    """Return a value, as a whole number if it is one: CSV holds them as texts, pandas as floats."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, str) and NUMERAL.fullmatch(value):
        return int(value.partition(".")[0])
    return value


def names_in(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Return the classes' names that a file stores with a column of numbers."""
    names = getattr(rows.features[column], "names", None)
    return tuple(names) if names else None


def check_label(value: Any, where: str) -> None:
    """Check that a stored value can mean a class.

    Raises:
        AdaptError: it cannot; `where` names the row.
    """
    empty = value is None or (isinstance(value, float) and math.isnan(value))
    if empty or (isinstance(value, str) and not value.strip()):
        raise AdaptError(f"{where}: label {value!r} is empty. Fill it in, or drop the row.")
    if isinstance(value, list | dict):
        raise AdaptError(
            f"{where}: label {str(value)[:60]} is a {type(value).__name__}, not a class. A row has "
            "one class; for tagged words use task=tag."
        )
    if not isinstance(whole(value), int | str):
        raise AdaptError(
            f"{where}: label {value!r:.60} is not a class. For scores use task=regress."
        )


def classes_in(
    values: Iterable[tuple[int, Any]], stored: Sequence[str] | None, where: str
) -> tuple[str, ...]:
    """Return the names of the classes that a column holds: by number, or by the alphabet.

    `values`: the number of a row, and a value in it. `stored`: the names that the file itself
    gives its numbers.

    Raises:
        AdaptError: the values are not classes; `where` names the column.
    """
    if stored:
        return tuple(stored)
    different: set[Any] = set()
    for row, value in values:
        check_label(value, f"{where}, row {row}")
        different.add(value)
    if not different:
        raise AdaptError(f"{where} is empty: there are no classes in it.")
    if len(different) > MOST:
        raise AdaptError(
            f"{where} does not hold classes (for example {next(iter(different))!r}; "
            f"{len(different)} different values). For scores use task=regress."
        )
    numbers = {value if isinstance(value, bool) else whole(value) for value in different}
    if all(isinstance(value, int) for value in numbers):
        return tuple(str(value) for value in sorted(numbers))
    return alphabetical({str(value) for value in different}, where)


def alphabetical(names: set[str], where: str) -> tuple[str, ...]:
    """Return names in the order of the alphabet.

    Raises:
        AdaptError: two differ only in blanks.
    """
    bare: dict[str, str] = {}
    for name in sorted(names):
        if name.strip() in bare:
            raise AdaptError(
                f"{where}: labels {bare[name.strip()]!r} and {name!r} differ only in the blanks "
                "around them. Make them one, or name all classes in task.labels."
            )
        bare[name.strip()] = name
    return tuple(sorted(names))


def check_distinct(classes: Sequence[str]) -> None:
    """Reject a name that stands twice.

    Raises:
        ConfigError: one does.
    """
    name, times = Counter(classes).most_common(1)[0]
    if times > 1:
        raise invalid("task.labels", list(classes), f"names {name!r} {times} times")


def check_stored(classes: Sequence[str], stored: Sequence[str] | None, where: str) -> None:
    """Check that a split's own names are those of the classes, which were read off another split.

    Raises:
        AdaptError: they are others; their numbers need not mean the same places.
    """
    if stored and not set(stored) & set(classes):
        raise AdaptError(
            f"{where}: the file names its classes {', '.join(stored)}, the training split "
            f"{', '.join(classes)}. Give both the same names, or say what the numbers mean: "
            "task.labels=[...]."
        )


@dataclass(frozen=True)
class Namer:
    """What a stored value means: the name of one of `classes`."""

    classes: tuple[str, ...]
    stored: tuple[str, ...] | None  # names that the file gives its numbers
    where: str  # task and split, for messages

    def __post_init__(self) -> None:
        check_distinct(self.classes)
        if not self.stored or set(self.stored) <= set(self.classes):
            return
        alike = {n.strip().casefold() for n in self.stored} & {n.casefold() for n in self.classes}
        if alike or len(self.stored) != len(self.classes):  # else its numbers are places
            raise AdaptError(
                f"{self.where}: the file names its classes {', '.join(self.stored)}, the "
                f"task {', '.join(self.classes)}. Set task.labels to the names of the file."
            )

    @property
    def by_name(self) -> bool:
        """True if names in the file count; if none is known, its numbers mean places."""
        return bool(set(self.stored or ()) & set(self.classes))

    def name(self, value: Any, row: int) -> str:
        """Return the class that a value in row number `row` means.

        Raises:
            AdaptError: it means none of them.
        """
        check_label(value, f"{self.where}, row {row}")
        known = whole(value)
        if not self.stored:
            for written in (str(value), str(known)):
                if written in self.classes:
                    return written
        places = self.stored if self.stored and self.by_name else self.classes
        # If classes are called 1, 2, ..., numbers mean names, never places in the list.
        by_place = self.stored or not any(n.lstrip("-").isdecimal() for n in self.classes)
        if by_place and isinstance(known, int) and 0 <= known < len(places):
            return places[known]
        hidden = " The labels of this split are withheld; score on another." if value == -1 else ""
        raise AdaptError(
            f"{self.where}, row {row}: label {value!r:.60} is none of the {len(self.classes)} "
            f"classes {', '.join(self.classes[:8])}.{hidden or self._way_out(value)}"
        )

    def _way_out(self, value: Any) -> str:
        if isinstance(value, str) and value.strip() in self.classes:
            return " It has blanks around it: remove them."
        return " If it is a class, name all classes in task.labels."


def numbered(
    answers: Sequence[Any], right: Sequence[str], classes: Sequence[str], opposite: bool
) -> dict[str, list[int]]:
    """Return the numbers of the classes that were answered, and of those that are right.

    An answer of None is the number -1; with `opposite`, of two classes, the one that is wrong.
    """
    of = {name: i for i, name in enumerate(classes)}
    gold = [of[name] for name in right]
    return {
        "predictions": [
            of[name] if name is not None else 1 - number if opposite else -1
            for name, number in zip(answers, gold, strict=True)
        ],
        "references": gold,
    }
