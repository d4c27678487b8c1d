"""The first row of a task as a model reads it: for a look before training. No weights."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from adaptkit.config.settings import Settings
from adaptkit.models import loading
from adaptkit.runs.plan import plan
from adaptkit.runs.prepare import reader_of
from adaptkit.tasks.forms.cloze import ClozeForm
from adaptkit.tasks.forms.options import OptionsForm
from adaptkit.tasks.task import ID, LABEL, Form, Reader
from adaptkit.tasks.template import written

if TYPE_CHECKING:
    from datasets import Dataset


def example(run: Settings, rows: Dataset) -> dict[str, str]:
    """Return the first of labelled rows as text: what is read, the target, the answer, the words.

    `run.task` is bound. Special tokens are shown, and so is what is left after a cut.

    Raises:
        AdaptError: the row cannot be put to this model, or the method cannot adapt it.
    """
    form = run.task.posed
    config = loading.load_config(run.model, run.head, form.outputs)
    prompt = plan(run, "fp32", memory=False).extra_tokens
    reader = reader_of(config, loading.load_tokenizer(run.model, config), prompt)
    row = rows[0]
    examples = form.encode(rows.select([0]), reader)
    shown = {"row": str(row.get(ID, 0)), **_inputs(examples[0]["input_ids"], reader)}
    if len(examples) > 1:
        shown["windows"] = str(len(examples))
    if form.generates and "target" in examples.column_names:
        shown["target"] = _decoded(examples[0]["target"], reader)
    if LABEL in row:
        shown["answer"] = row[LABEL] if isinstance(row[LABEL], str) else str(row[LABEL])
    return shown | _words(form, reader)


def _inputs(ids: list[Any], reader: Reader) -> dict[str, str]:
    """Return the decoded input, or one for each alternative."""
    if not ids or not isinstance(ids[0], list):
        return {"input": _decoded(ids, reader)}
    return {f"input {i}": _decoded(one, reader) for i, one in enumerate(ids)}


def _decoded(ids: list[int], reader: Reader) -> str:
    """Return a text; the place of a prompt's k-th vector is [Pk]."""

    def text(part: list[int]) -> str:
        return str(reader.tokenizer.decode(part, clean_up_tokenization_spaces=False))

    if min(ids, default=0) >= 0:
        return text(ids)
    runs = groupby(ids, lambda number: number < 0)
    return " ".join(
        "".join(f"[P{-number}]" for number in part) if placed else text([*part]).strip(" ")
        for placed, part in runs
    )  # fmt: skip


def _words(form: Form, reader: Reader) -> dict[str, str]:
    """Return the words of every class, each with its tokens in the model's vocabulary."""
    if isinstance(form, ClozeForm):
        words, pieces = form.wording(reader).words, form.word_pieces(reader)
        classes = form.classes or tuple(map(written, form.bounds))
    elif isinstance(form, OptionsForm):
        words, classes = tuple((text,) for text in form.texts(reader)), form.classes
        pieces = [form.inner(reader).targets([text], reader) for (text,) in words]
    else:
        return {}
    return {
        f"word for {name}": ", ".join(
            f"{word} ({' '.join(reader.tokenizer.convert_ids_to_tokens(ids))})"
            for word, ids in zip(every, lists, strict=True)
        )
        for name, every, lists in zip(classes, words, pieces, strict=True)
    }
