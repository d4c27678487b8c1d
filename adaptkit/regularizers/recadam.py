"""RecAdam: recall what was pretrained, learn the task bit by bit (Chen et al. 2020, EMNLP).

    theta <- theta - lambda(t) u                          u: the optimizer's whole step
    theta <- theta - lr (w - lambda(t)) gamma (theta - theta0)

    lambda(t) = w / (1 + exp(-k (t - t0)))                sigmoid;   t = 1, 2, ... updates
                w min(1, t / t0)                          linear
                w                                         constant

For the body alone; the head takes the optimizer's own steps. theta0 is what a parameter was at the
start: the pretrained weights, or what a method has added. As in the authors' code lambda is not
inside Adam's moments, and the pull follows the step. Training starts at the pretrained weights (the
paper's RecAdam + PI), so the body hardly moves until about t0 - 5 / k. If lr gamma w is 1 or more
the pull overshoots, so that is rejected.

Deviation: weight decay is a part of u; in the authors' code it is not scaled. It is 0 in their
runs.

Source: https://aclanthology.org/2020.emnlp-main.634
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from adaptkit.adaptation import Adaptation, Context, Step
from adaptkit.errors import AdaptError, above, at_least


@dataclass(frozen=True)
class RecAdam:
    """Scale the steps of the body, and pull it to where it started."""

    anneal: Literal["sigmoid", "linear", "constant"] = "sigmoid"  # how lambda grows
    k: float = 0.1  # sigmoid: how fast
    t0: int = 250  # updates after which lambda is half of its end (sigmoid), or all of it (linear)
    gamma: float = 1000.0  # strength of the pull
    weight: float = 1.0  # w of the formula

    def __post_init__(self) -> None:
        above("regularizer.recadam.k", self.k, 0)
        at_least("regularizer.recadam.t0", self.t0, 1)
        at_least("regularizer.recadam.gamma", self.gamma, 0)
        above("regularizer.recadam.weight", self.weight, 0)

    def share(self, update: int) -> float:
        """Return lambda(t) of the t-th update, t = 1, 2, ..."""
        if self.anneal == "constant":
            return self.weight
        if self.anneal == "linear":
            return self.weight * min(1.0, update / self.t0)
        return self.weight * (1 + math.tanh(self.k * (update - self.t0) / 2)) / 2  # no overflow

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Add the hooks around the update; they keep two copies of the body's trainable part.

        Raises:
            AdaptError: while training, the pull on a parameter with a rate of its own overshoots.
        """
        if context.stage == "restore":
            return start
        import torch

        body = start.body_trainable()
        anchor = {name: w.detach().clone() for name, w in body.items()}
        before: dict[str, torch.Tensor] = {}

        def remember(step: Step) -> None:
            before.update({name: w.detach().clone() for name, w in body.items()})

        @torch.no_grad()
        def correct(step: Step) -> None:
            share = self.share(step.index)
            pull = (self.weight - share) * self.gamma
            for name, w in body.items():
                if share != 1:
                    w.copy_(before[name] + share * (w - before[name]))
                if pull:
                    self._check(name, step.rate(name))
                    w.sub_(step.rate(name) * pull * (w - anchor[name]))
            before.clear()

        return start.plus(before_update=remember, after_update=correct)

    def _check(self, name: str, rate: float) -> None:
        if rate * self.gamma * self.weight >= 1:  # a method may give it a multiple of the rate
            raise AdaptError(
                f"regularizer.recadam.gamma={self.gamma}: must be below "
                f"{1 / rate / self.weight:g}, as the learning rate of {name} is {rate:g}: its pull "
                "would overshoot the start. Lower it."
            )
