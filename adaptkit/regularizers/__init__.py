"""REGULARIZERS: penalties and hooks that combine with any method, in the form of a method.

Like `adaptkit.methods`, these modules do not import torch at import time.
"""

from adaptkit.regularizers.child_tuning import ChildTuning
from adaptkit.regularizers.l2_sp import L2SP
from adaptkit.regularizers.mixout import Mixout
from adaptkit.regularizers.r3f import R3F, R4F
from adaptkit.regularizers.r_drop import RDrop
from adaptkit.regularizers.recadam import RecAdam

REGULARIZERS: dict[str, type] = {
    "l2_sp": L2SP,
    "mixout": Mixout,
    "recadam": RecAdam,
    "r3f": R3F,
    "r4f": R4F,
    "r_drop": RDrop,
    "child_tuning": ChildTuning,
}
