"""BitFit: train the biases and the head only (Ben-Zaken et al. 2022, arXiv:2106.10199).

    y = W x + b,   W frozen, b trained;   LayerNorm: the shift is trained, the gain frozen

`components` chooses subsets by role: maps and norms of the layers, or `query_up`, the paper's pair
of query and intermediate map (`up`), 45 % of the biases. The authors' code always adds the pooler's
bias to a subset; here a subset holds the named roles only. The key biases get no gradient (softmax
ignores a shift that all keys share) but are counted, as in the paper.

Count: all biases of the body; 102,912 for BERT-base, 11 H per layer + embeddings + pooler.
`query_up`: 5 H per layer, 46,080.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, no_op
from adaptkit.errors import AdaptError, invalid
from adaptkit.models.anatomy import NORMS, biases, check_roles, family

PAIR = {"query_up": ("query", "up")}


@dataclass(frozen=True)
class BitFit:
    """Train bias vectors: all of the body's, or those of the named components."""

    components: tuple[str, ...] = ("all",)  # maps and norms whose biases are trained

    def __post_init__(self) -> None:
        check_roles(self.components, extra=(*NORMS, *PAIR), field="method.components")
        if "all" in self.components and len(self.components) > 1:
            raise invalid(
                "method.components", list(self.components), "'all' stands alone", "Drop the others"
            )

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Freeze everything but the named biases and the head.

        Raises:
            AdaptError: the model has no such biases.
        """
        named = tuple(role for name in self.components for role in PAIR.get(name, (name,)))
        components = None if named == ("all",) else named
        trained = biases(start.model, components) & start.loaded  # not of other methods' modules
        if not trained - start.head:
            where = f" in {', '.join(components)}" if components else ""
            raise AdaptError(
                f"method=bitfit: {family(start.model).name} models have no bias{where} that could "
                "be trained. Choose another method, for example method=lora."
            )
        # The trained tensors are the body's own: nothing is left to fold in.
        return replace(start.only(lambda name: name in trained), merge=no_op)
