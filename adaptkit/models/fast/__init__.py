"""Faster training steps on a CPU: the same mathematics by other kernels, behind one door.

A method, a form or a family knows nothing of it. What is replaced acts in training alone (modules
in training mode, gradients on, bf16): scores, predictions and rebuilt models are computed as
before, bit for bit. Where a kernel does not fit, the module computes as it did.
"""

from __future__ import annotations

from torch import nn

from adaptkit.models.fast.attention import attend_fast
from adaptkit.models.fast.dropout import MaskDropout
from adaptkit.models.fast.packed import pack, packed_bytes
from adaptkit.models.fast.reading import read_first

__all__ = ["packed_bytes", "use_fast_kernels"]


def use_fast_kernels(model: nn.Module, first_token_only: bool) -> None:
    """Let `model`, whose frozen matrices are bf16, train faster on a CPU.

    first_token_only: nothing reads the last layer but a classifier, and that one place.
    """
    for module in model.modules():
        if type(module) is nn.Dropout:  # hooks and names stay
            module.__class__ = MaskDropout
    pack(model)
    attend_fast(model)
    if first_token_only:
        read_first(model)
