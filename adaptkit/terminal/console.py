"""What the user sees: progress, one clear line at the end, errors of a few lines. No torch here."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from adaptkit.errors import TERMINATING, AdaptError, Interrupted, machine_failures, status_of
from adaptkit.storage.files import is_main_process
from adaptkit.terminal.libraries import set_environment, without_garbage_collection

if TYPE_CHECKING:
    from rich.console import Console

    from adaptkit.runs.record import RunResult
    from adaptkit.runs.run import Interface


def guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command; return its exit status: 0 done, 2 a problem to fix, 1 a failure."""
    try:
        with raising_signals(), machine_failures(Path.cwd()):
            return command(arguments)
    except AdaptError as problem:
        error(str(problem))
        return problem.status
    except Interrupted as stop:
        error(f"interrupted by {stop}")
        return stop.status
    except KeyboardInterrupt:
        error("interrupted")
        return 130
    except BrokenPipeError:
        if sys.stderr:
            sys.stderr.close()
        return 0
    except OSError as problem:  # outside of any run: a folder that cannot be written, for example
        error(str(problem))
        return 1


@contextlib.contextmanager
def raising_signals() -> Iterator[None]:
    """Let a request to end raise Interrupted, as Ctrl-C does; one that is ignored stays ignored."""

    def handle(number: int, frame: Any) -> None:
        raise Interrupted(number)

    main = threading.current_thread() is threading.main_thread()
    default = [s for s in TERMINATING if main and signal.getsignal(s) == signal.SIG_DFL]
    for number in default:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


def error(message: str) -> None:
    """Print a message for the user on the error channel."""
    print(harmless(f"adaptkit: {message}"), file=sys.stderr)


def say(message: str) -> None:
    """Print a remark on the error channel: standard output carries results only."""
    if not is_main_process():
        return
    print(harmless(message), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Print a line of results."""
    print(harmless(text), flush=True)


def harmless(text: str) -> str:
    """Return text as a terminal may see it: control characters, of data for example, as codes.

    So are marks that turn the direction of writing, and bytes of file names that are not text.
    """
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        ascii(c)[1:-1] if c not in "\n\u200c\u200d" and unicodedata.category(c) in kinds else c
        for c in text
    )


def unexpected(problem: Exception, directory: Path) -> str:
    """Say in one line that the program failed, and write the traceback to the run's log."""
    message = (
        f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem) else ''}"
    )
    log = directory / "train.log"
    trace = "".join(traceback.format_exception(problem))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(trace)
        error(f"unexpected failure: {message} The traceback is in {log}.")
    except OSError:
        error(f"unexpected failure: {message}\n{trace}")
    return message


def interrupted(stop: KeyboardInterrupt, run: Any) -> int:
    """Say what becomes of a run that was asked to end, and return the exit status."""
    from adaptkit.runs.directory import CHECKPOINTS
    from adaptkit.runs.record import RunResult
    from adaptkit.training.checkpoints import last_sealed

    directory, name = run["output_dir"], short(run["output_dir"])
    update = last_sealed(Path(directory) / CHECKPOINTS)
    waits = run.get("suite") or run.get("protocol")
    record = RunResult.read(Path(directory)) if waits else None
    if record and record.status == "done":
        rest = "carries out its protocol" if run.get("protocol") else "scores its suite"
        way_on = f"the run itself is done, and the same command {rest}"
    elif update is None:
        way_on = "there is no checkpoint yet, so the same command starts again"
    elif run["trainer"].get("resume") == "never":
        way_on = f"without trainer.resume=never the same command resumes from update {update}"
    else:
        way_on = f"the same command resumes from update {update}"
    if is_main_process():
        error(f"interrupted; {way_on} ({name})")
    return status_of(stop)


def on_terminal(stream: TextIO | None) -> bool:
    """Tell whether somebody watches a standard stream; None: it is closed."""
    return stream is not None and stream.isatty()


def screen(width: int = 160) -> Console:
    """Return what tables are printed on: as wide as the terminal, or `width` in a file."""
    from rich.console import Console

    return Console(width=None if on_terminal(sys.stdout) else width)


