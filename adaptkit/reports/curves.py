"""Pictures of probes: what can be read off each layer, and how much is not learnt by heart."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.storage.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito 2008
LAYER, CONTROL = "method.layer", "task.control"


@dataclass
class Curve:
    """The scores of one probe: per layer those of the task, and those of its control task."""

    name: str
    own: dict[int, list[float]] = field(default_factory=dict)
    control: dict[int, list[float]] = field(default_factory=dict)

    def selectivity(self) -> dict[int, float]:
        """Return score - score of the control task per layer, of means over runs."""
        both = sorted(self.own.keys() & self.control.keys())
        return {n: statistics.mean(self.own[n]) - statistics.mean(self.control[n]) for n in both}


def alike(
    records: Sequence[Any], ignored: Sequence[str]
) -> dict[tuple[tuple[str, str], ...], list[Any]]:
    """Return the records by what sets them apart: the settings, with values, that are not ignored.

    Settings that all records share are left out of the keys.
    """
    flat = [{k: str(v) for k, v in one.settings.items() if k not in ignored} for one in records]
    names = dict.fromkeys(name for one in flat for name in one)
    varied = [name for name in names if len({one.get(name) for one in flat}) > 1]
    groups: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    for record, settings in zip(records, flat, strict=True):
        key = tuple((name, settings[name]) for name in varied if name in settings)
        groups.setdefault(key, []).append(record)
    return groups


def curves(records: Sequence[Any], ignored: Sequence[str]) -> list[Curve]:
    """Return a curve for each setting that runs differ in, the layer and what is ignored left out.

    Runs that read no single layer, or one that is counted from the top, are left out.
    """
    probes = [one for one in records if one.score is not None and is_layer(one.settings)]
    found = []
    for settings, group in alike(probes, (*ignored, LAYER)).items():
        curve = Curve(" ".join(f"{name.rpartition('.')[2]}={value}" for name, value in settings))
        for record in group:
            points = curve.own if record.settings.get(CONTROL) is None else curve.control
            points.setdefault(record.settings[LAYER], []).append(record.score)
        found.append(curve)
    return [curve for curve in found if len(curve.own) > 1]


def is_layer(settings: Mapping[str, Any]) -> bool:
    """Tell whether a run reads one layer by its number from below."""
    layer = settings.get(LAYER)
    return isinstance(layer, int) and layer >= 0 and not settings.get("method.mix")


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(found: Sequence[Curve], record: Any, file: Path) -> None:
    """Write the picture: scores by layer and, if control tasks were run, selectivities.

    `record`: of one of the runs, for what they share.
    """
    from matplotlib.figure import Figure

    selective = any(curve.selectivity() for curve in found)
    figure = Figure(figsize=(9.6 if selective else 5.2, 3.8), layout="constrained", dpi=160)
    panels = figure.subplots(1, 2 if selective else 1, squeeze=False)[0]
    scores(panels[0], found, record)
    if selective:
        bars(panels[1], found)
    sample = " (bundled sample)" if record.data["source"] == "sample" else ""
    figure.suptitle(f"{record.method} of {record.model} on {record.task}{sample}", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=2, fontsize=8, frameon=False)  # fmt: skip
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png")


def scores(axes: Axes, found: Sequence[Curve], record: Any) -> None:
    """Draw the score by layer with its standard deviation over runs; control tasks dashed."""
    for number, curve in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        for points, style, what in ((curve.own, "o-", ""), (curve.control, "s--", "control task")):
            if not points:
                continue
            layers = sorted(points)
            means = [statistics.mean(points[n]) for n in layers]
            spread = [statistics.stdev(points[n]) if len(points[n]) > 1 else 0.0 for n in layers]
            name = ", ".join(part for part in (curve.name, what) if part) or record.task
            axes.errorbar(layers, means, spread, fmt=style, color=colour, markersize=4,
                          linewidth=1.4, capsize=2, label=name)  # fmt: skip
    trivial = record.baseline.get("value")
    if trivial is not None:
        axes.axhline(trivial, color="0.5", linestyle=":", label=record.baseline["name"])
    axes.set(xlabel="layer (0: embeddings)", ylabel=record.metric)
    axes.set_xticks(sorted({n for curve in found for n in curve.own}))
    axes.grid(alpha=0.25)


def bars(axes: Axes, found: Sequence[Curve]) -> None:
    """Draw the selectivity of every layer, one bar for each probe."""
    shown = [(n, curve.selectivity()) for n, curve in enumerate(found) if curve.selectivity()]
    width = 0.8 / len(shown)
    for place, (number, values) in enumerate(shown):
        left = [layer + (place - (len(shown) - 1) / 2) * width for layer in values]
        axes.bar(left, list(values.values()), width, color=COLOURS[number % len(COLOURS)])
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(xlabel="layer (0: embeddings)", ylabel="selectivity")
    axes.set_xticks(sorted({layer for _, values in shown for layer in values}))
    axes.grid(alpha=0.25, axis="y")
