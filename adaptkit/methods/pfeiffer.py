"""Pfeiffer adapters: one bottleneck per layer, after the feed-forward part (arXiv:2005.00247).

    y = LN(s + U relu(D LN(s) + b_D) + b_U),   s = h + x,   D [m, d], U [d, m],   m = size

h is the feed-forward part's output, x its input, LN the layer's own norm, used twice (Pfeiffer et
al. 2020, AdapterFusion; the same in MAD-X, arXiv:2005.00052). If a layer normalises before its
sub-layers (GPT-2, OPT, LLaMA, T5, ModernBERT, GPT-NeoX) it has no such LN, and

    h -> h + U relu(D h + b_D) + b_U

before the residual sum. The body is frozen, norms included. D and U start normal with sigma 0.02,
like BERT's own maps, the biases at zero, as in AdapterHub. Two stacks: both of them. ALBERT's
layers share their weights, and so their adapter.

Count: 2 m d + m + d per layer; 1,189,632 for BERT-base with size 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import points, post_norm, width
from adaptkit.models.body import device_of

SIGMA = 0.02


@dataclass(frozen=True)
class Pfeiffer:
    """Train an adapter of width `size` at the end of every layer."""

    sized_by: ClassVar[Size] = Size("size")
    size: int = 48  # bottleneck width

    def __post_init__(self) -> None:
        at_least("method.size", self.size, 1)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach the adapters; freeze everything but them and the head.

        Raises:
            AdaptError: a method before this one has attached adapters there.
        """
        from adaptkit.layers import bottleneck

        model, inside = start.model, post_norm(start.model)
        attach = bottleneck.attach_inside if inside else bottleneck.attach_after
        for name, module in points(model, ("ffn_norm" if inside else "after_ffn",)):
            adapter = bottleneck.draw_bottleneck(
                width(model), self.size, activation="relu", start="normal", sigma=SIGMA,
                generator=context.generator, device=device_of(model),
            )  # fmt: skip
            attach(name, module, adapter)
        return start.added(f".{bottleneck.SERIAL}.")
