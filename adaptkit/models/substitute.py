"""Other tensors in place of a model's parameters, for one call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class Call(nn.Module):
    """A model's own forward, called without the hooks of the model, which run around it."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.inner = model, forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's forward."""
        return self.inner(*args, **kwargs)


def is_substituted(model: nn.Module) -> bool:
    """Tell whether calls of `model` use other tensors than its own."""
    return hasattr(vars(model).get("forward"), "__wrapped__")


def substitute(model: nn.Module, make: Callable[[], Mapping[str, Tensor]]) -> Callable[[], None]:
    """In every call of `model`, use the tensors that `make()` returns, by names of parameters.

    No tensors: the call is as before. Gradients reach whatever `make` made them of. Return what
    ends it, if nothing else has replaced the model's forward since.
    """
    before = vars(model).get("forward")
    call = Call(model, model.forward)

    @functools.wraps(model.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = {f"model.{name}": tensor for name, tensor in make().items()}
        if not tensors:
            return call.inner(*args, **kwargs)
        return functional_call(call, tensors, args, kwargs)

    def end() -> None:
        del vars(model)["forward"]
        if before is not None:
            vars(model)["forward"] = before

    vars(model)["forward"] = forward
    return end
