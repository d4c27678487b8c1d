"""The vocabulary of methods: what a method may change, watch and leave behind.

A method is a frozen dataclass. Its fields are its hyperparameters, and its one function takes an
`Adaptation` and returns one; full fine-tuning is the identity. Regularizers have the same form and
follow the method. Shape letters used everywhere: B batch, T tokens, H hidden, C classes,
V vocabulary, L layers, r rank.

    >>> import torch
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from adaptkit.methods import METHODS
    >>> from adaptkit.models.loading import head_names
    >>> size = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16)
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=20, **size))
    >>> start = Adaptation.of(model, head_names(model))
    >>> context = Context(None, torch.Generator().manual_seed(0), total_updates=10)
    >>> adapted = METHODS["lora"](rank=2, roles=("query",)).adapt(start, context)
    >>> {name: tuple(tensor.shape) for name, tensor in adapted.body_trainable().items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'bert.encoder.layer.0.attention.self.query.lora.query.A': (2, 8),
     'bert.encoder.layer.0.attention.self.query.lora.query.B': (8, 2)}
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from adaptkit.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from adaptkit.layers.features import Features
    from adaptkit.tasks.task import Form

Stage = Literal["train", "restore", "plan"]  # plan: shapes without values


class Batch(NamedTuple):
    """Examples of a task, padded to tensors."""

    inputs: dict[str, Tensor]  # to the model
    targets: dict[str, Any]  # to the loss and to the answers; the model never sees them
    rows: list[int]  # [E] the row of the split from which each example was made
    weight: int  # number of rows, words or tokens of which the loss is a mean; 0: a filler
    hides: bool | None = None  # do its masks hide any place? None: not known, or it has none

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`, after looking at its masks on the host."""
        import torch

        later = device.type == "cuda"  # from pinned memory: no copy is waited for
        inputs, targets = (
            {n: v.to(device, non_blocking=later) if isinstance(v, torch.Tensor) else v
             for n, v in one.items()} for one in (self.inputs, self.targets)
        )  # fmt: skip
        masks = [v.all() for name, v in self.inputs.items() if name.endswith("attention_mask")]
        return Batch(inputs, targets, self.rows, self.weight, not all(masks) if masks else None)


@dataclass(frozen=True)
class Step:
    """All that a penalty or a hook may know about 'now'."""

    index: int  # updates already made
    total: int  # updates this run will make
    lr: float  # before a parameter's own factor
    factors: Mapping[str, float] = field(default_factory=dict)  # by name, where it is not 1

    def rate(self, name: str) -> float:
        """Return the learning rate of a parameter."""
        return self.lr * self.factors.get(name, 1.0)


# (forward, batch, outputs, step) -> scalar, a mean over the batch. `forward(**changed_inputs)`
# calls the model as the trainer does (distributed, in its number format): for a second pass.
Penalty = Callable[[Callable[..., Any], Batch, Any, Step], "Tensor"]
Hook = Callable[[Step], None]


@runtime_checkable
class Stateful(Protocol):
    """A hook or penalty that must survive a restart shows its state as tensors by name."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors to keep."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned; its tensors are on the model's device."""
        ...


