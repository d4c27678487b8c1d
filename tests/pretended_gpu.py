"""A GPU that is pretended on the host: a CUDA device's rules, with the host's memory and numbers.

For machines without one. A tensor on it is a wrapper around one on the host, whose device is
`cuda:0` to torch as well, so that all code takes its path for GPUs. What a GPU refuses is refused:
operations on tensors of both places, and the kernels of CPU libraries. What makes the host wait for
a GPU (numbers read off a tensor, sizes that depend on values, copies that are waited for) raises
under `torch.cuda.set_sync_debug_mode("error")`, as it does on a real one. Speed, memory, rounding
and CUDA's own kernels are not pretended.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".cpp")
TORCH = Path(importlib.util.find_spec("torch").submodule_search_locations[0])  # type: ignore


def library() -> Path:
    """Compile what torch's C++ side must know, once for each torch and source."""
    version = (TORCH / "version.py").read_text()
    if "cuda: Optional[str] = None" not in version:
        raise SystemExit("PRETEND_GPU needs a CPU-only build of torch")
    digest = hashlib.sha256((SOURCE.read_text() + version).encode()).hexdigest()[:16]
    built = SOURCE.parent / "__pycache__" / f"{SOURCE.stem}.{digest}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            made = Path(folder, built.name)
            subprocess.run(
                ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{TORCH / 'include'}", SOURCE,
                 "-o", made, f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"], check=True,
            )  # fmt: skip
            os.replace(made, built)
    return built


# Before torch is imported: it asks once whether there is a CUDA device.
for file in (TORCH / "lib" / "libc10.so", TORCH / "lib" / "libtorch_cpu.so", library()):
    ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import (  # noqa: E402
    TorchDispatchMode,
    _disable_current_modes,
)
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
READS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "bincount",
         "_unique2", "unique_dim", "unique_consecutive"}  # fmt: skip
BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
OF_CPUS = ("mkldnn", "onednn", "mkl", "_mkl", "_flash_attention_for_cpu")


