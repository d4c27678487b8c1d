"""A progress bar on a terminal; a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from adaptkit.terminal.console import harmless, on_terminal, say

SECONDS_BETWEEN_LINES = 30


class Bar(TrainerCallback):
    """Shows updates, loss, the last score and the time left."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True),
        )  # fmt: skip
        self.notes: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar."""
        if state.is_world_process_zero:
            self.progress.start()
        self.bar = self.progress.add_task(
            self.what, total=state.max_steps, completed=state.global_step, note=""
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.progress.update(self.bar, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the last loss and scores."""
        shown = {
            k.removeprefix("eval_"): f"{v:.4f}"
            for k, v in (logs or {}).items()
            if k == "loss" or k.startswith("eval_")
        }
        self.notes |= shown
        if self.progress.tasks:
            note = " ".join(f"{k} {v}" for k, v in self.notes.items())
            self.progress.update(self.bar, note=harmless(note))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the bar away."""
        self.progress.stop()


class Lines(TrainerCallback):
    """Prints scores as they come, and every half minute where the run stands."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Print a line, if it is time or there are scores."""
        logs = logs or {}
        scores = {k[5:]: v for k, v in logs.items() if k.startswith("eval_")}
        if not state.is_world_process_zero:
            return
        if not scores and time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        shown = scores or {k: logs[k] for k in ("loss",) if k in logs}
        text = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        say(f"update {state.global_step}/{state.max_steps}  {text}")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function that shows how many of how many are done; None: nobody knows."""
    if on_terminal(sys.stderr):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(bar, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{done:,}{f' of {total:,}' if total else ''} {what}")

    yield line


def bars(what: str, ending: ExitStack) -> tuple[TrainerCallback, ...]:
    """Return the callbacks that show progress until `ending` is closed."""
    if not on_terminal(sys.stderr):
        return (Lines(),)
    bar = Bar(what)
    ending.callback(bar.progress.stop)  # it hides the cursor
    return (bar,)
