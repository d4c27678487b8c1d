"""Low-rank updates beside linear maps: where they hang, and the pair of LoRA.

An update stands in the child `lora` of its map, by role, and a forward hook adds it to the output.
The map itself, its weight and its bias stay as they are, so that no name in the body changes.

Every update has two forms: called with a `Pass` it returns what to add to the output, without ever
forming a matrix [out, in]; `matrix(W)` returns what to add to the weight W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adaptkit.errors import AdaptError, invalid
from adaptkit.models.anatomy import Site, is_conv1d


@dataclass(frozen=True)
class Pass:
    """One map at work: y = W x + b, and which of its outputs (`rows`) an update belongs to."""

    x: Tensor  # [..., in]
    y: Tensor  # [..., out]
    weight: Tensor  # [out, in]
    bias: Tensor | None
    rows: Tensor | None  # None: all of them

    def spread(self, tensor: Tensor) -> Tensor:
        """Return a tensor [rows, ...] as [out, ...] with zeros at the outputs of other roles."""
        if self.rows is None:
            return tensor
        wide = tensor.new_zeros(self.y.shape[-1], *tensor.shape[1:])
        return wide.index_copy(0, self.rows, tensor)


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
        bound = 1 / math.sqrt(site.fan_in)  # what kaiming_uniform_(a=sqrt(5)) amounts to
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


class EmbeddingPair(nn.Module):
    """s B A[:, id] for a table of V embeddings of width d: A [r, V] zero, B [d, r] ~ N(0, 1).

    The roles are turned round, as in the authors' loralib: a row of A is looked up, and it is A
    that starts at zero. Count: r (V + d).
    """

    def __init__(
        self, site: Site, rank: int, scale: float, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.zeros(rank, site.fan_in, device=device))
        self.B = nn.Parameter(torch.randn(site.fan_out, rank, generator=generator).to(device))
        self.scale = scale

    def hook(self, module: nn.Embedding, args: tuple[Tensor], y: Tensor) -> Tensor:
        """Add the update to the embeddings y [..., d] of ids [...]."""
        low = F.embedding(args[0], self.A.t(), module.padding_idx)
        factor = self.scale * getattr(
            module, "embed_scale", 1.0
        )  # BART multiplies what it looks up
        return y + (factor * F.linear(low, self.B)).to(y.dtype)

    @torch.no_grad()
    def merge(self, module: nn.Embedding) -> None:
        """Fold the update into the table."""
        module.weight.add_((self.scale * (self.B @ self.A)).t().to(module.weight.dtype))


class Updates(nn.ModuleDict):
    """The updates of one linear map by role; the rows of a fused map stand in `rows_<role>`."""

    def add(self, site: Site, update: nn.Module, device: torch.device) -> None:
        """Take in the update of one role."""
        self[site.role] = update
        index = None if site.rows is None else torch.tensor(site.rows, device=device)
        self.register_buffer(f"rows_{site.role}", index, persistent=False)

    def hook(self, module: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
        """Add all updates to the map's output."""
        weight, total = matrix_of(module.weight, module), y
        for role, update in self.items():
            rows = getattr(self, f"rows_{role}")
            change = update(Pass(args[0], y, weight, module.bias, rows)).to(y.dtype)
            total = change.add_(total)  # in place: one tensor less to write
        return total

    @torch.no_grad()
    def merge(self, module: nn.Module) -> None:
        """Fold the updates into the weight, in fp32."""
        weight = matrix_of(module.weight, module).float()
        merged = weight.clone()
        for role, update in self.items():
            rows = getattr(self, f"rows_{role}")
            rows = torch.arange(len(weight), device=weight.device) if rows is None else rows
            merged.index_add_(0, rows, update.matrix(weight[rows]))
        module.weight.copy_(merged.t() if is_conv1d(module) else merged)


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
        (update,) = self.lora.values()
        change = update.matrix(_flat(weight, self.turned))
        change = change.t() if self.turned else change
        return weight + change.reshape(weight.shape).to(weight.dtype)


