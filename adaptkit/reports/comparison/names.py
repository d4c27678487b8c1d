"""What the rows of a report are called: as much as tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adaptkit.reports.comparison.runs import ASIDE, REPEATED, Run, settings_of


def named(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of a column by the name of their row.

    method, regularizers and model, with the settings in which runs of that name differ.
    """
    models = {run.result.model for run in runs}
    known = [(run.result.model, run.result.made_of.get("model")) for run in runs]
    files = {(model, digest) for model, digest in known if digest}  # older runs have none
    names: dict[str, list[Run]] = {}
    for run in runs:
        parts = [run.result.method, *(f"+ {name}" for name in run.result.regularizers)]
        if len(models) > 1:
            parts.append(f"on {run.result.model}")
        if len(files) > len({model for model, _ in files}):  # other weights under one name
            parts.append(f"({(run.result.made_of.get('model') or 'unknown')[:8]})")
        names.setdefault(" ".join(parts), []).append(run)
    found: dict[str, list[Run]] = {}
    for name, group in names.items():
        flat = [settings_of(run, (*ASIDE, *REPEATED)) for run in group]
        keys = telling(flat)
        for run, settings in zip(group, flat, strict=True):
            words = [f"{key.rpartition('.')[2]}={settings.get(key)}" for key in keys]
            found.setdefault(" ".join([name, *words]), []).append(run)
    return found


def telling(flat: Sequence[dict[str, Any]]) -> list[str]:
    """Return settings that tell runs apart, none that the others make superfluous.

    A rate that was chosen for each setting is superfluous.
    """
    every = dict.fromkeys(key for one in flat for key in one)
    keys = [key for key in every if len({str(one.get(key)) for one in flat}) > 1]

    def groups(names: Sequence[str]) -> int:
        return len({tuple(str(one.get(name)) for name in names) for one in flat})

    for key in sorted(keys, key=lambda name: not name.startswith("optimizer.")):
        fewer = [name for name in keys if name != key]
        if groups(fewer) == groups(keys):
            keys = fewer
    return keys
