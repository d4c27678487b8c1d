"""The parts that every Hugging Face model has, with their types: config, base model, word table.

In torch a module's attributes have no types; they are cast here. No torch at import time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from adaptkit.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

# Shares of dropout that a model applies without a module: to attention weights, or in BART and OPT.
DROPOUT = (
    "dropout", "activation_dropout",
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop",
)  # fmt: skip


def config_of(model: nn.Module) -> PreTrainedConfig:
    """Return the config of a Hugging Face model."""
    return cast("PreTrainedModel", model).config


def base_of(model: nn.Module) -> nn.Module:
    """Return the base model inside a task's model."""
    return cast("PreTrainedModel", model).base_model


def words_of(model: nn.Module) -> nn.Embedding:
    """Return the table of word embeddings, weight [V, d]."""
    return cast("nn.Embedding", cast("PreTrainedModel", model).get_input_embeddings())


def outputs_of(model: nn.Module) -> nn.Module | None:
    """Return the map to the words' logits, weight [V, d]; None if the model has none."""
    return cast("PreTrainedModel", model).get_output_embeddings()


def generates(model: nn.Module) -> bool:
    """Tell whether the model writes text."""
    return cast("PreTrainedModel", model).can_generate()


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a linear map, norm or table, as the module keeps it."""
    return cast("Tensor", module.weight)


def unpacked(weight: Tensor) -> Tensor:
    """Return a weight whose numbers are read or changed.

    Raises:
        AdaptError: it is quantized.
    """
    if not weight.is_floating_point():
        raise AdaptError(
            "model.quantization: the weights are packed in fewer bits, and are neither read nor "
            "changed. Leave it out, or keep the run as it is."
        )
    return weight


def is_conv1d(module: nn.Module) -> bool:
    """Tell whether a map is GPT-2's, whose weight is [in, out], and not torch's."""
    return "Conv1D" in [kind.__name__ for kind in type(module).__mro__]


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear map; a quantized weight has another shape."""
    if isinstance(width := getattr(module, "in_features", None), int):
        return cast("nn.Linear", module).out_features, width
    first, second = weight_of(module).shape
    return (second, first) if is_conv1d(module) else (first, second)


def bias_of(module: nn.Module) -> Tensor | None:
    """Return the bias [out] of a linear map, or None."""
    return cast("Tensor | None", module.bias)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter."""
    return next(model.parameters()).device


def draws_dropout(model: nn.Module) -> bool:
    """Tell whether two passes of a model in training differ."""
    from torch import nn

    modules = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    config = config_of(model).to_dict()
    return modules or any(config.get(name) for name in DROPOUT)
