"""The layers below the lowest that trains: frozen and without dropout, they are computed once.

    s_k = layer_k(... layer_1(embeddings(text)))   once per text, [T, H], in the model's own format
    training, scoring                              from s_k on, in every epoch

Exact: a pass that goes on from the states equals one through all layers, for the same batch to the
bit. In a batch of other texts the products of a frozen layer are rounded in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.adaptation import Adaptation
from adaptkit.errors import AdaptError
from adaptkit.layers.features import Features
from adaptkit.models.anatomy import base_of, family
from adaptkit.models.depth import after_layers, layer_numbers, stacks

STATES = "features"  # what the model is called with beside its inputs
OPTION = "trainer.cache_frozen=layers"


class Reached(Exception):  # no error: the way out of a model
    """The pass has come to the lowest layer that trains."""


class Bottom:
    """Computes the states below a layer, and lets a model go on from states computed before."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], lowest: int) -> None:
        """`layers`: all of them; `lowest`: how many lie below the lowest that trains."""
        self.model = model
        self.given: Tensor | None = None  # [B, T, H]: states of the call that is under way
        self.stopping = False  # the pass ends below the lowest layer that trains
        self.last: Any = None  # what the layer below it returned
        model.register_forward_pre_hook(self._take, with_kwargs=True, prepend=True)
        model.register_forward_hook(self._forget, always_call=True)
        for number, layer in enumerate(layers[:lowest], 1):
            vars(layer)["forward"] = self._passing(layer.forward, number == lowest)
        layers[lowest].register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)

    @torch.no_grad()
    def states(self, inputs: Mapping[str, Tensor], layers: Sequence[int]) -> list[Tensor]:
        """Return the states below the lowest layer that trains [B, T, H]; there is no other choice.

        Raises:
            AdaptError: that layer reads something else, or the states of several texts.
        """
        self.stopping, states = True, None
        try:
            self.model(**inputs)
        except Reached as end:
            states = end.args[0]
        finally:
            self.stopping = False
        if states is None or states.shape[:2] != inputs["input_ids"].shape:
            raise AdaptError(f"{OPTION}: the lowest layer that trains reads more than the layer "
                             "below it says of each token. Leave it out.")  # fmt: skip
        return [states]

    def _take(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        self.given = kwargs.pop(STATES, None)
        return args, kwargs

    def _forget(self, module: nn.Module, args: Any, output: Any) -> None:
        self.given = self.last = None

    def _passing(self, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        """Return a layer's forward that computes nothing if states are given."""
        rest: list[tuple[Any, ...] | None] = []  # of a tuple: what follows the states

        def passing(*args: Any, **kwargs: Any) -> Any:
            if self.given is None or not rest:
                made = forward(*args, **kwargs)
                rest[:] = [made[1:] if isinstance(made, tuple) else None]
                if any(one is not None for one in rest[0] or ()):
                    raise AdaptError(f"{OPTION}: the layers of {family(self.model).name} models "
                                     "return more than states. Leave it out.")  # fmt: skip
                self.last = made if rest[0] is None else made[0]
                if self.given is None:
                    return made
            states = self.given if last else args[0] if args else kwargs["hidden_states"]
            return states if rest[0] is None else (states, *rest[0])

        return passing

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self.stopping:
            states = args[0] if args else kwargs["hidden_states"]
            raise Reached(states if states is self.last else None)


def frozen_bottom(adaptation: Adaptation) -> Features:
    """Let the model go on from the states of the layers below the lowest that trains.

    They run without dropout from now on.

    Raises:
        AdaptError: there are none, something trains below them, or the family has two stacks.
    """
    model, kind = adaptation.model, family(adaptation.model)
    if kind.encoder_decoder or kind.padding == "left":
        raise AdaptError(f"{OPTION}: is not offered for {kind.name} models. Leave it out.")
    names = stacks(model, OPTION)[0]
    body = adaptation.body_trainable()
    numbers = layer_numbers(model, body)
    elsewhere = sorted(body.keys() - numbers.keys() - after_layers(model))
    lowest = 0 if elsewhere else min(numbers.values(), default=len(names) - 1)
    if not lowest:
        what = elsewhere[0] if elsewhere else "the lowest layer"
        raise AdaptError(f"{OPTION}: {what} trains, so there is nothing below it that could be "
                         "kept. Leave it out, or train higher layers.")  # fmt: skip
    above = {*names[lowest:], *(name.rpartition(".")[0] for name in after_layers(model))}
    base = base_of(model)
    below: dict[str, Tensor] = {}
    prefix = next(name for name, module in model.named_modules() if module is base)
    for name, module in lying_below(base, prefix, above):
        keep_still(module)
        below |= {f"{name}.{n}": t for n, t in module.state_dict().items()}
    bottom = Bottom(model, [model.get_submodule(name) for name in names], lowest)
    return Features(
        bottom.states, (lowest,), f"every token, before layer {lowest + 1}", lambda: below, True
    )


def lying_below(
    module: nn.Module, name: str, above: Collection[str]
) -> list[tuple[str, nn.Module]]:
    """Return the largest parts of a module that neither are nor hold one of `above`, by name."""
    if name in above:
        return []
    if not any(one.startswith(f"{name}." if name else "") for one in above):
        return [(name, module)]
    children = ((f"{name}.{n}".lstrip("."), child) for n, child in module.named_children())
    return [part for n, child in children for part in lying_below(child, n, above)]


def keep_still(module: nn.Module) -> None:
    """Leave a module in evaluation mode from now on, whatever its model is set to."""
    vars(module)["train"] = lambda mode=True: nn.Module.train(module, False)
    module.eval()
