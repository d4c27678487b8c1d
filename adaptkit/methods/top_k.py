"""Top-K: train the last layers and what follows them (Houlsby et al. 2019, arXiv:1902.00751).

    trained: layers L - K + 1 .. L, the norm after the last layer, the pooler, the head

`layers` names others; layer 1 is the lowest. Of two stacks, the same layers of encoder and decoder
are trained. T5's relative positions are a table of the first layer of each stack. The norm after
the last layer (GPT-2, LLaMA, T5 ...) belongs to the top, as it reads the last layer. A pretrained
head stays frozen. Layers below stay in training mode, dropout included, as in published runs
(Child-Tuning, diff pruning): their outputs are computed for every batch. Without that dropout they
can be computed once: trainer.cache_frozen=layers. ALBERT is rejected: its layers share their
weights.

Count: K layers, norm and pooler; for BERT-base 7,087,872 K + 590,592.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from adaptkit.adaptation import Adaptation, Context, no_op
from adaptkit.errors import at_least, invalid
from adaptkit.methods.size import Size
from adaptkit.models.depth import after_layers, last_of, parameters_in, stacks

DEFAULT = 2


@dataclass(frozen=True)
class TopK:
    """Train the last layers of the base model."""

    sized_by: ClassVar[Size] = Size("last", least=0)
    last: int | None = None  # how many layers, from the top; null: 2, or those of `layers`
    layers: tuple[int, ...] = ()  # numbers of the layers that train instead; 1: the lowest

    def __post_init__(self) -> None:
        if self.last is not None:
            at_least("method.last", self.last, 0)
        for number in self.layers:
            at_least("method.layers", number, 1)
        if self.layers and self.last is not None:
            raise invalid(
                "method.last", self.last, "method.layers names the layers already", "Drop one"
            )

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Freeze everything but these layers, what follows the last one, and the head.

        Raises:
            AdaptError: there are fewer layers, or they share their weights.
        """
        model = start.model
        layers = [name for stack in stacks(model, "method=top_k") for name in self._of(stack)]
        trained = (parameters_in(model, layers) | after_layers(model)) & start.loaded
        # The trained tensors are the body's own: nothing is left to fold in.
        return replace(start.only(lambda name: name in trained), merge=no_op)

    def _of(self, stack: list[str]) -> list[str]:
        if not self.layers:
            return last_of(stack, DEFAULT if self.last is None else self.last, "method.last")
        if max(self.layers) > len(stack):
            raise invalid("method.layers", list(self.layers), f"this model has {len(stack)} layers")
        return [stack[number - 1] for number in self.layers]
