"""How a model family is written down: the names of its maps and norms, and how it reads a text.

A pattern names modules below the base model; `*` stands for one dotted word, `module@tensor` for a
bare parameter. No torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Patterns = Mapping[str, tuple[str, ...]]  # role -> patterns; "module@parameter" for bare tensors

ROLES = ("query", "key", "value", "output", "up", "gate", "down")  # linear maps of a layer
NORMS = ("attention_norm", "ffn_norm")
# Modules whose output (input, for the last) is that of a sub-layer, before the residual sum.
POINTS = ("after_attention", "after_ffn", "before_ffn")
FFN, QKV = ("up", "gate", "down"), ("query", "key", "value")


def longest(config: PreTrainedConfig) -> int | None:
    """Return the longest input of most families: as many tokens as positions."""
    return config.max_position_embeddings


def past_padding(config: PreTrainedConfig) -> int | None:
    """Return the longest input of RoBERTa, which numbers positions from padding_idx + 1."""
    return config.max_position_embeddings - (config.pad_token_id or 0) - 1


def unlimited(_: PreTrainedConfig) -> None:
    """Return None: relative positions have no end."""
    return None


def always(config: PreTrainedConfig) -> bool:
    """Return True: the norms of this family stand after the residual sums."""
    return True


@dataclass(frozen=True)
class Family:
    """One architecture: its name, its parts, and how it reads positions and padding."""

    name: str
    parts: Patterns
    layers: str  # pattern of one layer (of the encoder, if there are two stacks)
    top: tuple[str, ...] = ()  # what follows the last layer: a norm, a pooler
    fused: Literal["", "blocks", "heads"] = ""  # query, key and value in one map, how arranged
    padding: Literal["right", "left"] = "right"  # on which side the classifier expects padding
    cls: Literal["first", "last"] | None = "first"  # which token was trained to sum up the text
    positions: Callable[[PreTrainedConfig], int | None] = longest  # longest input; None: no limit
    post_norm: Callable[[PreTrainedConfig], bool] = lambda _: (
        False
    )  # norms stand after residual sums
    shared_layers: bool = False  # one set of weights serves all layers
    encoder_decoder: bool = False
    reader: str = ""  # the part below the base model that every task's class gives the words to
    attention_function: bool = True  # transformers looks it up by name, so it can be replaced
    # the attention, and what takes its output and its input and leaves them sum and norm, all by
    # position; None: the layer does that itself
    last_attention: tuple[str, str] | None = None

    @property
    def causal(self) -> bool:
        """True if a word sees only what stands before it, in all of the model."""
        return self.cls is None and not self.encoder_decoder


def points(stems: str | tuple[str, ...], attention: str, ffn: str, ffn_input: str = "") -> Patterns:
    """Return the patterns of POINTS; the module of a whole feed-forward part takes its input."""
    leaves = zip(POINTS, (attention, ffn, ffn_input or ffn), strict=True)
    return {role: joined(stems, leaf) for role, leaf in leaves}


def maps(stems: str | tuple[str, ...], *leaves: str) -> Patterns:
    """Return the patterns of an attention's four maps, in the order of ROLES."""
    return {role: joined(stems, leaf) for role, leaf in zip(ROLES[:4], leaves, strict=True)}


def joined(stems: str | tuple[str, ...], *leaves: str) -> tuple[str, ...]:
    """Return every stem with every leaf."""
    stems = (stems,) if isinstance(stems, str) else stems
    return tuple(f"{stem}.{leaf}" for stem in stems for leaf in leaves)
