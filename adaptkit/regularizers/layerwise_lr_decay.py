"""Layer-wise learning-rate decay: lower layers learn more slowly (Zhang et al. 2021).

    lr of layer l = lr * decay^(L + 1 - l),   l = 1 .. L;   embeddings: lr * decay^(L + 1)

The head, and what follows the last layer (pooler, norm), have the full rate. These are the
exponents of ULMFiT (Howard & Ruder 2018, arXiv:1801.06146) and of Zhang et al.'s code for BERT
(arXiv:2006.05987). ELECTRA's code has one more factor of decay for all but the head. XLNet's has
decay^0 at the top, and the full rate at the embeddings.

What a method adds inside a layer (LoRA) has the rate of the layer; a factor of its own (LoRA+)
multiplies it. What it keeps outside of all layers (the MLP of a prefix) has the full rate. Of two
stacks, each counts its own layers; tables that both read go with the deeper one.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, share_of_one
from adaptkit.models.anatomy import base_prefix
from adaptkit.models.depth import after_layers, parameters_in, stacks


@dataclass(frozen=True)
class LayerwiseLrDecay:
    """Lower the learning rate by a factor from layer to layer, from the top down."""

    decay: float = 0.95  # factor from one layer to the next lower one; 1: none

    def __post_init__(self) -> None:
        share_of_one("regularizer.layerwise_lr_decay.decay", self.decay)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Give every layer its factor.

        Raises:
            AdaptError: nothing in a layer is trained, or the layers share their weights.
        """
        if self.decay == 1:
            return start
        option, model = "regularizer=layerwise_lr_decay", start.model
        body = start.body_trainable().keys()
        found = stacks(model, option) if body else []
        layers = parameters_in(model, (name for stack in found for name in stack))
        if not body & layers:
            raise AdaptError(
                f"{option}: gives each layer a learning rate, and this method trains nothing in a "
                "layer. Leave it out."
            )
        rates = {
            f"{name}.*": self.decay ** (len(stack) - below)
            for stack in found
            for below, name in enumerate(stack)
        }
        own = {name for name in body & start.loaded if name.startswith(base_prefix(model))}
        lowest = self.decay ** (max(map(len, found)) + 1)
        return start.plus(
            lr_scale={**rates, **dict.fromkeys(own - layers - after_layers(model), lowest)}
        )