def short(directory: str) -> str:
    """Return a run directory as the user would type it."""
    try:
        return str(Path(directory).relative_to(Path.cwd()))
    except ValueError:
        return directory


@contextlib.contextmanager
def working() -> Iterator[Interface]:
    """Silence the libraries, load them, and give the run its way to speak."""
    set_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with waiting("loading libraries"), without_garbage_collection():
            import datasets
            import transformers

            from adaptkit.runs.run import Interface
            from adaptkit.terminal.progress import bars, counting

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        for noisy in (
            "accelerate",
            "datasets",
            "evaluate",
            "huggingface_hub",
            "torch.onnx",
            "onnxscript",
            "onnx_ir",
        ):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        with contextlib.ExitStack() as ending:  # however it ends, the bar goes away
            yield Interface(say, lambda what: bars(what, ending), counting)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on a terminal while something takes seconds."""
    if not on_terminal(sys.stderr):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def result(record: RunResult, directory: Path) -> None:
    """Print the one line a run ends with."""
    if not is_main_process():
        return
    show(line(record))
    from adaptkit.reports.published import places

    for place in places(record, directory):
        show(f"  {place}")
    if record.ood:
        from adaptkit.terminal.suite import table

        table(record.ood)
    for after in record.after.values():
        from adaptkit.terminal import protocol

        protocol.table(after)
    show(f"  {directory}")


def line(record: RunResult) -> str:
    """Return a finished run as one sentence."""
    name = "/".join((record.task, record.model, record.method))
    others = "".join(
        f", {key} {decimal(value)}" for key, value in record.scores.items() if key != record.metric
    )
    score = f"{record.metric} {decimal(record.score)}{baseline(record)}"
    return (
        f"{name} seed {record.seed}: {score}{others}{sample(record)} "
        f"({record.split}, {record.data['rows']['validation']} rows{moment(record)})"
        f"{described(record)}; {record.params['trainable']:,} parameters, "
        f"{size(record.delta_bytes)}, {record.time['total_seconds']:.0f} s"
    )


def moment(record: RunResult) -> str:
    """Return after which update a run is scored, and which rows chose it."""
    from adaptkit.runs.selection import OPTIMISTIC

    if not record.updates:
        return ""
    words = f", best at update {record.best_update} of {record.updates}"
    if record.settings.get("trainer.keep") == "last":
        words = f", after update {record.updates}"
    if record.select_on == "holdout":
        return f"{words} by {record.selection_rows} held-out training rows"
    return words + (f"; {OPTIMISTIC}" if record.select_on == "validation" else "")


def described(record: RunResult) -> str:
    """Return the description length of the labels, if it was measured."""
    if not record.description:
        return ""
    kilobits, shorter = record.description["bits"] / 1000, record.description["compression"]
    return f"; description length {kilobits:.1f} kbit, compression {shorter:.2f}"


def baseline(record: RunResult) -> str:
    """Return the score of the trivial predictor, in brackets, and whether it is another one."""
    if not record.baseline:
        return ""
    name, value = record.baseline["name"], record.baseline["value"]
    shown = f"{name} {decimal(value)}" if value is not None else name
    if record.indistinct:
        shown = f"not distinguishable from {shown}"
    elif record.below_trivial:
        shown = f"below {shown}"
    elif value is None:
        return ""
    return f" ({shown})"


def decimal(score: float | None) -> str:
    """Return a score to four places; a correlation with a constant is undefined."""
    return "undefined" if score is None or score != score else f"{score:.4f}"


def scores(record: RunResult) -> str:
    """Return all scores of a record as words, with the baseline of the deciding one."""
    words = [
        f"{name} {decimal(value)}{baseline(record) if name == record.metric else ''}"
        for name, value in record.scores.items()
    ]
    return ", ".join(words) + sample(record)


def sample(record: RunResult) -> str:
    """Return the mark of scores that say nothing about the real task."""
    return " ON SAMPLE DATA" if record.data["source"] == "sample" else ""


def size(count: float) -> str:
    """Return a number of bytes in a unit a person reads."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
