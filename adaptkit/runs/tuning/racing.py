"""Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).

    n candidates train for R / eta^(K-1) updates, the best ceil(n / eta) of them for R / eta^(K-2),
    and so on; one is left for the last rung, which is all R updates.     eta = 3, K at most 3

Candidates that go on continue where they stopped, on the schedule of all R updates: nothing is
computed twice. Scores are those of held-out rows: a larger score wins, then a smaller loss.

A candidate has learned something if its score is above that of the trivial answer by more than
chance, and its loss at a rung below that of an answer which does not look at the row (`Floor`): a
model that has hardly been trained may score well by luck, but its loss is as it began. The loss of
one that is too sure of itself may have risen again: a score far above chance is enough. So is a
loss that luck cannot explain: F1 hardly moves where the trivial answer scores well. Candidates
that have learned nothing yet come after the others, in the order of their losses. If fewer than
would go on have learned something at one of the first two of three rungs, as many go on as came
there by plan: n from the first, ceil(n / eta) from the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from adaptkit.errors import AdaptError, MachineError

ETA = 3
MOST_RUNGS = 3
LEAST = 4  # updates of the first rung
FAILED = "failed:"
Score = tuple[float, float]  # so that more is better: the score, minus the loss


class Floor(NamedTuple):
    """What a candidate that has learned something exceeds; minus infinity: there is none."""

    score: float = -math.inf  # the trivial answer's and chance
    loss: float = -math.inf  # minus the loss of a constant answer
    sure: float = -math.inf  # a score with which the loss does not matter
    sure_loss: float = -math.inf  # below this loss the score does not matter


NO_FLOOR = Floor()


@dataclass
class Candidate:
    """One choice of the settings, and how far it came."""

    values: dict[str, Any]
    scores: dict[int, Score] = field(default_factory=dict)  # by number of updates
    dropped: str = ""  # why; empty: it is still in the race
    larger: bool = True  # is the better score: turns the sign back where a score is shown

    @property
    def name(self) -> str:
        """What the user would type."""
        return " ".join(f"{key}={shown(value)}" for key, value in self.values.items())

    @property
    def updates(self) -> int:
        """How many updates it has made."""
        return max(self.scores, default=0)

    def learned(self, rung: int, floor: Floor) -> bool:
        """Tell whether it had learned something by then."""
        score = self.scores[rung][0]
        least = max(loss for update, (_, loss) in self.scores.items() if update <= rung)
        if -least < floor.sure_loss:
            return True
        return score > floor.score and (least > floor.loss or score > floor.sure)

    def merit(self, rung: int, floor: Floor) -> Score:
        """Return its score, or minus infinity in its place if that tells nothing."""
        score, loss = self.scores[rung]
        return (score if self.learned(rung, floor) else -math.inf), loss

    def score_after(self, rung: int, floor: Floor = NO_FLOOR) -> str:
        """Return the task's score after some updates as shown, with the loss if that decides."""
        score, loss = self.scores[rung]
        shown = [self.plain(score)] if math.isfinite(score) else []
        if not self.learned(rung, floor) and math.isfinite(loss):
            shown.append(f"loss {-loss:.4f}")
        return ", ".join(shown) or "undefined"

    def least(self, floor: Floor) -> str:
        """Say what it takes to have learned something."""
        side, chance = ("above", "plus") if self.larger else ("below", "minus")
        loss = f", and once a loss below {-floor.loss:.4f}" if math.isfinite(floor.loss) else ""
        sure = f"; or a loss below {floor.sure_loss:.4f} alone" if floor.sure_loss > 0 else ""
        score = self.plain(floor.score)
        return f"a score {side} {score}, the trivial answer {chance} chance{loss}{sure}"

    def plain(self, score: float) -> str:
        """Return a score in the task's own direction."""
        return f"{score if self.larger else -score:.4f}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        scores = {str(update): list(score) for update, score in self.scores.items()}
        return {"values": self.values, "scores": scores, "dropped": self.dropped}

    @classmethod
    def of(cls, plain: dict[str, Any], larger: bool) -> Candidate:
        """Return a candidate from plain data."""
        scores: dict[int, Score] = {
            int(update): (number_of(score[0]), number_of(score[1]))
            for update, score in plain["scores"].items()
        }
        failed = plain["dropped"].startswith(FAILED)  # what is amiss may have been mended
        return cls(plain["values"], scores, "" if failed else plain["dropped"], larger)


@dataclass(frozen=True)
class Course:
    """What candidates run over, and by what they are judged."""

    rungs: Sequence[int]
    advance: Callable[[Candidate, int], Score]  # trains one up to an update, and scores it
    note: Callable[[str], None]  # says what happened, and saves it
    floor: Floor = NO_FLOOR
    affordable: Callable[[Candidate, int], bool] = lambda *_: True  # a newcomer, up to an update


def number_of(value: float | None) -> float:
    """Return a number of a file, in which those that are not finite are null."""
    return -math.inf if value is None else value


