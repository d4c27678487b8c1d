"""Budgets: how much a run may train. The size of its method is solved for. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from adaptkit.config.build import build
from adaptkit.errors import invalid

SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
MOST = 10**12


@dataclass(frozen=True)
class Budget:
    """What the size of a method is solved for: its rank, length, width or number of layers."""

    # what the method may train, the head not counted: 0.5% of the base model's parameters, 300k
    # parameters, or 600KB that are stored; its size is solved for; null: no budget
    trainable: str | float | None = None

    def __post_init__(self) -> None:
        if self.trainable is not None and not 1 <= self.of(MOST) <= MOST:
            raise invalid(
                "budget.trainable", self.trainable,
                "must be a share up to 100%, such as 0.5%, or a number of parameters, such as "
                "300000, 300k or 1.2M, or bytes, such as 600KB",
            )  # fmt: skip

    def _read(self) -> tuple[Fraction, str]:
        """Return the number as it was typed, and its unit; 0 if it cannot be read."""
        found = re.fullmatch(r"(\d+|\d*\.\d+)([kmg]?b?|%)", str(self.trainable).lower())
        return (Fraction(found[1]), found[2]) if found else (Fraction(), "")

    @property
    def in_bytes(self) -> bool:
        """Whether stored bytes are meant."""
        return self._read()[1].endswith("b")

    def of(self, base: int) -> int:
        """Return the number of parameters, or of bytes, for a base model of `base` parameters."""
        number, unit = self._read()
        return math.floor(
            number * (Fraction(base, 100) if unit == "%" else SCALES[unit.removesuffix("b")])
        )


def budget_in(plain: Mapping[str, Any]) -> Budget:
    """Return the budget of a configuration; that of a finished run has none.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    return build(Budget, plain.get("budget") or {}, "budget")


def check_solved(budget: Budget) -> None:
    """Reject settings in which a budget still stands: what reads them would pass it over.

    Raises:
        ConfigError: there is one.
    """
    if budget.trainable is not None:
        raise invalid("budget.trainable", budget.trainable, "is for adaptkit train, plan, tune and "
                      "compare", "Leave it out")  # fmt: skip
