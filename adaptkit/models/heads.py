"""The heads that forms put on a base model: which class, and whether its parameters are new.

    new = True     a classifier: all parameters outside the base model belong to the task and train
    new = False    a pretrained head (masked words, next words): it stays frozen with the base model

A parameter that the checkpoint lacks is new in any case. No torch at import time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


HEADS = {
    "sequence": Head("AutoModelForSequenceClassification", "SEQ_CLS", True, "sequence classifier"),
    "token": Head("AutoModelForTokenClassification", "TOKEN_CLS", True, "token classifier", True),
    "span": Head(
        "AutoModelForQuestionAnswering", "QUESTION_ANS", True, "span classifier", True,
        ("start_logits", "end_logits"),
    ),
    "mlm": Head("AutoModelForMaskedLM", "FEATURE_EXTRACTION", False, "masked-word head", True),
    "lm": Head("AutoModelForCausalLM", "CAUSAL_LM", False, "next-word head", True),
    "seq2seq": Head("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", False, "text-to-text head", True),
}  # fmt: skip


def check_head(head: str, config: PretrainedConfig, pooling: str | None) -> None:
    """Reject a head that the architecture does not have, or that pooling would empty of meaning.

    Raises:
        AdaptError: transformers has no such class for it, or model.pooling is set although single
            tokens are read.
    """
    import transformers

    kind, family = HEADS[head], family_of(config.model_type)
    # Private, but the only list of which configs an Auto class takes.
    if type(config) not in getattr(transformers, kind.auto)._model_mapping:
        raise AdaptError(
            f"{family.name} models have no {kind.words} ({kind.auto}) in transformers, which this "
            "task needs. Choose a model of another family: adaptkit list models."
        )
    if pooling and kind.per_token:
        raise AdaptError(
            f"model.pooling={pooling}: this task reads single tokens, so there is nothing to pool. "
            "Leave it out."
        )
