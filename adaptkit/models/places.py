"""Logits of a vocabulary only where they are read.

A head over a vocabulary of 50,000 words takes more memory than all layers below it, and most of its
logits are often those of tokens that nobody asks for: of a source, of words that are not hidden. In
training the states are selected before the head: [B, T, H] -> [1, N, H], logits [1, N, V].
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from adaptkit.models.anatomy import family, reader


class Places:
    """Selects among the last states of a model with one stack, while it is told which to keep."""

    def __init__(self, model: nn.Module, wanted: bool) -> None:
        self.kept: Tensor | None = None
        kind = family(model)  # with padding on the left, places would be moved: see `padding`
        self.able = wanted and not kind.encoder_decoder and kind.padding == "right"
        if self.able:
            reader(model).register_forward_hook(self._select)  # after that of a prompt

    @contextlib.contextmanager
    def only(self, kept: Tensor | None) -> Iterator[None]:
        """Compute logits in the rows and columns kept [2, N]; None: everywhere."""
        self.kept = kept if self.able else None
        try:
            yield
        finally:
            self.kept = None

    def _select(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.kept is not None:
            rows, columns = self.kept
            output["last_hidden_state"] = output["last_hidden_state"][None, rows, columns]
        return output
