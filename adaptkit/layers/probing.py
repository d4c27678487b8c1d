"""Classifiers that read frozen hidden states: pooled, or those of every token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import (
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

from adaptkit.layers.features import Features
from adaptkit.models.padding import columns, order_of, realign
from adaptkit.models.pooling import pool

RIDGE = np.logspace(-6, 2, 17)  # penalties to choose from, of a mean squared error


def correlation(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Return Pearson's correlation of numbers [N], 0 if one side is constant."""
    constant = np.ptp(targets) == 0 or np.ptp(predicted) == 0
    return 0.0 if constant else float(np.corrcoef(targets, predicted)[0, 1])


class ScalarMix(nn.Module):
    """gamma sum_l softmax(w)_l h_l over N layers, whose states stand next to each other [.., N H].

    w [N] from 0, gamma from 1 (Peters et al. 2018, arXiv:1802.05365). Count: N + 1.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers, device=device))
        self.gamma = nn.Parameter(torch.ones((), device=device))

    def forward(self, states: Tensor) -> Tensor:
        """Return the mix [.., H]."""
        every = states.unflatten(-1, (len(self.weights), -1))
        return self.gamma * (self.weights.softmax(0)[:, None] * every).sum(-2)


def classifier(
    sizes: Sequence[int], nonlinear: bool, dropout: float, device: torch.device
) -> nn.Module:
    """Return linear maps from size to size, with ReLU between them if `nonlinear`.

    Dropout stands before every map. A single map without dropout is that map itself.
    """
    maps: list[nn.Module] = []
    for number, (width, out) in enumerate(pairwise(sizes)):
        maps += [nn.ReLU()] if nonlinear and number else []
        maps += [nn.Dropout(dropout)] if dropout else []
        maps.append(nn.Linear(width, out, device=device))
    return maps[0] if len(maps) == 1 else nn.Sequential(*maps)


class Probing(nn.Module):
    """logits = head(pool(h_layer)), the base model frozen and without dropout.

    Without `pooling` every token is read: logits [B, T, C] instead of [B, C]. With `ends` the two
    outputs are those of the first and the last token of a span. Without `layer` a trained mix of
    all layers is read. `inner`: sizes of the maps between the states and the logits.
    """

    def __init__(
        self,
        body: nn.Module,
        config: PretrainedConfig,
        pooling: str | None,
        layer: int | None,
        left: bool,
        generator: torch.Generator,
        ends: bool = False,
        inner: Sequence[int] = (),
        nonlinear: bool = False,
        dropout: float = 0.0,
        layers: int = 1,  # with the embeddings
    ) -> None:
        super().__init__()
        self.body, self.config, self.pooling, self.ends = body, config, pooling, ends
        chosen = tuple(range(layers)) if layer is None else (layer % layers,)
        summary = f"{pooling or 'every token'}, padding on the {'left' if left else 'right'}"
        self.features = Features(self.states, chosen, summary, self.body.state_dict, depth=layers)
        self.left = left  # where the base model expects padding
        sizes = [int(config.hidden_size), *inner, int(config.num_labels or 0)]
        device = next(body.parameters()).device
        self.head = classifier(sizes, nonlinear, dropout, device)
        with torch.no_grad():
            for module in self.head.modules():
                if isinstance(module, nn.Linear):  # torch's default, from our generator
                    bound = 1 / math.sqrt(module.in_features)
                    for tensor in (module.weight, module.bias):
                        drawn = torch.rand(tensor.shape, generator=generator) * 2 - 1
                        tensor.copy_(drawn * bound)
        if layer is None:
            self.head = nn.Sequential(ScalarMix(layers, device), self.head)

    def train(self, mode: bool = True) -> Probing:
        """Set the mode of the head; the base model stays in evaluation mode."""
        super().train(mode)
        self.body.eval()
        return self

    @torch.no_grad()
    def states(self, inputs: Mapping[str, Tensor], layers: Sequence[int]) -> list[Tensor]:
        """Return the states of layers in fp32: pooled [B, H], or of each token [B, T, H].

        One pass gives all of them. The tokens stand in the order of the inputs.
        """
        moved = realign(inputs, self.left)
        found = self.body(**moved, output_hidden_states=True).hidden_states
        hidden = [found[layer].float() for layer in layers]
        if self.pooling:
            return [pool(states, moved["attention_mask"], self.pooling) for states in hidden]
        back = order_of(inputs["attention_mask"], self.left).argsort(1)
        return [columns(states, back) for states in hidden]

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
        head = cast("nn.Linear", self.head)
        head.weight.copy_(torch.from_numpy(weight)[None])
        head.bias.fill_(float(bias))
        return float(ridge.alpha_ / len(read))

    def forward(self, features: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Classify text inputs, or features computed before."""
        logits = self.head(self.features(inputs) if features is None else features)
        if self.ends:
            start, end = logits.unbind(-1)
            return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
        return SequenceClassifierOutput(logits=logits)
