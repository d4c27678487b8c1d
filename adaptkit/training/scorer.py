"""ScoringTrainer: the part of the trainer that predicts.

Rows are predicted longest first, and every batch is reduced at once to what is scored, so that no
logits are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer

from adaptkit.adaptation import Adaptation
from adaptkit.training.batching import Features, LongestFirst, lengths
from adaptkit.training.precision import autocast
from adaptkit.training.scores import Scored


class ScoringTrainer(Trainer):
    """A Trainer that scores an Adaptation on a task."""

    adaptation: Adaptation
    task: Any
    precision: str

    def score(self, rows: Any) -> Scored:
        """Predict and score rows.

        The scores are the task's, and `loss`, its mean over the rows. Where the model gives several
        answers per row (`answers` [B, N, C]; a prompt ensemble) the task's scores are those of the
        combined answer, and besides it those of the mean of the logits (`*_mean_logits`) and the
        mean of the single answers' scores (`*_single`); the loss is the mean of theirs, as in
        training.
        """
        sampler = LongestFirst(lengths(rows))
        parts = []
        for batch in self._batches(rows, sampler):
            found = self._reduced(self.outputs(batch), batch["labels"])
            parts.append([t.cpu() for t in self.accelerator.gather_for_metrics(found)])
        columns = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        labels, losses, predictions, *others = (sampler.restore(column) for column in columns)
        scores = self.task.score(predictions, labels) | {"loss": float(losses.mean())}
        if others:
            mean = self.task.score(others[0], labels)
            single = [self.task.score(answer, labels) for answer in others[1].T]
            scores |= {f"{name}_mean_logits": value for name, value in mean.items()}
            scores |= {f"{n}_single": float(np.mean([s[n] for s in single])) for n in mean}
        return Scored(predictions, labels, scores)

    def _reduced(self, outputs: Any, labels: Tensor) -> tuple[Tensor, ...]:
        """Return, by rows: labels, loss, predictions; of many answers the mean's and each one's."""
        answers = outputs.get("answers")
        if answers is None:
            loss = self.task.loss(outputs.logits, labels)
            return labels, loss.expand(len(labels)), self.task.reduce(outputs.logits)
        each, count = answers.flatten(0, 1), answers.shape[1]
        loss = self.task.loss(each, labels.repeat_interleave(count, 0))
        return (
            labels,
            loss.expand(len(labels)),
            self.task.reduce(outputs.logits),
            self.task.reduce(answers.float().mean(1)),
            self.task.reduce(each).unflatten(0, (-1, count)),
        )

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of one batch in evaluation mode."""
        return self.outputs(batch).logits

    @torch.no_grad()
    def outputs(self, batch: Mapping[str, Tensor]) -> Any:
        """Return what the model gives for one batch in evaluation mode."""
        self.model.eval()
        with autocast(self.precision, self.args.device):
            return self.model(**self._inputs(batch))

    @torch.no_grad()
    def cache_features(self, rows: Any) -> Features:
        """Compute what the frozen part makes of every row, once."""
        self.model.eval()
        sampler = LongestFirst(lengths(rows))
        parts = []
        for batch in self._batches(rows, sampler):
            with autocast(self.precision, self.args.device):
                found = self.adaptation.features(self._inputs(batch)).float()
            parts.append(self.accelerator.gather_for_metrics(found).cpu())
        features = torch.from_numpy(sampler.restore(torch.cat(parts).numpy()))
        return Features(features, rows["labels"][:], lengths(rows))

    def _batches(self, rows: Any, sampler: LongestFirst) -> Iterator[dict[str, Tensor]]:
        loader = self._get_dataloader(
            rows, "Evaluation", self.args.eval_batch_size, sampler_fn=lambda _: sampler
        )
        for batch in loader:
            yield batch
            handler = self.callback_handler
            self.control = handler.on_prediction_step(self.args, self.state, self.control)

    def _inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._prepare_inputs({k: v for k, v in batch.items() if k != "labels"})
