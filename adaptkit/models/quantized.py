"""Frozen weights in 8 or 4 bits, packed by bitsandbytes (model.quantization).

8bit: whole numbers of -127 to 127 and a scale per output, max |w| / 127.
4bit: NF4 codes and a scale per block of 64 weights, which is itself kept in 8 bits (Dettmers et al.
      2023, arXiv:2305.14314).

Packed are the linear maps of the base model, without heads, poolers and tables of words. A product
unpacks its matrix, in the format of its input, and again for the gradient: bitsandbytes' own
products would round inputs (8bit), and biases that train.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from adaptkit.errors import invalid
from adaptkit.models.anatomy import base_prefix
from adaptkit.models.body import outputs_of, shape_of, words_of
from adaptkit.models.weights import head_names

if TYPE_CHECKING:
    from adaptkit.models.model import Model

BLOCK, SCALES = 64, 256  # weights per scale, and scales per scale of scales


class QuantizedLinear(nn.Linear):
    """A linear map whose packed weight is unpacked when it is used."""

    bits: int
    scales: Tensor  # 8bit: [out]

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in]."""
        if self.bits == 8:
            return (self.weight * (self.scales / 127).unsqueeze(1)).to(dtype)
        from bitsandbytes.functional import dequantize_4bit

        state = cast("Any", self.weight).quant_state
        flat = dequantize_4bit(self.weight.data, state)
        return flat.view(self.out_features, self.in_features).to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return x W' + b."""
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        made = Product.apply(input, self)
        return made if self.bias is None else made + self.bias.to(made.dtype)


class Product(torch.autograd.Function):
    """(x [..., in], a quantized map) -> x W', [..., out]; nothing is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: QuantizedLinear) -> Tensor:
        """Multiply."""
        ctx.module = module
        return F.linear(x, module.matrix(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        """Return dx = g W."""
        return g @ ctx.module.matrix(g.dtype), None


def check_device(model: Model, device: torch.device) -> None:
    """Check that quantized weights can be made and used here.

    Raises:
        ConfigError: the package is missing, or the device is neither a CPU nor CUDA.
    """
    if model.quantization is None:
        return
    model.check_installed()
    # It warns of kernels for products of its own that cannot be fetched.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if device.type not in ("cpu", "cuda"):
        raise invalid("model.quantization", model.quantization, "needs a CPU or a CUDA device, "
                      f"and trainer.device is {device.type}", "Set trainer.device=cpu")  # fmt: skip


def loading_options(model: Model, empty: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is told; `empty`: the model without numbers."""
    from transformers import BitsAndBytesConfig

    packed = set(quantized_maps(empty))
    rest = [f"{name}$" for name in maps_of(empty) if name not in packed]
    config = BitsAndBytesConfig(
        load_in_8bit=model.quantization == "8bit", load_in_4bit=model.quantization == "4bit",
        bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=rest,
    )  # fmt: skip
    return {"quantization_config": config, "device_map": {"": device}}


def maps_of(model: nn.Module) -> list[str]:
    """Return the names of all linear maps."""
    return [n for n, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def quantized_maps(model: nn.Module) -> list[str]:
    """Return the names of the maps of a model that are packed, from its classes and shapes."""
    prefix, outside, table = base_prefix(model), head_names(model), words_of(model).weight
    exact = getattr(model, "_keep_in_fp32_modules", None) or ()  # T5's `wo`
    return [
        name
        for name in maps_of(model)
        if name.startswith(prefix)
        and f"{name}.weight" not in outside
        and not name.startswith(f"{prefix}pooler")
        and should_convert_module(name, [*exact])
        and (module := model.get_submodule(name)) is not outputs_of(model)
        and module.weight is not table
    ]


def adopt(model: nn.Module) -> nn.Module:
    """Turn bitsandbytes' maps into ours, and the model into one that trains as any other."""
    for module in list(model.modules()):
        kind = type(module).__name__
        if kind not in ("Linear8bitLt", "Linear4bit"):
            continue
        module.__class__ = QuantizedLinear
        vars(module)["bits"] = 8 if kind == "Linear8bitLt" else 4
        if kind == "Linear8bitLt":
            packed = cast("Any", module.weight)
            module.register_buffer("scales", packed.SCB)
            module.weight = nn.Parameter(packed.data, requires_grad=False)
            vars(module).pop("state")
        else:  # part of what the weight is, so that a digest of the tensors covers it
            state = cast("Any", module.weight).quant_state
            # As one row: on a CPU, 0.50.2 unpacks rows wrongly whose width is no multiple of 64.
            state.shape = torch.Size((1, math.prod(state.shape)))
            module.register_buffer("scales", state.absmax)
            module.register_buffer("scales_of_scales", state.state2.absmax)
            module.register_buffer("offset", state.offset)
    plain = cast("Any", model)
    plain.hf_quantizer, plain.quantization_method = None, None
    plain.is_quantized = plain.is_loaded_in_8bit = plain.is_loaded_in_4bit = False
    del plain.config.quantization_config
    return model


def is_packed(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor is a packed weight or belongs to one."""
    owner, _, tensor = name.rpartition(".")
    return tensor != "bias" and isinstance(model.get_submodule(owner), QuantizedLinear)


def mark(model: nn.Module, quantization: str) -> None:
    """Note at the weights of a model without numbers how many bytes they would take, packed."""
    for name in quantized_maps(model):
        module = model.get_submodule(name)
        vars(module.weight)["packed_bytes"] = packed_bytes(quantization, *shape_of(module))


def packed_bytes(quantization: str, out: int, width: int) -> int:
    """Return the bytes of a packed matrix [out, in]."""
    if quantization == "8bit":
        return out * width + 4 * out
    blocks = -(-out * width // BLOCK)
    return -(-out * width // 2) + blocks + 4 * -(-blocks // SCALES)
