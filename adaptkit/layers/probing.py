"""The linear classifier that reads pooled hidden states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from adaptkit.models.padding import realign
from adaptkit.models.pooling import pool


class LinearProbe(nn.Module):
    """logits = head(pool(body(x).hidden_states[layer])), the body frozen and without dropout."""

    def __init__(
        self,
        body: nn.Module,
        config: Any,
        how: str,
        layer: int,
        left: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.body, self.config, self.how, self.layer = body, config, how, layer
        self.left = left  # where the body expects padding
        width = config.hidden_size
        self.head = nn.Linear(width, config.num_labels, device=next(body.parameters()).device)
        with torch.no_grad():
            bound = 1 / math.sqrt(width)  # torch's default for nn.Linear, from our generator
            for tensor in (self.head.weight, self.head.bias):
                tensor.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound)

    def train(self, mode: bool = True) -> LinearProbe:
        """Set the mode of the head; the body stays in evaluation mode."""
        super().train(mode)
        self.body.eval()
        return self

    @torch.no_grad()
    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the pooled states [B, H] of the chosen layer, fp32."""
        inputs = realign(inputs, self.left)
        hidden = self.body(**inputs, output_hidden_states=True).hidden_states[self.layer]
        return pool(hidden.float(), inputs["attention_mask"], self.how)

    def forward(self, features: Tensor | None = None, **inputs: Tensor) -> SequenceClassifierOutput:
        """Classify text inputs, or features computed before: logits [B, C]."""
        pooled = self.features(inputs) if features is None else features
        return SequenceClassifierOutput(logits=self.head(pooled))
