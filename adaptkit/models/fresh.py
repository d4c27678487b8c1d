"""Values from before pretraining: modules drawn as transformers draws them in a new model."""

from __future__ import annotations

import copy
from typing import cast

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def draw(model: torch.nn.Module, name: str, generator: torch.Generator) -> None:
    """Draw a module's parameters anew in place, by the rules of the model's family and config.

    The values depend on the CPU generator alone, not on the device.
    """
    module = model.get_submodule(name)
    fresh = copy.deepcopy(module).to("cpu", torch.float32)  # without marks of what is pretrained
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh.apply(cast("PreTrainedModel", model)._init_weights)
    for old, new in zip(module.parameters(), fresh.parameters(), strict=True):
        old.copy_(new)
