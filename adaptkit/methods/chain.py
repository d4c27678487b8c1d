"""Chain: several methods on one body, one after the other; what each of them adds learns.

    method.parts=[{name: lora, rank: 8}, {name: bitfit}]

Count: the sum of the parts'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, Method
from adaptkit.errors import AdaptError


@dataclass(frozen=True)
class Chain:
    """Apply `parts` in their order; the options a part does not name have its defaults."""

    parts: tuple[Method, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise AdaptError("method.parts=[]: name the methods, as in [{name: lora}].")

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Apply every part to what the parts before it made.

        Raises:
            AdaptError: a part can only stand alone, or refuses this model.
        """
        merges: list[Callable[[], None] | None] = []
        adaptation = start
        for part in self.parts:
            before, adaptation = adaptation, part.adapt(replace(adaptation, merge=None), context)
            merges.append(adaptation.merge)
            if len(self.parts) > 1:
                self._check(part, before, adaptation)
            # Restored, what a training module has left are no parameters.
            if before.narrowed and context.stage != "restore":
                self._check_more(part, before, adaptation)

        def merge() -> None:
            for one in merges:
                one()

        return replace(adaptation, merge=None if None in merges else merge)

    def _check_more(self, part: Method, before: Adaptation, adaptation: Adaptation) -> None:
        if adaptation.trainable.keys() == before.trainable.keys():
            raise AdaptError(
                f"method.parts: {type(part).__name__} adds nothing to what the parts before it let "
                "learn; leave it out."
            )

    def _check(self, part: Method, before: Adaptation, adaptation: Adaptation) -> None:
        name = type(part).__name__
        if adaptation.model is not before.model:
            raise AdaptError(f"method.parts: {name} replaces the model, so it stands alone.")
        if not adaptation.narrowed:
            raise AdaptError(f"method.parts: with {name} everything learns already; leave it out.")
