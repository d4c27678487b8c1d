"""A report as one HTML page: tables and pictures. It needs no network and no script."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from html import escape

from adaptkit.errors import AdaptError
from adaptkit.reports.comparison import charts
from adaptkit.reports.comparison.charts import Figure, Series, forest, matrix, plot, stacked
from adaptkit.reports.comparison.runs import settings_of
from adaptkit.reports.comparison.statistics import Estimate
from adaptkit.reports.comparison.table import COSTS, Cell, Column, Table
from adaptkit.reports.comparison.text import grid, sentences, trivial

STYLE = (
    charts.STYLE
    + """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2em .7em; text-align: right; vertical-align: top; }
td { white-space: nowrap; } td:first-child { white-space: normal; min-width: 9em; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid var(--line); }
thead tr, tr.last { border-top: 1px solid; } figure { margin: 1.5em 0; }
figcaption { font-weight: 600; } svg { width: min(100%, 46em); height: auto; }
.sample { font-weight: 700; } li { margin: .3em 0; }
"""
)
MOST_CLASSES, MOST_CURVES = 12, 14


def page(table: Table, axis: str | None = None) -> str:
    """Return the page; `axis`: a setting over which the scores are drawn as well."""
    head, *body = grid(table)
    parts = ["<h1>Comparison of runs</h1>"]
    if any(column.sample for column in table.columns):
        parts.append('<p class="sample">Runs on bundled samples are marked SAMPLE. Their scores '
                     "say nothing about the real task.</p>")  # fmt: skip
    parts.append(
        "<p>Mean over seeds ± half the 95 % interval, which allows for other seeds and, where "
        "noted below, other rows.</p>"
    )
    parts.append(_table(head, body))
    if table.remarks:
        parts += ["<h2>To know</h2>", _listed(table.remarks)]
    for column in table.columns:
        parts.append(f"<h2>{escape(table.title(column))}</h2>")
        parts += tests(table, column)
        parts += [figure.html() for figure in pictures(table, column, axis)]
    title = "<title>Comparison of runs</title>"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    lines = "\n".join(parts)
    return (f'<!doctype html>\n<html lang="en"><head>{meta}{title}<style>{STYLE}</style></head>'
            f"<body>\n{lines}\n</body></html>\n")  # fmt: skip


def _two_lines(cell: str) -> str:
    """Return a cell; what is said of its runs stands below its number."""
    first, comma, rest = escape(cell).partition(", ")
    return f"{first}<br><small>{rest}</small>" if comma else first


def tests(table: Table, column: Column) -> Iterator[str]:
    """Yield the tests of a column: how many pairs differ; each of them on demand."""
    pairs = [pair for pair in table.pairs if pair.column == column]
    if pairs:
        heading, *lines = sentences(Table(table.cells, pairs, []))
        whole = heading.partition(": ")[2]
        yield f"<details><summary>{escape(whole)}</summary>{_listed(lines)}</details>"


def _listed(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line.strip())}</li>' for line in lines)}</ul>"


def _table(head: list[str], body: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join(
        f"<tr{' class=last' if line is body[-1] else ''}>"
        f"{''.join(f'<td>{_two_lines(cell)}</td>' for cell in line)}</tr>"
        for line in body
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def scores_of(table: Table) -> str:
    """Return the scores of every column as one SVG file.

    Raises:
        AdaptError: there are none.
    """
    figures = [forest_of(table, column) for column in table.columns if best_of(table, column)]
    if not figures:
        raise AdaptError("no run has a score: there is nothing to draw.")
    return stacked(figures)


def best_of(table: Table, column: Column) -> list[tuple[str, Cell, Estimate]]:
    """Return the rows of a column that have a score, the best first."""
    scored = [(row, cell, cell.estimate) for (row, one), cell in table.cells.items()
              if one == column and cell.estimate]  # fmt: skip
    return sorted(scored, key=lambda one: one[2].mean, reverse=column.larger_is_better)


def forest_of(table: Table, column: Column) -> Figure:
    """Return the scores of a column: mean, interval and each seed."""
    base = trivial(table, column)
    lines = [(row, found.mean, found.low, found.high, [*cell.scores.values()])
             for row, cell, found in best_of(table, column)]  # fmt: skip
    dashed = f" (dashed: {base[0]})" if base else ""
    title = f"{table.title(column)}: mean, 95 % interval, each seed{dashed}"
    return forest(lines, title, base[1] if base else None)


def pictures(table: Table, column: Column, axis: str | None) -> Iterator[Figure]:
    """Yield the pictures of one column."""
    best = best_of(table, column)
    if not best:
        return
    scored = {row: cell for (row, one), cell in table.cells.items()
              if one == column and cell.estimate}  # fmt: skip
    base, name = trivial(table, column), column.metric
    level = base[1] if base else None
    yield forest_of(table, column)
    for cost in COSTS:
        series = [one for row, cell in scored.items() if (one := at_cost(row, cell, cost))]
        if len({one.points[0][0] for one in series}) > 1:
            yield plot(series, f"{name} against {cost}", f"{cost} (log)", log=True, level=level)
    most = list(scored.items())[:MOST_CURVES]
    curves = [one for row, cell in most if (one := learning(row, cell))]
    if any(len(one.points) > 1 for one in curves):
        yield plot(curves, f"{name} while training, mean over seeds", "updates", level=level)
    if axis:
        over = over_setting(scored, axis)
        if over:
            values = [x for one in over for x, _ in one.points]
            wide = min(values) > 0 and max(values) / min(values) >= 20
            across = f"{axis} (log)" if wide else axis
            yield plot(over, f"{name} against {axis}", across, wide, level)
    for row, cell, _ in best:
        yield from confusion(row, cell)


def at_cost(row: str, cell: Cell, cost: str) -> Series | None:
    """Return the point of a row; None if the cost is not known."""
    value, found = cell.cost(cost), cell.estimate
    if not value or not found:
        return None
    ends = (found.mean, found.mean) if found.low is None else (found.low, found.high or found.mean)
    return Series(row, [(value, found.mean)], bars=[ends])


def learning(row: str, cell: Cell) -> Series | None:
    """Return the score after each evaluation, a mean over the seeds that have it."""
    key = f"eval_{cell.column.metric}"
    scores: dict[int, list[float]] = {}
    for run in cell.runs:
        for entry in run.history:
            if isinstance(entry.get(key), int | float) and isinstance(entry.get("step"), int):
                scores.setdefault(entry["step"], []).append(entry[key])
    whole = {step: each for step, each in scores.items() if len(each) == len(cell.scores)}
    points = [(float(step), statistics.mean(each)) for step, each in sorted(whole.items())]
    rows = " (held-out training rows)" if cell.select_on == "holdout" else ""
    return Series(f"{row}{rows}", points, joined=True) if points else None


def over_setting(cells: dict[str, Cell], axis: str) -> list[Series]:
    """Return the scores over a numeric setting, one line for each method."""
    found: dict[str, dict[float, list[Cell]]] = {}
    for cell in cells.values():
        value = settings_of(cell.runs[0]).get(axis)
        if isinstance(value, int | float) and not isinstance(value, bool):
            method = cell.runs[0].result.method
            found.setdefault(method, {}).setdefault(float(value), []).append(cell)
    return [
        Series(method, [(value, statistics.mean(c.estimate.mean for c in group if c.estimate))
                        for value, group in sorted(by.items())], joined=True)
        for method, by in found.items()
    ]  # fmt: skip


def confusion(row: str, cell: Cell) -> Iterator[Figure]:
    """Yield the confusion matrix of all seeds together, if the answers are a few classes."""
    names = cell.runs[0].result.labels
    if not 2 < len(names) <= MOST_CLASSES:
        return
    pairs = [(str(label), str(answer)) for run in cell.runs for answer, label in run.main.values()]
    if pairs and {name for pair in pairs for name in pair} <= {*names}:
        yield matrix(Counter(pairs), names, f"{row}: labels (rows) and answers, all seeds")
