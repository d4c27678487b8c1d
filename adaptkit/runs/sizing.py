"""The size at which a method meets a budget: a rank, a length, a width, a number of layers.

    the greatest size that trains at most B, if it trains at least (1 - TOLERANCE) B

Numbers are those of `plan`: no weights, no network. Mostly each step of the size adds the same, so
that two plans tell the size and two more prove it; if not, it is found by bisection. From the size
3 on the next one trains at most 4/3 as much, so that every such budget can be met.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from adaptkit.config.budget import Budget
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, ConfigError, invalid
from adaptkit.methods.size import Size
from adaptkit.runs.plan import Plan, plan

TOLERANCE = 0.25


@dataclass(frozen=True)
class Sized:
    """One size of a method, and what it costs."""

    options: dict[str, int]  # method.rank -> 7; of a method without a size: none
    costs: Plan

    def used(self, in_bytes: bool) -> int:
        """Return what counts against a budget: trained parameters without the head, or bytes."""
        params = self.costs.params
        return 4 * (params.stored - params.head_trainable) if in_bytes else params.body_trainable

    def said(self, in_bytes: bool) -> str:
        """Return it in words: the options, and what counts."""
        trained, base = self.costs.params.body_trainable, self.costs.base
        share = f"{trained:,} trained parameters ({100 * trained / base:.3g} % of the base model)"
        stored = [f"{self.used(True):,} stored bytes"] if in_bytes else []
        options = " ".join(f"{key}={value}" for key, value in self.options.items())
        return ", ".join([*filter(None, [options]), *stored, share])


def solve(run: Settings, budget: Budget) -> Sized:
    """Return the size of a run's method that meets a budget.

    A method without a size trains a fixed number, which meets the budget or does not.

    Raises:
        ConfigError: no size meets the budget, or the method does not fit the model.
    """
    if not run.task.bound:  # the classes must be read off the data
        run = run.bind(run.task.load(run.data, run.seed).task)
    size: Size | None = getattr(type(run.method), "sized_by", None)

    @cache
    def sized(steps: int) -> Sized | None:
        """Return the size so many steps above the least; None: there is no such size."""
        if steps and size is None:
            return None
        try:
            options = size.at(run.method, steps) if size else {}
            method: Any = replace(run.method, **options)  # type: ignore[type-var]
            costs = plan(replace(run, method=method), "fp32", memory=False)
        except AdaptError as error:
            if steps:
                return None
            raise ConfigError(f"budget.trainable={budget.trainable}: {error}") from error
        return Sized({f"method.{name}": value for name, value in options.items()}, costs)

    def used(steps: int) -> float:
        found = sized(steps)
        return found.used(budget.in_bytes) if found else math.inf

    least = sized(0)
    limit = budget.of(least.costs.base) if least else 0
    best = largest(used, limit)
    found = sized(best) if best >= 0 else None
    if found and used(best) >= (1 - TOLERANCE) * limit:
        return found
    raise refused(budget, [one for one in (found, sized(best + 1)) if one])


def largest(used: Callable[[int], float], limit: int) -> int:
    """Return the greatest number whose use is within a limit; -1: none is.

    `used` never falls; infinite: there is no such size.
    """
    first, second = used(0), used(1)
    if first > limit or second <= first:
        return 0 if first <= limit else -1
    low = int((limit - first) // (second - first))  # exact if every step adds the same
    low = low if used(low) <= limit else 0
    high = low + 1
    while used(high) <= limit:
        high *= 2
    return bisect_right(range(high), float(limit), lo=low, key=used) - 1


def refused(budget: Budget, nearest: list[Sized]) -> ConfigError:
    """Return the error for a budget that no size meets."""
    said = "; ".join(one.said(budget.in_bytes) for one in nearest)
    params, name = nearest[0].costs.params, nearest[0].costs.method
    if not nearest[0].options:
        rule = f"method={name} has no option that sets its size. It has {said}, which is not " \
               "within 25 % below the budget"  # fmt: skip
        return invalid("budget.trainable", budget.trainable, rule, "Choose another method")
    rule = f"no size of method={name} is within 25 % below it. The nearest: {said}"
    way_out = "Set another budget, or one of these sizes without a budget"
    if not budget.in_bytes and params.stored - params.head_trainable < params.body_trainable:
        way_out += ". A part serves training only: bytes, such as 600KB, count what is stored"
    return invalid("budget.trainable", budget.trainable, rule, way_out)
