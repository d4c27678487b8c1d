"""An ensemble of prompts: every row is answered once per prompt, and the answers vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from adaptkit.errors import invalid
from adaptkit.models.calls import named

if TYPE_CHECKING:
    from datasets import Dataset

    from adaptkit.adaptation import Batch
    from adaptkit.tasks.task import Answer, Form, Reader, Variants


def install(model: nn.Module, prompts: int) -> None:
    """Let `model` answer every row once per prompt, in one forward pass.

    In training the logits are those of all answers, [B N, ...], each row's N in a row; in
    evaluation they are combined by `vote`, [B, ...], and the output keeps the `answers`
    [B, N, ...] next to them.
    """

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        inputs = named(module, args, kwargs)
        return (), {
            name: value.repeat_interleave(prompts, 0) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }

    def after(module: nn.Module, args: tuple, output: Any) -> Any:
        if not module.training:
            output["answers"] = output["logits"].unflatten(0, (-1, prompts))
            output["logits"] = vote(output["answers"])
        return output

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after)


def vote(logits: Tensor) -> Tensor:
    """Combine the answers [B, N, ..., C] of N prompts into [B, ..., C]; the largest wins.

    votes + softmax(mean logits) / 2: a tie goes to the class with the largest mean logit. One
    number (a regression, the score of a choice) is averaged.
    """
    mean = logits.float().mean(1)
    if mean.shape[-1] == 1:
        return mean
    votes = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(1)
    return votes + mean.softmax(-1) / 2


class Ensemble:
    """The form of a task that is answered by N prompts: the loss is the mean of theirs.

    The answers are those of the vote; the variants are those of the mean of the logits, and each
    prompt's own (`single`).
    """

    votes = True
    redrawn: ClassVar[bool] = False  # of the forms whose answers can be voted on none is

    def __init__(self, inner: Form, prompts: int) -> None:
        if not inner.votes:
            raise invalid("method.prompts", prompts, "the answers of this task cannot be voted on",
                          "Use 1")  # fmt: skip
        self.inner, self.prompts = inner, prompts
        self.head, self.outputs = inner.head, inner.outputs
        self.sequences = inner.sequences * prompts
        self.one_to_one, self.generates = inner.one_to_one, inner.generates
        self.squared, self.prompted = inner.squared, inner.prompted

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Encode as the inner form does."""
        return self.inner.encode(rows, reader)

    def prepare(self, examples: Dataset, load_base: Callable[[], nn.Module]) -> Dataset:
        """Prepare as the inner form does."""
        return self.inner.prepare(examples, load_base)

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Collate as the inner form does."""
        return self.inner.collate(examples, reader)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean [] over the prompts of the inner form's losses."""
        every = [self.inner.loss(one, batch) for one in self._single(outputs)]
        return torch.stack(every).mean()

    def read_at(self, batch: Batch) -> None:
        """Return None: every row is answered several times."""

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return what the inner form compares, prompt after prompt."""
        return torch.cat([self.inner.compared(one, batch) for one in self._single(outputs)])

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return per example the answers (of the vote, of the mean logits, *of each prompt)."""
        mean = SequenceClassifierOutput(logits=outputs["answers"].float().mean(1))
        votes = outputs["logits"]
        if votes.shape[-1] > 1:  # probabilities are shares of the votes, the largest is the answer
            votes = votes.log()
        views = [SequenceClassifierOutput(logits=votes), mean, *self._single(outputs)]
        answers = [self.inner.predict(model, view, batch, reader) for view in views]
        return list(zip(*answers, strict=True))

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return the answers of the vote."""
        return self.inner.answers([one[0] for one in predicted], rows)

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the answers of the vote; probabilities are shares of the votes."""
        return self.inner.detailed([one[0] for one in predicted], rows)

    def variants(self, predicted: Sequence[Answer], rows: Sequence[int]) -> Variants:
        """Return the answers of the mean logits and of the single prompts."""
        mean, *single = [
            self.inner.answers([one[1 + n] for one in predicted], rows)
            for n in range(1 + self.prompts)
        ]
        return {"mean_logits": [mean], "single": single}

    def _single(self, outputs: Any) -> list[SequenceClassifierOutput]:
        answers = outputs.get("answers")
        if answers is None:  # in training
            answers = outputs["logits"].unflatten(0, (-1, self.prompts))
        return [SequenceClassifierOutput(logits=one) for one in answers.unbind(1)]
