"""Mixout: a random part of the weights is the pretrained one (Lee et al. 2020, arXiv:1909.11299).

    W' = (M W + (1 - M) U - p U) / (1 - p),   M ~ Bernoulli(1 - p),   E W' = W

W' takes the place of W in every pass of training, U is what W was at the start: the pretrained
weights, or what a method has added. Every pass draws new masks: one number for each input of a
linear map and for each number of a vector (`mask=column`, the authors' code), or one for each
weight (`mask=element`). The head has no pretrained weights and is left out, and so are tables of
embeddings.

Deviation: the authors' code mixes the linear maps alone, and its gradient lacks the factor
1 / (1 - p): `gradient=official`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, within


@dataclass(frozen=True)
class Mixout:
    """Mix what trains with what it was at the start."""

    p: float = 0.7  # share of the weights that are those of the start
    mask: Literal["column", "element"] = "column"  # what is drawn at once
    gradient: Literal["exact", "official"] = "exact"  # that of the formula, or the authors' code's

    def __post_init__(self) -> None:
        within("regularizer.mixout.p", self.p, 0, 1)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Mix the trained parameters of the body in every pass.

        Raises:
            AdaptError: there are none.
        """
        if context.stage == "restore":  # nothing will be trained
            return start
        from torch import nn

        tables = {
            f"{name}.weight" for name, module in start.model.named_modules()
            if isinstance(module, nn.Embedding)
        }  # fmt: skip
        parameters = {n: p for n, p in start.body_trainable().items() if n not in tables}
        if not parameters:
            raise AdaptError(
                "regularizer=mixout: mixes weights of the base model with the pretrained ones, and "
                "this method trains none. Choose another method, for example method=full."
            )
        if self.p == 0:
            return start
        from adaptkit.layers.mixed import Mixing
        from adaptkit.models.substitute import substitute

        element, exact = self.mask == "element", self.gradient == "exact"
        substitute(start.model, Mixing(start.model, parameters, self.p, element, exact))
        return start
