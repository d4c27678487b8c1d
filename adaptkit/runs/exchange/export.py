"""A finished run for other libraries: a PEFT adapter, a plain Hugging Face model, an ONNX graph.

All hold the head and a model card. All is computed in fp32, also where the run trained in a half
format. A plain model or a graph is loaded again before it counts as written: its logits must be the
run's. The folder appears whole or not at all. A bundled body (adaptkit:mini-bert) is named by its
folder in the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from adaptkit.errors import AdaptError, MachineError
from adaptkit.interop.onnx_file import check_installed
from adaptkit.interop.peft_file import CLASSES, TENSORS
from adaptkit.interop.peft_write import PeftForm, peft_form
from adaptkit.models import loading
from adaptkit.models.anatomy import family
from adaptkit.models.body import config_of
from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.exchange.base import base_name
from adaptkit.runs.exchange.card import Card, card
from adaptkit.runs.exchange.graph import write_onnx
from adaptkit.runs.prepare import restored
from adaptkit.storage import bundled
from adaptkit.storage.files import check_free, making_folder, save_tensors, write_json, write_text
from adaptkit.tasks.forms.text import TextForm
from adaptkit.training.scorer import Prepared

README = "README.md"
TOLERANCE = 1e-4  # of a plain model's logits, relative to the largest
EXAMPLES = [
    "good",
    "The film was not bad, but far too long for such a simple story.",
    "What a charming cast!",
    "Nothing new here , and 1 of 3 jokes works .",
]


def export(directory: Path, kind: str, out: Path, repository: str | None = None) -> str:
    """Write a finished run to `out` as `kind`, a key of FORMATS; return what was written, in words.

    `repository`: hub id under which the folder will be found; it says so, and names no places of
    this machine.

    Raises:
        AdaptError: `out` is not free, or the method has no such form.
        MachineError: the disk failed, or what was written does not answer as the run does.
    """
    check_free(out, "--out")
    if kind == "onnx":
        check_installed()
    saved = load_run(directory)
    if kind == "card":
        with making_folder(out) as folder:
            write_text(folder / README, card(Card(saved, kind, "this run")))
        return f"the model card of {directory}"
    if kind == "merged" and (quantization := saved.settings.model.quantization):
        raise AdaptError(
            f"{directory}, model.quantization={quantization}: what was trained cannot be merged "
            "into packed weights. Use --format peft."
        )
    trainer = replace(saved.settings.trainer, precision="fp32", device="cpu")
    saved = replace(saved, settings=replace(saved.settings, trainer=trainer))
    pooling = saved.settings.model.pooling
    if pooling and kind != "onnx":
        raise AdaptError(
            f"{directory}, model.pooling={pooling}: neither a plain model nor a PEFT adapter can "
            "say so, and the head would answer otherwise there. Train with model.pooling=null to "
            "export, or use --format onnx."
        )
    return write(saved, restored(saved), kind, out, repository)


def write(
    saved: SavedRun, prepared: Prepared, kind: str, out: Path, repository: str | None = None
) -> str:
    """Write a restored run to `out` as `kind`; return what was written, in words; see `export`.

    Raises:
        AdaptError: the method has no such form.
        MachineError: the disk failed, or what was written does not answer as the run does.
    """
    if kind != "onnx":  # a graph holds the class that adaptkit made
        check_end(saved, prepared)
    run, model = saved.settings, prepared.adaptation.model.eval()
    describe_task(config_of(model), run.head, run.task.classes)
    if isinstance(prepared.form, TextForm):
        cast("Any", model).generation_config = prepared.form.settings(prepared.reader)
    tokenizer = prepared.reader.tokenizer
    # What the task's class reads correctly (XLNet: padding on the left), and as long as here.
    tokenizer.padding_side = family(model).padding
    tokenizer.model_max_length = prepared.reader.length(run.task.max_length)
    made = Card(saved, kind, repository or "this folder", config_of(model))
    try:
        with making_folder(out) as folder:
            tokenizer.save_pretrained(folder)
            written = FORMATS[kind](saved, prepared, folder)
            write_text(folder / README, card(made))
            if repository and kind == "peft":
                name_base(folder, base_name(run.model.path, run.model.revision)[0])
            return written
    except AdaptError as error:
        raise type(error)(f"{saved.directory}, method={run.method_name}: {error}") from error


def describe_task(config: Any, head: str, labels: Sequence[str]) -> None:
    """Put into a config what others need to read the head's outputs as a run does.

    Marks of an earlier task of the same checkpoint are replaced: its classes, its kind of
    problem, the function to apply to its logits, and outputs that it asked for.
    """
    names = labels or [f"LABEL_{number}" for number in range(config.num_labels)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    kinds = {"sequence": "single_label_classification" if labels else "regression"}
    config.problem_type = kinds.get(head)
    config.task_specific_params = None
    vars(config).pop("function_to_apply", None)
    config.output_attentions = config.output_hidden_states = False


def check_end(saved: SavedRun, prepared: Prepared) -> None:
    """Reject a run whose last token other libraries would take for padding.

    Raises:
        AdaptError: a decoder's texts end with the token that is used as padding.
    """
    tokenizer, head = prepared.reader.tokenizer, HEADS[saved.settings.head]
    if not loading.reads_last(prepared.adaptation.model, head):
        return
    if tokenizer("a")["input_ids"][-1] == tokenizer.pad_token_id:
        raise AdaptError(
            f"{saved.directory}: the tokenizer ends a text with {tokenizer.pad_token}, which is "
            "the padding token as well, so that other libraries would read the token before it. "
            "Give the model's tokenizer a padding token of its own and train again."
        )


def write_peft(saved: SavedRun, prepared: Prepared, folder: Path) -> str:
    """Write adapter_config.json and adapter_model.safetensors."""
    run = saved.settings
    if run.model.from_run:
        raise AdaptError(
            "model.from_run: its base model is what another run left, which PEFT cannot load by a "
            "name. Use --format merged."
        )
    if run.model.random_weights:
        raise AdaptError(
            "model.random_weights: an adapter would be loaded onto the pretrained weights. Use "
            "--format merged."
        )
    check_prefix(prepared.adaptation.model)
    form = peft_form(prepared.adaptation, HEADS[run.head].peft)
    body = place(run.model.path)
    save_form(form, folder, body, run.model.revision, run.task.classes)
    numbers = sum(tensor.numel() for tensor in form.tensors.values())
    return f"PEFT adapter {form.config['peft_type']}, {numbers:,} numbers, for the body {body}"


def check_prefix(model: torch.nn.Module) -> None:
    """Reject a head whose class would not find the base model's weights.

    Raises:
        AdaptError: transformers gives the base model another name in it (LLaMA's span classifier).
    """
    plain = cast("Any", AutoModel._model_mapping[type(config_of(model))])
    if model.base_model_prefix != plain.base_model_prefix:
        raise AdaptError(
            f"transformers' {type(model).__name__} does not find the weights of its base model by "
            "their names, so an adapter would be loaded onto random weights. Use --format merged."
        )


def save_form(
    form: PeftForm, folder: Path, body: str, revision: str | None, classes: tuple[str, ...] = ()
) -> None:
    """Write PEFT's two files; PEFT itself has no place for the names of the classes."""
    config = {**form.config, "base_model_name_or_path": body, "revision": revision}
    write_json(folder / "adapter_config.json", dict(sorted(config.items())))
    save_tensors(folder / TENSORS, form.tensors, {CLASSES: json.dumps(classes)})


def name_base(folder: Path, name: str) -> None:
    """Name an adapter's base model as a user would, and by no place of this machine."""
    file = folder / "adapter_config.json"
    plain = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, {**plain, "base_model_name_or_path": name})


