"""Probe: a small classifier on frozen features (Alain & Bengio 2016, arXiv:1610.01644).

    logits = W pool(h_layer) + b,   W [C, H],   h_layer [B, T, H] hidden states of the base model

    linear, hidden=r   logits = W2 (W1 f + b1) + b2,      W1 [r, H], W2 [C, r]
    mlp, hidden=m      logits = W2 relu(W1 f + b1) + b2,  W1 [m, H], W2 [C, m]
    mix                h = gamma sum_l softmax(w)_l h_l   over all layers, the embeddings among them

A score says what can be read off the states if it stands next to that of a control task. The rank,
and the size of the network, bound what a probe can learn by heart (Hewitt & Liang 2019,
arXiv:1909.03368; their linear probe has the rank 1000).

pool: the mean or the maximum over the real tokens (special ones included, padding not), the
classification token (`cls`), or the last real token (`last`). Layer 0 is the embedding output. If
the task labels tokens or marks a span, every token is read by itself and `pooling` must be left at
`mean`. The base model runs without dropout and without gradients, so its features are computed once
per example. Of an encoder-decoder the encoder is probed.

For a number, W and b of a plain linear probe are not found by updates but solved for: ridge
regression on the standardised features f, with the lambda whose leave-one-out predictions of the
training rows correlate best with the targets (Hoerl & Kennard 1970; Golub, Heath & Wahba 1979). The
options of the optimizer and the number of updates have no part in it.

    min over W, b of  mean (W f + b - y)^2 + lambda |W|^2,   lambda among 1e-6 .. 1e2

Count: H C + C; with hidden=m, H m + m + m C + C, and m^2 + m more for each further layer; a mix has
one number per layer (the embeddings are one) and one more. The body has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, at_least, invalid, within
from adaptkit.models.anatomy import encoder, family, layer_count
from adaptkit.models.body import config_of
from adaptkit.models.heads import HEADS

UNITS = 1000  # of a hidden layer, as in Hewitt & Liang


@dataclass(frozen=True)
class Probe:
    """Read the frozen body through pooling and a small classifier."""

    # what the classifier reads of the tokens
    pooling: Literal["mean", "max", "cls", "last"] = "mean"
    layer: int = -1  # 0: embeddings, 1: first layer, -1: last layer
    mix: bool = False  # read a trained mix of all layers instead
    classifier: Literal["linear", "mlp"] = "linear"  # mlp: with ReLU between linear maps
    hidden: int | None = None  # linear: rank, null: full; mlp: units of a hidden layer, null: 1000
    hidden_layers: int = 1  # mlp: their number
    dropout: float = 0.0  # of the inputs of every linear map

    def __post_init__(self) -> None:
        if self.hidden is not None:
            at_least("method.hidden", self.hidden, 1)
        at_least("method.hidden_layers", self.hidden_layers, 1)
        within("method.dropout", self.dropout, 0, 1)
        if self.classifier == "linear" and self.hidden_layers != 1:
            raise invalid("method.hidden_layers", self.hidden_layers, "belongs to "
                          "method.classifier=mlp", "Leave it out")  # fmt: skip
        if self.mix and self.layer != -1:
            raise invalid("method.layer", self.layer, "is one layer, and method.mix=true reads all",
                          "Leave it out")  # fmt: skip

    @property
    def inner(self) -> tuple[int, ...]:
        """Sizes between the states and the logits."""
        if self.classifier == "mlp":
            return (self.hidden or UNITS,) * self.hidden_layers
        return () if self.hidden is None else (self.hidden,)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Replace the head by the probe, and freeze the base model.

        Raises:
            AdaptError: the task has no classifier, the layer does not exist, or the family has no
                classification token.
        """
        from adaptkit.layers.probing import Probing

        tokens = context.head in ("token", "span")
        if context.head != "sequence" and not tokens:
            raise AdaptError(
                f"method=probe: replaces a classifier by a probe, and this task has a "
                f"{HEADS[context.head].words}. Choose another method, for example method=lora."
            )
        if tokens and self.pooling != "mean":
            raise invalid(
                "method.pooling", self.pooling, "this task reads every token, nothing is pooled",
                "Leave it out",
            )  # fmt: skip
        if context.pooling:
            raise AdaptError(
                f"model.pooling={context.pooling}: a probe replaces the head that would read it. "
                "Leave it out; a probe has method.pooling."
            )
        kind, depth = family(start.model), layer_count(start.model)
        if not -depth - 1 <= self.layer <= depth:
            raise invalid("method.layer", self.layer, f"this model has layers 0 to {depth}")
        if self.pooling == "cls" and kind.cls is None:
            raise AdaptError(
                f"method.pooling=cls: {kind.name} models have no classification token that sees "
                "the text. Choose mean, max or last."
            )
        position = kind.cls if self.pooling == "cls" else self.pooling
        if tokens:
            position = None
        model = Probing(
            encoder(start.model),
            config_of(start.model),
            position,
            None if self.mix else self.layer,
            kind.padding == "left",
            context.generator,
            ends=context.head == "span",
            inner=self.inner,
            nonlinear=self.classifier == "mlp",
            dropout=self.dropout,
            layers=depth + 1,
        )
        head = frozenset(n for n, _ in model.named_parameters() if n.startswith("head."))
        adapted = replace(start, model=model, head=head).only(lambda name: False)
        simple = not (self.inner or self.mix or self.dropout)
        return replace(adapted, features=model.features, solve=model.solve if simple else None)
