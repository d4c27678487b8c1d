"""Chain: several methods on one body, one after the other; the additions of all are trained.

    method.parts=[{name: lora, rank: 8}, {name: bitfit}]

Count: the sum of the parts'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, Method
from adaptkit.errors import AdaptError
from adaptkit.methods.prompt import check_filled


@dataclass(frozen=True)
class Chain:
    """Apply `parts` in their order; options that a part does not name have their defaults."""

    parts: tuple[Method, ...]  # methods in their order, each as {name: lora, rank: 4}

    def __post_init__(self) -> None:
        if not self.parts:
            raise AdaptError("method.parts=[]: name the methods, as in [{name: lora}].")

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Apply every part to the result of the parts before it.

        Raises:
            AdaptError: a part can only stand alone, or does not fit this model.
        """
        merges: list[Callable[[], None] | None] = []
        adaptation = start
        for part in self.parts:
            before, adaptation = adaptation, part.adapt(replace(adaptation, merge=None), context)
            merges.append(adaptation.merge)
            if len(self.parts) > 1:
                self._check_combines(part, before, adaptation)
            # A restored module keeps its result as a buffer, not as parameters.
            if before.narrowed and context.stage != "restore":
                self._check_adds(part, before, adaptation)
        return replace(adaptation, merge=_merge_all(merges))

    def _check_adds(self, part: Method, before: Adaptation, adaptation: Adaptation) -> None:
        if adaptation.trainable.keys() == before.trainable.keys():
            raise AdaptError(
                f"method.parts: {type(part).__name__} adds nothing to what the parts before it "
                "train; leave it out."
            )

    def _check_combines(self, part: Method, before: Adaptation, adaptation: Adaptation) -> None:
        name = type(part).__name__
        if adaptation.model is not before.model:
            raise AdaptError(f"method.parts: {name} replaces the model, so it stands alone.")
        if not adaptation.narrowed:
            raise AdaptError(f"method.parts: with {name} everything is trained; leave it out.")


def _merge_all(merges: list[Callable[[], None] | None]) -> Callable[[], None] | None:
    """Return the function that calls all of `merges`; None if one part cannot be folded in."""
    possible = [merge for merge in merges if merge is not None]
    if len(possible) < len(merges):
        return None

    def merge_all() -> None:
        for merge in possible:
            merge()

    return merge_all


def apply(start: Adaptation, methods: Iterable[Method], context: Context) -> Adaptation:
    """Apply a method, then regularizers, in their order.

    Raises:
        AdaptError: one cannot be applied, or a template has places for a prompt and none is there.
    """
    for method in methods:
        start = method.adapt(start, context)
    check_filled(start.model, context)
    return start
