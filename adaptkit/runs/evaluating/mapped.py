"""Answers of a run whose classes are others than the task's: the argmax first, then the map.

A run on three classes of inference answers a task with two by `task.map_answers`: its likeliest
class is looked up there. A class that is not in the map keeps its name. Probabilities of classes
that count as one are added up, so that the class of the largest sum can be another one than the
answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adaptkit.errors import ConfigError
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.task import LABEL, Task
from adaptkit.training.batching import Feed
from adaptkit.training.scorer import Scored, Scorer

if TYPE_CHECKING:
    from datasets import Dataset


def mapping(own: Task, other: Task) -> dict[str, str]:
    """Return what each class of a run counts as on another task; empty: no map is needed, or fits.

    A map fits if every class of the run gets one of the task's, and every class of the task is met.

    Raises:
        ConfigError: `task.map_answers` names a class that the task does not have.
    """
    if not (isinstance(own, Classify) and isinstance(other, Classify)):
        return {}
    if set(own.classes) == set(other.classes):
        return {}
    for name, counts_as in other.map_answers.items():
        if counts_as not in other.classes:
            raise ConfigError(
                f"task.map_answers.{name}={counts_as}: is not a class of the task {other.name}. "
                f"Its classes: {', '.join(other.classes)}."
            )
    found = {name: other.map_answers.get(name, name) for name in own.classes}
    return found if set(found.values()) == set(other.classes) else {}


def in_classes_of(own: Task, other: Task) -> Task:
    """Return the other task in the classes of this one, unweighted, as a run on it is asked."""
    if not isinstance(own, Classify) or not isinstance(other, Classify):
        return other
    words = own.words  # for its classes, as those in its templates
    return replace(
        other, labels=own.classes, class_weights=None, templates=own.templates, words=words
    )


def score_mapped(scorer: Scorer, feed: Feed, rows: Dataset, names: Mapping[str, str]) -> Scored:
    """Predict in a run's classes, map the answers, score them; there is no loss (nan).

    `feed`: of the rows without their labels, which the run's head has no outputs for.
    """
    detailed = [merged(one, names) for one in scorer.answers(feed, details=True)]
    answers = [one["answer"] for one in detailed]
    scores = scorer.task.score(answers, rows) | {"loss": float("nan")}
    return Scored(rows, answers, scores, detailed)


def merged(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a detailed answer in the task's classes; a generated text may be none of them."""
    made = {**found, "answer": names.get(found["answer"])}
    if "probabilities" in found:
        made["probabilities"] = dict.fromkeys(names.values(), 0.0)
        for name, share in found["probabilities"].items():
            made["probabilities"][names[name]] += share
    return made


def unlabelled(rows: Dataset) -> Dataset:
    """Return rows without their labels."""
    return rows.remove_columns(LABEL)


def said(names: Mapping[str, str]) -> str:
    """Say what is done to the answers."""
    pairs = (f"{name} -> {counts_as}" for name, counts_as in names.items() if name != counts_as)
    return f"answers are mapped after the argmax (task.map_answers): {', '.join(pairs)}"
