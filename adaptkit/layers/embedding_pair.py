"""The pair of LoRA for a table of embeddings, in which rows are looked up instead of multiplied."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptkit.models.anatomy import Site
from adaptkit.models.body import weight_of


class EmbeddingPair(nn.Module):
    """s B A[:, id] for a table of V embeddings of width d: A [r, V] zero, B [d, r] ~ N(0, 1).

    A starts at zero instead of B, as in the authors' loralib: a column of A is looked up.
    Count: r (V + d).
    """

    def __init__(
        self, site: Site, rank: int, scale: float, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.zeros(rank, site.fan_in, device=device))
        self.B = nn.Parameter(torch.randn(site.fan_out, rank, generator=generator).to(device))
        self.scale = scale

    def hook(self, module: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
        """Add the update to the embeddings y [..., d] of ids [...]."""
        low = F.embedding(args[0], self.A.t(), cast(nn.Embedding, module).padding_idx)
        factor = self.scale * getattr(module, "embed_scale", 1.0)  # BART multiplies embeddings
        return y + (factor * F.linear(low, self.B)).to(y.dtype)

    @torch.no_grad()
    def merge(self, module: nn.Module) -> None:
        """Fold the update into the table, [V, d]."""
        table = weight_of(module)
        table.add_((self.scale * (self.B @ self.A)).t().to(table.dtype))
