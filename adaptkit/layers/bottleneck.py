"""Bottleneck adapters: two maps with an activation between them, attached to modules of the body.

    b(x) = U act(D x + b_D) + b_U,   D [m, d], U [d, m],   x [..., d]

    after a module        y -> y + b(y)
    inside a norm         y = LN(s + b(LN(s))), s the norm's input
    parallel to a part    F(x) -> F(x) + scale b(x)

An adapter is a child of the module it is attached to and works in a forward hook: no module is
replaced and no name in the body changes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptkit.errors import AdaptError

SERIAL, PARALLEL = "adapter", "parallel_adapter"  # the names of the child


class Affine(nn.Module):
    """y = W x + b, W [out, in] as given, b [out] zero at the start; both fp32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        return F.linear(x, self.weight, self.bias)


class Hypercomplex(nn.Module):
    """y = x W + b, W = sum_i A_i (x) s_i t_i^T: a sum of n Kronecker products (PHM layer).

    A [n, n, n] may be shared with other layers, s [n, in / n], t [n, out / n], b [out]. s and t
    start Glorot-uniform, b at zero (Karimi Mahabadi et al. 2021, arXiv:2106.04647).
    """

    def __init__(
        self, fan_in: int, fan_out: int, rule: nn.Parameter, generator: torch.Generator
    ) -> None:
        super().__init__()
        n, device = len(rule), rule.device
        self.A = rule
        self.s = nn.Parameter(_glorot(n, fan_in // n, generator).to(device))
        self.t = nn.Parameter(_glorot(n, fan_out // n, generator).to(device))
        self.bias = nn.Parameter(torch.zeros(fan_out, device=device))

    @property
    def weight(self) -> Tensor:
        """W^T [out, in]; products and a sum, which autocast leaves in fp32."""
        parts = self.A[:, :, None, :, None] * self.s[:, None, :, None, None]
        product = (parts * self.t[:, None, None, None, :]).sum(0)  # [n, in / n, n, out / n]
        return product.flatten(2).flatten(0, 1).t()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        return F.linear(x, self.weight, self.bias)


class Bottleneck(nn.Module):
    """b(x) = up(act(down(x))), act 'relu' or 'gelu' (the tanh form, as in the authors' codes)."""

    def __init__(self, down: nn.Module, up: nn.Module, activation: str) -> None:
        super().__init__()
        self.D = down  # not `down` and `up`, which are roles of the body's own maps
        self.U = up
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., d] to [..., d]."""
        hidden = self.D(x)
        if self.activation == "relu":
            return self.U(F.relu(hidden))
        return self.U(F.gelu(hidden, approximate="tanh"))


def draw_matrix(
    fan_in: int, fan_out: int, start: str, generator: torch.Generator, sigma: float = 0.0
) -> Tensor:
    """Draw a weight [out, in] on the CPU.

    start: 'normal', 'truncated_normal' (cut at 2 sigma) or 'kaiming' (a = sqrt 5).
    """
    if start == "normal":
        return torch.randn(fan_out, fan_in, generator=generator) * sigma
    even = torch.rand(fan_out, fan_in, generator=generator) * 2 - 1
    if start == "kaiming":
        return even / math.sqrt(fan_in)
    # By the inverse of the distribution: torch's own function looks at values, which a plan lacks.
    return sigma * math.sqrt(2) * torch.erfinv(even * math.erf(math.sqrt(2)))


def draw_bottleneck(
    width: int,
    size: int,
    *,
    activation: str,
    start: str,
    sigma: float,
    generator: torch.Generator,
    device: torch.device,
) -> Bottleneck:
    """Return a bottleneck of d = `width`, m = `size`; both maps are drawn alike, biases zero."""
    down = draw_matrix(width, size, start, generator, sigma)
    up = draw_matrix(size, width, start, generator, sigma)
    return Bottleneck(Affine(down.to(device)), Affine(up.to(device)), activation)


def attach_after(name: str, module: nn.Module, adapter: nn.Module) -> None:
    """Let `module` give y + b(y) for its output y (the first one, if it gives several).

    Raises:
        AdaptError: `name`, the module, has such an adapter already.
    """
    _add_child(name, module, SERIAL, adapter)
    module.register_forward_hook(_add_after)


def attach_inside(name: str, module: nn.Module, adapter: nn.Module) -> None:
    """Let the norm `module` give LN(s + b(LN(s))) for its input s.

    Raises:
        AdaptError: `name`, the module, has such an adapter already.
    """
    _add_child(name, module, SERIAL, adapter)
    module.register_forward_hook(_repeat_norm)


def attach_parallel(
    name: str, entry: nn.Module, leaving: nn.Module, adapter: nn.Module, scale: float
) -> None:
    """Let `leaving` give y + scale b(x) for its output y and the input x of `entry`, called before.

    Raises:
        AdaptError: `name`, the module `leaving`, has such an adapter already.
    """
    _add_child(name, leaving, PARALLEL, adapter)
    branch = _Branch(adapter, scale)
    entry.register_forward_pre_hook(branch.keep)
    leaving.register_forward_hook(branch.add)


class _Branch:
    """Carries a sub-layer's input past it. The hooks are methods, so that a copied model works."""

    def __init__(self, adapter: nn.Module, scale: float) -> None:
        self.adapter = adapter
        self.scale = scale
        self.x: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.x = inputs[0]

    def add(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x, self.x = self.x, None
        return output + (self.scale * self.adapter(x)).to(output.dtype)


def _add_child(name: str, module: nn.Module, child: str, adapter: nn.Module) -> None:
    if child in dict(module.named_children()):
        raise AdaptError(
            f"{name} has a bottleneck adapter already: use one method of this kind in a chain."
        )
    module.add_module(child, adapter)


def _add_after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):  # attention gives its weights as well
        return (_add_after(module, inputs, output[0]), *output[1:])
    if output.dim() > 3:  # XLNet drops attention weights [B, heads, T, T] by the same module
        return output
    return output + module.get_submodule(SERIAL)(output).to(output.dtype)


def _repeat_norm(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    s = inputs[0]
    return module.forward(s + module.get_submodule(SERIAL)(output).to(s.dtype))


def _glorot(n: int, size: int, generator: torch.Generator) -> Tensor:
    bound = math.sqrt(6 / (size + 1))  # of a matrix [size, 1]
    return (torch.rand(n, size, generator=generator) * 2 - 1) * bound
