"""Features: what a frozen base model says of a text. A probe sees the text through them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Features:
    """The states of a frozen model's layers; called, those that are read."""

    # (inputs, layers) -> per layer in fp32 [B, H], or of every token [B, T, H]; in one pass
    states: Callable[[Mapping[str, Tensor], Sequence[int]], list[Tensor]]
    depth: int  # of layers with states, the embeddings among them
    chosen: tuple[int, ...]  # layers that are read
    summary: str  # how the tokens are summed up
    rounded: bool = False  # to bf16 when called, as a folder keeps them

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the states of the chosen layers next to each other [.., N H]."""
        states = torch.cat(self.states(inputs, self.chosen), -1)
        return states.bfloat16().float() if self.rounded else states
