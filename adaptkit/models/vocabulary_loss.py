"""Cross-entropy over a vocabulary, a few tokens at a time.

    loss = sum_n (log sum_v exp z_nv - z_n,y(n)),   dloss/dz_nv = softmax(z_n)_v - [v = y(n)]

The logits z [N, V] come in half precision and are read in fp32. Written in one piece, three copies
of them in fp32 live at once: the logits, their log-softmax and the gradient. Here a copy holds the
tokens of one piece, and what is kept for the gradient is one number per token. The values are those
of `torch.nn.functional.cross_entropy(z.float(), y, reduction="sum")`, but for the order of the sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NUMBERS = 1 << 22  # of a piece: 16 MB in fp32


class VocabularyLoss(torch.autograd.Function):
    """The sum of minus the log-probabilities of the targets."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss [] of logits [N, V] and target [N], in fp32."""
        norms = torch.empty(len(logits), device=logits.device)
        for piece in pieces(logits):
            norms[piece] = logits[piece].float().logsumexp(-1)
        chosen = logits.gather(1, target[:, None])[:, 0].float()
        ctx.save_for_backward(logits, target, norms)
        return (norms - chosen).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits, in their format."""
        logits, target, norms = ctx.saved_tensors
        made = torch.empty_like(logits)
        for piece in pieces(logits):
            shares = (logits[piece].float() - norms[piece, None]).exp_()
            shares.scatter_add_(1, target[piece, None], shares.new_full((len(shares), 1), -1.0))
            made[piece] = shares.mul_(gradients[0]).to(made.dtype)
        return made, None


def pieces(logits: Tensor) -> list[slice]:
    """Return slices of the tokens, each of which has about NUMBERS logits."""
    size = max(1, NUMBERS // max(1, logits.shape[1]))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def vocabulary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the summed cross-entropy [] of logits [N, V] and target [N]."""
    return VocabularyLoss.apply(logits, target)
