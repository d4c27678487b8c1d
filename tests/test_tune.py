"""Races: fewer updates, the same runs, and rows that choose are not rows that report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commandline import call, tiny
from datasets import Dataset
from runs import Killed, carry_out, configure, sentiment
from safetensors.torch import load_file

from adaptkit.adaptation import Batch
from adaptkit.cli.comparing import Race, grid_of
from adaptkit.cli.tuning import space_of
from adaptkit.config.compose import compose, load_plain, to_yaml
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError, MachineError
from adaptkit.runs.run import Interface
from adaptkit.runs.tuning import tune as tuning
from adaptkit.runs.tuning import yardsticks
from adaptkit.runs.tuning.race_state import State
from adaptkit.runs.tuning.racing import (
    NO_FLOOR,
    Candidate,
    Course,
    Floor,
    challenge,
    cost_of,
    length_for,
    race,
    rungs_of,
)
from adaptkit.runs.tuning.tune import RATE, around, scored, tune, values_of
from adaptkit.runs.verify import verify
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.task import LABEL
from adaptkit.terminal import children

QUIET = Interface(lambda _: None, lambda _: ())


# ---- the race ----


@pytest.mark.parametrize(
    ("candidates", "updates", "rungs", "cost", "most"),
    [  # cost: 7 x 20, 3 x 40 more, 1 x 120 more; most: 7 x 40 and 3 x 120 more
        (7, 180, [20, 60, 180], 7 * 20 + 3 * 40 + 120, 7 * 60 + 3 * 120),
        (9, 90, [10, 30, 90], 9 * 10 + 3 * 20 + 60, 9 * 30 + 3 * 60),
        (3, 90, [30, 90], 3 * 30 + 60, 3 * 30 + 60),
        (1, 90, [90], 90, 90),
        (7, 13, [4, 12], 7 * 4 + 8, 7 * 4 + 8),  # too few updates for three rungs
        (7, 5, [5], 35, 35),
    ],
)
def test_rungs(candidates, updates, rungs, cost, most):
    assert rungs_of(candidates, updates) == rungs
    assert cost_of(candidates, rungs) == cost
    assert cost_of(candidates, rungs, most=True) == most


def test_a_budget_is_kept():
    for budget in (28, 60, 100, 380, 1000):
        for most in (False, True):
            cost = cost_of(7, rungs_of(7, length_for(budget, 7, most)), most)
            assert budget / 2 < cost <= budget
    with pytest.raises(AdaptError, match=r"--budget=20: 7 candidates need at least 28 updates"):
        length_for(20, 7)
    with pytest.raises(AdaptError, match="too few to compare"):
        rungs_of(7, 3)


def test_a_score_is_shown_as_the_task_has_it():
    worst = (-np.inf, -np.inf)
    correlation = Candidate({}, {4: (-0.05, -0.7), 12: (-np.inf, -2.5), 36: worst})
    assert [correlation.score_after(n) for n in (4, 12, 36)] == ["-0.0500", "loss 2.5000",
                                                                 "undefined"]  # fmt: skip
    perplexity = Candidate({}, {4: (-12.3, -2.5)}, larger=False)
    assert perplexity.score_after(4) == "12.3000"
    assert Candidate.of(perplexity.as_dict(), larger=False) == perplexity


def fakes(scores: dict[float, dict[int, float]]) -> tuple[list[Candidate], Any, list]:
    made: list[tuple[float, int]] = []

    def advance(one: Candidate, rung: int) -> tuple[float, float]:
        made.append((one.values[RATE], rung))
        value = scores[one.values[RATE]][rung]
        if np.isnan(value):
            raise AdaptError("the loss is nan")
        return value, -value

    return [Candidate({RATE: rate}) for rate in scores], advance, made


def test_the_best_go_on_and_nothing_is_trained_twice():
    table = {float(n): {4: n, 12: -n, 36: n} for n in range(7)}
    candidates, advance, made = fakes(table)
    said: list[str] = []
    winner = race(candidates, Course([4, 12, 36], advance, said.append))
    assert winner.values == {RATE: 4.0}  # 4, 5, 6 reach the second rung, where 4 is the best
    assert made == [*((float(n), 4) for n in range(7)), *((float(n), 12) for n in (4, 5, 6)),
                    (4.0, 36)]  # fmt: skip
    assert sum(one.updates for one in candidates) == 4 * 4 + 2 * 12 + 36
    assert "optimizer.lr=3: dropped, place 4 of 7 after 4 updates (3.0000)" in said
    again = race(candidates, Course([4, 12, 36], advance, said.append))
    assert again is winner
    assert len(made) == 11


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_race_that_is_stopped_anywhere_has_the_same_winner(stop):
    """Wherever it was stopped: what was known then is all that is left of it."""
    table = {float(n): {4: n, 12: -n, 36: n} for n in range(7)}
    whole, advance, _ = fakes(table)
    expected = race(whole, Course([4, 12, 36], advance, lambda _: None))
    candidates, advance, made = fakes(table)
    left: list[dict] = []

    def stopping(one: Candidate, rung: int) -> tuple[float, float]:
        if len(made) == stop - 1 and not left:
            left.extend(json.loads(json.dumps([c.as_dict() for c in candidates])))
            raise Killed
        return advance(one, rung)

    with pytest.raises(Killed):
        race(candidates, Course([4, 12, 36], stopping, lambda _: None))
    again = [Candidate.of(plain, larger=True) for plain in left]
    winner = race(again, Course([4, 12, 36], advance, lambda _: None))
    assert winner.values == expected.values
    assert [one.as_dict() for one in again] == [one.as_dict() for one in whole]
    assert len(made) == 11


def test_a_failure_of_the_machine_ends_the_race_and_drops_nobody():
    candidates, advance, _ = fakes({1.0: {4: 0.5}, 2.0: {4: 0.6}})

    def full(one: Candidate, rung: int) -> tuple[float, float]:
        raise MachineError("the disk is full")

    with pytest.raises(MachineError):
        race(candidates, Course([4], full, lambda _: None))
    assert not any(one.dropped for one in candidates)
    assert race(candidates, Course([4], advance, lambda _: None)).values == {RATE: 2.0}


def test_what_a_file_cannot_hold_is_the_worst_score():
    plain = {"values": {RATE: 1.0}, "scores": {"4": [None, -0.3]}, "dropped": "failed: no disk"}
    one = Candidate.of(plain, larger=True)
    assert one.scores == {4: (-np.inf, -0.3)}
    assert one.dropped == ""  # what was amiss may have been mended


def test_a_candidate_that_fails_is_dropped_and_a_race_of_such_fails():
    table = {1.0: {4: 0.5, 12: 0.5}, 2.0: {4: np.nan}, 3.0: {4: 0.1}}
    candidates, advance, _ = fakes(table)
    assert race(candidates, Course([4, 12], advance, lambda _: None)).values == {RATE: 1.0}
    assert candidates[1].dropped == "failed: the loss is nan"
    candidates, advance, _ = fakes({1.0: {4: np.nan}, 2.0: {4: np.nan}})
    with pytest.raises(AdaptError, match="every candidate failed"):
        race(candidates, Course([4, 12], advance, lambda _: None))


def test_a_tie_goes_to_the_smaller_loss():
    assert scored(0.5, 0.2, True) > scored(0.5, 0.3, True)
    assert scored(0.4, 9.0, True) > scored(0.3, 0.1, True)
    assert scored(20.0, None, False) > scored(30.0, None, False)
    assert scored(None, 0.1, True) < scored(0.0, 9.0, True)


def test_those_that_have_learned_nothing_come_last_by_their_losses():
    """A majority class with F1 0.8 is not better than 0.79 that was learned."""
    low = {"a": (0.80, -0.69), "b": (0.79, -0.55), "c": (0.81, -0.60), "d": (0.84, -0.90)}

    def made(score: float, loss: float = -np.inf) -> list[str]:
        every = [Candidate({"name": name}) for name in low]
        race(every, Course([4, 12], lambda one, _: low[one.values["name"]], lambda _: None,
                           Floor(score, loss, np.inf)))  # fmt: skip
        left = {one.values["name"]: one.dropped for one in every}
        return sorted(left, key=lambda name: left[name])

    assert made(0.82) == ["d", "b", "c", "a"]
    assert made(-np.inf) == ["d", "c", "a", "b"]
    assert made(0.9) == ["b", "c", "a", "d"]
    assert made(0.805, -0.65) == ["c", "b", "a", "d"]  # d is lucky: its loss says that
    assert made(0.805, -0.5) == ["b", "c", "a", "d"]


def test_what_was_learned_once_counts_when_the_loss_has_risen():
    """A model that is too sure of itself has learned; one that was never below has not."""
    one = Candidate({}, {4: (0.5, -0.6), 12: (0.8, -0.9)})
    floor = Floor(0.7, -0.65, 0.85)
    assert [one.learned(rung, floor) for rung in (4, 12)] == [False, True]
    assert one.score_after(12, floor) == "0.8000"
    del one.scores[4]
    assert not one.learned(12, floor)
    assert one.score_after(12, floor) == "0.8000, loss 0.9000"
    assert one.learned(12, Floor(0.7, -0.65, 0.75))  # far above chance


def test_a_loss_that_luck_cannot_explain_is_enough():
    """F1 of MRPC: 0.84 is hardly above the trivial 0.81, whatever the model knows."""
    one = Candidate({}, {4: (0.8, -0.62), 12: (0.84, -0.7)})
    floor = Floor(0.87, -0.63, 0.95)
    assert [one.learned(12, floor._replace(sure_loss=loss)) for loss in (0.6, 0.63)] == [0, 1]
    assert not one.learned(12, floor)
    assert one.least(floor._replace(sure_loss=0.6)) == (
        "a score above 0.8700, the trivial answer plus chance, and once a loss below 0.6300; "
        "or a loss below 0.6000 alone"
    )


def test_luck_seldom_has_such_a_loss():
    """Answers that know nothing of the rows, near the shares of the classes or far from them."""
    draw, n = np.random.default_rng(0), 200
    form = HeadForm(("text",), ("a", "b"), 8)
    lucky = 0
    for _ in range(2000):
        labels = draw.random(n) < draw.uniform(0.2, 0.8)
        logits = draw.normal(np.log(labels.mean() / (1 - labels.mean())), 0.3) + draw.normal(
            0, draw.uniform(0, 0.5), n)  # fmt: skip
        loss = np.logaddexp(0, np.where(labels, -logits, logits)).mean()
        names = ["ab"[label] for label in labels.astype(int)]
        lucky += loss < form.blind_loss(names) - yardsticks.UNLIKELY / n
    assert lucky <= 2000 / 100


@pytest.mark.parametrize(
    ("learned", "later", "going_on"),
    [(0, 0, (7, 3)), (2, 0, (7, 3)), (2, 1, (7, 1)), (3, 0, (3, 3)), (3, 1, (3, 1)),
     (7, 7, (3, 1))],
)  # fmt: skip
def test_fewer_are_dropped_before_enough_have_learned(learned, later, going_on):
    """`learned`, `later`: how many are above the floor at the first and at the second rung."""
    table = {float(n): {4: 0.6 if n < learned else 0.5, 12: 0.6 if n < later else 0.5 - n / 100,
                        36: 0.6 + n / 100} for n in range(7)}  # fmt: skip
    candidates, advance, made = fakes(table)
    said: list[str] = []
    winner = race(candidates, Course([4, 12, 36], advance, said.append, Floor(0.55)))
    assert tuple(sum(rung == other for _, other in made) for rung in (12, 36)) == going_on
    assert sum("fewer than" in line for line in said) == (learned < 3) + (later < 1)
    assert winner.values[RATE] == max(rate for rate, rung in made if rung == 36)
    if going_on == (7, 3):
        assert sum(one.updates for one in candidates) == cost_of(7, [4, 12, 36], most=True)
    again = race(candidates, Course([4, 12, 36], advance, said.append, Floor(0.55)))
    assert again is winner and len(made) == 7 + sum(going_on)  # nothing is trained twice


def test_what_is_shown_is_what_decides():
    assert Candidate({}, {4: (0.5, -0.7)}).score_after(4, Floor(0.6)) == "0.5000, loss 0.7000"
    assert Candidate({}, {4: (0.7, -0.7)}).score_after(4, Floor(0.6)) == "0.7000"


def test_scores_that_are_not_known_yet_leave_the_losses_to_decide():
    """Those of a form that generates: nothing is put off until there are scores."""
    every = [Candidate({RATE: float(n)}) for n in range(7)]
    winner = race(
        every, Course([4, 12, 36], lambda one, _: (-np.inf, one.values[RATE]), lambda _: None)
    )
    assert winner.values == {RATE: 6.0}
    assert sum(12 in one.scores for one in every) == 3


def test_a_newcomer_is_not_judged_before_anybody_has_learned():
    candidates, advance, _ = fakes({1.0: {4: 0.5, 12: 0.6}, 2.0: {4: 0.4, 12: 0.7}})
    winner, newcomer = candidates
    course = Course([4, 12], advance, lambda _: None, Floor(0.55))
    race([winner], course)
    assert challenge(newcomer, winner, course) is newcomer


def test_a_newcomer_must_be_ahead_at_every_rung():
    candidates, advance, made = fakes({1.0: {4: 0.5, 12: 0.6}, 2.0: {4: 0.6, 12: 0.7},
                                       3.0: {4: 0.5, 12: 0.9}})  # fmt: skip
    winner, better, late = candidates
    race([winner], Course([4, 12], advance, lambda _: None))
    assert challenge(better, winner, Course([4, 12], advance, lambda _: None)) is better
    assert challenge(late, winner, Course([4, 12], advance, lambda _: None)) is winner
    assert (3.0, 12) not in made


def test_the_grid_is_widened_at_its_edge():
    table = {rate: {4: rate} for rate in (1.0, 10.0, 100.0, 1000.0, 10000.0)}
    candidates, _, _ = fakes({r: s for r, s in table.items() if r <= 10})
    every = fakes(table)[1]
    said: list[str] = []
    winner = race(candidates, Course([4], every, said.append))
    winner = tuning.widened(candidates, 2, winner, Course([4], every, said.append))
    assert winner.values == {RATE: 1000.0}
    assert [one.values[RATE] for one in candidates] == [1.0, 10.0, 100.0, 1000.0]
    assert "still at the edge" in said[-1]
    middle = [Candidate({RATE: r}, {4: (-abs(r - 10), 0.0)}) for r in (1.0, 10.0, 100.0)]
    assert tuning.widened(middle, 3, middle[1], Course([4], every, said.append)) is middle[1]
    assert len(middle) == 3


def test_a_newcomer_stays_within_the_budget():
    table = {r: {4: r, 12: r, 36: r} for r in (1.0, 10.0, 100.0)}
    for last, expected in ((36, 100.0), (35, 10.0)):
        candidates, advance, made = fakes(table)
        grid, newcomer, said = candidates[:2], candidates[2], []
        winner = race(grid, Course([4, 12, 36], advance, said.append))
        found = challenge(newcomer, winner, Course([4, 12, 36], advance, said.append, NO_FLOOR,
                          lambda _, rung, last=last: rung <= last))  # fmt: skip
        assert found.values == {RATE: expected}
        assert ("the budget ends before update 36" in said[-1]) == (last == 35)
        assert ((100.0, 36) in made) == (last == 36)


def test_a_whole_race_stays_within_its_budget(checkpoints, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "floor_of", lambda *_: NO_FLOOR)  # whatever was learned
    make, said = maker(checkpoints["bert"], rows), []
    quiet = Interface(said.append, lambda _: ())
    found = tune(make, [], {RATE: [1e-5, 1e-4]}, 13, tmp_path / "race", quiet)
    assert (found.updates, found.tried, found.grid) == (12, 2, 12)
    assert found.winner.values[RATE] in (1e-5, 1e-4)
    assert any("the budget ends before update 6" in line for line in said)


def test_rates_lie_around_the_files():
    rates = around(5e-4)
    assert len(rates) == 7
    assert rates[3] == 5e-4
    assert np.allclose(np.diff(np.log10(rates)), 0.5, atol=1e-2)


# ---- rows ----


def test_held_out_rows_are_training_rows_that_are_not_trained_on(checkpoints, tmp_path):
    data = sentiment(tmp_path / "rows")
    made = configure(tmp_path / "run", checkpoints["bert"], data, "method=bitfit",
                     **{"data.holdout": True, "trainer.keep": "last"})  # fmt: skip
    record, said = carry_out(made)
    train = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    labels = [json.loads(line)["label"] for line in lines]
    assert record["data"]["rows"] == {"train": 40, "validation": 4}
    assert record["split"] == "holdout"
    assert len(labels) == 4
    assert set(labels) == {row["label"] for row in train} or len(set(labels)) == 2
    assert any("4 of the 44 training rows, which are not trained on" in line for line in said)
    assert verify(tmp_path / "run") == ""
    splits = made.task.load(made.data, made.seed)
    from adaptkit.tasks.reading.holdout import held_apart

    apart = held_apart(splits)
    both = sorted([*apart.train["id"], *apart.validation[""]["id"]])
    assert both == sorted(splits.train["id"])
    assert not set(apart.train["id"]) & set(apart.validation[""]["id"])
    assert apart.validation[""][LABEL][:] == labels


def test_what_tells_something_is_above_the_trivial_answer(checkpoints, tmp_path):
    data = sentiment(tmp_path / "rows")
    base = configure(tmp_path / "run", checkpoints["bert"], data, "method=bitfit")
    splits = yardsticks.held_apart(base.task.load(base.data, base.seed))
    labels = splits.validation[""][LABEL][:]
    most = max(splits.train[LABEL][:], key=splits.train[LABEL][:].count)
    share = labels.count(most) / len(labels)
    loss = sum(p * np.log(p) for p in (share, 1 - share))
    assert yardsticks.floor_of(base) == pytest.approx((
        share + min(1 / len(labels) ** 0.5, (1 - share) / 2), loss,
        share + min(2 / len(labels) ** 0.5, (1 - share) * 3 / 4),
        -loss - np.log(100) / len(labels),
    ))  # fmt: skip
    for tried, known in (("optimizer.lr", True), ("task.label_smoothing", False)):
        floor = yardsticks.floor_of(base, [tried])
        assert np.isfinite(floor.loss) == np.isfinite(floor.sure_loss) == known
    changes = {"task.label_smoothing": 0.1}  # no likelihood
    smoothed = configure(tmp_path / "run", checkpoints["bert"], data, "method=bitfit", **changes)
    assert yardsticks.floor_of(smoothed).sure_loss == -np.inf
    words = ("model=mini-t5", "task=e2e", "method=lora", "data.source=sample", "output_dir=unused")
    assert yardsticks.floor_of(settings(compose([*words, "data.train_rows=20"]))) == NO_FLOOR


@pytest.mark.parametrize("weights", [(), (3.0, 1.0, 0.5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_no_answer_to_all_rows_has_a_smaller_loss(weights, smoothing):
    """Found by going downhill on the loss of the form itself."""
    form = HeadForm(("text",), ("a", "b", "c"), 8, weights, smoothing)
    numbers = torch.tensor([0, 0, 0, 1, 2, 2, 0, 1, 0])
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-9)
    batch = Batch({}, {"target": numbers}, list(range(9)), 9)

    def mean() -> torch.Tensor:
        optimizer.zero_grad()
        loss = form.loss(SimpleNamespace(logits=logits.expand(9, 3)), batch) / 9
        loss.backward()
        return loss

    optimizer.step(mean)
    labels = [form.classes[number] for number in numbers]
    assert form.blind_loss(labels) == pytest.approx(mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("value", "larger", "headline", "floor"),
    [  # 25 rows: two standard errors are 0.2, of a correlation 0.4
        (0.5, True, "accuracy", 0.7),
        (0.96, True, "accuracy", 0.98),  # a perfect score is above it
        (1.0, True, "accuracy", 1.0),
        (0.0, True, "matthews_correlation", 0.4),
        (np.nan, True, "pearson", 0.4),  # of a constant answer
        (np.nan, True, "uas", -np.inf),
        (20.0, False, "perplexity", -19.8),
    ],
)
def test_the_floor_lies_between_the_trivial_and_the_best_score(
    value, larger, headline, floor, monkeypatch
):
    rows = Dataset.from_dict({LABEL: [0] * 25})
    splits = SimpleNamespace(validation={"": rows}, task=None)
    form = SimpleNamespace(generates=False)
    task = SimpleNamespace(
        posed=form, headline=headline, larger_is_better=larger,
        baseline=lambda _: ("trivial", value), load=lambda *_: splits,
    )  # fmt: skip
    base = SimpleNamespace(task=task, data=None, seed=0)
    base.bind = lambda _: base
    monkeypatch.setattr(yardsticks, "held_apart", lambda splits: splits)
    assert yardsticks.floor_of(base) == Floor(pytest.approx(floor))


def test_a_race_in_which_nothing_is_learned_says_so(checkpoints, rows, tmp_path):
    """It is not widened either: the smallest loss is that of the rate which changes least."""
    make, said = maker(checkpoints["bert"], rows), []
    quiet = Interface(said.append, lambda _: ())
    found = tune(make, [], {RATE: [1e-9, 1e-8]}, None, tmp_path / "race", quiet)
    assert len(found.candidates) == 2
    assert "the choice says little" in said[-1]
    assert "# No candidate has learned anything (a score above" in found.recipe.read_text()
    plain = json.loads((tmp_path / "race" / "race.json").read_text())
    assert plain["floor"] == pytest.approx(found.floor)


def test_a_race_goes_on_by_the_rule_that_it_began_with(tmp_path):
    """An older file has no floor, or that of the score: what they lack does not decide."""
    grid = [Candidate({RATE: 1.0}), Candidate({RATE: 2.0})]
    state = State(tmp_path / "race.json", [], [4], grid, Floor(0.5, -0.6, 0.7))
    assert state.load()[1] == Floor(0.5, -0.6, 0.7)
    for floor in (Floor(0.7, -0.6, 0.8, 0.5), Floor(0.7), NO_FLOOR):
        state.save(grid, floor)
        assert state.load() == (grid, floor)
    plain = json.loads(state.file.read_text())
    three = (0.7, -0.6, 0.8)
    for written, floor in ((0.7, Floor(0.7)), (None, NO_FLOOR), ([*three], Floor(*three))):
        state.file.write_text(json.dumps({**plain, "floor": written}))
        assert state.load()[1] == floor
    del plain["floor"]
    state.file.write_text(json.dumps(plain))
    assert state.load()[1] == NO_FLOOR


# ---- whole races ----


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return sentiment(tmp_path / "rows")


def maker(checkpoint: Path, rows: Path) -> Any:
    """Settings of a run from words of the form key=value."""

    def make(words: Any, folder: Path) -> Any:
        changes: dict[str, Any] = {}
        for word in words:
            key, _, value = word.partition("=")
            try:
                changes[key] = json.loads(value)
            except ValueError:
                changes[key] = value
        return configure(folder, checkpoint, rows, "method=bitfit", **changes)

    return make


SPACE = {RATE: [1e-4, 1e-3, 1e-2]}


def test_a_run_interrupted_at_its_rung_is_not_trained_on(checkpoints, rows, tmp_path, monkeypatch):
    """Ctrl-C comes when the checkpoint of the rung is written, before the race looks at it."""
    make, one = maker(checkpoints["bert"], rows), Candidate({RATE: 1e-3})
    expected = tuning.trained(make, [], one, [5, 15], 5, tmp_path / "whole", QUIET)
    watch = tuning.Watch.on_save

    def interrupted(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(tuning.Watch, "on_save", interrupted)
    with pytest.raises(Killed):
        tuning.trained(make, [], one, [5, 15], 5, tmp_path / "again", QUIET)
    monkeypatch.setattr(tuning.Watch, "on_save", watch)
    assert tuning.trained(make, [], one, [5, 15], 5, tmp_path / "again", QUIET) == expected
    place = tuning.place_of(tmp_path / "again", one)
    assert [p.name for p in (place / "checkpoints").glob("checkpoint-*")] == ["checkpoint-5"]


def test_a_recipe_holds_several_settings(checkpoints, rows, tmp_path):
    make = maker(checkpoints["bert"], rows)
    space = {RATE: [1e-3], "optimizer.weight_decay": [0.0, 0.1]}
    found = tune(make, [], space, 8, tmp_path / "race", QUIET)
    plain = load_plain(found.recipe)
    assert plain == {"optimizer": {"lr": 1e-3, **{k.split(".")[1]: v for k, v in
                                                  found.winner.values.items()}}}  # fmt: skip


def test_a_form_that_generates_is_raced_by_its_loss(tmp_path):
    """Not every evaluation generates answers, so that the score is not known at a rung."""
    base = ("model=mini-t5", "task=e2e", "method=lora", "data.source=sample",
            "data.train_rows=20", "trainer.batch_size=4", "trainer.device=cpu")  # fmt: skip

    def make(words: Any, folder: Path) -> Any:
        return settings(compose([*base, *words, f"output_dir={folder}"]))

    one = Candidate({RATE: 1e-3})
    score, loss = tuning.trained(make, [], one, [1, 2], 1, tmp_path, QUIET)
    assert score == -np.inf
    assert np.isfinite(loss)


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "kills"), [(None, (2, 4)), (NO_FLOOR, (2, 6))])
def test_a_race_that_is_killed_ends_the_same(
    floor, kills, checkpoints, rows, tmp_path, monkeypatch
):
    """With and without a floor: then it goes beyond its grid as well, and is killed there."""
    if floor is not None:
        monkeypatch.setattr(tuning, "floor_of", lambda *_: floor)
    make = maker(checkpoints["bert"], rows)
    whole = tune(make, [], SPACE, None, tmp_path / "whole", QUIET)
    calls = {"count": 0}
    run = tuning.run

    def killed(*arguments: Any) -> Any:
        calls["count"] += 1
        if calls["count"] in kills:
            raise Killed
        return run(*arguments)

    monkeypatch.setattr(tuning, "run", killed)
    for _ in range(2):
        with pytest.raises(Killed):
            tune(make, [], SPACE, None, tmp_path / "again", QUIET)
    again = tune(make, [], SPACE, None, tmp_path / "again", QUIET)
    assert [one.as_dict() for one in again.candidates] == [
        one.as_dict() for one in whole.candidates
    ]
    assert again.recipe.read_text() == whole.recipe.read_text()
    assert whole.updates < whole.grid
    assert not [*(tmp_path / "again").glob("*/checkpoints")]
    one, other = (load_file(tuning.place_of(tmp_path / name, whole.winner) / "delta.safetensors")
                  for name in ("whole", "again"))  # fmt: skip
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_winner_is_a_run_that_was_never_stopped(checkpoints, rows, tmp_path):
    """Trained up to its rungs and on, it is to the bit the run of all updates."""
    make = maker(checkpoints["bert"], rows)
    found = tune(make, [], {RATE: [1e-3, 1e-2, 2e-2]}, None, tmp_path / "race", QUIET)
    words = [f"{RATE}={found.winner.values[RATE]}", f"trainer.max_steps={found.rungs[-1]}",
             f"trainer.eval_every={found.rungs[0]}", "trainer.keep=last",
             "data.holdout=true"]  # fmt: skip
    carry_out(make(words, tmp_path / "plain"))
    one = load_file(tuning.place_of(tmp_path / "race", found.winner) / "delta.safetensors")
    other = load_file(tmp_path / "plain" / "delta.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.slow
def test_a_race_that_went_beyond_its_grid_can_be_given_again(
    checkpoints, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(tuning, "floor_of", lambda *_: NO_FLOOR)  # whatever was learned
    make = maker(checkpoints["bert"], rows)
    space = {RATE: [1e-5, 1e-4]}  # the greater one wins, or the lesser: both are edges
    found = tune(make, [], space, None, tmp_path / "race", QUIET)
    assert len(found.candidates) > 2
    again = tune(make, [], space, None, tmp_path / "race", QUIET)
    assert [one.as_dict() for one in again.candidates] == [
        one.as_dict() for one in found.candidates
    ]
    plain = json.loads((tmp_path / "race" / "race.json").read_text())
    assert plain["grid"] == [{RATE: 1e-5}, {RATE: 1e-4}]


def test_another_race_in_the_folder_is_refused(checkpoints, rows, tmp_path):
    make = maker(checkpoints["bert"], rows)
    tune(make, [], {RATE: [1e-3]}, 4, tmp_path / "race", QUIET)
    with pytest.raises(AdaptError, match="a race of other settings"):
        tune(make, ["trainer.batch_size=4"], {RATE: [1e-3]}, 4, tmp_path / "race", QUIET)
    with pytest.raises(AdaptError, match="a race of other settings"):
        tune(make, [], {RATE: [1e-2]}, 4, tmp_path / "race", QUIET)
    (tmp_path / "race" / "race.json").write_text("{")
    with pytest.raises(AdaptError, match=r"race\.json: is damaged"):
        tune(make, [], {RATE: [1e-3]}, 4, tmp_path / "race", QUIET)
    with pytest.raises(AdaptError, match="has no values"):
        tune(make, [], {RATE: []}, None, tmp_path / "empty", QUIET)


# ---- commands ----


def test_words_of_a_space():
    assert space_of(["optimizer.lr=1e-4,1e-3", "method.rank=4,8"]) == {
        "optimizer.lr": [1e-4, 1e-3], "method.rank": [4, 8]}  # fmt: skip
    assert space_of(["method.roles=[query,value],[all]"]) == {
        "method.roles": [["query", "value"], ["all"]]}  # fmt: skip
    assert space_of(["method.tokens=null,40"]) == {"method.tokens": [None, 40]}
    assert Candidate({"a.b": None, "a.c": True}).name == "a.b=null a.c=true"
    for word, says in (
        ("rank", "write KEY=V1,V2"), ("trainer.keep=best", "set by the race"),
        ("method=lora,full", "is a group"), ("optimizer.lr=1e-3,0.001", "a value twice"),
        ("method.roles=[query", "cannot be read"), ("trainer.jobs=1,2", "set by the race"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            space_of([word])
    with pytest.raises(ConfigError, match="named twice"):
        space_of(["method.rank=1", "method.rank=2"])


def test_a_file_declares_what_is_raced(tmp_path):
    """A method's file beside the rate of all methods; what is typed replaces both."""
    bundled = settings(compose(["method=lora"])).search
    assert values_of(bundled, 5e-4) == {RATE: around(5e-4)}
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [lora]\nsearch:\n  method.rank: [2, 4]\n"
    )
    (tmp_path / "method" / "narrow.yaml").write_text(
        "# @package _global_\ndefaults: [lora]\nsearch:\n  optimizer.lr: [0.1]\n"
    )
    place = f"hydra.searchpath=[file://{tmp_path}]"
    mine = settings(compose([place, "method=mine"]))
    assert values_of(mine.search, 5e-4) == {RATE: around(5e-4), "method.rank": [2, 4]}
    assert "search" not in mine.plain  # no part of what a run is
    narrow = settings(compose([place, "method=narrow"]))
    assert values_of(narrow.search, 5e-4) == {RATE: [0.1]}
    plain = compose(["method=lora"])
    for node, says in (
        ([1], "must be a mapping"), ({"method.rank": 3}, "must be a list"),
        ({"method.rank": None}, "must be a list"), ({"method.rank": [3, 3]}, "a value twice"),
        ({"trainer.keep": ["best"]}, "set by the race"), ({"method": ["lora"]}, "is a group"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"search.*{says}"):
            settings({**plain, "search": node})


def test_cells_of_a_comparison():
    cells = grid_of(["method=lora,full", "task=[sst2,mrpc]", "model=mini-bert"], control=True)
    assert [str(folder) for _, folder in cells] == [
        "sst2/lora", "sst2/lora-random", "sst2/full", "sst2/full-random",
        "mrpc/lora", "mrpc/lora-random", "mrpc/full", "mrpc/full-random",
    ]  # fmt: skip
    assert cells[1][0] == ["method=lora", "task=sst2", "model=mini-bert",
                           "model.random_weights=true"]  # fmt: skip
    with pytest.raises(ConfigError, match="name the methods"):
        grid_of(["task=sst2"], control=False)


SEARCH = ("--search", "optimizer.lr=1e-3,1e-2", "--budget", "12")


@pytest.fixture
def words(checkpoints, rows) -> list[str]:
    return [*tiny(checkpoints["bert"]), f"task.path={rows}", "trainer.batch_size=8",
            "trainer.device=cpu", "trainer.precision=fp32", "task=sst2"]  # fmt: skip


@pytest.mark.slow
def test_the_commands(words, tmp_path):
    answer = call("tune", *words, "method=bitfit", *SEARCH, "--out", str(tmp_path / "race"))
    assert answer.status == 0
    assert "on held-out training rows, best of" in answer.out
    assert (tmp_path / "race" / "recipe.yaml").read_text().startswith("# @package _global_")
    both = [*words, "method=bitfit,layernorm", "trainer.epochs=1", *SEARCH, "--seeds", "2"]
    answer = call("compare", *both, "--out", str(tmp_path / "both"))
    assert answer.status == 0
    assert "bitfit and layernorm" in answer.out or "is better than" in answer.out
    table = json.loads((tmp_path / "both" / "report.json").read_text())
    assert {one["row"]: one["seeds"] for one in table["cells"]} == {"bitfit": 2, "layernorm": 2}
    for row in table["cells"]:
        assert all(Path(d).name in ("seed1", "seed2") for d in row["directories"])
    assert "ON SAMPLE DATA" not in answer.out
    assert call("compare", *both, "--jobs", "2", "--out", str(tmp_path / "beside")).status == 0
    assert cells(tmp_path / "beside") == cells(tmp_path / "both")
    report = (tmp_path / "both" / "report.json").read_bytes()
    other = call("compare", *both, "seed=7", "--out", str(tmp_path / "both"))
    assert other.status == 2  # nothing of it could be done, so nothing is shown
    assert other.err.count("holds a race of other settings") == 2
    assert not other.out and (tmp_path / "both" / "report.json").read_bytes() == report


def cells(folder: Path) -> list[dict[str, Any]]:
    """Return the cells of a comparison's report without what another start may change."""
    aside = ("seconds", "peak MB", "directories")
    table = json.loads((folder / "report.json").read_text())["cells"]
    return [{k: v for k, v in cell.items() if k not in aside} for cell in table]


def test_a_race_or_a_run_that_dies_ends_no_other(words, tmp_path, monkeypatch):
    """A race of one method and a run of another die; the same command then does what is left."""
    work = children.work_in_child

    def dying(one: Any, argument: Any, *rest: Any) -> Any:
        words = argument.words if isinstance(argument, Race) else [argument["output_dir"]]
        if words[0] == "method=bitfit" or words[0].endswith("layernorm/seed1"):
            raise EOFError("exit code -9")
        return work(one, argument, *rest)

    compared = [*words, "method=bitfit,layernorm", "trainer.epochs=1", *SEARCH, "--seeds", "2",
                "--out", str(tmp_path)]  # fmt: skip
    monkeypatch.setattr(children, "work_in_child", dying)
    answer = call("compare", *compared)
    assert answer.status == 1
    assert "sst2/bitfit: the process of the race died (exit code -9)" in answer.err
    assert "sst2/layernorm seed 1: the process died (exit code -9)" in answer.err
    assert not (tmp_path / "sst2" / "bitfit").exists()
    before = (tmp_path / "sst2" / "layernorm" / "seed2" / "result.json").read_bytes()
    monkeypatch.undo()
    assert call("compare", *compared).status == 0
    table = json.loads((tmp_path / "report.json").read_text())
    assert {one["row"]: one["seeds"] for one in table["cells"]} == {"bitfit": 2, "layernorm": 2}
    assert (tmp_path / "sst2" / "layernorm" / "seed2" / "result.json").read_bytes() == before


def test_nothing_is_reported_if_no_run_has_a_score(words, tmp_path, monkeypatch):
    work = children.work_in_child

    def dying(one: Any, argument: Any, *rest: Any) -> Any:
        if isinstance(argument, Race):
            return work(one, argument, *rest)
        folder = Path(argument["output_dir"])
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(argument))  # it had begun
        raise EOFError("exit code -9")

    monkeypatch.setattr(children, "work_in_child", dying)
    answer = call("compare", *words, "method=bitfit", "trainer.epochs=1", *SEARCH, "--seeds", "2",
                  "--out", str(tmp_path / "all"))  # fmt: skip
    assert answer.status == 1 and not answer.out
    assert "seed2: the process died (exit code -9)" in answer.err.splitlines()[-1]
    assert not (tmp_path / "all" / "report.json").exists()


