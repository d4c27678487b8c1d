"""The text form: text in, text out, by a pretrained encoder-decoder or a causal language model.

    encoder-decoder   encoder: source, special tokens as the tokenizer adds them
                      decoder: start, target            loss at every token of the target, its end
    causal            source, blank, target, end        loss at the target and its end only

The end of the text is learnt as well. A source that is too long loses the end of its longest
column, never the words of the template; a target keeps its end. The answer is generated: greedily
or with beams, from sources that are padded on the left for causal models, so that a batch gives
the same texts as each row alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.padding import (
    IGNORED,
    encoded,
    fitted,
    padded,
    padded_inputs,
    plain_text,
    targets_of,
)
from adaptkit.tasks.forms.vocabulary import VocabularyForm, logits_at
from adaptkit.tasks.task import LABEL, Answer, Reader
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import GenerationConfig, GenerationMixin


CUE = "\nAnswer:"  # of a causal model, after a source that does not ask for an answer itself
SHORTEST = 4  # tokens of a source that must fit next to a target: the least task.max_length


@dataclass(frozen=True)
class Generation:
    """How an answer is generated; nothing is taken from the checkpoint's own settings."""

    max_new_tokens: int = 64  # of an answer, its end included
    min_new_tokens: int = 0  # of an answer
    num_beams: int = 1  # 1: greedy
    length_penalty: float = 1.0  # exponent of the length by which a beam's score is divided
    no_repeat_ngram_size: int = 0  # tokens of a sequence that may occur once; 0: any may repeat
    do_sample: bool = False  # draw tokens at random
    temperature: float = 1.0  # of the draw
    top_p: float = 1.0  # probability mass that tokens are sampled from (nucleus)


