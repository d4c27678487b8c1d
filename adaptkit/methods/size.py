"""The size of a method: the one option that sets how much it trains. budget.trainable finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Which option it is, and what goes with it; a method names it as `sized_by`."""

    option: str
    least: int = 1  # in units
    unit: str = ""  # option of which it is a multiple; none: it may be any whole number
    along: tuple[str, ...] = ()  # options that keep their proportion to it

    def at(self, method: Any, steps: int) -> dict[str, int]:
        """Return the options of the size that is `steps` units above the least."""
        size = (self.least + steps) * (getattr(method, self.unit) if self.unit else 1)
        along = {
            name: max(1, round(size * getattr(method, name) / getattr(method, self.option)))
            for name in self.along
        }
        return {self.option: size, **along}

    @property
    def keys(self) -> list[str]:
        """Names of the options that a budget sets."""
        return [f"method.{name}" for name in (self.option, *self.along)]
