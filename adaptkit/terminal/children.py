"""Work in processes of its own: its memory, its crash and its peaks. For sweeps and comparisons.

They are forked from a process that has imported all that jobs need. On a terminal one job shows its
progress; several at a time are written down and shown whole, one after the other.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from adaptkit.errors import Interrupted, status_of
from adaptkit.runs import heap
from adaptkit.terminal.console import raising_signals
from adaptkit.terminal.libraries import (
    affinity,
    cpu_quota,
    set_environment,
    thread_settings,
)

T = TypeVar("T")
PRELOADED = ["adaptkit.terminal.preloaded"]
STREAMS = (1, 2)  # stdout, stderr

_speaking = threading.Lock()


class Children:
    """Children at work, which are asked to end together: none is started afterwards."""

    def __init__(self) -> None:
        self.living: set[Any] = set()
        self.ended = False
        self.lock = threading.Lock()

    def start(self, child: Any) -> None:
        """Start a child.

        Raises:
            Interrupted: all have been asked to end.
        """
        with self.lock:
            if self.ended:
                raise Interrupted(signal.SIGTERM)
            child.start()
            self.living.add(child)

    def end(self) -> None:
        """Ask all to end; each saves first."""
        with self.lock:
            self.ended = True
            for child in [*self.living]:  # those that end meanwhile leave
                child.terminate()


def work_in_child(
    work: Callable[[Any], T], argument: Any, children: Children, later: bool = False
) -> T:
    """Return what `work(argument)` returns in another process; `later`: show what it said then.

    If this process is asked to end meanwhile, the child may save first.

    Raises:
        EOFError: the child died; the message is how.
        KeyboardInterrupt: this process was asked to end; the child has ended.
    """
    context = _context()
    with tempfile.TemporaryDirectory() if later else contextlib.nullcontext() as folder:
        files = [Path(folder, str(stream)) for stream in STREAMS] if folder else []
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_begin, args=(work, argument, sender, files))
        children.start(child)
        sender.close()
        try:
            with receiver:
                return _answer(receiver, child)
        except EOFError:
            child.join()
            if children.ended:
                raise Interrupted(signal.SIGTERM) from None
            raise EOFError(f"exit code {child.exitcode}") from None
        finally:
            child.join()
            children.living.discard(child)
            with _speaking:
                for file, out in zip(files[::-1], (sys.stderr, sys.stdout), strict=False):
                    show(file, out)


@cache
def _context() -> Any:
    """Return how children begin: forked from a server that has imported all, where that exists."""
    set_environment()  # once: the server reads the environment when it starts
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    return context


def show(file: Path, out: Any) -> None:
    """Write what a child said to a stream, which may be one without bytes."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        out.flush()
        if hasattr(out, "buffer"):
            out.buffer.write(file.read_bytes())
        else:
            out.write(file.read_text(errors="replace"))
        out.flush()


def _answer(receiver: Any, child: Any) -> Any:
    try:
        return receiver.recv()
    except KeyboardInterrupt:
        child.terminate()  # after Ctrl-C it knows already, and a second signal changes nothing
        with contextlib.suppress(EOFError):  # it had not begun, and died of the signal
            answer = receiver.recv()
            if getattr(answer, "status", 0) > 128:
                return answer
        raise  # it was done, or never began; we were asked to end all the same


def _begin(work: Callable[[Any], Any], argument: Any, sender: Any, files: list[Path]) -> None:
    try:
        with raising_signals(), contextlib.suppress(BrokenPipeError):
            gc.freeze()  # what was loaded before the fork stays for good
            heap.keep()
            for stream, file in zip(STREAMS, files, strict=False):
                written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(written, stream)
                os.close(written)
            threading.Thread(target=_end_with_parent, daemon=True).start()
            sender.send(work(argument))
    except KeyboardInterrupt as stop:  # before the work, or after it
        sys.exit(status_of(stop))


def _end_with_parent() -> None:
    """Ask this process to end when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class SideBySide(Generic[T]):
    """Works of which several are under way at a time, each in a child."""

    children: Children = field(default_factory=Children)
    pool: ThreadPoolExecutor | None = None
    waiting: list[Future[T]] = field(default_factory=list)

    def submit(self, work: Callable[..., T], argument: Any, at_a_time: int) -> None:
        """Begin a work as soon as there is room."""
        if self.pool is None:
            share_cores(at_a_time)
            self.pool = ThreadPoolExecutor(at_a_time)
        self.waiting.append(self.pool.submit(partial(work, argument, self.children, True)))

    def wait(self, collect: Callable[[T], None]) -> None:
        """Hand over what the works return, in the order in which they were submitted."""
        while self.waiting:
            outcome = self.waiting[0].result()
            self.waiting.pop(0)
            collect(outcome)

    def stop(self) -> list[T]:
        """Begin no further work, ask the children to end, and return what they return."""
        begun = [future for future in self.waiting if not future.cancel()]
        self.waiting = []
        self.children.end()
        returned = []
        for future in begun:
            with contextlib.suppress(Exception, KeyboardInterrupt):  # another reason ends all
                returned.append(future.result())
        return returned


def share_cores(jobs: int) -> None:
    """Give each of several jobs its part of the cores, unless the user has said how many."""
    cores = min(len(affinity()), cpu_quota() or len(affinity()))
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(cores) // jobs)))
    os.environ.update(thread_settings(threads, jobs))