@pytest.mark.slow
def test_a_race_on_the_sample_says_so(checkpoints, tmp_path):
    sample = call("tune", *tiny(checkpoints["bert"]), "task=sst2", "data.source=sample",
                  "data.train_rows=40", "method=bitfit", *SEARCH, "--out",
                  str(tmp_path / "sample"))  # fmt: skip
    assert "bundled SAMPLE" in sample.err
    assert "ON SAMPLE DATA" in sample.out


def test_mistakes_of_the_commands(words, tmp_path):
    for bad, says in (
        (["tune", *words, "trainer.keep=best"], "is set by the race itself"),
        (["tune", *words, "trainer.select_on=validation"], "is set by the race itself"),
        (["tune", *words, "--budget", "0"], "must be a whole number"),
        (["compare", *words, "method=lora,full", "--seeds", "0"], "argument --seeds: '0' must be"),
        (["compare", *words, "method=lora,full", "seed=0,1"], "seed: has several values; adaptkit"),
        (["tune", *words, "optimizer.lr=1e-3,1e-4"], "given by --search optimizer.lr=A,B"),
        (["tune", *words, "method=lora,full"], "adaptkit compare takes several methods"),
        (["tune", *words, "--search", "lr=1e-3,1e-4"], "Name an option of one, as optimizer.lr"),
        (["plan", "-m", "seed=0"], "-m: adaptkit train alone runs several jobs"),
        (["compare", *words, "method=lora,full", "data.eval_rows=5"], "could not be compared"),
        (["tune", *words, "suite=ood"], "not carried out in a race"),
        (["compare", *words, "method=lora,full", "trainer.jobs=2"], "compare has --jobs"),
        (["compare", *words, "method=lora,full", "--jobs", "none"], "must be a whole number"),
        (["tune", *words, "--budget", "3", "--out", str(tmp_path / "small")], "need at least"),
        (["compare", *words], "method: name the methods"),
        (["compare", *words, "method=lora,nonsense"], "nonsense"),
    ):
        answer = call(*bad)
        assert answer.status == 2
        assert says in answer.err


