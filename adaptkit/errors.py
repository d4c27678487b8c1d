"""The two kinds of failure a user sees, and the checks that raise them.

    AdaptError          a problem that the user can fix: exit status 2, no traceback
    ├── ConfigError     a field of the configuration breaks a rule
    └── MachineError    disk, network, memory: exit status 1, no traceback

Everything else is a defect of the program: status 1, traceback in the log of the run.
Every message names the field, the value, the rule and the way out. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


class AdaptError(Exception):
    """A problem that the user can fix: the message says how; exit status 2."""

    status = 2


class ConfigError(AdaptError):
    """A field of the configuration breaks a rule."""

    range: Mapping[str, Any] = {}  # the rule in the words of JSON Schema, as {"minimum": 1}

    def of(self, **range: Any) -> ConfigError:
        """Return the error with a rule that holds whatever other options are."""
        self.range = range
        return self


class MachineError(AdaptError):
    """Disk, memory or network failed: not the user's mistake, but no defect either."""

    status = 1


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end; like Ctrl-C, it is not an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # as shells count


def status_of(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a program that was asked to end."""
    return stop.status if isinstance(stop, Interrupted) else 128 + signal.SIGINT


# The signals by which users and systems ask a program to end; Windows has no SIGHUP.
TERMINATING = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP"))
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Words of libraries about a full disk, and about memory that is used up.
UNWRITTEN = ("PytorchStreamWriter", "unexpected pos", "iostream error", "No space left on device",
             "File too large", "Disk quota exceeded")  # fmt: skip
USED_UP = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory",
           "CUBLAS_STATUS_ALLOC")  # fmt: skip


@contextlib.contextmanager
def machine_failures(place: Path) -> Iterator[None]:
    """Say in a sentence that the disk is full or the memory used up.

    `place`: the folder that is written to.

    Raises:
        MachineError: that happened. Any other exception passes.
    """
    try:
        yield
    except AdaptError:
        raise
    except Exception as error:
        text = str(error)
        if out_of_memory(error):
            wanted = re.search(r"llocate ([\d.]+ \w+)", text)
            more = f" ({wanted[1]} more were wanted)" if wanted else ""
            raise MachineError(
                f"out of memory{more}. Lower trainer.batch_size and raise "
                "trainer.gradient_accumulation by the same factor: the updates stay the same "
                "(trainer.find_batch_size=true does that by itself). "
                "Lower trainer.eval_batch_size if it happens while scoring, and task.max_length if "
                "texts are long."
            ) from error
        full = isinstance(error, OSError) and error.errno in NO_SPACE
        if full or any(words in text for words in UNWRITTEN):
            named = (isinstance(error, OSError) and error.filename) or place
            raise MachineError(
                f"{named}: the disk is full, or takes no files of this size. Free some space. "
                "The same command then goes on from the last whole checkpoint, if there is one."
            ) from error
        raise


def out_of_memory(error: Exception) -> bool:
    """Tell whether an exception says that the memory is used up."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return named or any(words in str(error) for words in USED_UP)


UNSET = "An unset shell variable gives an empty text"


def invalid(field: str, value: object, rule: str, way_out: str = "") -> ConfigError:
    """Return the error for `field=value` that breaks `rule`."""
    shown = repr(value) if isinstance(value, str) else value
    return ConfigError(f"{field}={shown}: {rule}." + (f" {way_out}." if way_out else ""))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return 'did you mean ...? ' with the closest of `known`, or nothing."""
    near = closest(name, known)
    return f"did you mean {' or '.join(near)}? " if near else ""


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of `known` that resemble `name`; those that differ only in case alone."""
    names, small = list(dict.fromkeys(known)), name.lower()
    if same := [n for n in names if alike(n, name)]:
        return same
    near = difflib.get_close_matches(small, names, n=3, cutoff=0.5)
    near = [n for n in near if likeness(small, n) > likeness(small, near[0]) - 0.1]
    return near or [longer for longer in names if small and small in longer][:3]


def alike(one: str, other: str) -> bool:
    """Tell whether two names are the same but for case, dashes and underscores."""
    plain, same = (re.sub(r"[\W_]", "", name).lower() for name in (one, other))
    return plain == same


def likeness(one: str, other: str) -> float:
    """Return how much of two names is the same, between 0 and 1."""
    return difflib.SequenceMatcher(None, one, other).ratio()


def unknown(field: str, value: object, known: Iterable[str]) -> ConfigError:
    """Return the error for a value that is not among the `known` names."""
    names = sorted(known)
    near = did_you_mean(str(value), names)
    near = f"; {near}" if near else ". "
    return ConfigError(f"{field}={value}: not known{near}There is: {', '.join(names)}.")


LARGEST = 2**31 - 1  # a whole number that every library takes


def at_least(field: str, value: float, low: float) -> None:
    """Raise ConfigError unless `value` >= `low` (and finite; a whole number of 32 bits)."""
    if isinstance(value, int) and value > LARGEST:
        raise invalid(field, value, f"must be at most {LARGEST:,}")
    if not low <= value < float("inf"):
        finite = ", and finite" if value > low else ""
        raise invalid(field, value, f"must be {low} or more{finite}").of(minimum=low)


def above(field: str, value: float, low: float) -> None:
    """Raise ConfigError unless `value` > `low` (and finite)."""
    if not low < value < float("inf"):
        raise invalid(field, value, f"must be a finite number above {low}").of(exclusiveMinimum=low)


def share_of_one(field: str, value: float) -> None:
    """Raise ConfigError unless 0 < `value` <= 1."""
    if not 0 < value <= 1:
        raise invalid(field, value, "must be above 0 and at most 1").of(
            exclusiveMinimum=0, maximum=1
        )


def folder_name(field: str, name: str) -> None:
    """Check that a name can be that of one folder, because a run's folder is made of it."""
    if name != name.strip() or name in ("", ".", "..") or set("/\\\0") & set(name):
        raise invalid(
            field, name, "must be the name of a folder, without slashes", "Name it simply"
        )


def within(field: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless `low` <= `value` < `high`."""
    if not low <= value < high:
        raise invalid(field, value, f"must be at least {low} and below {high}").of(
            minimum=low, exclusiveMaximum=high
        )


def one_of(field: str, value: str, known: Collection[str]) -> None:
    """Raise ConfigError unless `value` is one of `known`, whatever other options are."""
    if value not in set(known):
        raise unknown(field, value, known).of(enum=sorted(known))


def each_of(field: str, values: Collection[str], known: Iterable[str]) -> None:
    """Raise ConfigError unless there are values, all of them among `known`."""
    names = list(known)
    if not values:
        known_names = ", ".join(names)
        raise invalid(field, list(values), "must name at least one", f"There is: {known_names}")
    for value in values:
        one_of(field, value, names)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
