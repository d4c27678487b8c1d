"""REGULARIZERS: terms and hooks that combine with any method, in the methods' own form.

Like `adaptkit.methods`, these modules do not import torch at import time.
"""

from adaptkit.regularizers.l2_sp import L2SP

REGULARIZERS: dict[str, type] = {"l2_sp": L2SP}
