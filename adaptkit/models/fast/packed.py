"""Products with frozen matrices whose bf16 weights oneDNN has laid out once, for both directions.

    y = x W' + b      dx = g W

A map with one pair of LoRA adds it in the same node, so that nothing is written twice:

    z = x A'      y = x W' + b + s z B'      dB = s g' z      h = s g B      dA = h' x
    dx = g W + h A

torch lays a weight out anew in every product. The operators are private to torch: they are tried
first, and where they fail, all stays as it is.
"""

from __future__ import annotations

import contextlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from adaptkit.models.body import weight_of

TOKENS = 512  # for which the layout is made: a typical batch
PAIR_ADDED = "_adaptkit_pair_added"  # attribute of a map whose product has added its low-rank pair


class LowRank(NamedTuple):
    """The pair of LoRA: y grows by s B A x."""

    A: Tensor  # [r, in]
    B: Tensor  # [out, r]
    scale: float


class Updated(Protocol):
    """The updates of one map, in its child `lora`."""

    def plain_pair(self) -> LowRank | None:
        """Return the pair, if that is all there is: for all outputs, with nothing dropped."""
        ...


class Packed:
    """The layouts of a matrix [out, in], each made when it is needed."""

    def __init__(self, weight: Tensor, turned: bool) -> None:
        self.state = state_of(weight)
        self.matrix = weight.detach().t() if turned else weight.detach()

    @cached_property
    def forward(self) -> Tensor:
        """For y = x W'."""
        return layout(self.matrix.contiguous())

    @cached_property
    def backward(self) -> Tensor:
        """For dx = g W."""
        return layout(self.matrix.t().contiguous())


class Product(torch.autograd.Function):
    """(x [..., in], b [out] or None) -> x W' + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: Packed) -> Tensor:
        """Multiply."""
        ctx.packed = packed
        return multiply(x, packed.forward, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return dx and db."""
        need_x, need_bias, _ = ctx.needs_input_grad
        dx = multiply(g.contiguous(), ctx.packed.backward, None) if need_x else None
        return dx, g.flatten(0, -2).sum(0) if need_bias else None, None


class PairedProduct(torch.autograd.Function):
    """(x [..., in], b [out] or None, A, B) -> x W' + b + s (x A') B'."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, s: float, packed: Packed
    ) -> Tensor:
        """Multiply."""
        down, up, flat = A.to(x.dtype), B.to(x.dtype), x.flatten(0, -2)
        low = flat @ down.t()
        ctx.save_for_backward(flat, low, down, up)
        ctx.packed, ctx.scale, ctx.shape, ctx.learnt = packed, s, x.shape, A.dtype
        y = multiply(flat, packed.forward, bias).addmm_(low, up.t(), alpha=s)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return dx, db, dA and dB."""
        flat, low, down, up = ctx.saved_tensors
        g = g.reshape(-1, g.shape[-1]).contiguous()
        back = (g @ up).mul_(ctx.scale)
        da, db = (back.t() @ flat).to(ctx.learnt), (g.t() @ low).to(ctx.learnt).mul_(ctx.scale)
        need_x, need_bias, *_ = ctx.needs_input_grad
        dx = None
        if need_x:
            dx = multiply(g, ctx.packed.backward, None).addmm_(back, down).view(ctx.shape)
        return dx, g.sum(0) if need_bias else None, da, db, None, None


class _Copied(nn.Module):
    def __getstate__(self) -> dict[str, Any]:
        """Leave out the layouts, which cannot be copied."""
        return {**self.__dict__, "packed": None}


class PackedLinear(_Copied, nn.Linear):
    """A linear map that multiplies by its packed weight in training."""

    packed: Packed | None

    def forward(self, input: Tensor) -> Tensor:
        """Return x W' + b."""
        return product(self, input, turned=False) if usable(self, input) else super().forward(input)


class PackedConv1D(_Copied, Conv1D):
    """The same for GPT-2's map, whose weight is [in, out]."""

    packed: Packed | None

    def forward(self, x: Tensor) -> Tensor:
        """Return x W + b."""
        return product(self, x, turned=True) if usable(self, x) else super().forward(x)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, Conv1D: PackedConv1D}


def usable(module: nn.Module, x: Tensor) -> bool:
    """Tell whether a map trains now, its weight is frozen in bf16, and x may be in that format."""
    weight = weight_of(module)  # a method may put another tensor here for one call
    return (
        module.training
        and torch.is_grad_enabled()
        and not weight.requires_grad
        and weight.dtype == torch.bfloat16
        and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
        and x.numel() > 0
    )


def product(module: Any, x: Tensor, turned: bool) -> Tensor:
    """Multiply by the packed weight of a map, which is laid out anew if it was written."""
    weight = module.weight
    if module.packed is None or module.packed.state != state_of(weight):
        module.packed = Packed(weight, turned)
    bias = None if module.bias is None else module.bias.to(weight.dtype)
    x, updates = x.to(weight.dtype), module._modules.get("lora")
    pair = cast("Updated", updates).plain_pair() if updates is not None else None
    if pair is None:
        return cast("Tensor", Product.apply(x, bias, module.packed))
    y = cast("Tensor", PairedProduct.apply(x, bias, *pair, module.packed))
    # Only now: recomputation and memory that ran out leave the product by an exception, and then
    # no hook follows.
    vars(module)[PAIR_ADDED] = True
    return y


def state_of(weight: Tensor) -> tuple[int, int]:
    """Return what changes when a weight is moved or written (past `.data`, nothing shows it)."""
    return weight.data_ptr(), weight._version


def layout(matrix: Tensor) -> Tensor:
    """Lay out a matrix [out, in]."""
    return torch.ops.mkldnn._reorder_linear_weight(matrix, TOKENS)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W' + b for a weight that is laid out."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def works() -> bool:
    """Tell whether torch has the operators and they compute what is said here."""
    with contextlib.suppress(AttributeError, RuntimeError, TypeError, NotImplementedError):
        x, weight = torch.eye(16, dtype=torch.bfloat16), torch.arange(256.0).view(16, 16)
        weight = weight.bfloat16()
        return torch.equal(multiply(x, layout(weight), None), weight.t())
    return False


def packable(model: nn.Module) -> list[nn.Module]:
    """Return the frozen maps of `model`; a weight that is computed has a class of torch's own."""
    maps = [module for module in model.modules() if type(module) in KINDS]
    return [module for module in maps if not weight_of(module).requires_grad]


def packed_bytes(model: nn.Module) -> int:
    """Return how much the layouts take at most: twice the frozen matrices, in bf16."""
    return sum(2 * 2 * weight_of(module).numel() for module in packable(model))


def pack(model: nn.Module) -> None:
    """Let the frozen maps of `model` multiply by packed weights, made when needed.

    Not if torch lacks the operators, or the layouts would take most of the memory that is free.
    """
    if not works() or 2 * packed_bytes(model) > free_memory():
        return
    for module in packable(model):
        module.__class__ = KINDS[type(module)]
        vars(module)["packed"] = None


def free_memory() -> float:
    """Return the bytes of memory that are free, where the system tells."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return found[0] if found else math.inf
