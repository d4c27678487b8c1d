"""Learnt vectors that scale what comes out of a map, or what goes in (Liu et al. 2022).

Formulas: arXiv:2205.05638. The vectors stand in the child `ia3` of their map by role, and hooks
apply them, so that no name in the body changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adaptkit.errors import AdaptError
from adaptkit.layers.low_rank import fold_tensor, matrix_of
from adaptkit.models.anatomy import Site


class Vector(nn.Module):
    """`scale` [n], ones at the start."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size, device=device))


class OutputScales(nn.ModuleDict):
    """l * (W x + b); of a fused map, ones at the outputs of other roles."""

    def add(self, site: Site, device: torch.device) -> None:
        """Take in a vector for the outputs of one role."""
        self[site.role] = Vector(site.fan_out, device)
        index = None if site.rows is None else torch.tensor(site.rows, device=device)
        self.register_buffer(f"rows_{site.role}", index, persistent=False)

    def whole(self, width: int) -> Tensor:
        """Return the scale of every output of the map, [width]."""
        total = None
        for role, vector in self.items():
            rows = getattr(self, f"rows_{role}")
            if rows is None:
                return vector.scale
            total = vector.scale.new_ones(width) if total is None else total
            total = total.index_copy(0, rows, vector.scale)
        return total

    def hook(self, module: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
        """Scale the map's output."""
        return (y * self.whole(y.shape[-1])).to(y.dtype)

    def merge(self, module: nn.Module) -> None:
        """Fold the vectors into weight and bias."""
        weight = matrix_of(module.weight, module)
        scale = self.whole(len(weight))
        weight.copy_(weight.float() * scale.unsqueeze(1))
        if module.bias is not None:
            module.bias.mul_(scale)


class InputScale(nn.ModuleDict):
    """W (l * x) + b."""

    def add(self, site: Site, device: torch.device) -> None:
        """Take in the vector for the map's inputs."""
        self[site.role] = Vector(site.fan_in, device)

    def hook(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """Scale the map's input."""
        (vector,) = self.values()
        return ((args[0] * vector.scale).to(args[0].dtype),)

    def merge(self, module: nn.Module) -> None:
        """Fold the vector into the weight."""
        (vector,) = self.values()
        weight = matrix_of(module.weight, module)
        weight.copy_(weight.float() * vector.scale)


class ScaledTensor(nn.Module):
    """l * W for a bare parameter [H, heads, size] (XLNet); registered as a parametrization."""

    def __init__(self, site: Site, device: torch.device) -> None:
        super().__init__()
        self.ia3 = nn.ModuleDict({site.role: Vector(site.fan_out, device)})

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with scaled outputs."""
        (vector,) = self.ia3.values()
        return (weight * vector.scale.view(weight.shape[1:])).to(weight.dtype)


def scaled(model: nn.Module, found: Iterable[Site], inputs: Iterable[str]) -> Callable[[], None]:
    """Put a vector at every map; return the function that folds all of them in.

    inputs: the roles whose input is scaled instead of their output.

    Raises:
        AdaptError: a map has such vectors already.
    """
    merges: dict[str, Callable[[], None]] = {}
    for site in found:
        module = model.get_submodule(site.module)
        device = next(module.parameters()).device
        if site.parameter:
            _check(site, any(isinstance(p, ScaledTensor) for p in _changes(module, site.parameter)))
            update = ScaledTensor(site, device)
            parametrize.register_parametrization(module, site.parameter, update, unsafe=True)
            merges[site.name] = partial(fold_tensor, module, site.parameter)
            continue
        if site.name not in merges:  # a fused map collects the vectors of its roles
            _check(site, "ia3" in dict(module.named_children()))
            merges[site.name] = _hang(
                module, InputScale() if site.role in inputs else OutputScales()
            )
        module.ia3.add(site, device)

    @torch.no_grad()
    def merge() -> None:
        for fold in merges.values():
            fold()

    return merge


def _changes(module: nn.Module, name: str) -> Iterable[nn.Module]:
    return module.parametrizations[name] if parametrize.is_parametrized(module, name) else ()


def _check(site: Site, taken: bool) -> None:
    if taken:
        raise AdaptError(f"{site.name} has scaling vectors already: use one such method.")


def _hang(module: nn.Module, scales: OutputScales | InputScale) -> Callable[[], None]:
    module.ia3 = scales
    if isinstance(scales, InputScale):
        handle = module.register_forward_pre_hook(scales.hook)
    else:
        handle = module.register_forward_hook(scales.hook)

    def fold() -> None:
        scales.merge(module)
        handle.remove()
        del module.ia3

    return fold
