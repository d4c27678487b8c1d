"""Number formats: which the hardware computes well, and where each is used.

bf16 and fp16: matrices that stay frozen are kept in the half format, everything that learns has an
fp32 master copy, and the forward pass runs under autocast.
"""

from __future__ import annotations

import contextlib

import torch

from adaptkit.adaptation import Adaptation
from adaptkit.errors import invalid

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(name: str) -> torch.device:
    """Return the device for trainer.device.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise invalid("trainer.device", name, "this machine has no CUDA device", "Use auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


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


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def cast(adaptation: Adaptation, precision: str) -> None:
    """Keep what learns in fp32, frozen matrices in `precision`, all other numbers in fp32."""
    for parameter in adaptation.model.parameters():
        frozen_matrix = not parameter.requires_grad and parameter.dim() > 1
        parameter.data = parameter.data.to(DTYPES[precision] if frozen_matrix else torch.float32)
    for buffer in adaptation.model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
