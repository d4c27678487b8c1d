"""Scorer: what predicts and scores. Prediction is not training: there is no Trainer in it.

Examples are predicted longest first, and every batch is reduced at once to plain answers, so that
no logits are kept. In a distributed run each process predicts a part, and all get all answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from datasets import Dataset
from torch import Tensor

from adaptkit.adaptation import Adaptation, Batch
from adaptkit.errors import AdaptError
from adaptkit.layers.features import Features
from adaptkit.tasks.task import Answer, Form, Reader, Task
from adaptkit.training.batching import CachedFeed, Feed, longest_first
from adaptkit.training.precision import autocast
from adaptkit.training.rows import Rows

States = tuple[int, list[Tensor]]  # of the example with this number, per layer [H] or [T, H]
Show = Callable[[int, int | None], None]  # how many are done, and of how many


@dataclass(frozen=True)
class Prepared:
    """A base model under a task's head, adapted, on its device, with what feeds and reads it."""

    adaptation: Adaptation
    form: Form
    reader: Reader
    device: torch.device
    precision: str
    fingerprint: str  # of the base model
    head: str  # its values before training: kept | reordered | replaced | new


@dataclass(frozen=True)
class Scored:
    """One answer per row, in the order of the rows, and the scores."""

    rows: Dataset
    answers: list[Answer]
    scores: dict[str, float]
    detailed: list[dict[str, Any]]  # the answers as objects, with probabilities where there are any


class Scorable(NamedTuple):
    """A split as examples and as rows."""

    feed: Feed
    rows: Dataset


