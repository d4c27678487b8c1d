"""REGULARIZERS: penalties and hooks that combine with any method, in the form of a method.

Like `adaptkit.methods`, these modules do not import torch at import time.
"""

from adaptkit.regularizers.child_tuning import ChildTuning
from adaptkit.regularizers.l2_sp import L2SP
from adaptkit.regularizers.layerwise_lr_decay import LayerwiseLrDecay
from adaptkit.regularizers.mixout import Mixout
from adaptkit.regularizers.r3f import R3F, R4F
from adaptkit.regularizers.r_drop import RDrop
from adaptkit.regularizers.recadam import RecAdam
from adaptkit.regularizers.reinit import Reinit
from adaptkit.regularizers.weight_decay_to_pretrained import WeightDecayToPretrained

REGULARIZERS: dict[str, type] = {
    "l2_sp": L2SP,
    "weight_decay_to_pretrained": WeightDecayToPretrained,
    "mixout": Mixout,
    "recadam": RecAdam,
    "r3f": R3F,
    "r4f": R4F,
    "r_drop": RDrop,
    "child_tuning": ChildTuning,
    "reinit": Reinit,
    "layerwise_lr_decay": LayerwiseLrDecay,
}
