"""Choose settings by a race on rows that are held out of training, and write them as a recipe.

Every candidate is a run in a folder of its own, trained with `data.holdout=true` and without a
choice among its epochs. It stops at a rung by a checkpoint and goes on from there to the bit. The
state of the race is in race.json: a race that was killed goes on where it was.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adaptkit.config.search import RATE
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs.directory import CHECKPOINTS, locked
from adaptkit.runs.record import RunResult
from adaptkit.runs.run import Interface, run
from adaptkit.runs.tuning.race_state import State
from adaptkit.runs.tuning.racing import (
    NO_FLOOR,
    Candidate,
    Course,
    Floor,
    Score,
    challenge,
    cost_of,
    length_for,
    race,
    rungs_of,
    shown,
)
from adaptkit.runs.tuning.recipe import recipe
from adaptkit.runs.tuning.yardsticks import floor_of, own_length
from adaptkit.storage.files import write_text

STEPS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # decades around the file's rate
WIDENED = 2  # times beyond the least or the greatest rate
STATE, RECIPE = "race.json", "recipe.yaml"
Make = Callable[[Sequence[str], Path], Settings]  # overrides, folder -> settings


class Paused(BaseException):
    """A run has come to its rung, and its checkpoint is written."""


@dataclass(frozen=True)
class Tuned:
    """The outcome of a race."""

    winner: Candidate
    candidates: list[Candidate]
    rungs: list[int]
    recipe: Path
    floor: Floor

    @property
    def updates(self) -> int:
        """Return the updates that the race took."""
        return sum(one.updates for one in self.candidates)

    @property
    def score(self) -> str:
        """Return what the winner reached, as it is shown."""
        return self.winner.score_after(self.rungs[-1], self.floor)

    @property
    def empty(self) -> str:
        """Return the sentence that nothing was learned; empty: something was."""
        if self.floor == NO_FLOOR or self.winner.learned(self.rungs[-1], self.floor):
            return ""
        return (f"no candidate has learned anything ({self.winner.least(self.floor)}): "
                "the choice says little")  # fmt: skip

    @property
    def tried(self) -> int:
        """Return how many candidates were scored."""
        return sum(bool(one.scores) for one in self.candidates)

    @property
    def grid(self) -> int:
        """Return the updates that they would have taken in full."""
        return self.tried * self.rungs[-1]


def around(rate: float) -> list[float]:
    """Return rates around one, three to a decade on a log scale, with three digits."""
    return [float(f"{rate * 10**step:.3g}") for step in STEPS]


def values_of(space: Mapping[str, Sequence[Any] | None], rate: float) -> dict[str, Sequence[Any]]:
    """Return the values to try, those of the rate filled in if there are none to choose from.

    Raises:
        AdaptError: a setting has no values.
    """
    found = {key: around(rate) if values is None else values
             for key, values in (space or {RATE: None}).items()}  # fmt: skip
    if empty := [key for key, values in found.items() if not values]:
        raise AdaptError(f"--search {empty[0]}: has no values. Write {empty[0]}=V1,V2.")
    return found


def tune(
    make: Make,
    words: Sequence[str],
    space: Mapping[str, Sequence[Any]],
    budget: int | None,
    folder: Path,
    interface: Interface,
) -> Tuned:
    """Race the candidates of a space; `budget`: updates of the whole race, None: full runs.

    space: setting -> its values; empty: what the method's file says.

    Raises:
        AdaptError: the space is empty or holds a wrong value, the budget is too small, the folder
            holds another race, or every candidate failed.
    """
    base = make(words, folder / "base")
    space = values_of(space or base.search, base.optimizer.lr)
    larger = base.task.larger_is_better
    candidates = [Candidate(dict(zip(space, values, strict=True)), larger=larger)
                  for values in product(*space.values())]  # fmt: skip
    for one in candidates:  # a mistake is found before the first run
        make([*words, *overrides_of(one)], place_of(folder, one))
    floor, count = floor_of(base, space), len(candidates)
    length = own_length(base) if budget is None else length_for(budget, count, floor != NO_FLOOR)
    state = State(folder / STATE, [*words], rungs_of(count, length), candidates, floor)
    with locked(folder):
        return raced(make, words, base, state, budget, folder, interface)


def raced(
    make: Make, words: Sequence[str], base: Settings, state: State, budget: int | None,
    folder: Path, interface: Interface,
) -> Tuned:  # fmt: skip
    """Carry out a race, or the rest of one, and write its recipe."""
    (candidates, floor), rungs = state.load(), state.rungs
    worst = (False, floor != NO_FLOOR)
    least, most = (cost_of(len(state.candidates), rungs, most) for most in worst)
    interface.say(
        f"{len(state.candidates)} candidates, compared after {', '.join(map(str, rungs))} updates: "
        f"{least}{f' to {most}' if most > least else ''} updates instead of "
        f"{len(state.candidates) * rungs[-1]}"
    )

    def advance(one: Candidate, rung: int) -> Score:
        return trained(make, words, one, rungs, rung, folder, interface)

    def note(line: str) -> None:
        interface.say(line)
        state.save(candidates, floor)

    def affordable(newcomer: Candidate, rung: int) -> bool:
        others = sum(one.updates for one in candidates if one is not newcomer)
        return budget is None or others + rung <= budget

    first = len(state.candidates)
    course = Course(rungs, advance, note, floor, affordable)
    winner = widened(candidates, first, race(candidates[:first], course), course)
    for one in candidates:
        if one is not winner:
            shutil.rmtree(place_of(folder, one) / CHECKPOINTS, ignore_errors=True)
    state.save(candidates, floor)
    made = Tuned(winner, candidates, rungs, folder / RECIPE, floor)
    if made.empty:
        interface.say(f"WARNING: {made.empty}")
    write_text(made.recipe, recipe(made, words, base))
    return made


def overrides_of(one: Candidate) -> list[str]:
    """Return what sets a candidate's values."""
    return [f"{key}={shown(value)}" for key, value in one.values.items()]


