"""What a reader of a card must know before trusting it, each from the run's record."""

from __future__ import annotations

import os
from pathlib import Path

from adaptkit.runs.delta import SavedRun
from adaptkit.runs.exchange.markdown import code, text
from adaptkit.runs.exchange.metadata import by_split
from adaptkit.runs.lengths import lines_about
from adaptkit.runs.record import RunResult

SPLITS = {"holdout": "held-out training"}


def chosen(result: RunResult) -> str:
    """Say which weights were kept, and by what."""
    if result.imported_from:
        return "The weights are those of the imported adapter; how they were chosen is not known."
    if not result.updates:
        return "There were no updates, so that no epoch was chosen."
    last = f"The weights are those after the last of {result.updates:,} updates."
    if result.select_on == "none":
        return last
    rows, flatters = f"{result.selection_rows:,} training rows that were not trained on", ""
    if result.select_on == "validation":
        rows = f"the {scored(result)} rows"
        flatters = ", so that scores of these rows are slightly too good"
    if result.settings.get("trainer.keep") == "last":  # early stopping alone
        return f"{last} When to stop was decided by {code(result.metric)} on {rows}{flatters}."
    other = "" if flatters else " The scores above are of other rows."
    return (
        f"The weights are those after update {result.best_update:,} of {result.updates:,}: they "
        f"had the best {code(result.metric)} on {rows}{flatters}.{other}"
    )


def limits(saved: SavedRun) -> list[str]:
    """Return the limits as sentences of Markdown."""
    result, run = saved.result, saved.settings
    if result is None:
        return []
    found = [f"One run with seed {result.seed}: how much another seed changes is not known."]
    if result.imported_from:
        found = ["The rows, the settings and the seed of its training are not known."]
    if result.data.get("source") == "sample":
        found.append("SAMPLE DATA: nothing here holds for the real task.")
    if result.split == "holdout":
        found.append("Scored on held-out training rows, not on the validation split.")
    if result.indistinct:
        found.append("The score is not distinguishable from that of the trivial answer.")
    elif result.below_trivial:
        found.append("The score is below that of the trivial answer.")
    rows = {key: result.settings.get(f"data.{key}") for key in ("train_rows", "eval_rows",
                                                                "per_class")}  # fmt: skip
    if said := [code(f"data.{key}={value}") for key, value in rows.items() if value]:
        found.append(f"Only some of the rows were read: {', '.join(said)}.")
    if result.from_runs:
        names = ", ".join(
            code("/".join(str(one.get(key)) for key in ("task", "method") if one.get(key)))
            for one in result.from_runs
        )
        found.append(f"It goes on from earlier runs ({names}), which this card says nothing of.")
    if run.model.quantization:
        found.append(f"The base model was read in {code(run.model.quantization)}.")
    said = [*result.remarks, *result.data.get("notes", [])]
    said += lines_about(result.lengths) if result.lengths else []
    return found + [f"{text(without_places(one, saved)).rstrip('.')}." for one in said]


def scored(result: RunResult) -> str:
    """Return the name of the rows of the deciding score, as it stands before the word rows."""
    of = [split for split, names in by_split(result).items() if result.metric in names]
    split = of[0] if of else result.split
    return SPLITS.get(split, text(split))


def without_places(line: str, saved: SavedRun) -> str:
    """Return a remark in which folders of this machine have their names alone."""
    plain = saved.settings.plain
    places = [plain["task"].get("path"), plain["data"].get("root"), plain["model"].get("path"),
              plain["model"].get("from_run"), saved.directory, os.path.expanduser("~"),
              saved.result and saved.result.data.get("path")]  # fmt: skip
    for place in sorted({str(one) for one in places if one}, key=len, reverse=True):
        if os.path.isabs(place) and len(place) > 1:
            line = line.replace(place, Path(place).name)
    return line
