"""A finished run on other data: scored on another task or split."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptkit.config.compose import compose, with_absolute_paths
from adaptkit.config.names import variant
from adaptkit.config.overrides import parsed, stem
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.evaluating.mapped import in_classes_of, mapping, said, score_mapped, unlabelled
from adaptkit.runs.lengths import by_split, lengths_of
from adaptkit.runs.memory import Begun, own
from adaptkit.runs.predictions import write_predictions
from adaptkit.runs.prepare import feed_of, restored, scorer_of
from adaptkit.runs.record import RunResult, machine_facts, result_of, scoring_facts
from adaptkit.runs.selection import OPTIMISTIC
from adaptkit.storage.bundled import published
from adaptkit.storage.files import check_free, digest
from adaptkit.tasks.task import Splits, Task
from adaptkit.tasks.worded import OPTIONS
from adaptkit.training.batching import Feed
from adaptkit.training.scorer import Prepared, Scored

# Of a task: how it is put to a model in words, whether its answers are those of a control task, and
# how many outputs score a pair of words.
WORDING = ("form", *OPTIONS, "demonstrations", "listed", "step", "control", "control_shares",
           "rank")  # fmt: skip
PLACES = {"task", "task.path", "task.subset", "task.revision"}  # what says which data set is read


def score(run: Settings, prepared: Prepared, splits: Splits) -> dict[str, Scored]:
    """Score every validation split."""
    return score_feeds(run, prepared, splits, feeds_of(run, prepared, splits))


def feeds_of(run: Settings, prepared: Prepared, splits: Splits) -> dict[str, Feed]:
    """Encode every validation split."""
    return {s: feed_of(run, prepared, rows) for s, rows in splits.validation.items()}


def score_feeds(
    run: Settings, prepared: Prepared, splits: Splits, feeds: Mapping[str, Feed]
) -> dict[str, Scored]:
    """Score validation splits that are encoded."""
    scorer = scorer_of(run, prepared)
    return {s: scorer.score(feed, splits.validation[s]) for s, feed in feeds.items()}


def evaluate(
    directory: Path, overrides: Sequence[str], output: Path | None
) -> tuple[RunResult, Path]:
    """Score a finished run with some settings changed; return the record and where it was written.

    Raises:
        AdaptError: the other task has other classes, or something cannot be read.
    """
    if output:
        check_free(output, "--output")
    begun = Begun.now()
    saved = as_recorded(load_run(directory))
    run, splits = loaded(saved, changed(saved, overrides))
    place = output or directory / "eval" / name_of(run, overrides)
    prepared = asked_in(run, saved, overrides)
    return scored_into(place, begun, saved, run, splits, prepared)[0], place


def loaded(saved: SavedRun, run: Settings) -> tuple[Settings, Splits]:
    """Read the rows of a changed run, which then scores its own classes, in its own order."""
    own = saved.settings.task
    if not run.task.bound and type(run.task) is type(own):  # a file may lack one of the classes
        run = replace(run, task=run.task.with_classes(own.classes))
    run = of_validation(run)
    splits = run.task.load(run.data, run.seed, train=False, every_row=other_file(saved, run))
    if names := mapping(own, splits.task):
        splits = replace(splits, notes=(*splits.notes, said(names)))
    return replace(run, task=splits.task), splits


def of_validation(run: Settings) -> Settings:
    """Return settings that say what is scored: the validation rows, whatever the run held out."""
    data = {**run.plain["data"], "holdout": False}
    return replace(run, data=replace(run.data, holdout=False), plain={**run.plain, "data": data})


def scored_into(
    place: Path, begun: Begun, saved: SavedRun, run: Settings, splits: Splits,
    prepared: Prepared,
) -> tuple[RunResult, dict[str, Scored]]:  # fmt: skip
    """Score splits with a saved run's model; write predictions and record into `place`."""
    if names := mapping(saved.settings.task, run.task):
        scorer = scorer_of(run, prepared)
        parts = splits.validation.items()
        feeds = {s: feed_of(run, prepared, unlabelled(rows)) for s, rows in parts}
        scored = {s: score_mapped(scorer, feeds[s], rows, names) for s, rows in parts}
    else:
        feeds = feeds_of(run, prepared, splits)
        scored = score_feeds(run, prepared, splits, feeds)
    result = result_of(
        run,
        begun.at,
        "done",
        evaluated_run=str(saved.directory),
        lengths=lengths_of(run, prepared, by_split(feeds)),
        **scoring_facts(run, splits, scored, [chose(saved, run)]),
        **machine_facts(prepared.device, prepared.precision, own(prepared.device, begun.earlier)),
    )
    write_predictions(place, scored)
    result.write(place)
    return result, scored


