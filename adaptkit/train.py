"""The one entry point of training: Hydra composes, `run` runs, one line is printed.

No torch at import time: a mistake in the configuration is answered before it is needed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.config.compose import compose_job, plain_data
from adaptkit.config.groups import CONF
from adaptkit.config.overrides import register_resolvers, translate_hydra_errors
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError, Interrupted
from adaptkit.runs.directory import claimed
from adaptkit.runs.repeat import done_before
from adaptkit.storage import hub
from adaptkit.terminal import console
from adaptkit.terminal.libraries import set_environment

if TYPE_CHECKING:
    from adaptkit.runs.record import RunResult


@dataclass
class Outcome:
    """How one job of a sweep ended."""

    name: str
    status: int
    result: RunResult | None
    error: str


def main(arguments: list[str]) -> int:
    """Run `adaptkit train ARGUMENTS` and return the exit status."""
    import hydra

    register_resolvers()
    outcomes: list[Outcome] = []

    def job(cfg: Any) -> None:
        outcomes.append(run_job(cfg))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and we say what is wrong
    before, sys.argv = sys.argv, ["adaptkit train", *arguments]
    try:
        with translate_hydra_errors([a for a in arguments if not a.startswith("-")]):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    finally:
        sys.argv = before
    if len(outcomes) == 1:
        return outcomes[0].status
    if outcomes:
        console.table(outcomes)
    return int(any(outcome.status for outcome in outcomes))


def run(overrides: list[str]) -> RunResult:
    """Carry out one run in this process and return its record.

    Raises:
        AdaptError: a problem that the user can fix.
    """
    job = checked(compose_job(overrides))
    return finished(job) or train(job)


def finished(job: Settings) -> RunResult | None:
    """Return the record of a run that is done already; torch is not needed for that.

    Raises:
        AdaptError: the directory holds another run, or another process is at work there.
    """
    with claimed(job.output_dir):
        return done_before(job, console.say)


def train(job: Settings) -> RunResult:
    """Load the libraries and carry out one run.

    Raises:
        AdaptError: a problem that the user can fix.
    """
    with console.working() as interface:
        from adaptkit.runs.run import run as carry_out_run

        return carry_out_run(job, interface)


def checked(plain: dict[str, Any]) -> Settings:
    """Return settings after all checks that need no torch: is everything within reach?

    Raises:
        AdaptError: a setting is wrong, or data or model cannot be reached.
    """
    job = settings(plain)
    job.task.origin(job.data)
    hub.check_model(job.model.path, job.model.revision)
    return job


def run_job(cfg: Any) -> Outcome:
    """Carry out one composed job: here, or in a child process where it is one of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    plain: dict[str, Any] = {}
    cfg = OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"])
    name = " ".join(HydraConfig.get().overrides.task)  # its directory may not be known yet
    try:
        plain = plain_data(cfg)
        settings(plain)  # all that can be checked without torch
    except AdaptError as error:
        console.error(str(error))
        return Outcome(name, error.status, None, str(error))
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return in_child(plain)
    return carry_out(plain)


def carry_out(plain: dict[str, Any]) -> Outcome:
    """Run one job in this process; every failure becomes an exit status and a short message."""
    name = console.short(plain["output_dir"])
    directory = Path(plain["output_dir"])
    try:
        job = checked(plain)
        result = finished(job) or train(job)
        console.result(result, directory)
        return Outcome(name, 0, result, "")
    except AdaptError as error:
        console.error(str(error))
        return Outcome(name, error.status, None, str(error))
    except KeyboardInterrupt as stop:
        return Outcome(name, console.interrupted(stop, plain), None, "interrupted")
    except Exception as error:
        message = console.unexpected(error, directory)
        return Outcome(name, 1, None, message)


def in_child(plain: dict[str, Any]) -> Outcome:
    """Run one job of a sweep in a process of its own: its memory, its crash and its peaks."""
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(kind)
    set_environment()
    if kind == "forkserver":
        context.set_forkserver_preload(["adaptkit.runs.run"])  # import torch once for all jobs
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(plain, sender))
    child.start()
    sender.close()
    try:
        outcome = answer(receiver, child)
    except EOFError:
        child.join()
        name = console.short(plain["output_dir"])
        message = f"the process died (exit code {child.exitcode}): killed, or out of memory"
        console.error(f"{name}: {message}")
        return Outcome(name, 1, None, message)
    child.join()
    if outcome.status > 128:
        raise Interrupted(outcome.status - 128)
    return outcome


def answer(receiver: Any, child: Any) -> Outcome:
    """Return what a child sends; if this process is asked to end, let the child save first."""
    try:
        return receiver.recv()
    except KeyboardInterrupt:
        child.terminate()  # after Ctrl-C it knows already, and a second signal changes nothing
        with contextlib.suppress(EOFError):
            receiver.recv()
        raise


def _child(plain: dict[str, Any], sender: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with console.raising_signals(), contextlib.suppress(BrokenPipeError):
        sender.send(carry_out(plain))


def _end_with_parent() -> None:
    """Ask this process to end when the sweep that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":  # python -m adaptkit.train method=lora task=sst2
    sys.exit(console.guarded(main, sys.argv[1:]))