class OnGpu(torch.Tensor):
    """A tensor on the GPU; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> OnGpu:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=GPU, requires_grad=requires_grad,
        )  # fmt: skip

    def __init__(self, held: Tensor, requires_grad: bool = False) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # so that modules keep their parameters
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> OnGpu:
        return OnGpu(inner["held"])

    @property
    def data(self) -> Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        if isinstance(value, OnGpu):
            torch.Tensor.data.__set__(self, value)
            self.held = value.held
        else:
            torch.utils.swap_tensors(self, nn.Parameter(value, self.requires_grad))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = OnGpu(self.held.detach().clone())
            kind = nn.Parameter if isinstance(self, nn.Parameter) else Tensor.requires_grad_
            memo[id(self)] = kind(copied, self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def storage(self) -> Any:
        return self.held.storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __repr__(self) -> str:
        return f"{self.held!r} on the pretended GPU"


class Waits:
    """torch.cuda.set_sync_debug_mode."""

    refused = False

    @classmethod
    def set(cls, mode: str | int) -> None:
        cls.refused = mode in ("error", 2)

    @classmethod
    def get(cls) -> int:
        return 2 * cls.refused

    @classmethod
    def one(cls, what: str) -> None:
        """Refuse to wait, if waiting is refused."""
        if cls.refused:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")


def carry_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Carry out an operation of torch where a GPU would."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, OnGpu)]
    kwargs = {**kwargs, "pin_memory": False} if kwargs.get("pin_memory") else kwargs
    to = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if not there and (to is None or to == HOST):
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    if name in ("copy_", "_to_copy"):
        source = args[1] if name == "copy_" else args[0]
        goal = isinstance(args[0], OnGpu) if name == "copy_" else to != HOST
        if goal != isinstance(source, OnGpu):
            if not kwargs.get("non_blocking") and args[2:3] != (True,):
                Waits.one(f"{name} of {tuple(source.shape)}")
    elif there:
        allow(func, name, args, given)
    opened: dict[int, OnGpu] = {}

    def open_(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, OnGpu):
            return tensor
        opened[id(tensor.held)] = tensor
        return tensor.held

    words, options = tree_map_only(torch.Tensor, open_, (args, kwargs))
    if to is not None:
        options["device"] = HOST
    with _disable_current_modes():
        out = OURS.get(name, func)(*words, **options)
    if name == "copy_":
        return args[0]
    if to == HOST:
        return out

    def close(held: Tensor) -> Tensor:
        return opened[id(held)] if id(held) in opened else OnGpu(held)

    return tree_map_only(torch.Tensor, close, out)


def allow(func: Any, name: str, args: tuple[Any, ...], given: list[Tensor]) -> None:
    """Refuse what a GPU refuses.

    Raises:
        RuntimeError: tensors of both places, a kernel of a CPU library, or a wait that is refused.
    """
    here = [one for one in given if not isinstance(one, OnGpu) and one.dim()]  # numbers may be
    if here and name in BY_INDEX and all(any(one is i for i in args[1]) for one in here):
        Waits.one(f"{name} by an index of the host")
    elif here:
        shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in given)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}: {shapes}")
    if func.namespace in OF_CPUS or name.startswith(OF_CPUS):
        raise RuntimeError(f"{func} is a kernel of CPUs")
    by_mask = name in BY_INDEX and any(i is not None and i.dtype == torch.bool for i in args[1])
    if name in READS or by_mask or (name == "repeat_interleave" and "Tensor" in str(func)):
        Waits.one(f"{func}")


def lstm_cell(a: Tensor, b: Tensor, cx: Tensor, *biases: Tensor | None) -> tuple[Tensor, ...]:
    """Return the state, the cell and the gates of one step: a kernel that only CUDA has."""
    gates = sum((bias for bias in biases if bias is not None), a + b)
    i, f, g, o = (
        one.tanh() if n == 2 else one.sigmoid() for n, one in enumerate(gates.chunk(4, 1))
    )
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat([i, f, g, o], 1)


def lstm_cell_backward(
    gh: Tensor | None, gc: Tensor | None, cx: Tensor, cy: Tensor, gates: Tensor, bias: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the gates before their functions, of the cell and of the biases."""
    i, f, g, o = gates.chunk(4, 1)
    gh, t = torch.zeros_like(cy) if gh is None else gh, cy.tanh()
    c = gh * o * (1 - t * t) + (0 if gc is None else gc)
    each = [c * g * i * (1 - i), c * cx * f * (1 - f), c * i * (1 - g * g), gh * t * o * (1 - o)]
    return (whole := torch.cat(each, 1)), c * f, whole.sum(0) if bias else None


OURS: dict[str, Callable[..., Any]] = {
    "_thnn_fused_lstm_cell": lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": lstm_cell_backward,
}


class Mode(TorchDispatchMode):
    """Lets tensors be made on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})


class Properties:
    """torch.cuda.get_device_properties."""

    name, total_memory, major, minor, multi_processor_count = "a pretended GPU", 10**10, 9, 0, 1


def install() -> None:
    """Pretend, in this thread, until the process ends."""
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=GPU) comes by here too
    constant: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0,
        "get_device_name": Properties.name, "get_device_capability": (9, 0),
        "get_device_properties": Properties(), "is_bf16_supported": True,
        "mem_get_info": (10**10, 10**10), "max_memory_allocated": 1, "memory_allocated": 1,
        **dict.fromkeys(("_lazy_init", "set_device", "synchronize", "empty_cache", "manual_seed",
                         "manual_seed_all", "reset_peak_memory_stats")),
    }  # fmt: skip
    for name, value in constant.items():
        setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    for place in (torch.cuda, torch.cuda.random):
        place.get_rng_state = lambda *_: torch.get_rng_state()
        place.set_rng_state = lambda state, *_: torch.set_rng_state(state)
        place.get_rng_state_all = lambda: [torch.get_rng_state()]
        place.set_rng_state_all = lambda states: torch.set_rng_state(states[0])
    torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode = Waits.set, Waits.get
    torch.Tensor.pin_memory = lambda tensor, *_: tensor
    Mode().__enter__()
