"""Classes: which there are in a column, and which one a stored value means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adaptkit.errors import AdaptError, invalid

MOST = 1000  # classes; more are taken for something else


def classes_in(values: Iterable[Any], stored: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the names of the classes that a column holds, in the order of their numbers.

    `stored`: the names that the file itself gives its numbers.

    Raises:
        AdaptError: the values are no classes; `where` names the column.
    """
    if stored:
        return tuple(stored)
    seen = list(values)
    if any(isinstance(value, list | dict) for value in seen):
        raise AdaptError(f"{where} holds lists, not classes. For tagged words use task=tag.")
    different = set(seen)
    if not different:
        raise AdaptError(f"{where} is empty: there are no classes in it.")
    if not all(isinstance(v, int | str | bool) for v in different) or len(different) > MOST:
        raise AdaptError(
            f"{where} does not hold classes (for example {next(iter(different))!r}; "
            f"{len(different)} different values). For scores use task=regress."
        )
    if any(isinstance(v, str) and not v.strip() for v in different):
        raise AdaptError(f"{where} has empty cells. Fill them in, or drop the rows.")
    if all(isinstance(v, str) and v.isdecimal() for v in different):
        different = {int(v) for v in different}  # CSV has no numbers
    if not all(isinstance(v, int) for v in different):
        return tuple(sorted(str(v) for v in different))
    if min(different) == 0 and max(different) < MOST:
        return tuple(str(i) for i in range(max(different) + 1))
    return tuple(str(v) for v in sorted(different))


def check_distinct(classes: Sequence[str]) -> None:
    """Reject a name that stands twice.

    Raises:
        ConfigError: one does.
    """
    name, times = Counter(classes).most_common(1)[0]
    if times > 1:
        raise invalid("task.labels", list(classes), f"names {name!r} {times} times")


@dataclass(frozen=True)
class Namer:
    """What a stored value means: the name of one of `classes`."""

    classes: tuple[str, ...]
    stored: tuple[str, ...] | None  # names that the file gives its numbers
    where: str  # task and split, for messages

    def __post_init__(self) -> None:
        check_distinct(self.classes)
        if self.by_name and not set(self.stored or ()) <= set(self.classes):
            raise AdaptError(
                f"{self.where}: the file names its classes {', '.join(self.stored or ())}, the "
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
        digits = isinstance(value, str) and value.isdecimal()
        known = int(value) if digits or isinstance(value, bool) else value
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
            f"{self.where}, row {row}: label {value!r} is none of the {len(self.classes)} classes "
            f"{', '.join(self.classes[:8])}.{hidden}"
        )
