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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from adaptkit.adaptation import Batch
from adaptkit.errors import at_least
from adaptkit.tasks.forms.padding import IGNORED, padded, padded_inputs, plain_text
from adaptkit.tasks.task import LABEL, Answer, Form, Reader
from adaptkit.tasks.template import Template

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import GenerationMixin


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
    top_p: float = 1.0  # share of the probability from which is drawn

    def __post_init__(self) -> None:
        for name, low in (("max_new_tokens", 1), ("min_new_tokens", 0), ("num_beams", 1),
                          ("no_repeat_ngram_size", 0)):  # fmt: skip
            at_least(f"task.generation.{name}", getattr(self, name), low)


@dataclass(frozen=True)
class TextForm(Form):
    """A source in, a target out."""

    source: Template
    max_length: int  # tokens of the source, special ones included
    max_target_length: int  # tokens of the target, its end included
    generation: Generation = field(default_factory=Generation)

    head: ClassVar[str] = "text"
    outputs: ClassVar[None] = None
    generates: ClassVar[bool] = True

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return examples: the source's tokens, `target` with its end, `length`, `cut`, `row`."""
        from datasets.fingerprint import generate_random_fingerprint

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            columns = [batch[name] for name in self.source.columns]
            made = [self._source(dict(zip(self.source.columns, values, strict=True)), reader)
                    for values in zip(*columns, strict=True)]  # fmt: skip
            found: dict[str, list] = {
                "input_ids": [ids for ids, _ in made],
                "cut": [lost for _, lost in made],
                "row": indices,
            }
            found["length"] = [len(ids) for ids in found["input_ids"]]
            if LABEL in batch:
                found["target"] = [self._target(first_of(label), reader) for label in batch[LABEL]]
                if reader.causal:
                    sizes = zip(found["length"], found["target"], strict=True)
                    found["length"] = [length + len(target) for length, target in sizes]
            return found

        return rows.map(
            examples, batched=True, with_indices=True, remove_columns=rows.column_names,
            keep_in_memory=True, load_from_cache_file=False,
            new_fingerprint=generate_random_fingerprint(),  # nothing is cached: no hash of it all
        )  # fmt: skip

    def _source(self, row: Mapping[str, str], reader: Reader) -> tuple[list[int], int]:
        """Return a source's tokens, and how many were cut."""
        room = reader.length(self.max_length)
        if reader.causal:  # the target needs room as well
            room = min(room, (reader.limit or room + self.max_target_length)
                       - self.max_target_length)  # fmt: skip
        plain = plain_text(reader.tokenizer)
        row = {name: plain(text) for name, text in row.items()}
        ids = self._read(self.source.filled(row), reader)
        whole = len(ids)
        while len(ids) > room:
            row = self.source.shortened(row, 1 - room / len(ids))
            ids = self._read(self.source.filled(row), reader)
        return ids, whole - len(ids)

    def _read(self, text: str, reader: Reader) -> list[int]:
        tokenizer = reader.tokenizer
        read = tokenizer(text, split_special_tokens=True, return_attention_mask=False)
        ids: list[int] = read["input_ids"]
        if reader.causal and ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers end every text
        return ids or [tokenizer.eos_token_id or 0]

    def _target(self, text: str, reader: Reader) -> list[int]:
        """Return a target's tokens and its end, cut to its length."""
        tokenizer, plain = reader.tokenizer, plain_text(reader.tokenizer)
        if not reader.causal:
            ids = tokenizer(plain(text), split_special_tokens=True)["input_ids"]
            end = [tokenizer.eos_token_id]
            ids = ids[:-1] if ids[-1:] == end else ids
            return [*ids[: self.max_target_length - 1], *end]
        # The blank belongs to the target: a source that ended with one would be read otherwise.
        ids = tokenizer(
            f" {plain(text).strip()}", add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        return [*ids[: self.max_target_length - 1], tokenizer.eos_token_id]

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
            return Batch(inputs, {**targets, "target": padded(answers, IGNORED)}, rows, weight)
        whole = [[*s, *t] for s, t in zip(sources, answers, strict=True)]
        inputs = padded_inputs([{"input_ids": ids} for ids in whole], reader.tokenizer)
        # The target of a token is the next one.
        lines = [[*[IGNORED] * (len(s) - 1), *t, IGNORED]
                 for s, t in zip(sources, answers, strict=True)]  # fmt: skip
        return Batch(inputs, {**targets, "target": padded(lines, IGNORED)}, rows, weight)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of logits [B, T, V] at the targets' tokens."""
        from torch.nn.functional import cross_entropy

        target = batch.targets["target"].flatten()
        kept = target != IGNORED  # fewer by far than all logits
        logits = outputs.logits.flatten(0, 1)[kept].float()
        return cross_entropy(logits, target[kept], reduction="sum")

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
        with torch.no_grad():
            made = self._generate(model, inputs, reader)
        if reader.causal:
            made = made[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _generate(self, model: nn.Module, inputs: dict[str, Tensor], reader: Reader) -> Tensor:
        """Return the tokens of the answers, behind those of the sources if the model is causal."""
        from transformers import GenerationConfig

        tokenizer, generating = reader.tokenizer, cast("GenerationMixin", model)
        before = generating.generation_config
        # The checkpoint's own settings would fill in what these leave open.
        generating.generation_config = GenerationConfig(
            **asdict(self.generation), use_cache=True, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            decoder_start_token_id=reader.decoder_start,
        )  # fmt: skip
        try:
            return cast("Tensor", generating.generate(**inputs))
        finally:
            generating.generation_config = before


def first_of(label: str | list[str]) -> str:
    """Return the target that is trained on, of one or several."""
    return label if isinstance(label, str) else label[0]


def left_padded(sequences: Sequence[Sequence[int]], tokenizer: Any) -> dict[str, Tensor]:
    """Return input_ids and attention_mask [N, T] of token ids, padded on the left."""
    turned = padded_inputs([{"input_ids": ids[::-1]} for ids in sequences], tokenizer)
    return {name: values.flip(1) for name, values in turned.items()}