def place(path: str) -> str:
    """Return where others find a body: a real folder, or the hub id as it is."""
    local = bundled.model(path) or Path(path).expanduser()
    return os.path.abspath(local) if local.is_dir() else path


def write_merged(saved: SavedRun, prepared: Prepared, folder: Path) -> str:
    """Write config, weights (fp32) and tokenizer of a plain model, and load it again."""
    adaptation = prepared.adaptation
    if adaptation.merge is None:
        raise AdaptError(
            "it adds something to the base model that cannot be folded into its weights, so "
            "there is no plain model. Keep the run."
        )
    batch, head = examples(folder), saved.settings.head
    if head == "seq2seq":
        batch["decoder_input_ids"] = batch["input_ids"]
    expected = outputs_of(adaptation.model, batch, HEADS[head].proof)
    adaptation.merge()
    cast("PreTrainedModel", adaptation.model).save_pretrained(folder)
    plain = loading.auto_class(head).from_pretrained(folder).eval()
    for name, tensor in outputs_of(plain, batch, HEADS[head].proof).items():
        difference = float((tensor - expected[name]).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected[name].abs().max())):
            raise MachineError(
                f"the merged model gives other {name} than the run (largest difference "
                f"{difference:.3g}), so it was not kept; please report this."
            )
    return f"{type(plain).__name__}, {plain.num_parameters():,} parameters in fp32"


def examples(folder: Path) -> dict[str, Tensor]:
    """Return a padded batch of sentences by the tokenizer saved in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(EXAMPLES, padding=True, truncation=True, return_tensors="pt"))


@torch.no_grad()
def outputs_of(
    model: torch.nn.Module, batch: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the named outputs of a model for a batch, in fp32."""
    outputs = model(**batch)
    return {name: outputs[name].float() for name in names}


FORMATS: dict[str, Callable[[SavedRun, Prepared, Path], str]] = {
    "peft": write_peft,
    "merged": write_merged,
    "onnx": write_onnx,
}
