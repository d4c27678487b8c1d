"""What a training step would keep in memory, read off a pass over tensors without values."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adaptkit.adaptation import Adaptation
from adaptkit.models.body import base_of
from adaptkit.training.precision import autocast


def text_of(reader: torch.nn.Module, batch: int, tokens: int) -> dict[str, torch.Tensor]:
    """Return inputs [B, T] of a body alone: a classifier's pooling would look at values.

    The mask has no known values: like a batch with padding, it keeps attention off its short cuts.
    """
    inputs = {name: torch.ones(batch, tokens).long() for name in ("input_ids", "attention_mask")}
    if "decoder_input_ids" in inspect.signature(reader.forward).parameters:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs


def step(
    adaptation: Adaptation, batch: int, tokens: int, precision: str, backward: bool
) -> tuple[int, int]:
    """Return the bytes that autograd saves in a step, and the most that live at once.

    Read off a pass over tensors that have shapes but no values. Gradients are included, parameters
    and the optimizer are not. Without `backward` it is an evaluation, which saves nothing.
    """
    model = adaptation.model
    model.train(backward)
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    own = storages(model)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with Living(own) as living, torch.set_grad_enabled(backward), hooks:
        with autocast(precision, torch.device("cpu")):
            if adaptation.features is not None:
                read = adaptation.features(text_of(model, batch, tokens))
            else:
                base = base_of(model)
                read = base(**text_of(base, batch, tokens))[0]
        if backward and read.requires_grad:
            read.sum().backward()
    model.zero_grad(set_to_none=True)
    return sum(saved.values()), living.highest


def storages(model: torch.nn.Module) -> set[int]:
    """Return where the parameters and buffers of a model lie."""
    return {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, `own` storages left out."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self.own, self.now, self.highest = own, 0, 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry out an operation, and note what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.own or key in self.known:
            return
        self.known[key] = size
        self.now += size
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.now -= size

    def held(self, among: set[int] | None = None) -> int:
        """Return the bytes of what is alive, or of the part of it that lies in some storages."""
        return sum(size for key, size in self.known.items() if among is None or key in among)
