"""A signal that arrives while a model trains: it waits until a checkpoint is written.

Python's own way, an exception at whatever line runs, would lose all updates since the last save. A
second Ctrl-C does just that.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from adaptkit.errors import TERMINATING, Interrupted
from adaptkit.training.scorer import distributed


class Interruption:
    """Notes the first signal. Signals that are ignored, or end the process, are left alone."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self.say = say
        self.number: int | None = None
        self.agreed = False  # by all processes, when the update under way began

    def came(self) -> bool:
        """Tell whether this process got a signal."""
        return self.number is not None

    def is_due(self) -> bool:
        """Tell whether a checkpoint is wanted after this update, in all processes alike."""
        return self.agreed if distributed() else self.came()

    def raise_if_due(self) -> None:
        """End training once the checkpoint is written.

        Raises:
            Interrupted: a signal came.
        """
        if self.is_due():
            raise Interrupted(self.number or signal.SIGTERM)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note signals instead of raising them.

        Raises:
            Interrupted: a signal came after the last save.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        handlers = {number: signal.getsignal(number) for number in TERMINATING}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in handlers:
            signal.signal(number, self.note)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.number is not None:
            raise Interrupted(self.number)

    def note(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        if self.number is not None:
            if number == signal.SIGINT:
                raise Interrupted(number)
            return
        self.number = number
        with suppress(RuntimeError):  # the signal came in the middle of another message
            once_more = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            name = signal.Signals(number).name
            self.say(f"{name}: saving a checkpoint after this update{once_more}")
