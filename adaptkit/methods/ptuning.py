"""P-tuning: prompt vectors made by a small encoder (Liu et al. 2021, arXiv:2103.10385).

    P = MLP(BiLSTM(E)),   E [P, d],   LSTM: 2 layers, d / 2 per direction,   MLP: d - d - d, ReLU

This is the encoder of the paper's experiments with a frozen body (LAMA). It serves training only:
at the end P is kept and the encoder dropped. `anchors` are real words in the middle of the prompt,
whose embeddings come from the body. For SuperGLUE the paper trains the body as well, at a tenth of
the prompt's rate: `tune_body`.

The paper guesses a word at [MASK] of a template with the vectors among its words:

    task.form=cloze method.length=6
    task.template='{first} {prompt:3} Question: {second}? {prompt:3} Answer: {label}.'

The words of the template are the anchors then, and h_1 to h_3 stand at the first place. In another
form, or without places in the template, all of the prompt stands before the text (after [CLS]).

Count: P d + (12 d^2 + 16 d) + (2 d^2 + 2 d) for vectors, LSTM and MLP; 8,278,272 for BERT-base
with 9 vectors. Of these P d are stored, 6,912.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least, invalid
from adaptkit.methods.prompt import attach, check_places, check_room, tokens
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import base_prefix, reader
from adaptkit.models.body import words_of

BODY_RATE = 0.1  # of the prompt's: 1e-5 and 1e-4 in the authors' scripts for SuperGLUE


@dataclass(frozen=True)
class PTuning:
    """Train an encoder of `length` prompt vectors."""

    sized_by: ClassVar[Size] = Size("length")
    length: int = 9  # trained vectors
    encoder: Literal["lstm", "mlp"] = "lstm"  # network that generates the vectors
    anchors: str = ""  # words kept between the two halves of the prompt
    tune_body: bool = False  # train the base model too, at 0.1 of the rate

    def __post_init__(self) -> None:
        at_least("method.length", self.length, 1)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put the encoded prompt in front of the text; freeze the body, or train it slowly.

        Raises:
            AdaptError: the body has too few positions, or the anchors no tokens.
        """
        import torch

        from adaptkit.layers.prompt import Prompt, PromptEncoder

        words = words_of(reader(start.model)).weight
        device, width = words.device, words.shape[1]
        ids = self._anchors(context)
        check_places(context, self.length)
        if not context.prompted:
            check_room(start, self.length + len(ids), "method.length (with anchors)")
        elif ids:
            raise invalid("method.anchors", self.anchors, "the template has places for the prompt",
                          "Write the words into the template")  # fmt: skip
        anchors = torch.tensor(ids, device=device) if ids else None
        prompt = Prompt(anchors=anchors, inside=context.prompted > 0)
        if context.stage == "restore":
            prompt.keep(torch.zeros(1, self.length, width, device=device))
        else:
            recurrent = self.encoder == "lstm"
            prompt.encoder = PromptEncoder(self.length, width, recurrent, context.generator, device)
        prompted = attach(start, prompt, self.length + len(ids))
        prefix = base_prefix(start.model)
        adapted = prompted.only(lambda name: self.tune_body or name.startswith("prompt."))
        return adapted.plus(
            finish=None if context.stage == "restore" else prompt.freeze,
            lr_scale={f"{prefix}*": BODY_RATE} if self.tune_body else None,
        )

    def _anchors(self, context: Context) -> list[int]:
        if not self.anchors.strip():
            return []
        if context.stage == "plan":  # no tokenizer: as many tokens as words
            return [0] * len(self.anchors.split())
        return tokens(context, self.anchors, "method.anchors")