def no_op() -> None:
    """Do nothing: the neutral `merge`."""


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
    # Once, on the weights that are kept; may replace what only training needs by a buffer
    # `delta_*`. Works on shapes alone as well: `plan` calls it.
    finish: tuple[Callable[[], None], ...] = ()
    lr_scale: Mapping[str, float] = field(default_factory=dict)  # name pattern -> factor
    # If the trainable part sees the text through a frozen function alone: the trainer computes
    # `features(inputs)` [B, ...] once, and calls `model(features=...)` afterwards.
    features: Features | None = None
    # (features [N, H], targets [N]) -> lambda: sets what trains to the ridge regression on them.
    solve: Callable[[Tensor, Tensor], float] | None = None
    # Folds what was trained into the body's own weights; None: it cannot be folded in.
    merge: Callable[[], None] | None = None
    passes: int = 1  # of a batch through the model, before its gradients are computed
    extra_tokens: int = 0  # by which the body's input is longer than the text (a prompt)
    form: Callable[[Form], Form] | None = None  # wraps the task's form (an ensemble of prompts)
    narrowed: bool = False  # a method has selected what trains: the next one of a chain adds to it

    @classmethod
    def of(cls, model: nn.Module, head: frozenset[str]) -> Adaptation:
        """Return the full fine-tuning of `model`: everything trains, nothing is added."""
        named = dict(model.named_parameters())
        trains = {n: p for n, p in named.items() if p.is_floating_point()}  # not quantized
        for parameter in trains.values():
            parameter.requires_grad_(True)
        return cls(model, trains, head, frozenset(named))

    def only(self, keep: Callable[[str], bool]) -> Adaptation:
        """Train what `keep` names, the head, and what earlier methods of a chain selected."""
        before = self.trainable if self.narrowed else {}
        named = self.model.named_parameters()
        return self._train({n for n, _ in named if keep(n) or n in before})

    def added(self, part: str, merge: Callable[[], None] | None = None) -> Adaptation:
        """Train what a method added under names with `part`, as in ".lora."; say how to merge."""
        return replace(self.only(lambda name: part in name), merge=merge)

    def narrow(self, keep: Callable[[str], bool]) -> Adaptation:
        """Of what trains now, go on training only what `keep` names, and the head."""
        return self._train({n for n in self.trainable if keep(n)})

    def _train(self, names: set[str]) -> Adaptation:
        named = dict(self.model.named_parameters())
        trainable = {n: p for n, p in named.items() if n in names or n in self.head}
        for name, parameter in named.items():
            if name in trainable and not parameter.is_floating_point():
                raise AdaptError(f"{name} is quantized, and cannot be trained. Leave "
                                 "model.quantization out, or use another method.")  # fmt: skip
            parameter.requires_grad_(name in trainable)
        return replace(self, trainable=trainable, narrowed=True)

    def plus(
        self, *, penalty: Mapping[str, Penalty] | None = None, before_update: Hook | None = None,
        after_update: Hook | None = None, finish: Callable[[], None] | None = None,
        lr_scale: Mapping[str, float] | None = None,
    ) -> Adaptation:  # fmt: skip
        """Append hooks, penalties and learning-rate factors; hooks of one kind act in order.

        Raises:
            AdaptError: a penalty of that name is there already.
        """
        if clash := set(self.penalty) & set(penalty or {}):
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
        """Return what trains outside the head."""
        return {n: p for n, p in self.trainable.items() if n not in self.head}

    def factor(self, name: str) -> float:
        """Return the learning-rate factor of a parameter: the product over matching patterns."""
        result = 1.0
        for pattern, factor in self.lr_scale.items():
            result *= factor if fnmatch.fnmatchcase(name, pattern) else 1.0
        return result

    @cached_property
    def factors(self) -> dict[str, float]:
        """Return the factors that are not 1 of what trains, by name."""
        return {n: factor for n in self.trainable if (factor := self.factor(n)) != 1}

    def stateful(self) -> dict[str, Stateful]:
        """Return the penalties and hooks that carry state, by a stable name."""
        hooks: dict[str, Any] = {f"before.{i}": hook for i, hook in enumerate(self.before_update)}
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
        trained = {n: p.detach() for n, p in self.trainable.items() if n in there}
        return {**trained, **buffers}

    def load_delta(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved tensors in place.

        Raises:
            AdaptError: names or shapes differ from what is saved here; nothing is copied.
        """
        mine = self.delta()
        missing, extra = sorted(mine.keys() - tensors.keys()), sorted(tensors.keys() - mine.keys())
        wrong = [n for n in mine.keys() & tensors.keys() if mine[n].shape != tensors[n].shape]
        if missing or extra or wrong:
            kinds = {"missing": missing, "left over": extra, "of another shape": sorted(wrong)}
            faults = "; ".join(f"{len(n)} {kind} ({n[0]} ...)" for kind, n in kinds.items() if n)
            raise AdaptError(
                f"the saved delta does not fit the model that the config describes: {faults}. "
                "It was saved by another method, with other settings or for another body."
            )
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)


def _no_data(*_: Any) -> Any:
    raise AdaptError(
        "this method looks at a tokenizer, a task, its rows or other runs, and there are none here."
    )


def quiet(what: str) -> AbstractContextManager[Callable[[int, int | None], None]]:
    """Show nothing."""
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class Context:
    """What `adapt` may look at besides the model."""

    tokenizer: PreTrainedTokenizerBase | None  # None in a plan
    generator: torch.Generator  # the only source of randomness in `adapt`
    total_updates: int
    # restore: saved tensors follow; build what `finish` leaves, skip what depends on data
    stage: Stage = "train"
    labels: tuple[str, ...] = ()  # the classes' names; none for a number or a text
    head: str = "sequence"  # key of models.heads.HEADS
    pooling: str | None = None  # how the head sums up the tokens; None: it reads one of them
    prompted: int = 0  # places that the text itself has for the vectors of a prompt
    # Training batches in a seeded order, encoded when asked for, and the task's mean loss on one.
    batches: Callable[..., Iterator[Batch]] = _no_data  # (rows of a batch; none: as in training)
    loss: Callable[[nn.Module, Batch], Tensor] = _no_data
    form: Form | None = None  # of the task; None: there is none, in a loop of one's own
    # What passes over the rows -> how far it is: a function of rows that are done, and of all.
    counting: Callable[[str], AbstractContextManager[Callable[[int, int | None], None]]] = quiet
    load_run: Callable[[Path], Any] = _no_data  # a finished run (transfer, teachers, judges)

    @property
    def required_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, for a method that cannot do without.

        Raises:
            AdaptError: a plan has none.
        """
        return self.tokenizer or _no_data()

    @property
    def required_form(self) -> Form:
        """The form of the task, or an AdaptError: there is none."""
        return self.form or _no_data()


class Method(Protocol):
    """Implemented by frozen dataclasses whose fields are the hyperparameters."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Return `start` changed by this method.

        Raises:
            AdaptError: the model cannot be adapted in this way; the message says why.
        """
        ...
