"""Regression of one text or a pair: mean squared error, Pearson and Spearman correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, one_of
from adaptkit.tasks import source
from adaptkit.tasks.text import Splits, TextTask

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor


@dataclass(frozen=True)
class Regress(TextTask):
    """One number per row."""

    metric: str = "correlations"
    best: str = "pearson"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.metric", self.metric, ("correlations",))
        self._check_best(("pearson", "spearmanr"))

    def with_labels(self, labels: tuple[str, ...]) -> Regress:
        """Return this task: numbers have no names."""
        return self

    def load(self, data: Any, seed: int, train: bool = True) -> Splits:
        """Read, check and sample the splits.

        Raises:
            AdaptError: a missing column or split, or labels that are no finite numbers.
        """
        origin = self.origin(data)

        def rows(split: str, count: int | None) -> Dataset:
            numbered = self._number(self.read(data, split, origin), split)
            return source.subset(numbered, count, seed, None)

        validation = {s: rows(name, data.eval_rows) for s, name in self.scored().items()}
        return Splits(
            rows(self.train, data.train_rows) if train else None, validation, origin, ("",)
        )

    def _number(self, rows: Dataset, split: str) -> Dataset:
        labels = []
        for row, value in enumerate(rows[self.label][:], 1):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise AdaptError(
                    f"task {self.name}, split {split}, row {row}: label {value!r} is no number."
                )
            labels.append(number)
        kept = rows.remove_columns([c for c in rows.column_names if c == "labels"])
        return kept.add_column("labels", labels)

    def outputs(self, labels: tuple[str, ...]) -> int:
        """Return the width of the head."""
        return 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of logits [B, 1] against labels [B]."""
        from torch.nn.functional import mse_loss

        return mse_loss(logits.float().squeeze(-1), labels.float())

    def reduce(self, logits: Tensor) -> Tensor:
        """Return the predicted numbers [B]."""
        return logits.float().squeeze(-1)
