"""Trained vectors that scale the output or the input of a map (Liu et al. 2022).

Formulas: arXiv:2205.05638. The vectors stand in the child `ia3` of their map by role, and hooks
apply them, so that no name in the body changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adaptkit.errors import AdaptError
from adaptkit.layers.low_rank import fold_tensor, matrix_of
from adaptkit.models.anatomy import Site
from adaptkit.models.body import bias_of, device_of, unpacked

INPUTS = ("output", "down")  # roles whose input is scaled


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
        total: Tensor | None = None
        for role, scale in vectors(self).items():
            rows: Tensor | None = getattr(self, f"rows_{role}")
            if rows is None:
                return scale
            total = scale.new_ones(width) if total is None else total
            total = total.index_copy(0, rows, scale)
        return cast(Tensor, total)  # a map is given a vector at once, see `attach_scales`

    def hook(self, module: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
        """Scale the map's output y [..., out]."""
        return (y * self.whole(y.shape[-1])).to(y.dtype)

    def merge(self, module: nn.Module) -> None:
        """Fold the vectors into weight and bias."""
        weight, bias = unpacked(matrix_of(module)), bias_of(module)
        scale = self.whole(len(weight))
        weight.copy_(weight.float() * scale.unsqueeze(1))
        if bias is not None:
            bias.mul_(scale)


class InputScale(nn.ModuleDict):
    """W (l * x) + b."""

    def add(self, site: Site, device: torch.device) -> None:
        """Take in the vector for the map's inputs."""
        self[site.role] = Vector(site.fan_in, device)

    def hook(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """Scale the map's input x [..., in]."""
        (scale,) = vectors(self).values()
        return ((args[0] * scale).to(args[0].dtype),)

    def merge(self, module: nn.Module) -> None:
        """Fold the vector into the weight."""
        (scale,) = vectors(self).values()
        weight = unpacked(matrix_of(module))
        weight.copy_(weight.float() * scale)


class ScaledTensor(nn.Module):
    """l * W for a bare parameter [H, heads, size] (XLNet); registered as a parametrization.

    The vector stands at the heads: at the outputs of query, key and value, at the input of output.
    """

    def __init__(self, site: Site, device: torch.device) -> None:
        super().__init__()
        self.ia3 = nn.ModuleDict({site.role: Vector(self.width(site), device)})

    @staticmethod
    def width(site: Site) -> int:
        """Return heads * size."""
        return site.fan_in if site.role == "output" else site.fan_out

    def forward(self, weight: Tensor) -> Tensor:
        """Return the scaled weight."""
        (scale,) = vectors(self.ia3).values()
        return (weight * scale.view(weight.shape[1:])).to(weight.dtype)


def vectors(scales: nn.ModuleDict) -> dict[str, Tensor]:
    """Return the vectors [n] by role."""
    return {role: cast(Vector, vector).scale for role, vector in scales.items()}


def attach_scales(
    model: nn.Module, sites: Iterable[Site], inputs: Iterable[str]
) -> Callable[[], None]:
    """Attach a vector to every map; return the function that folds all of them in.

    inputs: the roles whose input is scaled instead of their output.

    Raises:
        AdaptError: a map has such vectors already.
    """
    merges: dict[str, Callable[[], None]] = {}
    for site in sites:
        module = model.get_submodule(site.module)
        if site.parameter:
            merges[site.name] = _attach_to_tensor(module, site.parameter, site)
            continue
        if site.name not in merges:  # a fused map collects the vectors of its roles
            scales = InputScale() if site.role in inputs else OutputScales()
            merges[site.name] = _attach(module, site, scales)
        collected = cast("InputScale | OutputScales", module.get_submodule("ia3"))
        collected.add(site, device_of(module))

    @torch.no_grad()
    def merge() -> None:
        for fold in merges.values():
            fold()

    return merge


def _attach_to_tensor(module: nn.Module, name: str, site: Site) -> Callable[[], None]:
    _check_free(site, any(isinstance(p, ScaledTensor) for p in parametrizations(module, name)))
    scale = ScaledTensor(site, device_of(module))
    parametrize.register_parametrization(module, name, scale, unsafe=True)
    return partial(fold_tensor, module, name)


def parametrizations(module: nn.Module, name: str) -> list[nn.Module]:
    """Return the parametrizations of one of a module's tensors, in their order."""
    if not parametrize.is_parametrized(module, name):
        return []
    return list(module.get_submodule(f"parametrizations.{name}").children())


def _check_free(site: Site, taken: bool) -> None:
    if taken:
        raise AdaptError(f"{site.name} has scaling vectors already: use one such method.")


def _attach(module: nn.Module, site: Site, scales: OutputScales | InputScale) -> Callable[[], None]:
    _check_free(site, "ia3" in dict(module.named_children()))
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
