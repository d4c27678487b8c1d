"""The diagnosis as one HTML page: tables, and pictures that are drawn here. It needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from adaptkit.reports.data.diagnosis import Diagnosis
from adaptkit.reports.data.tables import baselines, class_table, padding_line, split_table

WIDTH, HEIGHT, BAR, BINS = 640, 200, 18, 40  # pixels; bars of a histogram
MOST = 60  # classes that are drawn
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .15em .8em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #8884; }
svg { max-width: 100%; } svg text { font-size: 12px; fill: currentColor; }
rect { fill: #4878a8; } .few { fill: #c44e52; } line { stroke: #c44e52; stroke-width: 2; }
li { margin: .4em 0; } code { background: #8882; padding: 0 .3em; }
"""


def page(found: Diagnosis) -> str:
    """Return the page."""
    source = found.loaded.source
    heading = f"{found.loaded.task.name}: {found.kind}, as {found.model} reads it"
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f"<p>{escape(source.kind)} data: <code>{escape(source.path)}</code></p>",
        *(f"<p>{escape(note)}</p>" for note in found.loaded.notes),
        "<h2>Findings</h2>", _listed([f.line() for f in found.findings] or ["none"]),
        "<h2>Splits</h2>", _table(split_table(found)),
        "<h2>Baselines</h2>", _listed([*baselines(found), *padding_line(found)]),
    ]  # fmt: skip
    if classes := class_table(found):
        parts += ["<h2>Classes</h2>", _table(classes)]
    for split in found.splits:
        parts.append(f"<h2>{escape(split.name)}</h2>")
        if split.classes:
            parts.append(bars(split.classes, split.near_empty))
        if split.read:
            lengths = split.read.rows
            parts.append(histogram(lengths.tokens, lengths.limit, "tokens per row"))
        if split.read and (targets := split.read.targets):
            parts.append(histogram(targets.tokens, targets.limit, "tokens per target"))
    head = f'<meta charset="utf-8"><title>{escape(heading)}</title><style>{STYLE}</style>'
    lines = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{lines}\n</body></html>\n'


def _listed(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (
        "".join(f"<{cell}>{escape(value)}</{cell}>" for value in row)
        for cell, row in zip(("th", *["td"] * len(rows)), rows, strict=False)
    )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in (head, *body))}</table>"


def _picture(height: int, title: str, parts: Iterable[str]) -> str:
    drawn = "".join(parts)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">{drawn}</svg></figure>'
    )


def bars(counts: Mapping[str, int], few: Sequence[str]) -> str:
    """Return horizontal bars of the classes' counts; those that are near-empty are red."""
    most, parts = max(1, *counts.values()), []
    for place, (name, count) in enumerate(list(counts.items())[:MOST]):
        top, kind = place * BAR, ' class="few"' if name in few else ""
        short = name if len(name) <= 24 else f"{name[:23]}…"
        parts += [
            f'<text x="0" y="{top + 13}">{escape(short)}</text>',
            f'<rect x="170" y="{top + 2}" width="{max(1, 390 * count / most):.1f}" '
            f'height="{BAR - 4}"{kind}><title>{escape(name)}: {count}</title></rect>',
            f'<text x="{176 + 390 * count / most:.1f}" y="{top + 13}">{count:,}</text>',
        ]
    title = "classes" if len(counts) <= MOST else f"the first {MOST} of {len(counts)} classes"
    return _picture(BAR * min(len(counts), MOST), title, parts)


def histogram(sizes: Sequence[int], limit: int, title: str) -> str:
    """Return a histogram of lengths with a line at the limit; the last bar holds all longer."""
    end = 1.05 * max(limit, int(np.percentile(sizes, 99, method="higher")))
    counts, edges = np.histogram(np.minimum(sizes, end), bins=BINS, range=(0, end))
    step, most, floor = WIDTH / BINS, max(1, int(counts.max())), HEIGHT - 20
    parts = []
    for place, count in enumerate(counts.tolist()):
        tall, low, high = floor * count / most, edges[place], edges[place + 1]
        more = " or more" if place == BINS - 1 else f" to {high:.0f}"
        parts.append(
            f'<rect x="{place * step:.1f}" y="{floor - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{low:.0f}{more} tokens: {count}</title></rect>'
        )
    at = WIDTH * limit / end
    parts += [
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{floor}"/>',
        f'<text x="{at - 4:.1f}" y="12" text-anchor="end">limit {limit}</text>',
        f'<text x="0" y="{HEIGHT - 4}">0</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">longest {max(sizes):,}</text>',
    ]
    return _picture(HEIGHT, title, parts)
