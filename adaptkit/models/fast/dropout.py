"""Dropout of bf16 tensors by thresholds on 16-bit integers.

torch draws one uniform number per element and compares it. Here one 64-bit word of torch's
generator gives four 16-bit numbers u, uniform on -2^15 .. 2^15 - 1, and an element is kept where
u >= t, with t = round(65536 p) - 2^15: p is met to 2^-17. All stays in 16-bit integers, since on a
CPU it is boolean tensors that are slow: 0 and 1 times the bits of 1 / (1 - p) are the bits of the
mask. The masks follow `torch.manual_seed` and the saved state of the generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOW, HIGH = -(2**63), 2**63 - 1  # `random_` excludes the upper end: 1 word of 2^64
PER_WORD = 4  # numbers of a word


def mask_of(shape: torch.Size, p: float) -> Tensor:
    """Draw a mask in bf16: 0 with probability p, else 1 / (1 - p) rounded to bf16.

    `nn.Dropout` rounds in the same way.
    """
    count = shape.numel()
    words = torch.empty(-(-count // PER_WORD), dtype=torch.int64).random_(LOW, HIGH)
    lanes = words.view(torch.int16)[:count].view(shape)
    torch.ge(lanes, threshold(p), out=lanes)
    lanes *= bits(1 / (1 - p))
    return lanes.view(torch.bfloat16)


def threshold(p: float) -> int:
    """Return the least 16-bit number that is kept."""
    return round(p * 2**16) - 2**15


def bits(value: float) -> int:
    """Return the bits of a number in bf16 as a 16-bit integer."""
    return int(torch.tensor(value, dtype=torch.bfloat16).view(torch.int16))


def fits(x: Tensor, p: float) -> bool:
    """Tell whether `mask_of` is made for dropping x with probability p, and gradients are on."""
    possible = torch.is_grad_enabled() and 0 < p and threshold(p) < 2**15
    return possible and x.dtype == torch.bfloat16 and x.device.type == "cpu"


class MaskDropout(nn.Dropout):
    """Dropout that draws cheap masks where it can."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input` with elements dropped, in training."""
        if self.training and fits(input, self.p):
            return input * mask_of(input.shape, self.p)
        return super().forward(input)
