"""Small pictures as SVG, drawn here: they need no network, no script and no library.

Colours are those of Okabe & Ito (2008), which colour-blind readers tell apart; shapes differ too.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 40  # margins
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555")
# Of each colour a plain one first, for programs that know no variables.
STYLE = (
    f"""
:root {{ color-scheme: light dark; {" ".join(f"--c{n}:{c};" for n, c in enumerate(LIGHT))}
  --line:#8884; }}"""
    + """
@media (prefers-color-scheme: dark) { :root { --c0:#4aa8e0; --c1:#f0813a; --c2:#2fc79c;
  --c6:#bbb; } }
svg text { font-size: 12px; fill: currentColor; }
.grid { stroke: #ccc; stroke: var(--line); } .level { stroke: currentColor; stroke-dasharray: 4 4; }
.faint { fill-opacity: .35; } polyline { fill: none; stroke-width: 2; } .cell { fill: var(--c0); }
svg text.on { fill: #fff; }
"""
    + "".join(
        f".c{n} {{ fill: {colour}; fill: var(--c{n}); }} "
        f".l{n} {{ stroke: {colour}; stroke: var(--c{n}); stroke-width: 2; }}\n"
        for n, colour in enumerate(LIGHT)
    )
)
FILE_STYLE = """svg { font-family: system-ui, sans-serif; color: CanvasText; }
.ground { fill: Canvas; } svg text.title { font-size: 13px; font-weight: 600; }
"""
LINE = 20  # height of a line of a forest plot, or of a legend
LETTER = 7.2  # width of a letter of a caption, about
NAMES = 230  # width of the names in a forest plot


@dataclass
class Series:
    """Points of one name; drawn as dots, joined if `joined`."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)
    joined: bool = False
    bars: list[tuple[float, float]] = field(default_factory=list)  # low and high of each point


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, log: bool = False) -> Scale:
        """Return the scale that holds all values, with a margin."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [0.5]
        low, high = min(known), max(known)
        if log:
            return cls(low / 1.3, high * 1.3, start, end, True)
        room = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values, about five."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first < 4 else (1,)
            every = [f * 10.0**p for p in range(first, last + 1) for f in steps]
            return [value for value in every if self.low <= value <= self.high]
        raw = (self.high - self.low) / 5
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(f * size for f in (1, 2, 5, 10) if f * size >= raw)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def short(value: float) -> str:
    """Return a number as an axis shows it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Figure:
    """A picture with its caption."""

    height: float
    parts: Sequence[str]
    title: str
    width: float = WIDTH

    def html(self) -> str:
        """Return it for a page, which brings the style."""
        box, label = f"0 0 {self.width} {self.height:.0f}", escape(self.title)
        return (f'<figure><figcaption>{label}</figcaption><svg viewBox="{box}" role="img" '
                f'aria-label="{label}">{"".join(self.parts)}</svg></figure>')  # fmt: skip


def stacked(figures: Sequence[Figure]) -> str:
    """Return an SVG file: figures one below the other, with their captions and a background."""
    edge = 12
    width, top, parts = max(one.width for one in figures) + 2 * edge, edge, []
    for one in figures:
        for words in textwrap.wrap(one.title, int(one.width / LETTER)):
            parts.append(f'<text class="title" x="{edge}" y="{top + 14}">{escape(words)}</text>')
            top += LINE
        parts.append(f'<g transform="translate({edge} {top + 8})">{"".join(one.parts)}</g>')
        top += 8 + round(one.height) + edge
    whole = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" '
        f'height="{top}"><style>{STYLE}{FILE_STYLE}</style><rect class="ground" fill="white" '
        f'width="{width}" height="{top}"/>{"".join(parts)}</svg>\n'
    )
    return NOT_XML.sub("\ufffd", whole)


def mark(kind: int, x: float, y: float, text: str = "", small: bool = False) -> str:
    """Return a dot, square, triangle or diamond; seven colours, then another shape."""
    colour, shape, r = kind % len(LIGHT), kind // len(LIGHT) % 4, 2.5 if small else 4.5
    title = f"<title>{escape(text)}</title>" if text else ""
    name = f'class="c{colour}{" faint" if small else ""}"'
    if shape == 0:
        return f'<circle {name} cx="{x:.1f}" cy="{y:.1f}" r="{r}">{title}</circle>'
    corners = {
        1: [(-r, -r), (r, -r), (r, r), (-r, r)],
        2: [(0, -r * 1.2), (r * 1.2, r), (-r * 1.2, r)],
        3: [(0, -r * 1.4), (r * 1.4, 0), (0, r * 1.4), (-r * 1.4, 0)],
    }[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon {name} points="{points}">{title}</polygon>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Return a piece of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line of a class of the style."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def plot(
    series: Sequence[Series], title: str, across: str, log: bool = False, level: float | None = None
) -> Figure:
    """Return points over an axis, with a legend; `level`: a dashed line across."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    ys += [end for one in series for bar in one.bars for end in bar]
    if level is not None:
        ys.append(level)
    x, y = Scale.over(xs, LEFT, WIDTH - RIGHT, log), Scale.over(ys, HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in y.ticks():
        parts += [line("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick)),
                  text(LEFT - 6, y(tick) + 4, short(tick), "end")]  # fmt: skip
    for tick in x.ticks():
        parts += [line("grid", x(tick), TOP, x(tick), HEIGHT - BOTTOM),
                  text(x(tick), HEIGHT - BOTTOM + 16, short(tick), "middle")]  # fmt: skip
    parts.append(text(WIDTH - RIGHT, HEIGHT - 6, across, "end"))
    if level is not None:
        parts.append(line("level", LEFT, y(level), WIDTH - RIGHT, y(level)))
    for kind, one in enumerate(series):
        if one.joined and len(one.points) > 1:
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one.points)
            parts.append(f'<polyline class="l{kind % len(LIGHT)}" points="{path}"/>')
        for place, (a, b) in enumerate(one.points):
            if one.bars:
                low, high = one.bars[place]
                parts.append(line(f"l{kind % len(LIGHT)}", x(a), y(low), x(a), y(high)))
            parts.append(mark(kind, x(a), y(b), f"{one.name}: {short(a)}, {b:.4f}"))
    for kind, one in enumerate(series):
        column, place = kind % 2, kind // 2
        left, at = LEFT + column * (WIDTH - LEFT) / 2, HEIGHT + LINE * (place + 0.5)
        parts += [mark(kind, left, at), text(left + 10, at + 4, cut(one.name, 42))]
    return Figure(HEIGHT + LINE * (math.ceil(len(series) / 2) + 0.5), parts, title)


def forest(rows: Sequence[tuple[str, float, float | None, float | None, Sequence[float]]],
           title: str, level: float | None = None) -> Figure:  # fmt: skip
    """Return (name, mean, low, high, each seed) as lines: a mark, its interval, faint dots."""
    values = [v for _, m, low, high, each in rows for v in (m, low, high, *each) if v is not None]
    x = Scale.over([*values, *([] if level is None else [level])], NAMES, WIDTH - RIGHT)
    end = LINE * len(rows) + 8
    parts = []
    for tick in x.ticks():
        parts += [line("grid", x(tick), 0, x(tick), end),
                  text(x(tick), end + 14, short(tick), "middle")]  # fmt: skip
    if level is not None:
        parts.append(line("level", x(level), 0, x(level), end))
    for place, (name, mean, low, high, each) in enumerate(rows):
        at = LINE * (place + 0.5) + 4
        parts.append(text(0, at + 4, cut(name, 36)))
        parts += [mark(0, x(value), at, f"{value:.4f}", small=True) for value in each]
        if low is not None and high is not None:
            parts.append(line("l0", x(low), at, x(high), at))
        parts.append(mark(0, x(mean), at, f"{name}: {mean:.4f}"))
    return Figure(end + 20, parts, title)


def matrix(counts: Mapping[tuple[str, str], int], names: Sequence[str], title: str) -> Figure:
    """Return a confusion matrix: rows are labels, columns answers; shares of a row as shades."""
    size, side = len(names), min(64, 440 / max(1, len(names)))
    parts = []
    for row, label in enumerate(names):
        total = sum(counts.get((label, name), 0) for name in names) or 1
        parts.append(text(146, 30 + side * (row + 0.5) + 4, cut(label, 20), "end"))
        for column, answer in enumerate(names):
            count = counts.get((label, answer), 0)
            left, top = 152 + side * column, 30 + side * row
            share = count / total
            parts.append(
                f'<rect class="cell" x="{left:.1f}" y="{top:.1f}" width="{side - 1:.1f}" '
                f'height="{side - 1:.1f}" fill-opacity="{0.06 + 0.94 * share:.2f}"><title>'
                f"{escape(label)} answered {escape(answer)}: {count} ({share:.0%})</title></rect>"
            )
            if side >= 30:
                words = text(left + side / 2, top + side / 2 + 4, f"{share:.0%}", "middle")
                parts.append(words.replace("<text", f'<text class="{"on" if share > 0.5 else ""}"'))
    for column, answer in enumerate(names):
        parts.append(text(152 + side * (column + 0.5), 22, cut(answer, int(side / 6)), "middle"))
    return Figure(34 + side * size, parts, title, 160 + side * size)


def cut(words: str, most: int) -> str:
    """Return a name that fits."""
    return words if len(words) <= most else words[: max(1, most - 1)] + "…"
