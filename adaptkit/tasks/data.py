"""The options of the group `data`: where rows come from, and how many of them are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adaptkit.errors import UNSET, at_least, invalid, within

FOLDS = (13, 21, 42, 87, 100)  # seeds of the few-shot draws


@dataclass(frozen=True)
class Data:
    """Where rows come from and how many are used."""

    root: str | None = None  # folder with <task>/<split>.parquet, .csv, ...
    # auto: local folder, then hub, then sample
    source: Literal["auto", "hub", "local", "sample"] = "auto"
    train_rows: int | None = None  # seeded subset with the classes' proportions; null: all
    eval_rows: int | None = None  # the same of each scored split
    per_class: int | None = None  # few-shot: training rows of each class, of a fixed draw
    fold: int = 0  # which of the five few-shot draws
    # score a tenth of the training rows, which are not trained on, instead of the validation rows
    holdout: bool = False

    def __post_init__(self) -> None:
        if self.root is not None and not self.root.strip():
            raise invalid("data.root", "''", "must name a folder", UNSET)
        for name in ("train_rows", "eval_rows", "per_class"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)
        within("data.fold", self.fold, 0, len(FOLDS))
        if self.fold and self.per_class is None:
            raise invalid("data.fold", self.fold, "chooses a few-shot draw",
                          "Set data.per_class as well")  # fmt: skip
        if self.per_class is not None and self.train_rows is not None:
            raise invalid("data.per_class", self.per_class, "says how many rows are trained on, as "
                          "data.train_rows does", "Leave one of them out")  # fmt: skip
