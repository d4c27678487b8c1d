"""The heads that forms put on a base model: which class, and whether its parameters are new.

    new = True     a classifier: all parameters outside the base model belong to the task and train
    new = False    a pretrained head (masked words, next words): it stays frozen with the base model

A parameter that the checkpoint lacks is new in any case. A classifier that the checkpoint holds is
kept if its classes have the names of the task's. No torch at import time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Head:
    """One kind of head."""

    auto: str  # name of transformers' Auto class
    peft: str  # PEFT's task_type
    new: bool
    words: str  # for messages
    per_token: bool = False  # outputs [B, T, ...] in the order of the inputs
    proof: tuple[str, ...] = ("logits",)  # outputs that `verify` and a merged model must repeat
    classes: bool = True  # one output per class of the task


# The values of a head before training, and what the log says of them.
BEGINNINGS = {
    "kept": "the checkpoint's head is kept",
    "reordered": "the checkpoint's head is kept, its outputs in the order of the task's classes",
    "replaced": "the output map of the checkpoint's head is replaced by a new one: its classes do "
    "not have the names of the task's",
    "new": "the head is new",
}
HEADS = {
    "sequence": Head("AutoModelForSequenceClassification", "SEQ_CLS", True, "sequence classifier"),
    "token": Head("AutoModelForTokenClassification", "TOKEN_CLS", True, "token classifier", True),
    "span": Head(
        "AutoModelForQuestionAnswering", "QUESTION_ANS", True, "span classifier", True,
        ("start_logits", "end_logits"), classes=False,
    ),
    "mlm": Head("AutoModelForMaskedLM", "FEATURE_EXTRACTION", False, "masked-word head", True),
    "lm": Head("AutoModelForCausalLM", "CAUSAL_LM", False, "next-word head", True),
    "seq2seq": Head("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", False, "text-to-text head", True),
}  # fmt: skip


def outputs_by_name(names: Mapping[Any, str] | None, labels: Sequence[str]) -> list[int] | None:
    """Return which output of a stored classifier is that of each class, by name.

    None if the names do not say so: they are others, or none. Bare numbers and transformers' own
    LABEL_0, LABEL_1 ... are not names: any task may have them. Capital letters do not matter.
    """
    names = names or {}
    found = {str(name).casefold(): int(number) for number, name in names.items()}
    wanted = [label.casefold() for label in labels]
    if len(found) != len(names) or sorted(found) != sorted(wanted):
        return None
    if sorted(found.values()) != list(range(len(found))):  # numbers of no outputs
        return None
    if all(re.fullmatch(r"(label_)?\d+", name) for name in wanted):  # none at all: a number
        return None
    return [found[name] for name in wanted]


def check_head(head: str, config: PretrainedConfig, pooling: str | None) -> None:
    """Reject a head that the architecture does not have, or that pooling would empty of meaning.

    Raises:
        AdaptError: transformers has no such class for it, it was made an encoder (EmbeddingGemma),
            or model.pooling is set although single tokens are read.
    """
    import transformers

    kind, family = HEADS[head], family_of(config.model_type)
    # Private, but the only list of which configs an Auto class takes.
    if type(config) not in getattr(transformers, kind.auto)._model_mapping:
        raise AdaptError(
            f"{family.name} models have no {kind.words} ({kind.auto}) in transformers, which this "
            "task needs. Choose a model of another family: adaptkit list models."
        )
    if head == "lm" and getattr(config, "use_bidirectional_attention", False):
        raise AdaptError(
            f"this {family.name} model lets every word see the whole text "
            "(use_bidirectional_attention in config.json), so it cannot learn to predict the next "
            "one. Choose a model that was trained to write."
        )
    if pooling and kind.per_token:
        raise AdaptError(
            f"model.pooling={pooling}: this task reads single tokens, so there is nothing to pool. "
            "Leave it out."
        )