@dataclass(frozen=True)
class TextForm(VocabularyForm):
    """A source in, a target out."""

    source: Template
    max_length: int  # tokens of the source, special ones included
    max_target_length: int  # tokens of the target, its end included
    generation: Generation = field(default_factory=Generation)
    cue: str = ""  # ends the source of a causal model

    head: ClassVar[str] = "text"
    generates: ClassVar[bool] = True

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return examples: the source's tokens, `target` with its end, `length`, `cut`, `row`.

        Raises:
            AdaptError: the model has no room for source and target, or no token for the end.
        """
        room = self._room(reader)
        source = self.source
        if reader.causal and self.cue:
            source = Template(source.text + self.cue, source.where)

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            plain = plain_text(reader.tokenizer)
            made = fitted(source, batch, room, partial(self._read, reader), plain)
            found: dict[str, list] = {
                "input_ids": [ids for ids, _ in made],
                "cut": [lost for _, lost in made],
                "row": indices,
            }
            found["length"] = [len(ids) for ids in found["input_ids"]]
            if LABEL in batch:
                found["target"] = self.targets([first_of(label) for label in batch[LABEL]], reader)
                if reader.causal:
                    sizes = zip(found["length"], found["target"], strict=True)
                    found["length"] = [length + len(target) for length, target in sizes]
            return found

        return encoded(rows, examples)

    def _room(self, reader: Reader) -> int:
        """Return how many tokens a source may have."""
        if reader.tokenizer.eos_token_id is None:
            raise AdaptError(
                "the model's tokenizer has no token that ends a text, so that no text would end. "
                "Name one in tokenizer_config.json (eos_token)."
            )
        target = max(self.max_target_length, self.generation.max_new_tokens)
        room = reader.length(self.max_length)
        # one stack reads source and target after each other, two read them apart
        limit = reader.limit if reader.causal else reader.decoder_limit
        if limit is None:
            return room
        left = limit - target
        if left < (SHORTEST if reader.causal else 0):
            raise AdaptError(
                f"this model has room for {limit} tokens, and a target may have {target}"
                f"{', which leaves too few for its source' if reader.causal else ''}. Lower "
                "task.max_target_length, and task.max_new_tokens if it is set."
            )
        return min(room, left) if reader.causal else room

    def _read(self, reader: Reader, texts: Iterable[str]) -> list[list[int]]:
        end = reader.tokenizer.eos_token_id
        read = reader.tokenizer(
            list(texts), split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]  # fmt: skip
        # Some tokenizers end every text, and some give an empty one no token at all.
        return [(ids[:-1] if reader.causal and ids[-1:] == [end] else ids) or [end] for ids in read]

    def targets(self, texts: Sequence[str], reader: Reader) -> list[list[int]]:
        """Return the tokens of targets and their end, cut to their length."""
        tokenizer, plain = reader.tokenizer, plain_text(reader.tokenizer)
        targets = [plain(text) for text in texts]
        if reader.causal:
            # The blank belongs to the target: a source that ended with one would be read otherwise.
            targets = [f" {text.strip()}" for text in targets]
        read = tokenizer(
            targets, add_special_tokens=not reader.causal, split_special_tokens=True, verbose=False
        )["input_ids"]  # fmt: skip
        end = tokenizer.eos_token_id
        bare = [ids[:-1] if ids[-1:] == [end] else ids for ids in read]
        return [[*ids[: self.max_target_length - 1], end] for ids in bare]

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T], targets [B, T] (decoder: [B, T_y]) and the sources' tokens."""
        sources = [example["input_ids"] for example in examples]
        rows, targets = [example["row"] for example in examples], {"source": sources}
        if "target" not in examples[0]:
            return Batch(padded_inputs(examples, reader.tokenizer), targets, rows, 0)
        answers = [example["target"] for example in examples]
        weight = sum(map(len, answers))
        if not reader.causal:
            inputs = padded_inputs(examples, reader.tokenizer)
            start = reader.decoder_start
            shifted = [[start, *target[:-1]] for target in answers]
            inputs["decoder_input_ids"] = padded(shifted, reader.tokenizer.pad_token_id)
            return Batch(inputs, {**targets, **targets_of(answers)}, rows, weight)
        whole = [[*s, *t] for s, t in zip(sources, answers, strict=True)]
        inputs = padded_inputs([{"input_ids": ids} for ids in whole], reader.tokenizer)
        # The target of a token is the next one.
        lines = [[*[IGNORED] * (len(s) - 1), *t, IGNORED]
                 for s, t in zip(sources, answers, strict=True)]  # fmt: skip
        return Batch(inputs, {**targets, **targets_of(lines)}, rows, weight)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of logits [B, T, V] at the targets' tokens."""
        return self.summed_loss(outputs, batch)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return the generated texts."""
        import torch

        tokenizer, device = reader.tokenizer, batch.inputs["input_ids"].device
        sources = batch.targets["source"]
        if reader.causal:
            inputs = left_padded(sources, tokenizer)
        else:
            inputs = padded_inputs([{"input_ids": ids} for ids in sources], tokenizer)
        inputs = {name: values.to(device) for name, values in inputs.items()}
        devices = [device] if device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            if self.generation.do_sample:  # the same draws whenever these rows are one batch
                torch.manual_seed(batch.rows[0])
            made = self._generate(model, inputs, reader)
        if reader.causal:
            made = made[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def settings(self, reader: Reader) -> GenerationConfig:
        """Return all that transformers must know to generate an answer."""
        from transformers import GenerationConfig

        tokenizer = reader.tokenizer
        return GenerationConfig(
            **asdict(self.generation), top_k=0 if self.generation.do_sample else None,
            use_cache=True, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            decoder_start_token_id=reader.decoder_start,
        )  # fmt: skip

    def _generate(self, model: nn.Module, inputs: dict[str, Tensor], reader: Reader) -> Tensor:
        """Return the tokens of the answers, after those of the sources if the model is causal."""
        generating = cast("GenerationMixin", model)
        before = generating.generation_config
        # The checkpoint's own settings would fill in what these leave open.
        generating.generation_config = self.settings(reader)
        try:
            return cast("Tensor", generating.generate(**inputs))
        finally:
            generating.generation_config = before


def losses_of(outputs: Any, batch: Batch) -> Tensor:
    """Return -log p of every target's token, row by row: [number of tokens]."""
    from torch.nn.functional import cross_entropy

    rows, columns = kept = batch.targets["kept"]  # fewer by far than all logits
    target = batch.targets["target"][rows, columns]
    return cross_entropy(logits_at(outputs, kept).float(), target, reduction="none")


def first_of(label: Any) -> str:
    """Return the target that is trained on, of one, several, or a question's right answers."""
    if isinstance(label, Mapping):
        return label["text"][0] if label["text"] else ""
    return label if isinstance(label, str) else label[0]


def left_padded(sequences: Sequence[Sequence[int]], tokenizer: Any) -> dict[str, Tensor]:
    """Return input_ids and attention_mask [N, T] of token ids, padded on the left."""
    turned = padded_inputs([{"input_ids": ids[::-1]} for ids in sequences], tokenizer)
    return {name: values.flip(1) for name, values in turned.items()}