def chose(saved: SavedRun, run: Settings) -> str | None:
    """Say so if the run chose its epoch by the split that is scored."""
    own, result = saved.settings, saved.result
    names = ("name", "path", "validation")
    same = all(own.plain["task"].get(n) == run.plain["task"].get(n) for n in names)
    chosen = result is not None and result.select_on == "validation" and not own.data.holdout
    return OPTIMISTIC if same and chosen else None


def asked_in(run: Settings, saved: SavedRun, overrides: Sequence[str]) -> Prepared:
    """Return the model of a saved run, with the form of a changed run's task.

    Raises:
        AdaptError: the other task has other classes, or the model cannot be restored.
    """
    return asking(restored(where_typed(saved, run, overrides)), saved, run)


def asking(prepared: Prepared, saved: SavedRun, run: Settings) -> Prepared:
    """Return the model of a saved run with the form of a changed run's task.

    Raises:
        AdaptError: the other task has other classes, or a template has not the places of the run's.
    """
    own, other = saved.settings.task, run.task
    same = in_classes_of if mapping(own, other) else with_classes_of
    form = same(own, other).posed  # the classes of the head
    if (trained := own.posed.prompted) != form.prompted:
        raise AdaptError(
            f"task.template: has places for {form.prompted} vectors of a prompt, and the run was "
            f"trained with {trained}. Write as many, in the same order."
        )
    if prepared.adaptation.form is not None:
        form = prepared.adaptation.form(form)
    return replace(prepared, form=form)


def name_of(run: Settings, overrides: Sequence[str]) -> str:
    """Name an evaluation by the task, the split and what else was typed: none replaces another."""
    typed = [o for o in overrides if o.partition("=")[0] not in ("task", "task.validation")]
    return f"{run.task.name}-{run.task.split}{suffix_of(run, typed)}"


def suffix_of(run: Settings, typed: Sequence[str]) -> str:
    """Name what was typed as the end of a file's name; empty: nothing was."""
    root = run.data.root if any(o.startswith("data.root=") for o in typed) else None
    other = variant(list(typed), root)
    return "" if other == "default" else f"-{other}"


def other_file(saved: SavedRun, run: Settings) -> bool:
    """Tell whether the rows are others than those of which the run knows a part.

    A file that was moved or renamed since is the same one.

    Raises:
        AdaptError: the one file of which the run knows a part has changed.
    """
    origin, result = run.task.origin(run.data), saved.result
    if result is None:
        return True
    before = result.made_of.get("data")
    same = bool(origin.files) and digest(origin.files) == before
    if origin.path != result.data.get("path"):
        return not same
    if origin.one_file and before is not None and not same:
        raise AdaptError(
            f"{origin.path} has changed since the run was trained, so that the rows held out then "
            "are not known. Put the rows to score into a file of their own: task.path=FILE."
        )
    return False


def where_typed(saved: SavedRun, run: Settings, overrides: Sequence[str]) -> SavedRun:
    """Return the run on the device and in the number format that are typed, if they are."""
    typed, trainer = {o.partition("=")[0].lstrip("+~") for o in overrides}, saved.settings.trainer
    if typed & {"trainer", "trainer.device"}:
        trainer = replace(trainer, device=run.trainer.device)
    if typed & {"trainer", "trainer.precision"}:
        trainer = replace(trainer, precision=run.trainer.precision)
    return replace(saved, settings=replace(saved.settings, trainer=trainer))


