"""A finished run for other libraries: a PEFT adapter, or a plain Hugging Face model.

Both hold the head. All is computed in fp32, also where the run trained in a half format. A plain
model is loaded again before it counts as written: its logits must be the run's. The folder appears
whole or not at all. A bundled body (adaptkit:mini-bert) is named by its folder in the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from adaptkit.errors import AdaptError, MachineError
from adaptkit.interop.peft_write import PeftForm, peft_form
from adaptkit.models import loading
from adaptkit.models.anatomy import family
from adaptkit.models.body import config_of
from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.prepare import restored
from adaptkit.storage import bundled
from adaptkit.storage.files import check_free, making_folder, save_tensors, write_json, write_text
from adaptkit.training.scorer import Prepared

TOLERANCE = 1e-4  # of a plain model's logits, relative to the largest
EXAMPLES = [
    "good",
    "The film was not bad, but far too long for such a simple story.",
    "What a charming cast!",
    "Nothing new here , and 1 of 3 jokes works .",
]
README = """# {method} for {task}, exported by adaptkit as a PEFT adapter

Body: `{body}`{revision}. The file holds the head as well.

```python
from peft import PeftModel
from transformers import {cls}

body = {cls}.from_pretrained({body!r}, num_labels={outputs}{pad}{pinned})
model = PeftModel.from_pretrained(body, "this folder").eval()
```

Classes, in the order of the logits: {labels}. Padding: on the {side}.
Fingerprint of the body: `{fingerprint}`.
"""


def export(directory: Path, kind: str, out: Path) -> str:
    """Write a finished run to `out` as `kind`, a key of FORMATS; return what was written, in words.

    Raises:
        AdaptError: `out` is not free, or the method has no such form.
        MachineError: the disk failed, or the plain model gives other logits than the run.
    """
    check_free(out, "--out")
    saved = load_run(directory)
    trainer = replace(saved.settings.trainer, precision="fp32", device="cpu")
    saved = replace(saved, settings=replace(saved.settings, trainer=trainer))
    pooling = saved.settings.model.pooling
    if pooling:
        raise AdaptError(
            f"{directory}, model.pooling={pooling}: neither a plain model nor a PEFT adapter can "
            "say so, and the head would answer otherwise there. Train without it to export."
        )
    prepared = restored(saved)
    model = prepared.adaptation.model.eval()
    name_classes(config_of(model), saved.settings.task.classes)
    # What the task's class reads correctly (XLNet: padding on the left).
    prepared.reader.tokenizer.padding_side = family(model).padding
    try:
        with making_folder(out) as folder:
            return FORMATS[kind](saved, prepared, folder)
    except AdaptError as error:
        raise type(error)(f"{directory}, method={saved.settings.method_name}: {error}") from error


def name_classes(config: Any, labels: Sequence[str]) -> None:
    """Put the classes' names into a config; a regression has none."""
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}


def write_peft(saved: SavedRun, prepared: Prepared, folder: Path) -> str:
    """Write adapter_config.json, adapter_model.safetensors and a README."""
    run, model = saved.settings, prepared.adaptation.model
    form = peft_form(prepared.adaptation, HEADS[run.task.form.head].peft)
    body, revision = place(run.model.path), run.model.revision
    save_form(form, folder, body, revision)
    labels = run.task.classes
    config = config_of(model)
    pad = config.pad_token_id
    text = README.format(
        method=run.method_name, task=run.task.name, body=body,
        revision=f" at {revision}" if revision else "",
        pinned=f", revision={revision!r}" if revision else "", cls=HEADS[run.task.form.head].auto,
        outputs=config.num_labels, pad="" if pad is None else f", pad_token_id={pad}",
        labels=", ".join(labels) or "none, one number",
        fingerprint=prepared.fingerprint, side=prepared.reader.tokenizer.padding_side,
    )  # fmt: skip
    write_text(folder / "README.md", text)
    numbers = sum(tensor.numel() for tensor in form.tensors.values())
    return f"PEFT adapter {form.config['peft_type']}, {numbers:,} numbers, for the body {body}"


def save_form(form: PeftForm, folder: Path, body: str, revision: str | None) -> None:
    """Write PEFT's two files."""
    config = {**form.config, "base_model_name_or_path": body, "revision": revision}
    write_json(folder / "adapter_config.json", dict(sorted(config.items())))
    save_tensors(folder / "adapter_model.safetensors", form.tensors)


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
    prepared.reader.tokenizer.save_pretrained(folder)
    batch, head = examples(folder), saved.settings.task.form.head
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
    return dict(tokenizer(EXAMPLES, padding=True, return_tensors="pt"))


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
}
