"""The Python by which others load what was exported. Every snippet runs as it stands."""

from __future__ import annotations

from typing import Any

from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import SavedRun
from adaptkit.runs.exchange.base import Base
from adaptkit.runs.exchange.markdown import code, plain

PEFT = """from peft import PeftModel
from transformers import {cls}, AutoTokenizer

{source}
body = {cls}.from_pretrained(
    base, {options}
)
model = PeftModel.from_pretrained(body, {where!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({where!r})
"""
MERGED = """from transformers import {cls}, AutoTokenizer

model = {cls}.from_pretrained({where!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({where!r})
"""
ONNX = """from pathlib import Path

from huggingface_hub import snapshot_download
from onnxruntime import InferenceSession
from transformers import AutoTokenizer

folder = {where!r}
if not Path(folder).is_dir():
    folder = snapshot_download(folder)
session = InferenceSession(Path(folder) / "model.onnx")
tokenizer = AutoTokenizer.from_pretrained(folder)


def outputs(*texts):  # lists of first texts and, for pairs, of second ones
    read = tokenizer(*texts, padding=True, truncation=True, return_tensors="np")
    return session.run(None, {{one.name: read[one.name] for one in session.get_inputs()}})
"""
CARD = """import adaptkit

predictor = adaptkit.load({where!r})  # the run's own directory
# predictor.predict(rows): a list of mappings with the columns {columns}
"""
NOTES = {
    "peft": "The tokenizer pads on the side that the model reads correctly. With "
    "`truncation=True` it cuts texts to the length that the run read.",
    "onnx": "Batch and sequence may have any size. With `truncation=True` the tokenizer cuts texts "
    "to the length that the run read. Outputs: {outputs}.",
    "card": "The trained tensors lie in the run's directory, not here.",
}
NOTES["merged"] = NOTES["peft"]
TEMPLATES = {"peft": PEFT, "merged": MERGED, "onnx": ONNX, "card": CARD}


def snippet(kind: str, saved: SavedRun, base: Base, where: str, config: Any) -> str:
    """Return the Python; config: of the model, with the task described (None for a card alone)."""
    run, head = saved.settings, HEADS[saved.settings.head]
    options = loading_options(config, run.task.classes, base.revision) if kind == "peft" else []
    return TEMPLATES[kind].format(
        cls=head.auto, where=where, source=base.source, options=",\n    ".join(options),
        columns=", ".join(map(plain, run.task.columns)),
    )  # fmt: skip


def note(kind: str, saved: SavedRun) -> str:
    """Return what stands below the snippet."""
    outputs = ", ".join(f"`{name}`" for name in HEADS[saved.settings.head].proof)
    return NOTES[kind].format(outputs=outputs) + ("" if kind == "card" else reading(saved))


def reading(saved: SavedRun) -> str:
    """Say which texts of a row the model reads; in another order they get other answers."""
    task, run = saved.settings.plain["task"], saved.settings
    if task.get("form", "head") != "head":
        return (f" The run reads a row in the form {code(task['form'])}, as `adaptkit.load` does: "
                "its plain texts get other answers.")  # fmt: skip
    named = task.get("text")
    texts = ", then ".join(map(code, [named] if isinstance(named, str) else named or ()))
    if run.head != "sequence" or not texts:
        return ""
    if task["kind"] != "choice":
        return f" The texts of a row: {texts}."
    words = " with the words of `task.connectives`" if task.get("connect") else ""
    return (f" Every choice of a row is read by itself: {texts}{words}, then the choice; the "
            "greatest logit decides.")  # fmt: skip


def loading_options(config: Any, labels: tuple[str, ...], revision: str | None) -> list[str]:
    """Return the arguments by which the base model gets the head that the adapter fills."""
    named = {"num_labels": None if labels else config.num_labels,
             "id2label": config.id2label if labels else None,
             "label2id": config.label2id if labels else None,
             "problem_type": config.problem_type, "pad_token_id": config.pad_token_id,
             "revision": revision}  # fmt: skip
    return [f"{name}={value!r}" for name, value in named.items() if value is not None]
