"""Re-initialisation: draw the last layers anew (Zhang et al. 2021, arXiv:2006.05987).

    layers L - K + 1 .. L, and the pooler  <-  their values before pretraining

They are drawn as transformers draws them in a new model of this config: in BERT normal with
`initializer_range`, biases 0, gains 1; other families (GPT-2, T5, Gemma 3) have rules of their own.
The norm after the last layer keeps its pretrained values. Of two stacks, the last K layers of both
are drawn. All of these tensors must be trained, so that they are saved with the run.

Among several regularizers the order counts: one that pulls towards the start (`l2_sp`) and comes
before this one pulls towards the pretrained values, one after it towards the drawn ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, at_least
from adaptkit.models.anatomy import base_prefix
from adaptkit.models.depth import last_of, parameters_in, stacks


@dataclass(frozen=True)
class Reinit:
    """Start the last layers from random values."""

    last: int = 1  # how many layers, from the top
    pooler: bool = True  # draw the pooler too, if the base model has one

    def __post_init__(self) -> None:
        at_least("regularizer.reinit.last", self.last, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Draw the values; what is trained stays the same.

        Raises:
            AdaptError: a part to be drawn is frozen or holds what a method added, or there are
                fewer layers, or they share their weights.
        """
        modules = self._modules(start)
        inside = parameters_in(start.model, modules)
        if not inside <= start.trainable.keys() & start.loaded:
            raise AdaptError(
                "regularizer=reinit: draws layers anew, and this method does not train all of them "
                "as they are: they would stay random. Use method=full, or method=top_k."
            )
        if context.stage == "train":
            from adaptkit.models.fresh import draw

            for name in modules:
                draw(start.model, name, context.generator)
        return start

    def _modules(self, start: Adaptation) -> list[str]:
        model, option, field = start.model, "regularizer=reinit", "regularizer.reinit.last"
        if not start.body_trainable():  # a probe has a model of its own
            raise AdaptError(f"{option}: draws layers anew, and this method trains none.")
        found = stacks(model, option) if self.last else []
        layers = [name for stack in found for name in last_of(stack, self.last, field)]
        pooler = f"{base_prefix(model)}pooler"
        # A pooler that the checkpoint lacks has been drawn already.
        old = parameters_in(model, [pooler]) - start.head
        return [*layers, pooler] if self.pooler and old else layers
