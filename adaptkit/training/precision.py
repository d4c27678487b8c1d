"""Number formats: which the hardware computes well, and where each is used.

trainer.precision bf16 and fp16: the forward pass runs under autocast, everything that trains has an
fp32 master copy, and matrices that stay frozen are kept in the half format, or in model.dtype.
"""

from __future__ import annotations

import contextlib
import os

import torch
import torch.nn.functional as F
from torch import nn

from adaptkit.adaptation import Adaptation, Stage
from adaptkit.errors import invalid
from adaptkit.storage.files import processes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(name: str) -> torch.device:
    """Return the device for trainer.device.

    Raises:
        ConfigError: it is not there, or one GPU is named for several processes.
    """
    there = torch.cuda.is_available()
    kind, _, number = name.partition(":")
    if kind == "cuda" and not there:
        raise invalid("trainer.device", name, "this machine has no CUDA device", "Use auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise invalid("trainer.device", name, "this machine has no Apple GPU", "Use auto or cpu")
    if number and int(number) >= (count := torch.cuda.device_count()):
        rule = f"this machine has {count} CUDA device{'s' * (count > 1)}, counted from cuda:0"
        raise invalid("trainer.device", name, rule)
    if number and processes() > 1:
        raise invalid("trainer.device", name, "each process needs its own device", "Use cuda")
    if kind in ("cpu", "mps"):
        return torch.device(kind)
    if there:  # torchrun gives each process of a run its own device
        return torch.device("cuda", int(number or os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def resolve(name: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16 for trainer.precision; auto is bf16 where it is computed natively.

    Raises:
        ConfigError: fp16 on a CPU, which has no fast fp16 arithmetic.
    """
    if name == "fp16" and device.type != "cuda":
        raise invalid("trainer.precision", name, "needs a CUDA device", "Use bf16, fp32 or auto")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return (
        "bf16"
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        else "fp32"
    )


def kept_in(dtype: str, precision: str, stage: Stage = "train") -> str:
    """Return the format of frozen matrices: that of model.dtype, or of the products.

    What is restored for products in fp32 (an export) is kept in fp32, as it was rounded.

    Raises:
        ConfigError: weights in a half format, for products in fp32: they would be kept twice.
    """
    if stage == "restore" and precision == "fp32":
        return "fp32"
    if dtype in ("bf16", "fp16") and precision == "fp32":
        raise invalid("model.dtype", dtype, "saves memory only if products are computed in a half "
                      "format, and here trainer.precision is fp32",
                      "Set trainer.precision=bf16, or leave model.dtype out")  # fmt: skip
    return precision if dtype == "auto" else dtype


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def cast(adaptation: Adaptation, precision: str, frozen: str = "") -> None:
    """Keep what trains in fp32, matrices in `frozen` (or `precision`), all other numbers in fp32.

    On a CPU, what trains is copied off the checkpoint's file, whose pages the system would copy one
    by one as they change. Vectors are copied as well: as views of the file they would keep it in
    memory, beside the matrices in the half format. This holds for a restored model too: some CPUs
    round a product differently if a matrix begins at another place within 64 bytes.

    The linear maps of the head compute in fp32 as well: bf16 has eight bits, so that scores between
    4 and 5 would take 33 values only.
    """
    half = DTYPES[frozen or precision]
    for name, parameter in adaptation.model.named_parameters():
        if not parameter.is_floating_point():  # quantized
            continue
        kind = half if halved(name, parameter) else torch.float32
        own = parameter.is_cpu and (parameter.requires_grad or kind != half)
        parameter.data = parameter.data.to(kind, copy=own)
    for buffer in adaptation.model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
    if precision != "fp32":
        for name, module in adaptation.model.named_modules():
            if isinstance(module, nn.Linear) and f"{name}.weight" in adaptation.head:
                module.register_forward_hook(_in_fp32)


def halved(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is a frozen matrix, which is kept in the half format.

    Not the original of a parametrized tensor: a small update added to it would be rounded away.
    """
    return (
        not parameter.requires_grad
        and parameter.dim() > 1
        and ".parametrizations." not in f".{name}"
    )


def _in_fp32(module: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    with torch.autocast(output.device.type, enabled=False):
        return F.linear(inputs[0].float(), module.weight, module.bias)
