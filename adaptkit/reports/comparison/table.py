"""Methods x tasks: a mean with its interval in every cell, and every pair of methods tested."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from adaptkit.reports.comparison.names import named
from adaptkit.reports.comparison.runs import Column, Found, Run, column_of, settings_of
from adaptkit.reports.comparison.statistics import (
    LEVEL,
    Array,
    Estimate,
    estimate,
    holm,
    redrawn_scores,
    weights_of,
)
from adaptkit.reports.published import places

COSTS = {  # heading -> (entry of the record, divisor)
    "trained": (("params", "trainable"), 1),
    "saved kB": (("delta_bytes",), 1e3),
    "seconds": (("time", "train_seconds"), 1),
    "peak MB": (("memory", "peak_rss_bytes"), 1e6),
}
RATE = "optimizer.lr"
MOST_ROWS = 50_000  # that are redrawn: of more the rows add next to nothing to an interval


@dataclass
class Cell:
    """The runs of one method on one task that differ in their seeds alone."""

    runs: list[Run]
    column: Column
    estimate: Estimate | None = None  # None: no run has a score
    redrawn: dict[tuple[Any, ...], Array] = field(default_factory=dict)  # by repetition

    @property
    def scores(self) -> dict[tuple[Any, ...], float]:
        """Return the score of every repetition that has one."""
        return {run.repetition: run.score for run in self.runs if run.score is not None}

    @property
    def died(self) -> int:
        """Return how many runs ended without a score."""
        return sum(run.score is None for run in self.runs)

    @property
    def select_on(self) -> str:
        """Return which rows chose among the evaluations of the runs: none, holdout, validation."""
        return self.runs[0].result.select_on

    @property
    def collapsed(self) -> int:
        """Return how many are no better than the trivial answer."""
        return sum(run.collapsed(self.column.larger_is_better) for run in self.runs)

    @property
    def spread(self) -> dict[str, float]:
        """Return standard deviation, median, least and greatest score."""
        values = [*self.scores.values()]
        if not values:
            return {}
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        return {"deviation": deviation, "median": statistics.median(values), "min": min(values),
                "max": max(values)}  # fmt: skip

    @property
    def rate(self) -> float | None:
        """Return the learning rate of all runs; None: they have several, or made no update."""
        made = [run for run in self.runs if run.result.updates or run.score is None]
        rates = {settings_of(run).get(RATE) for run in made}
        return number_at(rates.pop(), ()) if len(rates) == 1 else None

    def agreement(self) -> float | None:
        """Return the share of rows with the same answer, a mean over all pairs of seeds."""
        lists = [[a for a, _ in run.main.values()] for run in self.runs if run.main]
        if len(lists) < 2 or len({len(one) for one in lists}) > 1:
            return None
        shares = [
            sum(a == b for a, b in zip(one, two, strict=True)) / len(one)
            for one, two in combinations(lists, 2)
        ]
        return statistics.mean(shares)

    def cost(self, heading: str) -> float | None:
        """Return the mean cost of the runs that have a score."""
        path, divisor = COSTS[heading]
        scored = [run.result for run in self.runs if run.score is not None]
        found = [number_at(getattr(one, path[0]), path[1:]) for one in scored]
        known = [value for value in found if value is not None]
        return statistics.mean(known) / divisor if known else None


@dataclass(frozen=True)
class Pair:
    """Two methods on one task."""

    column: Column
    one: str
    two: str
    difference: Estimate | None  # one - two; None: no two seeds in common
    p: float | None = None  # corrected for the number of pairs of the column

    @property
    def differs(self) -> bool:
        """True if the difference is not chance at the level of 5 %."""
        return self.p is not None and self.p < LEVEL

    def sentence(self) -> str:
        """Say who is better, or that it cannot be told."""
        found = self.difference
        if found is None:
            return f"{self.one} and {self.two}: not compared, they share no two seeds"
        seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
        if self.p is None or found.low is None:
            return f"{self.one} and {self.two}: one seed cannot tell them apart"
        size = f"{found.mean:+.4f}, 95 % {found.low:+.4f} to {found.high:+.4f}, p {self.p:.2g}"
        if not self.differs:
            same = f"{self.one} and {self.two}: not distinguishable"
            return f"{same} with these {seeds} ({size})"
        first = (found.mean > 0) == self.column.larger_is_better
        better, worse = (self.one, self.two) if first else (self.two, self.one)
        return f"{better} is better than {worse} ({self.one} - {self.two}: {size})"


@dataclass(frozen=True)
class Table:
    """All cells, by the name of a row and by column."""

    cells: dict[tuple[str, Column], Cell]
    pairs: list[Pair]
    remarks: list[str]

    @property
    def columns(self) -> list[Column]:
        """Return the columns in the order in which they were found."""
        return list(dict.fromkeys(column for _, column in self.cells))

    @property
    def rows(self) -> list[str]:
        """Return the names of the rows."""
        return list(dict.fromkeys(row for row, _ in self.cells))

    def title(self, column: Column) -> str:
        """Return the heading of a column: as much as tells it from the others."""
        same = [one for one in self.columns if one.task == column.task]
        parts = [column.task]
        if len({one.version for one in same}) > 1:
            parts.append(f"version {column.version}")
        if len({one.split for one in same}) > 1:
            parts.append(column.split)
        if len({(one.version, one.split, one.metric) for one in same}) < len(same):
            parts.append(f"rows {column.rows or 'unknown'}")
        sample = " (SAMPLE)" if column.sample else ""
        return f"{' '.join(parts)}, {column.metric}{sample}"


def number_at(plain: Any, path: Sequence[str]) -> float | None:
    """Return a number of a record."""
    for key in path:
        plain = plain.get(key) if isinstance(plain, dict) else None
    return float(plain) if isinstance(plain, int | float) else None


def alike(failed: Run, other: Run) -> bool:
    """Tell whether a failed run would have been scored on the rows of another."""
    one, two = failed.result, other.result
    same = all(
        getattr(one, n) == getattr(two, n) for n in ("task", "task_version", "metric", "split")
    )
    return same and settings_of(failed)["data.holdout"] == settings_of(other)["data.holdout"]


def table_of(found: Found) -> Table:
    """Sort runs into rows and columns, and test every pair of rows in each column."""
    by_column: dict[Column, list[Run]] = {}
    blank = [run for run in found.runs if run.score is None]
    for run in found.runs:
        if run.score is not None:
            by_column.setdefault(column_of(run), []).append(run)
    remarks = list(found.remarks)
    for run in blank:  # a failed run has no rows: it belongs to runs with its settings
        near = [c for c, group in by_column.items() if any(alike(run, one) for one in group)]
        if near:
            by_column[near[0]].append(run)
        else:
            remarks.append(f"left out: {run.directory} has no score, and no run of "
                           f"{run.result.task} on the same split has one.")  # fmt: skip
    cells: dict[tuple[str, Column], Cell] = {}
    for column, runs in by_column.items():
        for row, group in named(runs).items():
            cells[row, column] = filled(Cell(group, column))
    pairs = [pair for column in by_column for pair in tested(cells, column)]
    table = Table(cells, pairs, remarks)
    return Table(cells, pairs, [*remarks, *about(table), *published(table)])


def filled(cell: Cell) -> Cell:
    """Compute a cell's mean and interval."""
    runs = [run for run in cell.runs if run.score is not None]
    if not runs:
        return cell
    rows = len(runs[0].main) if cell.column.rows else 0
    if len(runs) > 1 and 1 < rows <= MOST_ROWS:
        answers = [[answer for answer, _ in run.main.values()] for run in runs]
        labels = [label for _, label in runs[0].main.values()]
        drawn = redrawn_scores(
            cell.column.metric, weights_of(rows), answers, labels, runs[0].result.labels,
            [run.score or 0.0 for run in runs],
        )  # fmt: skip
        if drawn is not None:
            cell.redrawn = dict(zip((run.repetition for run in runs), drawn, strict=True))
    mean = np.mean([*cell.redrawn.values()], 0) if cell.redrawn else None
    cell.estimate = estimate([*cell.scores.values()], mean, rows)
    return cell


