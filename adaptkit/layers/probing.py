"""The linear classifier that reads frozen hidden states: pooled, or those of every token."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from adaptkit.models.padding import columns, order_of, realign
from adaptkit.models.pooling import pool


class LinearProbe(nn.Module):
    """logits = head(pool(h_layer)), the base model frozen and without dropout.

    Without `pooling` every token is read: logits [B, T, C] instead of [B, C].
    """

    def __init__(
        self,
        body: nn.Module,
        config: PretrainedConfig,
        pooling: str | None,
        layer: int,
        left: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.body, self.config, self.pooling, self.layer = body, config, pooling, layer
        self.left = left  # where the base model expects padding
        width: int = config.hidden_size
        self.head = nn.Linear(
            width, int(config.num_labels or 0), device=next(body.parameters()).device
        )
        with torch.no_grad():
            bound = 1 / math.sqrt(width)  # torch's default for nn.Linear, from our generator
            for tensor in (self.head.weight, self.head.bias):
                tensor.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound)

    def train(self, mode: bool = True) -> LinearProbe:
        """Set the mode of the head; the base model stays in evaluation mode."""
        super().train(mode)
        self.body.eval()
        return self

    @torch.no_grad()
    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the states of the chosen layer in fp32: pooled [B, H], or of each token [B, T, H].

        The tokens stand in the order of the inputs.
        """
        moved = realign(inputs, self.left)
        hidden = self.body(**moved, output_hidden_states=True).hidden_states[self.layer].float()
        if self.pooling:
            return pool(hidden, moved["attention_mask"], self.pooling)
        back = order_of(inputs["attention_mask"], self.left).argsort(1)
        return columns(hidden, back)

    def forward(self, features: Tensor | None = None, **inputs: Tensor) -> SequenceClassifierOutput:
        """Classify text inputs, or features computed before."""
        read = self.features(inputs) if features is None else features
        return SequenceClassifierOutput(logits=self.head(read))
