"""Training steps that torch.compile translates: fewer kernels, each with more to do.

Ansel et al. 2024, PyTorch 2 (ASPLOS). The model itself stays as it is: names, scores, predictions
and what is saved know nothing of it. Lengths are symbols, so that a batch of another length needs
no translation of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from adaptkit.errors import first_line, invalid

OPTION = "trainer.compile"


def check_compiler(device: torch.device) -> None:
    """Translate something small.

    Raises:
        ConfigError: that fails; on a CPU it takes a C++ compiler, on a GPU Triton as well.
    """
    try:
        torch.compile(torch.exp)(torch.zeros(2, device=device))
    except Exception as error:  # of many classes, by what is missing
        rule = f"needs a C++ compiler, and Triton on a GPU; torch says: {first_line(error)}"
        raise invalid(OPTION, True, rule, "Install them, or leave it out") from error


def check_compilable(model: nn.Module) -> None:
    """Reject a model without gradients in its layers.

    Raises:
        ConfigError: there are none.
    """
    if not isinstance(model, PreTrainedModel):
        raise invalid(OPTION, True, "makes training steps of the base model faster, and it runs "
                      "only once here", "Leave it out")  # fmt: skip


def compile_steps(model: nn.Module) -> None:
    """Let `model` compute by translated code in training, with gradients; else as it did."""
    plain = model.forward
    translated = torch.compile(plain, dynamic=True)

    @functools.wraps(plain)
    def forward(*args: Any, **inputs: Any) -> Any:
        chosen = translated if model.training and torch.is_grad_enabled() else plain
        return chosen(*args, **inputs)

    vars(model)["forward"] = forward
