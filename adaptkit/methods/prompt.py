"""Prompt tuning: trained vectors in front of the input (Lester et al. 2021, arXiv:2104.08691).

    X' = [P ; X],   P [P, d] and the head trained, the rest frozen; d: width of the words'
                    embeddings, which may differ from H (ELECTRA-small, ALBERT)

If the first token sums up the text (BERT's [CLS]) the prompt follows it; of an encoder-decoder the
encoder is prompted. `init`:

    random      uniform in +-0.5
    vocabulary  embeddings of words drawn, without replacement, from the 5,000 lowest ids that are
                not special tokens (in a sentencepiece vocabulary: the most frequent ones)
    labels      embeddings of the class names, averaged over a name's tokens; the rest as above
    any other   embeddings of this text's tokens, cut or repeated

`prompts` > 1 trains an ensemble of prompts on one base model (as in the paper): every example is
answered once per prompt in one forward pass, the loss is the mean, and the prediction a majority
vote. The scores of the mean logits and of a single prompt (their mean) are recorded next to it.

The paper reads a T5's answer as text: task.form=text; with task.form=head a head is trained with
the prompt. In the form cloze a template can say where the vectors go, as in P-tuning.

Count: N P d; 76,800 for T5-base with 100 vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError, ConfigError, at_least, invalid
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import decoder, family, reader
from adaptkit.models.body import config_of, device_of, generates, words_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adaptkit.layers.prompt import Prompt

FREQUENT = 5000  # lowest ids from which a vocabulary start is drawn
SHORTEST = 4  # tokens of text that must fit next to the prompt: the least task.max_length


@dataclass(frozen=True)
class PromptTuning:
    """Train `length` vectors before the text; the body is frozen."""

    sized_by: ClassVar[Size] = Size("length")
    length: int = 20  # trained vectors
    init: str = "vocabulary"  # random | vocabulary | labels | any text
    prompts: int = 1  # prompts in the ensemble (majority vote)

    def __post_init__(self) -> None:
        at_least("method.length", self.length, 1)
        at_least("method.prompts", self.prompts, 1)
        if not self.init.strip():
            raise invalid("method.init", self.init, "holds no word", "Use random or vocabulary")

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Put the prompt in front of the text and freeze the body.

        Raises:
            AdaptError: the body has too few positions or words, or the start has no tokens.
        """
        import torch

        from adaptkit.layers.ensemble import Ensemble, install
        from adaptkit.layers.prompt import Prompt

        check_places(context, self.length)
        if not context.prompted:
            check_room(start, self.length, "method.length")
        if self.prompts > 1 and generates(start.model):
            raise invalid("method.prompts", self.prompts, "votes on classes, not on words", "Use 1")
        device = device_of(start.model)
        vectors = torch.stack([self._start(start.model, context) for _ in range(self.prompts)])
        prompt = Prompt(vectors.to(device), inside=context.prompted > 0)
        prompted = attach(start, prompt, self.length)
        if self.prompts > 1:
            install(start.model, self.prompts)
        chosen = prompted.only(lambda name: name.startswith("prompt."))
        if self.prompts == 1:
            return chosen
        return replace(chosen, form=lambda form: Ensemble(form, self.prompts))

    def _start(self, model: nn.Module, context: Context) -> Tensor:
        """Return the first values [P, d] of one prompt, on the CPU."""
        import torch

        words = words_of(reader(model))
        if self.init == "random" or context.stage != "train":
            shape = (self.length, words.weight.shape[1])
            return torch.rand(shape, generator=context.generator) - 0.5
        if self.init == "vocabulary":
            return embed(words, self._frequent(model, context, self.length))
        if self.init == "labels":
            if not any(context.labels):
                raise invalid("method.init", self.init, "the task's labels have no names")
            names = [label.replace("_", " ") for label in context.labels][: self.length]
            rows = [embed(words, tokens(context, name, "method.init")).mean(0) for name in names]
            rest = self._frequent(model, context, self.length - len(rows))
            return torch.cat([torch.stack(rows), embed(words, rest)])
        ids = tokens(context, self.init, "method.init")
        return embed(words, [ids[i % len(ids)] for i in range(self.length)])

    def _frequent(self, model: nn.Module, context: Context, count: int) -> list[int]:
        import torch

        config = config_of(model)
        special = {*context.required_tokenizer.all_special_ids, config.pad_token_id}
        size = min(config.vocab_size, len(context.required_tokenizer))
        ids = [i for i in range(size) if i not in special][:FREQUENT]
        if count > len(ids):
            raise invalid(
                "method.length", self.length, f"the vocabulary has only {len(ids)} words",
                "Shorten it, or set method.init=random",
            )  # fmt: skip
        order = torch.randperm(len(ids), generator=context.generator)[:count]
        return [ids[i] for i in order.tolist()]


def check_places(context: Context, length: int) -> None:
    """Check that the places that a template has for a prompt are as many as its vectors.

    Raises:
        AdaptError: they are not.
    """
    if context.prompted and context.prompted != length:
        raise invalid(
            "method.length", length, f"the template has places for {context.prompted} vectors",
            f"Set method.length={context.prompted}, or change {{prompt:N}}",
        )  # fmt: skip


def check_filled(model: nn.Module, context: Context) -> None:
    """Check that the places that a template has for a prompt are filled.

    Raises:
        ConfigError: the adapted model has no prompt.
    """
    if context.prompted and "prompt" not in dict(model.named_children()):
        raise ConfigError(
            "task.template: has places for a prompt, {prompt:N}, and the method trains none. Leave "
            "them out, or use method=ptuning or method=prompt."
        )


def check_room(start: Adaptation, length: int, field: str) -> None:
    """Reject a prompt that leaves a text fewer than SHORTEST positions.

    Raises:
        AdaptError: it is too long; the message says how many positions are left.
    """
    positions = family(start.model).positions(config_of(start.model))
    if positions is None:
        return
    left = positions - start.extra_tokens - SHORTEST
    if length > left:
        raise invalid(
            field, length,
            f"this {family(start.model).name} model reads {positions} positions, of which {left} "
            f"are left for a prompt next to a text of {SHORTEST} tokens",
        )  # fmt: skip


def tokens(context: Context, text: str, field: str) -> list[int]:
    """Return a text's token ids, without special tokens around it.

    Raises:
        AdaptError: there are none.
    """
    ids = context.required_tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise invalid(field, text, "the tokenizer finds no token in it")
    return ids


def embed(words: nn.Embedding, ids: list[int]) -> Tensor:
    """Return the body's embeddings [P, d] of token ids, as they enter it (BART scales), in fp32."""
    import torch

    with torch.no_grad():
        index = torch.tensor(ids, dtype=torch.long, device=words.weight.device)
        return words(index).float().cpu()


def attach(start: Adaptation, prompt: Prompt, extra: int) -> Adaptation:
    """Register the prompt in the task's model, put it into the body, and count its positions.

    `extra`: its positions, of which the text has some already if it is put inside.

    Raises:
        AdaptError: the model has a prompt already.
    """
    model = start.model
    if "prompt" in dict(model.named_children()):
        raise AdaptError("the model has a prompt already: use one method with prompts in a chain.")
    model.add_module("prompt", prompt)
    prompt.attach(reader(model), decoder(model), skip=int(family(model).cls == "first"))
    if prompt.inside:
        return start
    return replace(start, extra_tokens=start.extra_tokens + extra)
