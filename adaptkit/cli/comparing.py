"""compare: the same race for every method, fresh seeds for its winner, one report. No torch.

The race chooses on training rows that are held out, with the seed of the settings. The repetitions
train on all training rows with the seeds that follow it, and make no choice among their epochs.
They alone are scored on the validation rows. Every race and every repetition is a process of its
own: if one dies, the others go on, and the memory of each is its own. Methods may be under way side
by side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adaptkit.cli.parser import command
from adaptkit.cli.reporting import report_
from adaptkit.cli.tuning import (
    add_options,
    check_one_process,
    check_words,
    made,
    number,
    say_sample,
    space_of,
)
from adaptkit.config.settings import Settings
from adaptkit.errors import (
    AdaptError,
    ConfigError,
    Interrupted,
    MachineError,
    machine_failures,
    status_of,
)
from adaptkit.runs.directory import CONFIG, differences
from adaptkit.runs.repeat import done_before
from adaptkit.terminal import children, console
from adaptkit.terminal.budget import SOLVED, sized
from adaptkit.train import WORST, apart, carry_out, checked

RACE = "race"
Cell = tuple[list[str], Path]  # words and folder of a method on a task


@dataclass(frozen=True)
class Race:
    """What a race is to choose."""

    words: Sequence[str]
    space: Mapping[str, Sequence[Any]]
    budget: int | None  # updates
    folder: Path
    sizes: Mapping[str, list[str]]  # that budgets have been solved for: `budget.SOLVED`


@dataclass(frozen=True)
class CellEnd:
    """How a race and the repetitions of its winner ended."""

    runs: Sequence[Path] = ()  # folders of the repetitions
    done: int = 0  # how many of them have a score
    failed: Sequence[str] = ()
    status: int = 0


@dataclass(frozen=True)
class RaceEnd:
    """How a race ended."""

    status: int
    error: str = ""
    chosen: Sequence[str] = ()  # overrides
    updates: tuple[int, int] = (0, 0)  # of the race, and of all its candidates in full
    sizes: Mapping[str, list[str]] = field(default_factory=dict)  # as in Race


def compare_(arguments: list[str]) -> int:
    """`adaptkit compare method=M1,M2 task=T1,T2 [OVERRIDES] [--seeds N] [--budget N]`."""
    parser = command(
        "compare",
        "Tune every method in the same way, repeat the winners with fresh seeds, and report.",
    )
    add_options(parser)
    parser.add_argument("--seeds", type=number, default=5, metavar="N", help="runs of each winner")
    parser.add_argument("--out", type=Path, default=Path("outputs", "compare"),
                        help="default: outputs/compare")  # fmt: skip
    parser.add_argument("--jobs", type=number, default=1, metavar="N",
                        help="methods at a time, each on its part of the cores")  # fmt: skip
    parser.add_argument("--control", action="store_true",
                        help="a row with random weights for every method")  # fmt: skip
    args = parser.parse_intermixed_args(arguments)
    check_one_process("compare")
    check_words(args.overrides, several=("method", "task"))
    cells = grid_of(args.overrides, args.control)
    space = space_of(args.search)
    if any(word.startswith(("data.eval_rows=", "+data.eval_rows=")) for word in args.overrides):
        raise ConfigError("data.eval_rows: draws other rows for every seed, whose scores could not "
                          "be compared. Leave it out.")  # fmt: skip
    # every mistake is found before the first run
    say_sample([checked(sized([*words, "output_dir=unused"])) for words, _ in cells])
    races = [
        Race(words, space, args.budget, args.out / folder / RACE, SOLVED) for words, folder in cells
    ]
    ends = carry_out_all(races, args.seeds, min(args.jobs, len(races)))
    runs = sorted(run for end in ends for run in end.runs)
    if any(end.done for end in ends):
        for line in (line for end in ends for line in end.failed):
            console.say(f"WARNING: {line}")
        files = [f"--out={args.out / name}" for name in ("report.html", "report.md", "report.json")]
        report_([*map(str, runs), *files])  # of these runs alone: others may lie beside them
    return max((end.status for end in ends), key=WORST.index)


def carry_out_all(races: Sequence[Race], seeds: int, jobs: int) -> list[CellEnd]:
    """Carry out the races and repetitions of all methods, `jobs` methods at a time.

    Raises:
        KeyboardInterrupt: they were interrupted.
    """
    ends: list[CellEnd] = []
    beside: children.SideBySide[CellEnd] = children.SideBySide()
    try:
        for place, race in enumerate(races, 1):
            work = partial(carry_out_cell, f"{place} of {len(races)}", seeds)
            if jobs > 1:
                beside.submit(work, race, jobs)
            else:
                ends.append(work(race, beside.children, False))
        beside.wait(ends.append)
    except BaseException:
        beside.stop()
        raise
    return ends


def carry_out_cell(
    place: str, seeds: int, race: Race, siblings: children.Children, later: bool
) -> CellEnd:
    """Carry out a race and the repetitions of its winner, or the rest of them.

    later: show what a run said when it is done.

    Raises:
        KeyboardInterrupt: they were interrupted.
    """
    folder = race.folder.parent
    console.say(f"{place}: {console.short(str(folder))}")
    try:
        return carried_out(seeds, race, siblings, later)
    except AdaptError as error:
        console.error(f"{folder}: {error}")
        return CellEnd(failed=[f"{folder}: {error}"], status=error.status)
    except KeyboardInterrupt:
        siblings.end()
        raise


def carried_out(seeds: int, race: Race, siblings: children.Children, later: bool) -> CellEnd:
    """Carry out a race and the repetitions of its winner.

    Raises:
        AdaptError: the race failed.
        KeyboardInterrupt: they were interrupted.
    """
    folder = race.folder.parent
    try:
        end = children.work_in_child(race_here, race, siblings, later)
    except EOFError as death:
        end = RaceEnd(1, f"the process of the race died ({death}): killed, or out of memory")
    if end.status > 128:
        raise Interrupted(end.status - 128)
    if end.status:
        raise AdaptError(end.error) if end.status == AdaptError.status else MachineError(end.error)
    SOLVED.update(end.sizes)
    updates, whole = end.updates
    console.say(f"{folder}: {' '.join(end.chosen)} ({updates} of {whole} updates)")
    first = made(race.words, folder).seed + 1  # the race's own is not fresh
    words = [word for word in race.words if not word.startswith("seed=")]
    fixed = [*words, *end.chosen, "trainer.keep=last", "trainer.early_stopping_patience=null"]
    runs, failed, statuses = [], [], [0]
    for seed in range(first, first + seeds):
        job = made([*fixed, f"seed={seed}"], folder / f"seed{seed}")
        if not is_done(job):
            outcome = carry_out(
                job.typed, lambda job: apart(job.typed, siblings, later, quiet=True)
            )
            outcome.check_interrupted()
            statuses.append(outcome.status)
            if outcome.status:
                failed.append(f"{folder} seed {seed}: {outcome.error}")
        # A failed one counts as well, but not one of other settings that lies there.
        if (job.output_dir / CONFIG).is_file() and not differences(job.output_dir, job.plain):
            runs.append(job.output_dir)
    return CellEnd(runs, seeds - len(failed), failed, max(statuses, key=WORST.index))


def is_done(job: Settings) -> bool:
    """Tell whether a run need not be repeated; what is wrong with its folder is said elsewhere."""
    with contextlib.suppress(AdaptError):
        return done_before(job, lambda _: None) is not None
    return False


def race_here(race: Race) -> RaceEnd:
    """Carry out a race in this process."""
    SOLVED.update(race.sizes)
    try:
        with machine_failures(race.folder), console.working() as interface:
            from adaptkit.runs.tuning.tune import overrides_of, tune

            found = tune(made, race.words, race.space, race.budget, race.folder, interface)
    except AdaptError as error:
        return RaceEnd(error.status, str(error))
    except KeyboardInterrupt as stop:
        return RaceEnd(status_of(stop))
    except Exception as error:
        return RaceEnd(1, console.unexpected(error, race.folder))
    return RaceEnd(0, "", overrides_of(found.winner), (found.updates, found.grid), dict(SOLVED))


def grid_of(overrides: Sequence[str], control: bool) -> list[Cell]:
    """Return the words and the folder of every method on every task.

    Raises:
        ConfigError: there are not several methods, or another word has several values.
    """
    lists: dict[str, list[str]] = {"method": [], "task": []}
    rest = []
    for word in overrides:
        key, _, value = word.partition("=")
        values = [one for one in value.strip("[]").split(",") if one]
        if key in lists and (lists[key] or not values):
            raise ConfigError(f"{word}: write {key}=A,B, once, with names between the commas.")
        if key in lists:
            lists[key] = values
        else:
            rest.append(word)
    if not lists["method"] or len(set(lists["method"])) < len(lists["method"]):
        raise ConfigError("method: name the methods, each once, as in method=lora,bitfit,full.")
    cells = []
    for task in lists["task"] or ["sst2"]:
        for method in lists["method"]:
            words = [f"method={method}", f"task={task}", *rest]
            cells.append((words, Path(task, method)))
            if control:
                cells.append(
                    ([*words, "model.random_weights=true"], Path(task, f"{method}-random"))
                )
    return cells
