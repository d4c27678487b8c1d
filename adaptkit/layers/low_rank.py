"""Low-rank updates of linear maps: how they are attached, and the pair of LoRA.

An update stands in the child `lora` of its map, by role, and a forward hook adds it to the output.
The map itself, its weight and its bias stay as they are, so that no name in the body changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adaptkit.errors import AdaptError, invalid
from adaptkit.layers.embedding_pair import EmbeddingPair
from adaptkit.models.anatomy import Site, sharing
from adaptkit.models.body import bias_of, is_conv1d, unpacked, weight_of
from adaptkit.models.fast.packed import PAIR_ADDED, LowRank


@dataclass(frozen=True)
class Pass:
    """One map at work: y = W x + b, and which of its outputs (`rows`) an update belongs to."""

    x: Tensor  # [..., in]
    y: Tensor  # [..., out]
    weight: Tensor  # [out, in]
    bias: Tensor | None
    rows: Tensor | None  # None: all of them

    def spread(self, tensor: Tensor) -> Tensor:
        """Spread a tensor [rows, ...] to [out, ...], zero at the outputs of other roles."""
        if self.rows is None:
            return tensor
        wide = tensor.new_zeros(self.y.shape[-1], *tensor.shape[1:])
        return wide.index_copy(0, self.rows, tensor)


class Update(Protocol):
    """A change of one linear map, in two forms that compute the same."""

    def __call__(self, at: Pass) -> Tensor:
        """Return what to add to the output, [..., out], without forming a matrix [out, in]."""
        ...

    def matrix(self, weight: Tensor) -> Tensor:
        """Return what to add to the weight [out, in]."""
        ...


class Pair(nn.Module):
    """s B A dropout(x): A [r, in] Kaiming-uniform with a = sqrt 5, B [out, r] zero.

    Both are fp32, whatever the body is kept in. Count: r (in + out).
    """

    def __init__(
        self,
        site: Site,
        rank: int,
        scale: float,
        dropout: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(site.fan_in)  # as kaiming_uniform_(a=sqrt(5))
        start = (torch.rand(rank, site.fan_in, generator=generator) * 2 - 1) * bound
        self.A = nn.Parameter(start.to(device))
        self.B = nn.Parameter(torch.zeros(site.fan_out, rank, device=device))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, at: Pass) -> Tensor:
        """Return s B A dropout(x), [..., out]."""
        low = F.linear(self.dropout(at.x), self.A)
        return F.linear(self.scale * low, at.spread(self.B))

    def matrix(self, weight: Tensor) -> Tensor:
        """Return s B A, [out, in]."""
        return self.scale * (self.B @ self.A)


class Updates(nn.ModuleDict):
    """The updates of one linear map by role; the rows of a fused map stand in `rows_<role>`."""

    def add(self, site: Site, update: nn.Module, device: torch.device) -> None:
        """Take in the update of one role."""
        self[site.role] = update
        index = None if site.rows is None else torch.tensor(site.rows, device=device)
        self.register_buffer(f"rows_{site.role}", index, persistent=False)

    def rows(self, role: str) -> Tensor | None:
        """Return the outputs [rows] that belong to a role; None: all of them."""
        return getattr(self, f"rows_{role}")

    def by_role(self) -> dict[str, Update]:
        """Return the updates by role."""
        return {role: cast(Update, update) for role, update in self.items()}

    def plain_pair(self) -> LowRank | None:
        """Return the pair of LoRA, if that is all there is, and drops nothing."""
        if len(self) != 1 or any(self.rows(role) is not None for role in self):
            return None
        (pair,) = self.values()
        if type(pair) is not Pair or (pair.training and pair.dropout.p):
            return None
        return LowRank(pair.A, pair.B, pair.scale)

    def hook(self, module: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
        """Add all updates to the map's output y [..., out], unless its product has done so."""
        if vars(module).pop(PAIR_ADDED, False):
            return y
        weight, bias, total = matrix_of(module), bias_of(module), y
        for role, update in self.by_role().items():
            change = update(Pass(args[0], y, weight, bias, self.rows(role))).to(y.dtype)
            total = change.add_(total)  # in place: one tensor less to write
        return total

    @torch.no_grad()
    def merge(self, module: nn.Module) -> None:
        """Fold the updates into the weight, in fp32."""
        weight = unpacked(matrix_of(module)).float()
        merged = weight.clone()
        for role, update in self.by_role().items():
            rows = self.rows(role)
            rows = torch.arange(len(weight), device=weight.device) if rows is None else rows
            merged.index_add_(0, rows, update.matrix(weight[rows]))
        weight_of(module).copy_(merged.t() if is_conv1d(module) else merged)


