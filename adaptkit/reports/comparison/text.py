"""A table of runs as Markdown, CSV, JSON and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from adaptkit.reports.comparison.table import COSTS, RATE, Cell, Column, Pair, Table
from adaptkit.storage.files import to_json

FIELDS = ("row", "task", "version", "metric", "split", "source", "mean", "low", "high", "deviation",
          "median", "min", "max", "seeds", "collapsed", "died", "agreement", "baseline",
          "select_on", "ood_drop", RATE, *COSTS, "directories")  # fmt: skip


def shown(cell: Cell | None, digits: int = 3) -> str:
    """Return a cell in words: mean ± half the interval, and the runs that failed."""
    if cell is None:
        return ""
    found = cell.estimate
    if found is None:
        return f"all {len(cell.runs)} runs died"
    half = "" if found.half is None else f" ± {found.half:.{digits}f}"
    failed = []
    if cell.collapsed:
        failed.append(f"{cell.collapsed} of {len(cell.runs)} trivial")
    if cell.died:
        failed.append(f"{cell.died} of {len(cell.runs)} died")
    if found.seeds == 1:
        failed.append("1 seed")
    if cell.select_on == "validation":
        failed.append("chosen on these rows")
    sample = " SAMPLE" if cell.column.sample else ""
    return f"{found.mean:.{digits}f}{half}{sample}{''.join(f', {one}' for one in failed)}"


def trivial(table: Table, column: Column) -> tuple[str, float] | None:
    """Return the trivial answer of a column and its score."""
    for (_, one), cell in table.cells.items():
        base = cell.runs[0].result.baseline
        if one == column and base.get("value") is not None:
            return base.get("name", "trivial"), base["value"]
    return None


def grid(table: Table) -> list[list[str]]:
    """Return headings and rows: scores, then costs; the trivial answers come last."""
    columns, costs = table.columns, [name for name in COSTS if known(table, name)]
    rates = any(cell.rate is not None for cell in table.cells.values())
    lines = [["method", *(table.title(column) for column in columns), *["rate"] * rates, *costs]]
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in columns]
        lines.append([row, *(shown(cell) for cell in cells), *[rate_of(cells)] * rates,
                      *(amount(cells, name) for name in costs)])  # fmt: skip
    base = [trivial(table, column) for column in columns]
    names = " / ".join(dict.fromkeys(one[0] for one in base if one))
    last = [f"{one[1]:.3f}" if one else "" for one in base]
    return [*lines, [f"({names or 'trivial'})", *last, *[""] * (rates + len(costs))]]


def known(table: Table, cost: str) -> bool:
    """Tell whether any run has a number for a cost."""
    return any(cell.cost(cost) is not None for cell in table.cells.values())


def amount(cells: Iterable[Cell | None], cost: str) -> str:
    """Return a cost of a row: that of its columns, from the least to the greatest."""
    found = (cell.cost(cost) for cell in cells if cell is not None)
    return least_to_greatest(found, lambda v: f"{v:,.0f}" if v >= 10 else f"{v:.2g}")


def rate_of(cells: Iterable[Cell | None]) -> str:
    """Return the learning rate of a row: that of its columns, from the least to the greatest."""
    return least_to_greatest((cell.rate for cell in cells if cell is not None), "{:.3g}".format)


def least_to_greatest(found: Iterable[float | None], form: Callable[[float], str]) -> str:
    """Return the one value, or the least and the greatest; nothing if there is none."""
    values = [value for value in found if value is not None]
    if not values:
        return ""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def sentences(table: Table, most: int = 0) -> list[str]:
    """Say of every pair whether it differs; differences first. most: pairs per column, 0: all."""
    lines = []
    for column in table.columns:
        pairs = [pair for pair in table.pairs if pair.column == column]
        pairs.sort(key=lambda pair: (not pair.differs, 2.0 if pair.p is None else pair.p))
        if not pairs:
            continue
        apart = sum(pair.differs for pair in pairs)
        lines.append(
            f"{table.title(column)}: {apart} of {len(pairs)} pairs differ (paired t over seeds"
            f"{' and rows' if any_rows(pairs) else ''}, Holm's correction for {len(pairs)} tests)"
        )
        lines += [f"  {pair.sentence()}" for pair in pairs[: most or None]]
        if most and len(pairs) > most:
            lines.append(f"  and {len(pairs) - most} more: --out FILE shows all")
    return lines


def any_rows(pairs: Sequence[Pair]) -> bool:
    """Tell whether rows were redrawn in any test."""
    return any(pair.difference is not None and pair.difference.rows for pair in pairs)


def markdown(table: Table) -> str:
    """Return the table, the tests and the remarks."""
    head, *body = grid(table)
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    text += ["", *(f"- {line.strip()}" for line in sentences(table))]
    return "\n".join([*text, "", *(f"- {line}" for line in table.remarks)]) + "\n"


def latex(table: Table) -> str:
    """Return the table for a paper, with booktabs."""
    head, *body = grid(table)
    lines = [" & ".join(map(escaped, line)) + r" \\" for line in (head, *body)]
    remarks = [f"% {line}" for line in table.remarks]
    return "\n".join([
        *remarks, rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", lines[0],
        r"\midrule", *lines[1:-1], r"\midrule", lines[-1], r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """Return text as LaTeX reads it."""
    for plain in ("\\", *"&%$#_{}"):
        text = text.replace(plain, r"\textbackslash " if plain == "\\" else f"\\{plain}")
    return text.replace(" ± ", r" $\pm$ ")


def entries(table: Table) -> list[dict[str, Any]]:
    """Return one flat record per cell."""
    found = []
    for (row, column), cell in table.cells.items():
        made, base = cell.estimate, trivial(table, column)
        found.append({
            "row": row, "task": column.task, "version": column.version, "metric": column.metric,
            "split": column.split, "source": column.source,
            "mean": made and made.mean, "low": made and made.low, "high": made and made.high,
            **cell.spread, "seeds": len(cell.scores), "collapsed": cell.collapsed,
            "died": cell.died, "agreement": cell.agreement(), "baseline": base and base[1],
            "select_on": cell.select_on,
            "ood_drop": drop(cell), RATE: cell.rate, **{name: cell.cost(name) for name in COSTS},
            "directories": [str(run.directory) for run in cell.runs],
        })  # fmt: skip
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in one.items()}
            for one in found]  # fmt: skip


def drop(cell: Cell) -> float | None:
    """Return the mean drop out of domain."""
    values = [run.result.ood.get("macro", {}).get("drop") for run in cell.runs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def as_json(table: Table) -> str:
    """Return cells, tests and remarks as one object."""
    tests = [
        {"task": pair.column.task, "metric": pair.column.metric, "rows": pair.column.rows,
         "one": pair.one, "two": pair.two, "p": pair.p, "differs": pair.differs,
         "difference": pair.difference and pair.difference.mean,
         "low": pair.difference and pair.difference.low,
         "high": pair.difference and pair.difference.high}
        for pair in table.pairs
    ]  # fmt: skip
    whole = {"cells": entries(table), "tests": tests, "remarks": table.remarks}
    return to_json(whole, indent=2) + "\n"


def as_csv(table: Table) -> str:
    """Return one line per cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, extrasaction="ignore")
    writer.writeheader()
    for entry in entries(table):
        writer.writerow({**entry, "directories": ";".join(entry["directories"])})
    return text.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {
    ".md": markdown, ".csv": as_csv, ".json": as_json, ".tex": latex,
}  # fmt: skip