def widened(
    candidates: list[Candidate], first: int, winner: Candidate, course: Course
) -> Candidate:
    """Go beyond the grid while the winner, which has learned something, stands at its edge.

    first: how many candidates are of the grid itself.
    """
    if not winner.learned(course.rungs[-1], course.floor):
        return winner
    rates = sorted({one.values[RATE] for one in candidates[:first] if RATE in one.values})
    for _ in range(WIDENED):
        if len(rates) < 2 or winner.values[RATE] not in (rates[0], rates[-1]):
            return winner
        low = winner.values[RATE] == rates[0]
        factor = rates[1] / rates[0] if low else rates[-1] / rates[-2]
        beyond = float(f"{rates[0] / factor if low else rates[-1] * factor:.3g}")
        values = {**winner.values, RATE: beyond}
        newcomer = next((one for one in candidates if one.values == values),
                        Candidate(values, larger=winner.larger))  # fmt: skip
        if newcomer not in candidates:  # else the race was stopped and goes on
            candidates.append(newcomer)
        rates = sorted((*rates, beyond))
        course.note(f"{winner.name} is at the edge of the grid: {RATE}={beyond:g} is tried as well")
        better = challenge(newcomer, winner, course)
        if better is winner:
            return winner
        winner = better
    course.note(f"{winner.name} is still at the edge of the grid: name rates beyond it "
                "with --search")  # fmt: skip
    return winner


def trained(
    make: Make, words: Sequence[str], one: Candidate, rungs: Sequence[int], rung: int,
    folder: Path, interface: Interface,
) -> Score:  # fmt: skip
    """Train a candidate up to a rung, on from where it stopped, and return its score."""
    fixed = [f"trainer.max_steps={rungs[-1]}", f"trainer.eval_every={rungs[0]}",
             "trainer.checkpoint_every=null", "trainer.keep=last", "data.holdout=true",
             "trainer.early_stopping_patience=null"]  # fmt: skip
    job = make([*words, *overrides_of(one), *fixed], place_of(folder, one))
    watch = Watch(rung, job.task.headline, job.task.larger_is_better)
    quiet = replace(interface, say=lambda _: None,
                    callbacks=lambda what: (*interface.callbacks(what), watch))  # fmt: skip
    try:
        result: RunResult | None = run(job, quiet)
    except Paused:
        result = None
    if result is not None and watch.reached is None:
        value, loss = result.score, result.scores.get("loss")
        return scored(value, loss, job.task.larger_is_better)
    return watch.reached or (-math.inf, -math.inf)


def scored(value: float | None, loss: float | None, larger: bool) -> Score:
    """Return a score and minus a loss, so that more is better; undefined ones are the worst."""
    worst = -math.inf
    one = worst if value is None or not math.isfinite(value) else value if larger else -value
    return one, worst if loss is None or not math.isfinite(loss) else -loss


class Watch(TrainerCallback):
    """Ends a run at its rung, when its checkpoint is written; not at its last update."""

    def __init__(self, rung: int, headline: str, larger: bool) -> None:
        self.rung, self.headline, self.larger = rung, headline, larger
        self.reached: Score | None = None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop at the rung."""
        if state.global_step == self.rung < state.max_steps:
            self._stop(state)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop at once if a run that was interrupted had come to the rung."""
        if self.rung <= state.global_step < state.max_steps:
            self._stop(state)

    def _stop(self, state: Any) -> None:
        for entry in state.log_history:  # a form that generates is compared by its loss
            if entry.get("step") == self.rung and "eval_loss" in entry:
                value = entry.get(f"eval_{self.headline}")
                self.reached = scored(value, entry["eval_loss"], self.larger)
        raise Paused


def place_of(folder: Path, one: Candidate) -> Path:
    """Return the folder of a candidate's run."""
    return folder / (one.name.replace("/", "_").replace(" ", ",") or "candidate")
