"""Masked language modelling: how well an encoder fills in hidden words, and training on texts.

Trained before a task on its own texts, it is task-adaptive pretraining (Gururangan et al. 2020,
arXiv:2004.10964); scored before and after a task, it says what was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptkit.errors import above, at_least, one_of, within
from adaptkit.tasks.forms.mlm import MLMForm
from adaptkit.tasks.lm import check_any
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import Answer, Splits

if TYPE_CHECKING:
    from datasets import Dataset

SCORES = {"masked_loss": "nll", "accuracy": "right"}  # of what they are means over the tokens


@dataclass(frozen=True)
class MLM(TableTask):
    """Texts without labels."""

    text: str = "text"  # column
    label: str = ""  # there is none
    metric: str = "masked"  # nats per hidden token, and the share that is filled in rightly
    max_length: int = 128  # tokens of a window, special ones included
    mask_share: float = 0.15  # of the tokens that are hidden; of these 80 % masked, 10 % replaced
    mask_seed: int = 0  # of the choice; the same for every model and every seed of a run

    answer = "the probability of the hidden words"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("masked",))
        super().__post_init__()
        above("task.mask_share", self.mask_share, 0)
        within("task.mask_share", self.mask_share, 0, 1)
        at_least("task.mask_seed", self.mask_seed, 0)

    def scores(self) -> tuple[str, ...]:
        """Return the names of the metric's scores."""
        return tuple(SCORES)

    @property
    def larger_is_better(self) -> bool:
        """A loss should be small."""
        return self.headline.startswith("accuracy")

    @property
    def columns(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    @property
    def posed(self) -> MLMForm:
        """An encoder that fills in the hidden tokens."""
        return MLMForm(self.text, self.max_length, self.mask_share, self.mask_seed)

    def read_labels(self, rows: Dataset, split: str) -> list[None]:
        """Return no label for any row.

        Raises:
            AdaptError: all texts are empty.
        """
        check_any(rows[self.text][:], f"task {self.name}, split {split}: every {self.text}")
        return [None] * len(rows)

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the means over the hidden tokens of all texts: long ones weigh more.

        masked_loss    - log p of a token, in nats; it depends on the tokenizer
        accuracy       share of the tokens that are the likeliest ones
        """
        tokens = sum(answer["tokens"] for answer in answers)
        sums = {name: math.fsum(one[key] for one in answers) for name, key in SCORES.items()}
        return {name: total / tokens if tokens else math.nan for name, total in sums.items()}

    def parts(
        self, answers: Sequence[Answer], rows: Dataset
    ) -> tuple[list[float], list[float]] | None:
        """Return per text what the headline adds up, and the number of its hidden tokens."""
        if self.headline not in SCORES:
            return None
        key = SCORES[self.headline]
        return [float(one[key]) for one in answers], [float(one["tokens"]) for one in answers]

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return nothing that has a score: tokens are those of a model, and a task has none."""
        return "no trivial answer", [[{"nll": 0.0, "right": 0, "tokens": 0}] * len(rows)]
