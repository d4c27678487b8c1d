"""A low-rank pair beside a linear map (Hu et al. 2021, arXiv:2106.09685).

`LowRank` takes the place of a map and keeps its weight and bias under their old names, so that
names in the body do not change; the pairs stand in its `lora` by role.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import Site, is_conv1d


class Pair(nn.Module):
    """A [r, in] Kaiming-uniform with a = sqrt 5, B [out, r] zero: x [..., in] -> B A x [..., out].

    Both are fp32, whatever the body is kept in.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        rank: int,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)  # what kaiming_uniform_(a=sqrt(5)) amounts to
        start = (torch.rand(rank, fan_in, generator=generator) * 2 - 1) * bound
        self.A = nn.Parameter(start.to(device))
        self.B = nn.Parameter(torch.zeros(fan_out, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return B A x."""
        return F.linear(F.linear(x, self.A), self.B)

    def product(self) -> Tensor:
        """Return B A, [out, in]."""
        return self.B @ self.A


class LowRank(nn.Module):
    """y = W x + b + s B A dropout(x), for each pair on the outputs (`rows`) that belong to it."""

    def __init__(self, base: nn.Module, scale: float, dropout: float) -> None:
        super().__init__()
        self.transposed = is_conv1d(base)
        self.weight = base.weight  # [out, in], or [in, out] where transposed
        self.bias = base.bias
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora = nn.ModuleDict()

    @staticmethod
    def beside(
        model: nn.Module, site: Site, pair: Pair, scale: float, dropout: float
    ) -> LowRank | LowRankTensor:
        """Put `pair` beside the map at `site`; a fused map collects the pairs of its roles."""
        module = model.get_submodule(site.module)
        if site.parameter:
            return LowRankTensor.beside(module, site, pair, scale, dropout)
        if not isinstance(module, LowRank):
            module = LowRank(module, scale, dropout)
            parent, _, child = site.module.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
        if site.role in module.lora:
            raise AdaptError(f"{site.name} has a low-rank pair already: use one low-rank method.")
        module.lora[site.role] = pair
        index = None if site.rows is None else torch.tensor(site.rows, device=module.weight.device)
        module.register_buffer(f"rows_{site.role}", index, persistent=False)
        return module

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        weight = self.weight.t() if self.transposed else self.weight
        y = F.linear(x, weight, self.bias)
        low = self.dropout(x)
        for role, pair in self.lora.items():
            rows, up = getattr(self, f"rows_{role}"), pair.B
            if rows is not None:  # zeros for the outputs of other roles
                up = up.new_zeros(y.shape[-1], up.shape[1]).index_copy(0, rows, up)
            y = y + F.linear(self.scale * F.linear(low, pair.A), up).to(y.dtype)
        return y

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        """Fold the pairs into the weight (in fp32) and put a plain map back in place."""
        update = torch.zeros_like(self.weight.t() if self.transposed else self.weight).float()
        for role, pair in self.lora.items():
            rows = getattr(self, f"rows_{role}")
            delta = self.scale * pair.product()
            update = update + delta if rows is None else update.index_add(0, rows, delta)
        self.weight.copy_(self.weight.float() + (update.t() if self.transposed else update))
        name = next(n for n, module in model.named_modules() if module is self)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, self._plain())

    def _plain(self) -> nn.Module:
        rows, columns = self.weight.shape
        if self.transposed:
            from transformers.pytorch_utils import Conv1D

            plain = Conv1D(columns, rows)
        else:
            plain = nn.Linear(columns, rows, bias=self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain


class LowRankTensor(nn.Module):
    """W + s B A for a bare parameter [H, heads, size] that is used in an einsum (XLNet).

    Registered as a parametrization: the body's tensor is then named
    `parametrizations.<name>.original`. There is no input to drop, so dropout must be 0.
    """

    def __init__(self, site: Site, pair: Pair, scale: float) -> None:
        super().__init__()
        self.lora = nn.ModuleDict({site.role: pair})
        self.scale = scale
        self.site = site

    @staticmethod
    def beside(
        module: nn.Module, site: Site, pair: Pair, scale: float, dropout: float
    ) -> LowRankTensor:
        """Parametrize the tensor at `site` of `module`."""
        if dropout:
            raise AdaptError(
                f"method.dropout={dropout}: {site.name} is a bare tensor, not a map with an input "
                "that could be dropped. Set method.dropout=0 for this family, or adapt other roles."
            )
        if parametrize.is_parametrized(module, site.parameter):
            raise AdaptError(f"{site.name} has a low-rank pair already: use one low-rank method.")
        update = LowRankTensor(site, pair, scale)
        # unsafe=True: skip the trial call, shapes are known.
        parametrize.register_parametrization(module, site.parameter, update, unsafe=True)
        return update

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the update added, in the weight's shape."""
        (pair,) = self.lora.values()
        product = pair.product() if self.site.parameter == "o" else pair.product().t()
        return weight + (self.scale * product).reshape(weight.shape).to(weight.dtype)

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        """Write the updated tensor into the body and remove the parametrization."""
        module = model.get_submodule(self.site.module)
        parametrize.remove_parametrizations(module, self.site.parameter, leave_parametrized=True)
