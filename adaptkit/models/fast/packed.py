"""Products with frozen matrices whose bf16 weights oneDNN has laid out once, for both directions.

    y = x W' + b      dx = g W

torch lays a weight out anew in every product. The operators are private to torch: they are tried
first, and where they fail, all stays as it is.
"""

from __future__ import annotations

import contextlib
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from adaptkit.models.body import weight_of

TOKENS = 512  # for which the layout is made: a typical batch


class Packed:
    """The two layouts of a matrix [out, in], and of which state of the weight they are."""

    def __init__(self, weight: Tensor, turned: bool) -> None:
        self.state = state_of(weight)
        matrix = weight.detach()
        there, back = (matrix.t(), matrix) if turned else (matrix, matrix.t())
        self.forward, self.backward = layout(there.contiguous()), layout(back.contiguous())


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


class PackedLinear(nn.Linear):
    """A linear map that multiplies by its packed weight in training."""

    packed: Packed | None

    def forward(self, input: Tensor) -> Tensor:
        """Return x W' + b."""
        return product(self, input, turned=False) if usable(self, input) else super().forward(input)


class PackedConv1D(Conv1D):
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
    return cast("Tensor", Product.apply(x.to(weight.dtype), bias, module.packed))


def state_of(weight: Tensor) -> tuple[int, int]:
    """Return what changes when a weight is moved or written."""
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


def pack(model: nn.Module) -> None:
    """Let the frozen linear maps of `model` multiply by packed weights, made when needed."""
    if not works():
        return
    for module in model.modules():
        kind = KINDS.get(type(module))  # none if the weight is computed: its class is torch's own
        if kind is not None and not weight_of(module).requires_grad:
            module.__class__ = kind
            vars(module)["packed"] = None
