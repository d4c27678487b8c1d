"""Methods at an equal budget: each tuned by the same race, each winner repeated on fresh seeds.

The race chooses on training rows that are held out, with the seed of the settings. The repetitions
train on all training rows with the seeds that follow it, and make no choice among their epochs.
They alone are scored on the validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError
from adaptkit.runs.repeat import already_done
from adaptkit.runs.run import Interface, run
from adaptkit.runs.tuning.tune import Make, overrides_of, tune

RACE = "race"


@dataclass(frozen=True)
class Plan:
    """What is compared."""

    cells: Sequence[tuple[list[str], Path]]  # words and folder of a method on a task
    space: Mapping[str, Sequence[Any]]
    budget: int | None  # updates of each race
    seeds: int
    out: Path


def compare(make: Make, plan: Plan, interface: Interface) -> list[str]:
    """Carry out a comparison, or the rest of one; return what failed."""
    failed = []
    for place, (words, folder) in enumerate(plan.cells, 1):
        interface.say(f"{place} of {len(plan.cells)}: {folder}")
        try:
            found = tune(make, words, plan.space, plan.budget, plan.out / folder / RACE, interface)
        except AdaptError as error:
            failed.append(f"{folder}: {error}")
            continue
        chosen = overrides_of(found.winner)
        first = make(words, plan.out / folder / "seed").seed + 1  # the race's own is not fresh
        interface.say(f"{folder}: {found.winner.name} ({found.updates} of {found.grid} updates)")
        for seed in range(first, first + plan.seeds):
            other = [word for word in words if not word.startswith("seed=")]
            fixed = [*other, *chosen, "trainer.keep=last", "trainer.early_stopping_patience=null",
                     f"seed={seed}"]  # fmt: skip
            job = make(fixed, plan.out / folder / f"seed{seed}")
            try:
                if not already_done(job, *state_of(job)):
                    run(job, replace(interface, say=lambda _: None))
            except AdaptError as error:
                failed.append(f"{folder} seed {seed}: {error}")
    return failed


def state_of(job: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the source of a run's rows, and what it would be made of."""
    from adaptkit.runs.identity import made_of

    origin = job.task.origin(job.data)
    return origin.kind, made_of(job, origin)
