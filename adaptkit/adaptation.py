"""The vocabulary of methods: what a method may change, watch and leave behind.

A method is a frozen dataclass, its fields are its hyperparameters, with one function that takes an
`Adaptation` and returns one; full fine-tuning is the identity. Regularisers have the same form and
follow the method. Shape letters used everywhere: B batch, T tokens, H hidden, C classes,
V vocabulary, L layers, r rank.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from adaptkit.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Batch = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Step:
    """All that a penalty or a hook may know about 'now'."""

    index: int  # updates already made
    total: int  # updates this run will make
    lr: float  # of the first parameter group


Penalty = Callable[["nn.Module", Batch, Any, Step], "Tensor"]  # (model, batch, outputs, step)
Hook = Callable[[Step], None]


@runtime_checkable
class Stateful(Protocol):
    """A hook or penalty that must survive a restart shows its state as tensors by name."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors to keep."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""
        ...


def nothing() -> None:
    """Do nothing: the neutral `finish` or `merge`."""


@dataclass(frozen=True)
class Adaptation:
    """A model made ready to learn. Methods take one, edit its model in place, and return one."""

    model: nn.Module
    trainable: dict[str, nn.Parameter]  # by name, head included
    head: frozenset[str]  # names of the parameters that are new with the task
    loaded: frozenset[str] = frozenset()  # names of all parameters before any method added some
    penalty: Mapping[str, Penalty] = field(default_factory=dict)  # by name, added to the task loss
    before_update: tuple[Hook, ...] = ()  # gradients final (clipped), weights not moved
    after_update: tuple[Hook, ...] = ()  # weights moved, gradients still there
    # Once, on the weights that are kept; may replace what only training needs (an encoder of
    # prompts) by a buffer `delta_*`. Works on shapes alone as well: `plan` calls it.
    finish: tuple[Callable[[], None], ...] = ()
    lr_scale: Mapping[str, float] = field(default_factory=dict)  # name pattern -> factor
    features: Callable[[Batch], Tensor] | None = None  # see below
    # Folds what was learnt into the body's own weights, `nothing` where it is there already. None:
    # it cannot be.
    merge: Callable[[], None] | None = None
    extra_tokens: int = 0  # by which the body's input is longer than the text (a prompt)
    copies: int = 1  # answers per row in training, each row's in a row: labels are repeated
    chosen: bool = False  # a method has said what learns: the next one of a chain adds to it

    # features: for a method whose trainable part sees the text only through a frozen function of
    # it. The trainer then computes `features(batch)` [B, ...] once per example, and calls
    # `model(features=...)` in every epoch.

    @classmethod
    def of(cls, model: nn.Module, head: frozenset[str]) -> Adaptation:
        """Return the full fine-tuning of `model`: everything learns, nothing is added."""
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        named = dict(model.named_parameters())
        return cls(model, named, head, frozenset(named))

    def only(self, keep: Callable[[str], bool]) -> Adaptation:
        """Let those named by `keep` learn, the head, and what methods before this one chose."""
        before = self.trainable if self.chosen else {}
        named = self.model.named_parameters()
        return self._learn({n: p for n, p in named if keep(n) or n in before})

    def narrow(self, keep: Callable[[str], bool]) -> Adaptation:
        """Of what learns now, let those named by `keep` learn on, and the head."""
        return self._learn({n: p for n, p in self.trainable.items() if keep(n)})

    def _learn(self, chosen: Mapping[str, nn.Parameter]) -> Adaptation:
        named = dict(self.model.named_parameters())
        trainable = {n: p for n, p in named.items() if n in chosen or n in self.head}
        for name, parameter in named.items():
            parameter.requires_grad_(name in trainable)
        return replace(self, trainable=trainable, chosen=True)

    def plus(
        self,
        *,
        penalty: Mapping[str, Penalty] | None = None,
        before_update: Hook | None = None,
        after_update: Hook | None = None,
        finish: Callable[[], None] | None = None,
        lr_scale: Mapping[str, float] | None = None,
    ) -> Adaptation:
        """Append hooks, penalties and learning-rate factors to those already there."""
        clash = set(self.penalty) & set(penalty or {})
        if clash:
            raise AdaptError(f"penalty {sorted(clash)} was added twice: name it once.")
        return replace(
            self,
            penalty={**self.penalty, **(penalty or {})},
            before_update=self.before_update + ((before_update,) if before_update else ()),
            after_update=self.after_update + ((after_update,) if after_update else ()),
            finish=self.finish + ((finish,) if finish else ()),
            lr_scale={**self.lr_scale, **(lr_scale or {})},
        )

    def body_trainable(self) -> dict[str, nn.Parameter]:
        """Return what learns outside the head."""
        return {n: p for n, p in self.trainable.items() if n not in self.head}

    def factor(self, name: str) -> float:
        """Return the learning-rate factor of a parameter: the product over matching patterns."""
        result = 1.0
        for pattern, factor in self.lr_scale.items():
            result *= factor if fnmatch.fnmatchcase(name, pattern) else 1.0
        return result

    def stateful(self) -> dict[str, Stateful]:
        """Return the penalties and hooks that carry state, by a stable name."""
        hooks = {f"before.{i}": hook for i, hook in enumerate(self.before_update)}
        hooks |= {f"after.{i}": hook for i, hook in enumerate(self.after_update)}
        hooks |= {f"penalty.{name}": term for name, term in self.penalty.items()}
        return {name: hook for name, hook in hooks.items() if isinstance(hook, Stateful)}

    def delta(self) -> dict[str, Tensor]:
        """Return what a run must save: trainable tensors, and buffers named `delta_*`.

        A parameter that `finish` took out of the model is not needed any more.
        """
        buffers = {
            name: tensor
            for name, tensor in self.model.named_buffers()
            if name.rpartition(".")[2].startswith("delta_")
        }
        there = {name for name, _ in self.model.named_parameters()}
        learnt = {n: p.detach() for n, p in self.trainable.items() if n in there}
        return {**learnt, **buffers}

    def load_delta(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved tensors in place.

        Raises:
            AdaptError: names or shapes differ from what this adaptation saves; nothing is copied.
        """
        mine = self.delta()
        missing, extra = sorted(mine.keys() - tensors.keys()), sorted(tensors.keys() - mine.keys())
        wrong = [n for n in mine.keys() & tensors.keys() if mine[n].shape != tensors[n].shape]
        if missing or extra or wrong:
            kinds = {"missing": missing, "left over": extra, "of another shape": sorted(wrong)}
            found = "; ".join(f"{len(n)} {kind} ({n[0]} ...)" for kind, n in kinds.items() if n)
            raise AdaptError(
                f"the saved delta does not fit the model that the config describes: {found}. "
                "It was saved by another method, with other settings or for another body."
            )
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)


@dataclass(frozen=True)
class Context:
    """What `adapt` may look at besides the model."""

    tokenizer: Any
    generator: torch.Generator  # the only source of randomness in `adapt`
    total_updates: int
    # Saved tensors follow: build the structure as `finish` leaves it, skip data-dependent work.
    restoring: bool = False
    labels: tuple[str, ...] = ()  # the classes' names; one empty name for a regression


class Method(Protocol):
    """Implemented by frozen dataclasses whose fields are the hyperparameters."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Return `start` changed by this method.

        Raises:
            AdaptError: the model cannot be adapted in this way; the message says why.
        """
        ...
