"""Features: what the frozen part of a model says of a text, computed once per text.

A probe sees the text through them alone. A model whose lower layers are frozen goes on from them,
with its other inputs beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Features:
    """The states of frozen layers; called, those that are read."""

    # (inputs, layers) -> per layer [B, H], or of every token [B, T, H]; in one pass
    states: Callable[[Mapping[str, Tensor], Sequence[int]], list[Tensor]]
    chosen: tuple[int, ...]  # layers that are read
    summary: str  # how the tokens are summed up
    weights: Callable[[], Mapping[str, Tensor]]  # by name: all that the states follow from
    goes_on: bool = False  # the model reads its inputs as well, and the states as they were
    depth: int = 0  # layers with states that a folder keeps, from the embeddings; 0: the chosen
    rounded: bool = False  # to bf16 when called, as a folder keeps them

    @property
    def kept(self) -> tuple[int, ...]:
        """Return the layers that a folder keeps."""
        return tuple(range(self.depth)) or self.chosen

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the states of the chosen layers next to each other [.., N H]."""
        states = torch.cat(self.states(inputs, self.chosen), -1)
        return states.bfloat16().float() if self.rounded else states
