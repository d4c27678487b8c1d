"""Houlsby adapters: two bottlenecks per layer (Houlsby et al. 2019, arXiv:1902.00751).

    a(y) = y + U gelu(D y + b_D) + b_U,   D [m, d], U [d, m],   m = size

y is what a sub-layer (attention, feed-forward) adds to its residual stream: a stands after the
sub-layer's last map and its dropout, before the residual sum. (If that dropout is not a module of
its own - BART, OPT, the feed-forward parts of ALBERT and XLNet - a stands before it.) Two stacks:
self-attention and feed-forward of both; cross-attention has none, as in the later work on T5
(Karimi Mahabadi et al. 2021). ALBERT's layers share their weights, and so their adapters. All norms
of the body are trained, the embeddings' included; a pretrained pooler is not.

D and U start truncated normal with sigma 1e-3, cut at 2 sigma, as in the authors' code (the paper
says 1e-2); the biases at zero: nearly the identity. gelu is the tanh form.

Count: 2 m d + m + d per adapter, two per layer, and the norms' parameters, 2 d (2 L + 1) in BERT;
2,417,664 for BERT-base with size 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import norms, points, width
from adaptkit.models.body import device_of

SIGMA = 1e-3


@dataclass(frozen=True)
class Houlsby:
    """Train an adapter of width `size` after every sub-layer, and the norms."""

    sized_by: ClassVar[Size] = Size("size")
    size: int = 64  # bottleneck width

    def __post_init__(self) -> None:
        at_least("method.size", self.size, 1)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach the adapters; freeze everything but them, the norms and the head.

        Raises:
            AdaptError: a method before this one has attached adapters there.
        """
        from adaptkit.layers.bottleneck import SERIAL, attach_after, draw_bottleneck

        model = start.model
        for name, module in points(model, ("after_attention", "after_ffn")):
            adapter = draw_bottleneck(
                width(model), self.size, activation="gelu", start="truncated_normal", sigma=SIGMA,
                generator=context.generator, device=device_of(model),
            )  # fmt: skip
            attach_after(name, module, adapter)
        trained_norms = norms(model)
        return start.only(lambda name: f".{SERIAL}." in name or name in trained_norms)
