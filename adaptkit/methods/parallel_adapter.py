"""Parallel adapters: a scaled bottleneck next to each feed-forward part (arXiv:2110.04366).

    FFN(x) -> FFN(x) + scale (U relu(D x + b_D) + b_U),   D [m, d], U [d, m],   m = size

x is the feed-forward part's own input (in a pre-norm layer its norm's output). The bottleneck has
no residual of its own (He et al. 2022). D starts Kaiming-uniform (a = sqrt 5), U and the biases
at zero, so that training starts from the body. The rest is frozen. Two stacks: both of them.
ALBERT's layers share their weights, and so their adapter. The sum stands after the part's dropout,
as in the authors' code, unless that dropout is not a module of its own (BART, OPT, XLNet).

Count: 2 m d + m + d per layer; 304,320 for RoBERTa-base with size 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import above, at_least
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import points, width
from adaptkit.models.body import device_of


@dataclass(frozen=True)
class ParallelAdapter:
    """Train an adapter of width `size` next to every feed-forward part."""

    sized_by: ClassVar[Size] = Size("size")
    size: int = 512  # bottleneck width
    scale: float = 4.0  # factor of the adapter's output

    def __post_init__(self) -> None:
        at_least("method.size", self.size, 1)
        above("method.scale", self.scale, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach the adapters; freeze everything but them and the head.

        Raises:
            AdaptError: a method before this one has attached adapters there.
        """
        import torch

        from adaptkit.layers import bottleneck
        from adaptkit.layers.bottleneck import Affine, Bottleneck

        model, d, device = start.model, width(start.model), device_of(start.model)
        pairs = zip(points(model, ("before_ffn",)), points(model, ("after_ffn",)), strict=True)
        for (_, entry), (name, leaving) in pairs:
            drawn = bottleneck.draw_matrix(d, self.size, "kaiming", context.generator)
            down, up = Affine(drawn.to(device)), Affine(torch.zeros(d, self.size, device=device))
            adapter = Bottleneck(down, up, "relu")
            bottleneck.attach_parallel(name, entry, leaving, adapter, self.scale)
        return start.added(f".{bottleneck.PARALLEL}.")