def tested(cells: dict[tuple[str, Column], Cell], column: Column) -> list[Pair]:
    """Compare every two rows of a column on the seeds that both have, corrected by Holm."""
    here = {row: cell for (row, one), cell in cells.items() if one == column and cell.estimate}
    found: list[tuple[str, str, Estimate | None]] = []
    for (one, first), (two, second) in combinations(here.items(), 2):
        common = [key for key in first.scores if key in second.scores]
        if not common:
            found.append((one, two, None))
            continue
        apart = [first.scores[key] - second.scores[key] for key in common]
        drawn = None
        if all(key in first.redrawn and key in second.redrawn for key in common):
            drawn = np.mean([first.redrawn[key] - second.redrawn[key] for key in common], 0)
        rows = len(first.runs[0].main)
        found.append((one, two, estimate(apart, drawn, rows)))
    raw = [e.p for _, _, e in found if e is not None and e.p is not None]
    corrected = iter(holm(raw))
    return [
        Pair(column, one, two, e, next(corrected) if e is not None and e.p is not None else None)
        for one, two, e in found
    ]


def published(table: Table) -> Iterable[str]:
    """Say where runs stand among published ones that measured the same."""
    for (row, column), cell in table.cells.items():
        for run in cell.runs:
            for place in places(run.result, run.directory):
                yield f"{row} on {column.task}, seed {run.result.seed}: {place}"


