"""Gradient checkpointing: layers keep their input alone, and are computed again for gradients.

Chen et al. 2016, arXiv:1604.06174. The gradients are the same, dropout included; to the bit, except
in T5, whose layers share a position bias: its gradients are summed in another order.
"""

from __future__ import annotations

import warnings
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from adaptkit.errors import invalid
from adaptkit.models.anatomy import family
from adaptkit.models.substitute import is_substituted

OPTION = "trainer.gradient_checkpointing"


def recompute_layers(model: nn.Module) -> None:
    """Let the layers of `model` be computed again for their gradients.

    Raises:
        ConfigError: the family or the method cannot, or there are no gradients in the layers.
    """
    if not isinstance(model, PreTrainedModel):
        raise invalid(OPTION, True, "saves memory of gradients, and none reach the frozen base "
                      "model", "Leave it out")  # fmt: skip
    if not model.supports_gradient_checkpointing:
        raise invalid(OPTION, True, f"is not offered by transformers for {family(model).name} "
                      "models", "Leave it out, or lower trainer.batch_size")  # fmt: skip
    if is_substituted(model):  # the second time, the tensors would be others
        raise invalid(OPTION, True, "computes layers twice, and this method or regularizer draws "
                      "or makes their weights anew for each pass", "Leave it out")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # renamed in transformers 5.24
        cast(PreTrainedModel, model).gradient_checkpointing_enable({"use_reentrant": False})