def changed(saved: SavedRun, overrides: Sequence[str]) -> Settings:
    """Return the run's settings with task, data and evaluation options replaced.

    Raises:
        AdaptError: an override would change what was trained.
    """
    touched = [o.partition("=")[0].lstrip("+~") for o in overrides]
    fixed = [key for key in touched if key.partition(".")[0] not in ("task", "data", "trainer")]
    if fixed:
        raise AdaptError(
            f"{fixed[0]}: a finished run keeps its model and method; "
            "only task, data and trainer options can change here."
        )
    plain = copy.deepcopy(saved.settings.plain)
    root = os.environ.get("ADAPTKIT_DATA")
    if plain["data"]["root"] is None and root:  # the environment may name one now
        plain["data"]["root"] = root
    groups = [key for key in touched if "." not in key]
    if groups:  # another task or trainer: its own options, and those that are typed
        composed = compose(list(overrides))
        plain |= {group: composed[group] for group in groups}
    for override in overrides:
        key, value = parsed(override)
        group, *inner = key.split(".")
        if inner and group not in groups:
            node = plain[group]
            for name in inner[:-1]:
                if not isinstance(node.get(name), dict):  # null, for example
                    node[name] = {}
                node = node[name]
            node[inner[-1]] = value
    if {"task.path", "data.root"} & {*touched} and "data.source" not in touched:
        plain["data"]["source"] = "auto"  # other rows are typed: not those of a run on the sample
    sample = "data.source" in touched and plain["data"]["source"] == "sample"
    if ("task.path" in touched or sample) and "data.root" not in touched:
        plain["data"]["root"] = None
    if "data.root" in touched and not PLACES & {*touched}:
        plain["task"] |= published(plain["task"]["name"])  # the rows are in DIR/NAME
    keep_wording(saved.settings.plain["task"], plain["task"], touched)
    before, now = saved.settings.plain["task"], plain["task"]
    if now["name"] == before["name"] == stem(str(before["path"])):  # a file's name, not a set's
        now["name"] = stem(str(now["path"]))
    if "task.path" in touched and Path(str(plain["task"]["path"])).expanduser().is_file():
        # The run's names of splits say nothing of a single file: all its rows are scored.
        names = {"task.validation": "validation", "task.also": {}}
        plain["task"] |= {k[5:]: v for k, v in names.items() if k not in touched}
    return replace(settings(with_absolute_paths(plain)), output_dir=saved.directory)


def keep_wording(before: dict[str, Any], now: dict[str, Any], typed: Sequence[str]) -> None:
    """Let another task be put to the model as the run's was, apart from what is typed.

    Raises:
        AdaptError: the run shows examples, and another wording than theirs is typed.
    """
    keys = {key.split(".")[1] for key in typed if key.startswith("task.")}
    if before.get("demonstrations") and (changed := keys & {"form", "template", "words", "shots"}):
        raise AdaptError(
            f"task.{min(changed)}: cannot change here, because the run shows examples in its own "
            "wording. Train another run."
        )
    if now["kind"] == before["kind"]:  # words are a column in tagging
        now |= {key: before[key] for key in WORDING if key in before and key in now.keys() - keys}


def as_recorded(saved: SavedRun) -> SavedRun:
    """Return a run in the number format it was trained in, which `auto` chose by the machine."""
    number_format: Any = saved.result.precision if saved.result else "auto"
    trainer = replace(saved.settings.trainer, precision=number_format)
    return replace(saved, settings=replace(saved.settings, trainer=trainer))


def with_classes_of(own: Task, other: Task) -> Task:
    """Return the other task with the run's classes in the run's order.

    Raises:
        AdaptError: it is put to a model in another way, or its classes have other names.
    """
    kinds = [(type(task.posed), bool(task.classes)) for task in (own, other)]
    if kinds[0] != kinds[1]:
        raise AdaptError(
            f"task {other.name} asks for {other.answer}, the run was trained on {own.name} to "
            f"answer with {own.answer}. Name a task of the same kind."
        )
    if own.classes == other.classes:
        return other
    if set(own.classes) != set(other.classes):
        raise AdaptError(
            f"task {other.name} has the classes {', '.join(other.classes)}, the run was trained on "
            f"{', '.join(own.classes)}. Name them alike, in the order of their numbers: "
            f"task.labels=[{','.join(own.classes)}]. If several of the run's count as one, say so: "
            "+task.map_answers.CLASS=CLASS."
        )
    return other.with_classes(own.classes)
