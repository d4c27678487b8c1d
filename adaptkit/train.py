"""The one entry point of training: Hydra composes, `run` runs, one line is printed.

No torch at import time: a mistake in the configuration is answered before it is needed.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.config.compose import compose_job, plain_data, typed, with_words, without_hydra
from adaptkit.config.groups import CONF
from adaptkit.config.guard import guarded_composition
from adaptkit.config.once import composed_once
from adaptkit.config.overrides import register_resolvers, sweep_lengths, translate_hydra_errors
from adaptkit.config.settings import Settings, settings
from adaptkit.config.words import readable
from adaptkit.errors import AdaptError, ConfigError, Interrupted, status_of
from adaptkit.runs import heap
from adaptkit.runs.repeat import done_before
from adaptkit.storage import hub
from adaptkit.terminal import children, console, protocol, sweep
from adaptkit.terminal.budget import sized, solved

if TYPE_CHECKING:
    from adaptkit.runs.record import RunResult

WORST = (0, 2, 1)  # exit statuses: done, the user's mistake, a failure; a signal's is above 128


@dataclass
class Outcome:
    """How one job of a sweep ended."""

    name: str
    status: int
    result: RunResult | None
    error: str
    directory: str = ""

    def check_interrupted(self) -> None:
        """Raise the interruption that the job ended by.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        if self.status > 128:
            raise Interrupted(self.status - 128)


@dataclass
class Sweep:
    """The jobs of one command; mostly there is one."""

    overrides: list[str]
    started: datetime = field(default_factory=datetime.now)
    begun: int = 0
    total: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    seen: list[Settings] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of the jobs that were carried out
    beside: children.SideBySide[Outcome] = field(default_factory=children.SideBySide)

    def __call__(self, cfg: Any) -> None:
        """Carry out one composed job, unless the sweep has had the same one.

        Raises:
            KeyboardInterrupt: the job was interrupted; the sweep ends.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra, at_a_time = HydraConfig.get(), cfg.trainer.jobs
        several = hydra.mode == RunMode.MULTIRUN
        self.begun += 1
        if several:
            self.announce(hydra)
        job = composed(cfg, hydra, self.is_new)
        if job is None:
            self.total -= 1
        elif isinstance(job, Outcome):
            self.outcomes.append(job)
        elif several and at_a_time > 1:
            self.beside.submit(partial(self.timed, apart), job, min(at_a_time, self.total))
        else:
            self.collect(self.timed(carry_out, job, in_child if several else here))

    def timed(self, work: Callable[..., Outcome], *arguments: Any) -> Outcome:
        """Carry out one job, and note how long it took."""
        clock = time.monotonic()
        outcome = work(*arguments)
        if outcome.result and outcome.result.started_at >= self.started_at:
            self.seconds.append(time.monotonic() - clock)
        return outcome

    def collect(self, outcome: Outcome) -> None:
        """Take in how a job ended.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        self.outcomes.append(outcome)
        outcome.check_interrupted()

    @property
    def started_at(self) -> str:
        """When the sweep began, as records write it."""
        return self.started.astimezone(timezone.utc).isoformat(timespec="seconds")

    def announce(self, hydra: Any) -> None:
        """Say which of how many jobs begins, or waits for its turn."""
        params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
        jobs = math.prod(sweep_lengths([*params, *self.overrides]).values())
        self.total = self.total or jobs
        sweep.announce(self.begun, jobs, typed(hydra), self.seconds)

    def is_new(self, job: Settings) -> bool:
        """Tell whether no job before had the same settings (the same place, if one was typed)."""
        placed = any(word.startswith("output_dir=") for word in self.overrides)
        place = job.output_dir if placed else Path()
        self.seen.append(replace(job, plain={}, output_dir=place))
        return self.seen[-1] not in self.seen[:-1]

    def end(self) -> int:
        """Show and store the table of several jobs; return the worst exit status."""
        if len(self.outcomes) > 1 or self.total > 1:
            sweep.table(self.outcomes, self.total)
            for file in sweep.files(self.outcomes, self.started):
                print(f"  {console.short(str(file))}", flush=True)
        statuses = [outcome.status for outcome in self.outcomes]
        return max(statuses, key=lambda s: WORST.index(s) if s in WORST else s, default=0)


def main(arguments: list[str]) -> int:
    """Run `adaptkit train ARGUMENTS` and return the exit status."""
    import hydra

    register_resolvers()
    heap.keep()
    arguments = readable(arguments)
    jobs = Sweep(overrides := [a for a in arguments if not a.startswith("-")])

    def job(cfg: Any) -> None:
        jobs(cfg)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and we say what is wrong
    before, sys.argv = sys.argv, ["adaptkit train", *arguments]
    try:
        with translate_hydra_errors(overrides), guarded_composition(arguments), composed_once():
            sweep_lengths(overrides)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        jobs.beside.wait(jobs.collect)
    except KeyboardInterrupt as stop:
        jobs.outcomes += jobs.beside.stop()
        jobs.end()
        return status_of(stop)
    except BaseException:
        jobs.beside.stop()
        raise
    finally:
        sys.argv = before
    return jobs.end()