@dataclass(frozen=True)
class Scorer:
    """Predicts with an adapted model, and scores what it predicts."""

    prepared: Prepared
    task: Task
    rows: Rows
    step: Callable[[], None] = lambda: None  # called after every batch

    def score(self, feed: Feed, rows: Dataset, generate: bool = True) -> Scored:
        """Predict and score the rows of `feed`; without `generate` of a form that does: the loss.

        The scores are the task's, and `loss`, the mean over all that the form counts. If the form
        has variants of its answers (a prompt ensemble), they are scored as well: the mean over the
        variants of a kind, under the score's name and theirs.
        """
        predicted, loss = self.predicted(feed, generate)
        if self.prepared.form.generates and not generate:
            return Scored(rows, [], {"loss": loss}, [])
        form = self.prepared.form
        answers = form.answers(predicted, feed.rows)
        scores = self.task.score(answers, rows)
        variants = form.variants(predicted, feed.rows)
        for suffix, lists in variants.items():
            single = [self.task.score(one, rows) for one in lists]
            scores |= {
                f"{name}_{suffix}": sum(one[name] for one in single) / len(single)
                for name in single[0]
            }
        detailed = form.detailed(predicted, feed.rows)
        return Scored(rows, answers, scores | {"loss": loss}, detailed)

    def answers(self, feed: Feed, details: bool = False) -> list[Answer]:
        """Return one answer per row; with `details` as objects, see `Form.detailed`."""
        form, predicted = self.prepared.form, self.predicted(feed)[0]
        return (form.detailed if details else form.answers)(predicted, feed.rows)

    @torch.no_grad()
    def predicted(self, feed: Feed, generate: bool = True) -> tuple[list[Answer], float]:
        """Return one prediction per example, in order, and the mean loss (nan without labels).

        Raises:
            AdaptError: the loss of labelled examples is not finite.
        """
        answered = generate or not self.prepared.form.generates
        self.prepared.adaptation.model.eval()
        predicted: dict[int, Answer] = {}
        total, count = 0.0, 0
        work = partial(self._predict, feed, answered)
        batches = longest_first(feed.sizes, self.rows.scoring, self.rows.tokens)
        for indices, (answers, loss, weight) in self.rows.scored(self._mine(batches), work):
            total, count = total + loss, count + weight
            predicted |= dict(zip(indices, answers, strict=True))
            self.step()
        parts = gathered((predicted, total, count))
        every = {index: answer for part, _, _ in parts for index, answer in part.items()}
        counted = sum(part[2] for part in parts)
        mean = sum(part[1] for part in parts) / counted if counted else float("nan")
        if counted and not math.isfinite(mean):
            raise AdaptError(
                f"the loss of the {self.task.split} split is {mean}: the run has diverged, or its "
                "number format is too narrow. Lower optimizer.lr, or use trainer.precision=fp32."
            )
        return [every[index] for index in range(len(feed))], mean

    def _predict(
        self, feed: Feed, answered: bool, indices: list[int]
    ) -> tuple[list[Answer], float, int]:
        """Return the predictions of one batch, its loss and its weight."""
        model, form = self.prepared.adaptation.model, self.prepared.form
        batch = feed.batch(indices).to(self.prepared.device)
        answers, loss = [None] * len(indices), 0.0
        with autocast(self.prepared.precision, self.prepared.device):
            # Without a target there is nothing for a decoder to read.
            outputs = model(**batch.inputs) if batch.weight or not form.generates else None
            if answered:
                answers = form.predict(model, outputs, batch, feed.reader)
            if batch.weight:
                loss = float(form.loss(outputs, batch))
        return answers, loss, batch.weight

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Any:
        """Return what the model gives for one batch in evaluation mode."""
        model = self.prepared.adaptation.model.eval()
        with autocast(self.prepared.precision, self.prepared.device):
            return model(**batch.to(self.prepared.device).inputs)

    def proof(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the named outputs of a batch, by which a rebuilt model is compared."""
        outputs = self.outputs(batch)
        return {name: outputs[name].float().cpu() for name in names}

    @torch.no_grad()
    def features(self, feed: Feed, layers: Sequence[int], show: Show) -> Iterator[States]:
        """Yield every example's number with its states, one tensor per layer.

        Every process gets all of them. `show` is told how many are done, and of how many.
        """
        model, (rank, world) = self.prepared.adaptation.model, self._place()
        model.eval()
        batches, done = longest_first(feed.sizes, self.rows.scoring, self.rows.tokens), 0
        work = partial(self._states, feed, layers)
        for start in range(0, len(batches), world):
            mine = batches[start + rank : start + rank + 1]
            found = [one for _, states in self.rows.scored(mine, work) for one in states]
            for part in gathered(found):
                yield from part
                done += len(part)
            show(done, len(feed))
        model.train()

    def _states(self, feed: Feed, layers: Sequence[int], indices: list[int]) -> list[States]:
        """Return the states of one batch of examples."""
        batch = feed.batch(indices).to(self.prepared.device)
        with autocast(self.prepared.precision, self.prepared.device):
            states = features_of(self.prepared.adaptation).states(batch.inputs, layers)
        every = zip(*(one.cpu() for one in states), strict=True)
        return [
            (i, [_cut(one, feed.lengths[i]) for one in each])
            for i, each in zip(indices, every, strict=True)
        ]

    def cached(self, feed: Feed, show: Show = lambda done, total: None) -> CachedFeed:
        """Compute the features that the frozen part yields for every example, once."""
        read = features_of(self.prepared.adaptation)
        every = dict(self.features(feed, read.chosen, show))
        states = [torch.cat(every[index], -1) for index in range(len(feed))]
        return CachedFeed(feed, states, read.goes_on)

    def _place(self) -> tuple[int, int]:
        return (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)

    def _mine(self, batches: list[list[int]]) -> list[list[int]]:
        rank, world = self._place()
        return batches[rank::world]


def features_of(adaptation: Adaptation) -> Features:
    """Return the function through which alone the trainable part sees the text."""
    if adaptation.features is None:
        raise ValueError("nothing is frozen in front of what trains")
    return adaptation.features


def _cut(states: Tensor, length: int) -> Tensor:
    return (states[:length] if states.dim() > 1 else states).clone()


def distributed() -> bool:
    """Tell whether several processes share this run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(counts: list[int], device: torch.device) -> list[int]:
    """Return the sums of counts over all processes, in every process."""
    if not distributed():
        return counts
    table = torch.tensor(counts, device=device)
    dist.all_reduce(table)
    return table.tolist()


def gathered(part: Any) -> list[Any]:
    """Return the parts of all processes, in every process."""
    if not distributed():
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts


def flat_scores(scored: Mapping[str, Scored]) -> dict[str, float]:
    """Return all scores in one mapping; those of further splits carry the split's name."""
    return {
        f"{name}_{suffix}" if suffix else name: value
        for suffix, part in scored.items()
        for name, value in part.scores.items()
    }
