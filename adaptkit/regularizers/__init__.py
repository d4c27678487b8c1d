"""REGULARIZERS: penalties and hooks that combine with any method, in the form of a method.

Like `adaptkit.methods`, these modules do not import torch at import time.
"""

from adaptkit.regularizers.l2_sp import L2SP

REGULARIZERS: dict[str, type] = {"l2_sp": L2SP}
