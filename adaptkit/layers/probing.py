"""The linear classifier that reads frozen hidden states: pooled, or those of every token."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import (
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

from adaptkit.models.padding import columns, order_of, realign
from adaptkit.models.pooling import pool

RIDGE = np.logspace(-6, 2, 17)  # penalties to choose from, of a mean squared error


def correlation(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Return Pearson's correlation of numbers [N], 0 if one side is constant."""
    constant = np.ptp(targets) == 0 or np.ptp(predicted) == 0
    return 0.0 if constant else float(np.corrcoef(targets, predicted)[0, 1])


class LinearProbe(nn.Module):
    """logits = head(pool(h_layer)), the base model frozen and without dropout.

    Without `pooling` every token is read: logits [B, T, C] instead of [B, C]. With `ends` the two
    outputs are those of the first and the last token of a span.
    """

    def __init__(
        self,
        body: nn.Module,
        config: PretrainedConfig,
        pooling: str | None,
        layer: int,
        left: bool,
        generator: torch.Generator,
        ends: bool = False,
    ) -> None:
        super().__init__()
        self.body, self.config, self.pooling, self.layer = body, config, pooling, layer
        self.ends = ends
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

    @torch.no_grad()
    def solve(self, features: Tensor, targets: Tensor) -> float:
        """Set the head to the ridge regression of targets [N] on features [N, H]; return lambda.

        The features are scaled to mean 0 and variance 1 for it, and the head is scaled back.
        """
        from sklearn.linear_model import RidgeCV
        from sklearn.metrics import make_scorer
        from sklearn.preprocessing import StandardScaler

        read, wanted = features.double().cpu().numpy(), targets.double().cpu().numpy()
        scaler = StandardScaler().fit(read)
        ridge = RidgeCV(len(read) * RIDGE, scoring=make_scorer(correlation))
        with np.errstate(invalid="ignore"):  # one row leaves none to predict it from
            ridge.fit(scaler.transform(read), wanted)
        weight = ridge.coef_ / scaler.scale_
        bias = ridge.intercept_ - weight @ scaler.mean_
        self.head.weight.copy_(torch.from_numpy(weight)[None])
        self.head.bias.fill_(float(bias))
        return float(ridge.alpha_ / len(read))

    def forward(self, features: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Classify text inputs, or features computed before."""
        logits = self.head(self.features(inputs) if features is None else features)
        if self.ends:
            start, end = logits.unbind(-1)
            return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
        return SequenceClassifierOutput(logits=logits)
