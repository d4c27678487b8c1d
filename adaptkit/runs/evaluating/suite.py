"""A finished run on a suite: every set scored with one loaded model, and what each loses.

    drop = score in domain - score of the set    (the other way round where less is better)

Both sides are samples of rows, drawn independently: the 95 % interval of a drop is that of the
differences of redrawn scores, and that of a macro average is that of the means of redrawn scores.
It measures the choice of the rows, not that of the seed. In domain is the run's own validation
split, scored again with the same options (data.eval_rows, trainer.precision) as the sets. If a set
has fewer classes than the run, its drop is that from the score in domain with the same map of
answers and labels: three classes are harder than two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptkit.config.settings import Settings
from adaptkit.config.suite import Suite
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.metrics.bootstrap import Array, mean_draws, quantiles
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.evaluating.evaluate import (
    as_recorded,
    asking,
    changed,
    loaded,
    name_of,
    scored_into,
    suffix_of,
    where_typed,
)
from adaptkit.runs.evaluating.mapped import in_classes_of, mapping, unlabelled
from adaptkit.runs.memory import Begun
from adaptkit.runs.prepare import restored
from adaptkit.runs.record import RunResult
from adaptkit.runs.remarks import score_draws
from adaptkit.storage.files import check_free, finite, write_json
from adaptkit.tasks.reading.source import with_column
from adaptkit.tasks.task import LABEL, Splits, Task
from adaptkit.training.scorer import Prepared, Scored, distributed, gathered

IN_DOMAIN = "in domain"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """One set, scored."""

    entry: dict[str, Any]  # of the record
    task: Task
    scored: Scored
    draws: Array | None  # redrawn scores [times], independent of those of the other sets
    lost: Array | None = None  # the same of the drop


def evaluate_suite(
    directory: Path, suite: Suite, overrides: Sequence[str], output: Path | None, say: Say
) -> tuple[dict[str, Any], Path]:
    """Score a finished run on every set that can be had; return the record and its file.

    `overrides` hold for all sets. `say` gets one line per set.

    Raises:
        AdaptError: the run or an override is wrong. A set whose rows cannot be had raises nothing:
            the record names it with the reason.
    """
    if output:
        check_free(output, "--output")
    check_own_rows(suite, overrides)
    saved = as_recorded(load_run(directory))
    asked = suite.of(saved.settings.task.name)
    words = {name: [*own, *overrides] for name, own in {IN_DOMAIN: [], **asked}.items()}
    runs = {name: changed(saved, each) for name, each in words.items()}  # mistakes come first
    root = output or directory / "eval"
    prepared = restored(where_typed(saved, runs[IN_DOMAIN], overrides))
    found: dict[str, Outcome] = {}
    missing: dict[str, str] = {}
    for number, (name, run) in enumerate(runs.items()):
        try:
            check_other(name, saved, run)
            place = root / name_of(run, words[name])
            outcome = scored_set(name, saved, run, prepared, place, number)
            found[name] = with_drop(outcome, found.get(IN_DOMAIN))
            say(line(outcome.entry))
        except ConfigError:
            raise
        except AdaptError as error:
            missing[name] = str(error)
            say(f"{name}: not evaluated")
    record = finite(record_of(suite.name, asked, directory, found, missing))
    file = root / f"suite-{suite.name}{suffix_of(runs[IN_DOMAIN], overrides)}.json"
    write_json(file, record)
    return record, file


def with_suite(job: Settings, result: RunResult, say: Say) -> RunResult:
    """Score a run that has just been trained on its suite, and add that to its record."""
    if job.suite is None:
        return result
    if distributed():
        torch.distributed.barrier()  # the main process has written the run
    found, _ = evaluate_suite(job.output_dir, job.suite, [], None, say)
    result = replace(result, ood=found)
    result.write(job.output_dir)
    return result


def check_own_rows(suite: Suite, overrides: Sequence[str]) -> None:
    """Reject rows that are typed for all sets: every set has its own.

    Raises:
        ConfigError: an override names a task or a path.
    """
    for word in overrides:
        if word.partition("=")[0].lstrip("+~") in ("task", "task.path"):
            raise ConfigError(
                f"{word}: every set of suite={suite.name} has rows of its own. Leave "
                f"one of the two out, or add a set: '+suite.sets.TASK.NAME={word}'."
            )


def check_other(name: str, saved: SavedRun, run: Settings) -> None:
    """Reject rows of the run's own data set that it may have been trained on.

    Raises:
        AdaptError: the set is a part of the data by a column, and the run has seen that part.
    """
    own, other = saved.settings.plain["task"], run.plain["task"]
    if name == IN_DOMAIN or any(
        own.get(key) != other.get(key) for key in ("name", "path", "validation")
    ):
        return
    trained_on, scored = own.get("where") or {}, other.get("where") or {}
    if not scored or any(trained_on.get(name, value) != value for name, value in scored.items()):
        return  # one column that differs keeps all rows apart
    column, value = list(scored.items())[-1]  # the set's own condition follows those of the run
    raise AdaptError(
        f"the run was trained on rows with {column}={trained_on.get(column, 'anything')}, these "
        f"are rows with {column}={value}. Train it on others: +task.where.{column}=OTHER."
    )


def loaded_by_all(saved: SavedRun, run: Settings) -> tuple[Settings, Splits]:
    """Read the rows of a set, or fail in all processes: none may wait for one that failed.

    Raises:
        AdaptError: they cannot be had in one of the processes.
    """
    problem = ""
    try:
        run, splits = loaded(saved, run)
    except ConfigError:
        raise
    except AdaptError as error:
        problem = str(error)
    if problems := [one for one in gathered(problem) if one]:
        raise AdaptError(problems[0])
    return run, splits


def scored_set(
    name: str, saved: SavedRun, run: Settings, prepared: Prepared, place: Path, seed: int
) -> Outcome:
    """Score one set; predictions and record go into `place`. `seed`: of the draws."""
    begun, clock = Begun.now(), time.monotonic()
    run, splits = loaded_by_all(saved, run)
    asked = asking(prepared, saved, run)
    result, scored = scored_into(place, begun, saved, run, splits, asked)
    (cells,) = [part.get("by") for key, part in result.details.items() if key == "validation"]
    entry = {
        "name": name,
        "task": result.task,
        "split": result.split,
        "rows": result.data["rows"]["validation"],
        "data": result.data["source"],
        "metric": result.metric,
        "score": result.score,
        "interval": result.score_interval,
        "baseline": result.baseline,
        "indistinct": result.indistinct,
        "below_trivial": result.below_trivial,
        "notes": result.data["notes"],
        "remarks": result.remarks,
        **({"by": cells} if cells else {}),
        "seconds": round(time.monotonic() - clock, 1),
        "directory": str(place),
    }
    draws = score_draws(run.task, scored[""], seed)
    return Outcome(entry, run.task, scored[""], draws)


def with_drop(one: Outcome, own: Outcome | None) -> Outcome:
    """Return a set's outcome with how far it is below the one in domain, if they are comparable.

    `own`: None for that in domain itself, and if it could not be scored.
    """
    scores = (one.entry["score"], own.entry["score"] if own else None)
    if own is None or None in scores or not comparable(own, one):
        return replace(one, entry={**one.entry, "drop": None, "drop_interval": None})
    names = mapping(own.task, one.task)
    task, scored = own.task, own.scored
    if names:
        task, scored = in_classes_of(one.task, task), under(scored, names)
    score, draws = task.score(scored.answers, scored.rows), own_draws(task, scored)
    before = score.get(task.headline, own.entry["score"])  # a loss is not among the metrics
    sign = 1 if task.larger_is_better else -1
    lost = None if draws is None or one.draws is None else sign * (draws - one.draws)
    entry = {
        **one.entry,
        "drop": sign * (before - one.entry["score"]),
        "drop_interval": quantiles(lost),
        **({"in_domain_mapped": before} if names else {}),
    }
    return replace(one, entry=entry, lost=lost)


def under(scored: Scored, names: Mapping[str, str]) -> Scored:
    """Return answers and labels with the classes mapped; None stays None."""
    labels = [names[label] for label in scored.rows[LABEL][:]]
    rows = with_column(unlabelled(scored.rows), LABEL, labels)
    return replace(scored, rows=rows, answers=[names.get(answer) for answer in scored.answers])


def own_draws(task: Task, scored: Scored) -> Array | None:
    """Return redrawn scores in domain: the same rows in every draw, however they are mapped."""
    if task.headline == "accuracy" and task.parts(scored.answers, scored.rows) is None:
        pairs = zip(scored.answers, scored.rows[LABEL][:], strict=True)
        return mean_draws([float(answer == label) for answer, label in pairs])
    return score_draws(task, scored)


def record_of(
    suite: str,
    asked: Mapping[str, Sequence[str]],
    directory: Path,
    found: dict[str, Outcome],
    missing: dict[str, str],
) -> dict[str, Any]:
    """Return the record: in domain, the sets with their drops, the missing ones, the average."""
    own = found.get(IN_DOMAIN)
    sets = {name: outcome for name, outcome in found.items() if name != IN_DOMAIN}
    return {
        "suite": suite,
        "asked": {name: list(words) for name, words in asked.items()},
        "run": str(directory),
        "in_domain": own.entry if own else None,
        "sets": [one.entry for one in sets.values()],
        "missing": missing,
        "macro": macro(own, list(sets.values())),
    }


def macro(own: Outcome | None, sets: Sequence[Outcome]) -> dict[str, Any]:
    """Return the means over the sets that have a score of the same kind, each counted once."""
    of = own or next(iter(sets), None)
    same = [s for s in sets if of and comparable(of, s) and s.entry["score"] is not None]
    if of is None or not same:
        return {}
    drops = [s.entry["drop"] for s in same]
    return {
        "metric": of.entry["metric"],
        "sets": [s.entry["name"] for s in same],
        "score": sum(s.entry["score"] for s in same) / len(same),
        "interval": quantiles(mean([s.draws for s in same])),
        "drop": None if None in drops else sum(drops) / len(drops),
        "drop_interval": quantiles(mean([s.lost for s in same])),
    }


def comparable(one: Outcome, other: Outcome) -> bool:
    """Tell whether two scores are of the same metric, and none or both of bundled sample rows."""
    metrics = {each.entry["metric"] for each in (one, other)}
    return len(metrics) == 1 and len({e.entry["data"] == "sample" for e in (one, other)}) == 1


def mean(drawn: Sequence[Array | None]) -> Array | None:
    """Return the mean over sets of redrawn numbers [times]; None if one has none."""
    known = [one for one in drawn if one is not None]
    return np.mean(known, axis=0) if len(known) == len(drawn) else None


def line(entry: Mapping[str, Any]) -> str:
    """Say how one set went."""
    score = "undefined" if entry["score"] is None else f"{entry['score']:.4f}"
    return (
        f"{entry['name']}: {entry['metric']} {score} ({entry['rows']:,} rows of {entry['task']}, "
        f"{entry['seconds']:.0f} s)"
    )
