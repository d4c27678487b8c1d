"""IA3: scale keys, values and inner activations by trained vectors (Liu et al. 2022, 2205.05638).

    k = l_k * (W_k x),   v = l_v * (W_v x),   down(l_ff * act(up x));   all l start at one

Training starts from the body. A gated feed-forward has its vector at the entry of `down` as well,
after gate and up are multiplied. Of a fused map of query, key and value the rows of key and
value are scaled. In XLNet, whose key and value are bare tensors, the vectors act on the weights,
which is the same. Further roles can be named, as PEFT's defaults do for some families: `output` is
scaled at its entry, like `down`, and `query`, `up` and `gate` at their outputs. In a chain, name
this method after a low-rank one on the same maps.

Count: the sum of the scaled outputs and inputs; by default L (2 H + d_ff) for
an encoder. Keys and values of cross attention are included.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import each_of
from adaptkit.models.anatomy import ROLES, sites

CHOICES = ROLES  # the paper's are key, value and down


@dataclass(frozen=True)
class IA3:
    """Train a vector for the outputs of keys and values and for the input of the down map."""

    roles: tuple[str, ...] = ("key", "value", "down")  # maps that get a vector

    def __post_init__(self) -> None:
        each_of("method.roles", self.roles, CHOICES)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach a vector of ones to every map in `roles`.

        Raises:
            AdaptError: a role matches nothing in this family.
        """
        from adaptkit.layers.scaling import INPUTS, attach_scales

        merge = attach_scales(start.model, sites(start.model, self.roles), inputs=INPUTS)
        return start.added(".ia3.", merge)