@pytest.mark.parametrize("name", ["tune", "compare"])
def test_several_processes_are_rejected(name, words, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = call(name, *words, "method=lora,full")
    assert answer.status == 2
    assert f"adaptkit {name}: is for one process" in answer.err


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.reliability
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_comparison_that_is_killed_ends_the_same(jobs, words, tmp_path):
    """Once in a race and once in a repetition; then the same command does the rest."""
    said = [*words, "method=bitfit,layernorm", "trainer.epochs=2", *SEARCH, "--seeds", "2"]
    assert call("compare", *said, "--out", tmp_path / "whole").status == 0
    said += ["--jobs", jobs]
    command = [sys.executable, "-m", "adaptkit", "compare", *said, "--out", tmp_path / "killed"]
    begun = "optimizer.lr=0.01: " if jobs == "1" else "2 of 2: "  # those at a time say it later
    for moment in (begun, "sst2/bitfit: "):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
        next(line for line in run.stderr if moment in line)
        os.killpg(run.pid, signal.SIGTERM)
        _, err = run.communicate(timeout=120)
        assert run.returncode == 143, err
        assert "Traceback" not in err
        assert not (tmp_path / "killed" / "report.json").exists()
    assert call("compare", *said, "--out", tmp_path / "killed").status == 0
    assert cells(tmp_path / "killed") == cells(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "values", "says"),
    [((), "8,0", "method.rank=0: must be"), (("budget.trainable=800",), "4,8", "decides")],
)
def test_a_wrong_value_is_found_before_the_first_run(words, tmp_path, more, values, says):
    place = tmp_path / "race"
    answer = call("tune", *words, "method=lora", *more, f"--search=method.rank={values}",
                  "--out", place)  # fmt: skip
    assert answer.status == 2
    assert says in answer.err.splitlines()[-1]
    assert not place.exists()