class UpdatedTensor(nn.Module):
    """W + update for a bare parameter [H, heads, size] that is used in an einsum (XLNet).

    Registered as a parametrization: the body's tensor is then named
    `parametrizations.<name>.original`.
    """

    def __init__(self, site: Site, update: nn.Module) -> None:
        super().__init__()
        self.lora = nn.ModuleDict({site.role: update})
        self.turned = site.parameter != "o"

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the update added, in the weight's shape."""
        (update,) = (cast(Update, module) for module in self.lora.values())
        change = update.matrix(_flatten(weight, self.turned))
        change = change.t() if self.turned else change
        return weight + change.reshape(weight.shape).to(weight.dtype)


def matrix_of(module: nn.Module) -> Tensor:
    """Return a map's weight as [out, in]."""
    weight = weight_of(module)
    return weight.t() if is_conv1d(module) else weight


def _flatten(weight: Tensor, turned: bool) -> Tensor:
    flat = weight.reshape(len(weight), -1)
    return flat.t() if turned else flat


def weight_at(model: nn.Module, site: Site) -> Tensor:
    """Return the weight [out, in] of a site, of a fused map the rows that belong to it, in fp32."""
    module = model.get_submodule(site.module)
    if site.parameter:
        return _flatten(getattr(module, site.parameter).detach(), site.parameter != "o").float()
    weight = unpacked(matrix_of(module)).detach().float()
    return weight if site.rows is None else weight[list(site.rows)]


def check_rank(rank: int, site: Site, field: str = "method.rank") -> int:
    """Return `rank`.

    Raises:
        ConfigError: it exceeds the rank that the map itself can have.
    """
    full = min(site.fan_in, site.fan_out)
    if rank > full:
        raise invalid(
            field, rank, f"exceeds the rank {full} of {site.name}", f"Choose {full} or less"
        )
    return rank


def attach_updates(
    model: nn.Module, sites: Iterable[Site], build: Callable[[Site], nn.Module]
) -> Callable[[], None]:
    """Attach `build(site)` to every map; return the function that folds all of them in.

    Raises:
        AdaptError: another method changes a map already, or a bare tensor has no input to drop.
    """
    merges: dict[str, Callable[[], None]] = {}
    for site in sites:
        module = model.get_submodule(site.module)
        _check_free(module, site)
        if site.parameter:
            merges[site.name] = _attach_to_tensor(module, site.parameter, site, build(site))
        elif isinstance(module, nn.Embedding):
            merges[site.name] = _attach_to_table(model, module, site, build(site))
        else:
            if "lora" not in dict(module.named_children()):
                updates = Updates()
                merges[site.name] = _attach([module], updates, updates)
            collected = cast(Updates, module.get_submodule("lora"))
            collected.add(site, build(site), weight_of(module).device)

    def merge() -> None:
        for fold in merges.values():
            fold()

    return merge


def _attach(
    modules: list[nn.Module], child: nn.Module, worker: Updates | EmbeddingPair
) -> Callable[[], None]:
    first = modules[0]
    first.lora = child
    handles = [module.register_forward_hook(worker.hook) for module in modules]

    def fold() -> None:
        worker.merge(first)
        for handle in handles:
            handle.remove()
        del first.lora

    return fold


def _attach_to_table(
    model: nn.Module, table: nn.Embedding, site: Site, update: nn.Module
) -> Callable[[], None]:
    # T5 and BART look words up in several modules that share one table.
    modules = [model.get_submodule(name) for name in sharing(model, table.weight)]
    return _attach(modules, nn.ModuleDict({site.role: update}), cast(EmbeddingPair, update))


def _attach_to_tensor(
    module: nn.Module, name: str, site: Site, update: nn.Module
) -> Callable[[], None]:
    dropout = getattr(update, "dropout", None)
    if dropout is not None and dropout.p:
        raise AdaptError(
            f"method.dropout={dropout.p}: {site.name} is a bare tensor, not a map with an "
            "input that could be dropped. Set method.dropout=0 for this family, or adapt other "
            "roles."
        )
    # unsafe=True: skip the trial call, shapes are known.
    parametrize.register_parametrization(module, name, UpdatedTensor(site, update), unsafe=True)
    return partial(fold_tensor, module, name)


def fold_tensor(module: nn.Module, name: str) -> None:
    """Write a parametrized tensor's value into the body; all that changes it is removed."""
    if parametrize.is_parametrized(module, name):
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _check_free(module: nn.Module, site: Site) -> None:
    if site.parameter:
        taken = parametrize.is_parametrized(module, site.parameter)
    else:
        children = dict(module.named_children())
        if children.keys() - {"lora"}:
            raise AdaptError(
                f"{site.name} is changed by another method already. In method.parts, name the "
                "low-rank method before it."
            )
        updates = children.get("lora")
        taken = updates is not None and site.role in dict(updates.named_children())
    if taken:
        raise AdaptError(f"{site.name} has a low-rank pair already: use one low-rank method.")
