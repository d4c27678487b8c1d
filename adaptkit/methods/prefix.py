"""Prefix tuning: trained keys and values before the text (Li & Liang 2021, arXiv:2101.00190).

    softmax(q [P_K; K]^T / sqrt(s)) [P_V; V]   in every attention, the body frozen

An encoder-decoder has three prefixes: encoder, decoder and cross attention. The attention of a
layer shared by all (ALBERT) has one. While training, an MLP yields the prefix, and only its result
is kept. `projection` is its inner width m; with null, keys and values are trained directly, which
takes a learning rate ten to a hundred times larger. The text keeps its positions, as in the
authors' code for BART (theirs for GPT-2 shifts them by P). The body's own dropout, which also acts
on the attention to the prefix, stays as the model has it (theirs switches it off).

Count: 2 P w L per kind of attention, w the width of its keys (of all key-value heads); with the
MLP (P d + d m + m) + (m + 1) 2 w L, d the width of the layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, at_least, invalid, within
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import family
from adaptkit.models.body import config_of, device_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from adaptkit.layers.prefix import Pairs

RANDOM = "random"
SCALE = 0.02  # of keys and values trained directly: that of the bodies' own initial weights


@dataclass(frozen=True)
class PrefixTuning:
    """Train `length` keys and values in front of every attention; the body is frozen."""

    sized_by: ClassVar[Size] = Size("length")
    length: int = 20  # trained positions in every layer
    projection: int | None = 512  # inner width of the MLP that generates the prefix; null: no MLP
    dropout: float = 0.0  # on keys and values
    init: str = RANDOM  # random, or a text whose keys and values it starts as

    def __post_init__(self) -> None:
        at_least("method.length", self.length, 1)
        at_least("method.projection", self.projection or 0, 0)
        within("method.dropout", self.dropout, 0, 1)
        if not self.init.strip():
            raise invalid("method.init", self.init, f"give a text, or {RANDOM}")

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put a prefix before every attention.

        Raises:
            AdaptError: the family computes attention in its own way, `init` has no tokens, or
                follows a prompt.
        """
        from adaptkit.layers.prefix import Shape, attach_prefixes, repeat_rows
        from adaptkit.models.attention import check_replaceable

        check_replaceable(start.model)
        if self.init != RANDOM and start.extra_tokens:
            raise AdaptError(
                f"method.init={self.init!r}: the prompt before it would move the words it starts "
                "from. In method.parts, name prefix before the prompt."
            )
        pairs = None
        if self.init != RANDOM and context.stage == "train":
            pairs = repeat_rows(
                self._pairs_of_init(start.model, context.required_tokenizer), self.length
            )
        shape = Shape(self.length, self.projection or 0)
        return attach_prefixes(start, context, shape, self.dropout, SCALE, pairs)

    def _pairs_of_init(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Pairs:
        import torch

        from adaptkit.models.attention import keys_and_values

        longest = min(self.length, family(model).positions(config_of(model)) or self.length)
        ids = tokenizer(self.init, add_special_tokens=False)["input_ids"][:longest]
        if not ids:
            raise invalid("method.init", self.init, "this tokenizer finds no token in it")
        return keys_and_values(model, torch.tensor(ids, device=device_of(model)))
