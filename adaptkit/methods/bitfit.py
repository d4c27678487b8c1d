"""BitFit: train the biases and the head only (Ben-Zaken et al. 2022, arXiv:2106.10199).

    y = W x + b,   W frozen, b learns;   LayerNorm: the shift learns, the gain is frozen

`components` chooses subsets by role. The authors' code always adds the pooler's bias to a subset;
here a subset is what it says. The key biases get no gradient (softmax ignores a shift that all keys
share) but are counted, as in the paper.

Count: all biases of the body; 102,912 for BERT-base, 11 H per layer + embeddings + pooler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, no_op
from adaptkit.errors import AdaptError, each_of, invalid
from adaptkit.models.anatomy import NORMS, ROLES, biases, family

CHOICES = (*ROLES, *NORMS, "ffn", "all")


@dataclass(frozen=True)
class BitFit:
    """Train bias vectors: all of the body's, or those of the named components."""

    components: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        each_of("method.components", self.components, CHOICES)
        if "all" in self.components and len(self.components) > 1:
            raise invalid(
                "method.components", list(self.components), "'all' stands alone", "Drop the others"
            )

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Freeze everything but the chosen biases and the head.

        Raises:
            AdaptError: the model has no such biases.
        """
        wanted = None if self.components == ("all",) else self.components
        chosen = biases(start.model, wanted) & start.loaded  # not those of other methods' modules
        if not chosen - start.head:
            raise AdaptError(
                f"method=bitfit: {family(start.model).name} models have no bias "
                f"{'' if wanted is None else 'in ' + ', '.join(self.components) + ' '}"
                "that could learn. Choose another method, for example method=lora."
            )
        # What learns are the body's own weights: nothing is left to fold in.
        return replace(start.only(lambda name: name in chosen), merge=no_op)
