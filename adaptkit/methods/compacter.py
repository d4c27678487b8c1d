"""Compacter: adapters whose maps are sums of Kronecker products (arXiv:2106.04647).

    a(y) = y + gelu(y W_D + b_D) W_U + b_U,   W = sum_{i=1..n} A_i (x) s_i t_i^T,   n = division

A_i [n, n] is one set for all adapters, s_i [in / n], t_i [out / n] belong to each map, which is
d -> m or m -> d, m = size (Karimi Mahabadi et al. 2021). The adapters stand in Houlsby's places:
after attention and feed-forward part, before the residual sum, in both stacks if there are two,
not after cross-attention. Compacter++ (`plus_plus`) has only those after the feed-forward part, as
in the paper (an option of the authors' code called "pfeiffer" keeps those after attention instead).
All norms of the body are trained.

A starts normal with sigma 0.01 as in the authors' code, s and t Glorot-uniform, the biases at zero:
nearly the identity. gelu is the tanh form.

Count: 2 (d + m) + m + d per adapter, n^3 once, and the norms' parameters. T5-base with size 24:
161,728, Compacter++ 104,704.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least, invalid
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import norms, points, width
from adaptkit.models.body import device_of

SIGMA = 0.01


@dataclass(frozen=True)
class Compacter:
    """Train hypercomplex adapters of width `size` after the sub-layers, and the norms."""

    sized_by: ClassVar[Size] = Size("size", unit="division")
    size: int = 24  # bottleneck width
    division: int = 4  # must divide size and the model's width
    plus_plus: bool = False  # Compacter++: only after the feed-forward parts

    def __post_init__(self) -> None:
        at_least("method.division", self.division, 1)
        at_least("method.size", self.size, 1)
        if self.size % self.division:
            rule = f"must be a multiple of method.division={self.division}"
            raise invalid("method.size", self.size, rule)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach the adapters; freeze everything but them, the norms and the head.

        Raises:
            AdaptError: the division does not divide the model's width, or a method before this one
                has attached adapters there.
        """
        import torch

        from adaptkit.layers.bottleneck import SERIAL, Bottleneck, Hypercomplex, attach_after

        model, d, n = start.model, width(start.model), self.division
        if d % n:
            raise invalid("method.division", n, f"must divide the width {d} of this model")
        drawn = torch.randn(n, n, n, generator=context.generator) * SIGMA
        rule = torch.nn.Parameter(drawn.to(device_of(model)))
        roles = ("after_ffn",) if self.plus_plus else ("after_attention", "after_ffn")
        for name, module in points(model, roles):
            down = Hypercomplex(d, self.size, rule, context.generator)
            up = Hypercomplex(self.size, d, rule, context.generator)
            attach_after(name, module, Bottleneck(down, up, "gelu"))
        trained_norms = norms(model)
        return start.only(lambda name: f".{SERIAL}." in name or name in trained_norms)