def run(overrides: list[str]) -> RunResult:
    """Carry out one run in this process and return its record.

    Raises:
        AdaptError: a problem that the user can fix.
    """
    for word in overrides:
        if not isinstance(word, str) or word.startswith("-"):
            raise ConfigError(
                f"{word!r}: is not an override. Give texts such as 'method=lora'; flags belong to "
                "the command adaptkit train."
            )
    job = checked(sized(overrides, compose_job))
    return finished(job) or train(job)


def finished(job: Settings) -> RunResult | None:
    """Return the record of a run that is done already; torch is not needed for that.

    Raises:
        AdaptError: the directory holds another run.
    """
    return (done := done_before(job, console.say)) and protocol.completed(job, done)


def train(job: Settings, quiet: bool = False) -> RunResult:
    """Load the libraries and carry out one run; `quiet`: show its progress alone.

    Raises:
        AdaptError: a problem that the user can fix.
    """
    with console.working() as interface:
        from adaptkit.runs.run import run as carry_out_run

        if quiet:
            interface = replace(interface, say=lambda _: None)
        result = carry_out_run(job, interface)
    return protocol.completed(job, result)


def checked(plain: dict[str, Any]) -> Settings:
    """Return settings after all checks that need no torch: is everything within reach?

    Raises:
        AdaptError: a setting is wrong, or data or model cannot be reached.
    """
    job = settings(plain)
    job.tracker.check_installed()
    job.model.check_installed()
    job.trainer.check_processes()
    job.task.origin(job.data)
    hub.check_model(job.model.path, job.model.revision)
    protocol.check(job)
    return job


def composed(
    cfg: Any, hydra: Any, is_new: Callable[[Settings], bool]
) -> dict[str, Any] | Outcome | None:
    """Return a job as plain data, how it has failed already, or None: it is not new."""
    try:  # its directory may not be known yet
        plain = plain_data(without_hydra(cfg))
        if size := solved(plain, hydra.overrides.task):
            plain = plain_data(without_hydra(with_words(cfg, hydra, size)))
        job = settings(plain)
        job.tracker.check_installed()
        job.model.check_installed()
        if not is_new(job):  # all that can be checked without torch
            console.say("the same settings as a job before it: not repeated")
            return None
    except AdaptError as error:
        console.error(str(error))
        return Outcome(typed(hydra), error.status, None, str(error))
    return plain


def carry_out(plain: dict[str, Any], start: Callable[[Settings], Outcome]) -> Outcome:
    """Start one job unless it is done; every failure becomes an exit status and a message."""
    name = console.short(plain["output_dir"])
    directory = Path(plain["output_dir"])
    try:
        job = checked(plain)
        if done := finished(job):
            console.result(done, directory)
            return Outcome(name, 0, done, "", str(directory))
        return start(job)
    except AdaptError as error:
        console.error(str(error))
        return Outcome(name, error.status, None, str(error), str(directory))
    except KeyboardInterrupt as stop:
        return Outcome(name, console.interrupted(stop, plain), None, "interrupted", str(directory))
    except Exception as error:
        message = console.unexpected(error, directory)
        return Outcome(name, 1, None, message, str(directory))


def here(job: Settings, quiet: bool = False) -> Outcome:
    """Run one job in this process."""
    result = train(job, quiet)
    console.result(result, job.output_dir)
    return Outcome(console.short(str(job.output_dir)), 0, result, "", str(job.output_dir))


def in_child(job: Settings) -> Outcome:
    """Run one job of several in a process of its own."""
    return apart(job.typed, children.Children())


def apart(
    plain: dict[str, Any], siblings: children.Children, later: bool = False, quiet: bool = False
) -> Outcome:
    """Carry out one job in a process of its own; `later`: show what it said when it is done."""
    try:
        work = partial(carry_out, start=partial(here, quiet=quiet))
        return children.work_in_child(work, plain, siblings, later)
    except EOFError as end:
        name = console.short(plain["output_dir"])
        message = f"the process died ({end}): killed, or out of memory"
        console.error(f"{name}: {message}")
        return Outcome(name, 1, None, message, plain["output_dir"])


if __name__ == "__main__":  # python -m adaptkit.train method=lora task=sst2
    sys.exit(console.guarded(main, sys.argv[1:]))