def matrix_of(weight: Tensor, module: nn.Module) -> Tensor:
    """Return a map's weight as [out, in]."""
    return weight.t() if is_conv1d(module) else weight


def _flat(weight: Tensor, turned: bool) -> Tensor:
    flat = weight.reshape(len(weight), -1)
    return flat.t() if turned else flat


def weight_at(model: nn.Module, site: Site) -> Tensor:
    """Return the weight [out, in] of a site, of a fused map the rows that belong to it, in fp32."""
    module = model.get_submodule(site.module)
    if site.parameter:
        return _flat(getattr(module, site.parameter).detach(), site.parameter != "o").float()
    weight = matrix_of(module.weight.detach(), module).float()
    return weight if site.rows is None else weight[list(site.rows)]


def fitting(rank: int, site: Site, field: str = "method.rank") -> int:
    """Return `rank`.

    Raises:
        ConfigError: it exceeds the rank that the map itself can have.
    """
    low = min(site.fan_in, site.fan_out)
    if rank > low:
        raise invalid(
            field, rank, f"exceeds the rank {low} of {site.name}", f"Choose {low} or less"
        )
    return rank


def beside(
    model: nn.Module, found: Iterable[Site], build: Callable[[Site], nn.Module]
) -> Callable[[], None]:
    """Put `build(site)` beside every map; return the function that folds all of them in.

    Raises:
        AdaptError: a map is changed by another method already, or has no input to drop.
    """
    merges: dict[str, Callable[[], None]] = {}
    for site in found:
        module = model.get_submodule(site.module)
        _check(module, site)
        if site.parameter:
            merges[site.name] = _beside_tensor(module, site, build(site))
        elif isinstance(module, nn.Embedding):
            update = build(site)
            # T5 and BART look words up in several modules that share one table.
            alike = [m for m in model.modules() if getattr(m, "weight", None) is module.weight]
            merges[site.name] = _hang(alike, nn.ModuleDict({site.role: update}), update)
        else:
            if "lora" not in dict(module.named_children()):
                updates = Updates()
                merges[site.name] = _hang([module], updates, updates)
            module.lora.add(site, build(site), module.weight.device)

    def merge() -> None:
        for fold in merges.values():
            fold()

    return merge


def _hang(modules: list[nn.Module], child: nn.Module, worker: Any) -> Callable[[], None]:
    first = modules[0]
    first.lora = child
    handles = [module.register_forward_hook(worker.hook) for module in modules]

    def fold() -> None:
        worker.merge(first)
        for handle in handles:
            handle.remove()
        del first.lora

    return fold


def _beside_tensor(module: nn.Module, site: Site, update: nn.Module) -> Callable[[], None]:
    if getattr(update, "dropout", None) and update.dropout.p:
        raise AdaptError(
            f"method.dropout={update.dropout.p}: {site.name} is a bare tensor, not a map with an "
            "input that could be dropped. Set method.dropout=0 for this family, or adapt other "
            "roles."
        )
    # unsafe=True: skip the trial call, shapes are known.
    parametrize.register_parametrization(
        module, site.parameter, UpdatedTensor(site, update), unsafe=True
    )
    return lambda: fold_tensor(module, site.parameter)


def fold_tensor(module: nn.Module, name: str) -> None:
    """Write a parametrized tensor's value into the body; all that changes it is removed."""
    if parametrize.is_parametrized(module, name):
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _check(module: nn.Module, site: Site) -> None:
    if site.parameter:
        taken = parametrize.is_parametrized(module, site.parameter)
    else:
        children = dict(module.named_children())
        if children.keys() - {"lora"}:
            raise AdaptError(
                f"{site.name} is changed by another method already. In method.parts, name the "
                "low-rank method before it."
            )
        taken = site.role in children.get("lora", ())
    if taken:
        raise AdaptError(f"{site.name} has a low-rank pair already: use one low-rank method.")