def shown(value: Any) -> str:
    """Return a value as the command line reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def rungs_of(candidates: int, updates: int) -> list[int]:
    """Return the numbers of updates after which candidates are compared; the last is all.

    Raises:
        AdaptError: there are too few updates for one rung.
    """
    if updates < LEAST:
        raise AdaptError(
            f"{updates} updates are too few to compare candidates: at least {LEAST} are needed. "
            "Give a larger --budget, or more rows."
        )
    count = 1
    while count < MOST_RUNGS and ETA ** (count - 1) < candidates and updates // ETA**count >= LEAST:
        count += 1
    first = updates // ETA ** (count - 1)
    return [first * ETA**place for place in range(count)]


def cost_of(candidates: int, rungs: Sequence[int], most: bool = False) -> int:
    """Return the updates that a race takes; `most`: if nobody learns before the last of three."""
    total, before, planned, left = 0, 0, candidates, candidates
    for place, rung in enumerate(rungs):
        total += left * (rung - before)
        kept = kept_of(planned, place + 2 == len(rungs))
        before, left, planned = rung, planned if most and spares(rungs) else kept, kept
    return total


def spares(rungs: Sequence[int]) -> bool:
    """Tell whether candidates go on that would be dropped, if nobody has learned anything yet."""
    return len(rungs) == MOST_RUNGS


def kept_of(count: int, last: bool) -> int:
    """Return how many go on: a third, rounded up; one to the last rung."""
    return 1 if last else max(1, math.ceil(count / ETA))


def telling(those: Sequence[Candidate], rung: int, floor: Floor, needed: int) -> bool:
    """Tell whether enough candidates have learned something for a comparison.

    Without a floor they are always compared: there is no trivial answer, or no score yet.
    """
    return floor == NO_FLOOR or sum(one.learned(rung, floor) for one in those) >= needed


def length_for(budget: int, candidates: int, most: bool = False) -> int:
    """Return the greatest number of updates of one run whose race stays within a budget.

    most: it may be that nobody learns before the last rung.

    Raises:
        AdaptError: the budget is too small for one rung.
    """
    for updates in range(budget, LEAST - 1, -1):
        rungs = rungs_of(candidates, updates)
        if cost_of(candidates, rungs, most) <= budget:
            return rungs[-1]
    raise AdaptError(
        f"--budget={budget}: {candidates} candidates need at least {candidates * LEAST} updates. "
        "Raise it, or try fewer values."
    )


def race(candidates: Sequence[Candidate], course: Course) -> Candidate:
    """Return the winner.

    What was scored before is not trained again, so that a race that was stopped goes on. A
    candidate that fails is dropped; if the machine fails, the race ends and can go on later.

    Raises:
        AdaptError: every candidate failed.
    """
    rungs, note, floor = course.rungs, course.note, course.floor
    ranked: list[Candidate] = []
    planned = len(candidates)  # to be left at this rung
    for place, rung in enumerate(rungs):
        for one in candidates:
            if not one.dropped:
                step(one, rung, course)
        # A race that goes on ranks all that came here, those that it had dropped here before too.
        ranked = sorted((one for one in candidates if rung in one.scores),
                        key=lambda one: one.merit(rung, floor), reverse=True)  # fmt: skip
        if not ranked:
            why = "; ".join(f"{one.name}: {one.dropped}" for one in candidates)
            raise AdaptError(f"every candidate failed. {why}")
        if place + 1 < len(rungs):
            last = place + 2 == len(rungs)
            kept = needed = kept_of(len(ranked), last)
            if spares(rungs) and not telling(ranked, rung, floor, needed):
                kept = min(planned, len(ranked))
                note(f"after {rung} updates fewer than {needed} of {len(ranked)} candidates have "
                     f"learned anything ({ranked[0].least(floor)}): {kept} go on")  # fmt: skip
            planned = kept_of(planned, last)
            new = [(n, one) for n, one in enumerate(ranked, 1) if n > kept and not one.dropped]
            for number, one in new:  # all, before any is noted
                one.dropped = f"place {number} of {len(ranked)} after {rung} updates"
            for _, one in new:
                note(f"{one.name}: dropped, {one.dropped} ({one.score_after(rung, floor)})")
    return ranked[0]


def step(one: Candidate, rung: int, course: Course) -> None:
    """Train one candidate up to a rung, unless it is there; one that fails is dropped."""
    if rung in one.scores:
        return
    try:
        one.scores[rung] = course.advance(one, rung)
        course.note(f"{one.name}: {one.score_after(rung, course.floor)} after {rung} updates")
    except MachineError:
        raise
    except AdaptError as error:
        one.dropped = f"{FAILED} {error}"
        course.note(f"{one.name}: dropped, {one.dropped}")


def challenge(one: Candidate, winner: Candidate, course: Course) -> Candidate:
    """Let a newcomer run until it is not ahead of the winner at a rung; return the better.

    A tie is the winner's. The first two of three rungs decide only if one of them has learned
    something.
    """
    rungs, note, floor = course.rungs, course.note, course.floor
    for rung in rungs:
        if not one.dropped and not course.affordable(one, rung):
            one.dropped = f"the budget ends before update {rung}"
            note(f"{one.name}: dropped, {one.dropped}. To try it, name it with --search")
        if not one.dropped:
            step(one, rung, course)
        if one.dropped:
            return winner
        if spares(rungs) and rung != rungs[-1] and not telling((one, winner), rung, floor, 1):
            continue
        if one.merit(rung, floor) <= winner.merit(rung, floor):
            one.dropped = f"not ahead of {winner.name} after {rung} updates"
            note(f"{one.name}: dropped, {one.dropped} ({one.score_after(rung, floor)})")
    return winner if one.dropped else one