def about(table: Table) -> Iterable[str]:
    """Say what a reader of the table must know."""
    tasks: dict[str, list[Column]] = {}
    for column in table.columns:
        tasks.setdefault(column.task, []).append(column)
    for task, columns in tasks.items():
        if len(columns) > 1:
            yield (f"{task}: runs with other rows, another version, split or metric stand in "
                   f"{len(columns)} columns; their scores cannot be compared.")  # fmt: skip
        if any(column.sample for column in columns):
            yield f"{task}: the bundled SAMPLE. Its scores say nothing about the real task."
    yield from about_choices(table)
    if any(cell.collapsed for cell in table.cells.values()):
        yield "trivial: a run that is no better than the answer in the last row."
    single = [row for (row, _), cell in table.cells.items() if len(cell.scores) == 1]
    if single:
        yield (f"one seed, so no interval: {', '.join(dict.fromkeys(single))}. Repeat with "
               "seed=0,1,2,3,4.")  # fmt: skip
    many = {c.column for c in table.cells.values() if len(c.scores) > 1}
    redrawn = {c.column for c in table.cells.values() if c.redrawn}
    fixed = [table.title(column) for column in table.columns if column in many - redrawn]
    if fixed:
        yield ("intervals over the seeds alone, for these rows (rows of this score cannot be drawn "
               f"again): {', '.join(fixed)}.")  # fmt: skip
    directions = {column.larger_is_better for column in table.columns}
    if len(directions) > 1:
        lower = [table.title(c) for c in table.columns if not c.larger_is_better]
        yield f"less is better: {', '.join(lower)}."


def about_choices(table: Table) -> Iterable[str]:
    """Say which cells were chosen by the rows that they report."""
    for column in table.columns:
        cells = {row: cell for (row, one), cell in table.cells.items() if one == column}
        chosen = [row for row, cell in cells.items() if cell.select_on == "validation"]
        if chosen:
            unlike = ", unlike the others" if len(chosen) < len(cells) else ""
            yield (f"{table.title(column)}: chosen on these rows, so optimistic{unlike}: "
                   f"{', '.join(chosen)} (trainer.select_on=validation).")  # fmt: skip
