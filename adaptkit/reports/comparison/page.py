"""A report as one HTML page: tables and pictures. It needs no network and no script."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from html import escape

from adaptkit.reports.comparison.charts import Series, forest, matrix, plot
from adaptkit.reports.comparison.runs import settings_of
from adaptkit.reports.comparison.table import COSTS, Cell, Column, Table
from adaptkit.reports.comparison.text import grid, sentences, trivial

STYLE = """
:root { color-scheme: light dark; --c0:#0072B2; --c1:#D55E00; --c2:#009E73; --c3:#CC79A7;
  --c4:#E69F00; --c5:#56B4E9; --c6:#555; --line:#8884; }
@media (prefers-color-scheme: dark) { :root { --c0:#4aa8e0; --c1:#f0813a; --c2:#2fc79c;
  --c6:#bbb; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2em .7em; text-align: right; vertical-align: top; }
td { white-space: nowrap; } td:first-child { white-space: normal; min-width: 9em; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid var(--line); }
thead tr, tr.last { border-top: 1px solid; } figure { margin: 1.5em 0; }
figcaption { font-weight: 600; }
svg { width: min(100%, 46em); height: auto; } svg text { font-size: 12px; fill: currentColor; }
.grid { stroke: var(--line); } .level { stroke: currentColor; stroke-dasharray: 4 4; }
.faint { fill-opacity: .35; } polyline { fill: none; stroke-width: 2; } .cell { fill: var(--c0); }
svg text.on { fill: #fff; } .sample { font-weight: 700; } li { margin: .3em 0; }
""" + "".join(
    f".c{n} {{ fill: var(--c{n}); }} .l{n} {{ stroke: var(--c{n}); stroke-width: 2; }}\n"
    for n in range(7)
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
        parts += pictures(table, column, axis)
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


def pictures(table: Table, column: Column, axis: str | None) -> Iterator[str]:
    """Yield the pictures of one column."""
    cells = {row: cell for (row, one), cell in table.cells.items() if one == column}
    scored = {row: cell for row, cell in cells.items() if cell.estimate}
    if not scored:
        return
    base = trivial(table, column)
    level = base[1] if base else None
    name = column.metric
    best = sorted(scored.items(), key=lambda item: -item[1].estimate.mean)  # type: ignore[union-attr]
    if not column.larger_is_better:
        best.reverse()
    lines = [(row, c.estimate.mean, c.estimate.low, c.estimate.high, [*c.scores.values()])
             for row, c in best if c.estimate]  # fmt: skip
    yield forest(lines, f"{name}: mean, 95 % interval, each seed (dashed: trivial answer)", level)
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
    for row, cell in best:
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


def confusion(row: str, cell: Cell) -> Iterator[str]:
    """Yield the confusion matrix of all seeds together, if the answers are a few classes."""
    names = cell.runs[0].result.labels
    if not 2 < len(names) <= MOST_CLASSES:
        return
    pairs = [(str(label), str(answer)) for run in cell.runs for answer, label in run.main.values()]
    if pairs and {name for pair in pairs for name in pair} <= {*names}:
        yield matrix(Counter(pairs), names, f"{row}: labels (rows) and answers, all seeds")
