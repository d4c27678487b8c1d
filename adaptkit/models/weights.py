"""The weights of a checkpoint under a task's head: what is there, missing or wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from torch import nn
from transformers import PretrainedConfig

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import base_prefix, sharing
from adaptkit.models.body import words_of
from adaptkit.models.checkpoint import FLOATS, folder_of, read, tensors_in
from adaptkit.models.heads import HEADS

if TYPE_CHECKING:
    from adaptkit.models.model import Model

SPAN_HEAD = "qa_outputs."  # T5's stands beside its two stacks, inside the base model


def read_weights(
    model: Model, config: PretrainedConfig, head: str, **options: Any
) -> tuple[nn.Module, set[str]]:
    """Return the task's model, and the names of what its files lack.

    Raises:
        AdaptError: a tensor of the body, or of a pretrained head, is missing or does not fit.
    """
    reading = partial(
        read, getattr(transformers, HEADS[head].auto), model, config=config,
        dtype={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(model.dtype, "auto"),
        output_loading_info=True, use_safetensors=True, ignore_mismatched_sizes=True, **options,
    )  # fmt: skip
    loaded, info = reading()
    names = _renamed(loaded, info)
    if names:
        own = loaded._weight_conversions
        loaded, info = reading(key_mapping=names)
        loaded._weight_conversions = own  # else it would be saved under the stored names again
    if twin := _twin(loaded, info, config):
        loaded, info = reading(key_mapping={**names, **twin})
    # A head for other classes than the task's is replaced like a missing one.
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    if wrong := sorted(mismatched - head_names(loaded) if HEADS[head].new else mismatched):
        raise AdaptError(
            f"model.path={model.path}: the weights do not fit config.json: {wrong[:3]} have other "
            "shapes. The folder is broken; fetch it again."
        )
    lacking = {*info["missing_keys"], *mismatched}
    _check_whole(model, loaded, lacking)
    if not HEADS[head].new and (absent := head_names(loaded) & lacking):
        raise AdaptError(
            f"model.path={model.path}: the checkpoint has no {HEADS[head].words} (it lacks "
            f"{min(absent)}), and a new one would know no words. Use task.form=head, or another "
            "model."
        )
    _check_described(model, loaded, info["unexpected_keys"])
    return loaded, lacking


def _renamed(loaded: nn.Module, info: Mapping[str, Any]) -> dict[str, str]:
    """Return the prefix of the base model's stored tensors, if the task's class has another.

    LLaMA's and Qwen2's span classifiers call it `transformer`, the rest of their classes `model`.
    """
    prefix = base_prefix(loaded)
    inner = [name.removeprefix(prefix) for name in info["missing_keys"] if name.startswith(prefix)]
    endings = tuple(f".{name}" for name in inner if "." in name)
    found = [name for name in sorted(info["unexpected_keys"]) if name.endswith(endings)]
    if not endings or not found:
        return {}
    stored = found[0].partition(".")[0]
    return {rf"^{re.escape(stored)}\.": prefix}


def _twin(loaded: nn.Module, info: Mapping[str, Any], config: PretrainedConfig) -> dict[str, str]:
    """Return which stored tensor is the missing table of words too, as pattern and name."""
    tables = [f"{name}.weight" for name in sharing(loaded, words_of(loaded).weight)]
    twins = sorted(_tied_names(config) & set(info["unexpected_keys"]))
    if not twins or not set(tables) & set(info["missing_keys"]):
        return {}
    return {f"^{re.escape(twins[0])}$": tables[0]}


def _tied_names(config: PretrainedConfig) -> set[str]:
    """Return the names under which the family's language models store the table of words."""
    pretrained = [getattr(transformers, head.auto) for head in HEADS.values() if not head.new]
    mappings = [auto._model_mapping for auto in pretrained] if ties(config) else []
    classes = [mapping[type(config)] for mapping in mappings if type(config) in mapping]
    pairs = [pair for cls in classes for pair in (cls._tied_weights_keys or {}).items()]
    return {name for pair in pairs for name in pair if name.endswith("weight")}


def ties(config: PretrainedConfig) -> bool:
    """Tell whether the output map of the family's language models is the table of words."""
    # T5 v1.1 has a map of its own: T5Config keeps the file's flag under another name.
    return getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)


def _check_whole(model: Model, loaded: nn.Module, lacking: Collection[str]) -> None:
    """Check that nothing but a head or a pooler would be drawn at random, nor numbers cast.

    Raises:
        AdaptError: the files lack a tensor of the body, or hold it as whole numbers.
    """
    prefix, outside = base_prefix(loaded), head_names(loaded)
    body = [n for n, _ in loaded.named_parameters() if n not in outside]
    gone = [n for n in body if n in lacking and not n.startswith(f"{prefix}pooler.")]
    if gone:
        more = f" and {len(gone) - 1} more of {len(body)} tensors" if len(gone) > 1 else ""
        raise AdaptError(
            f"model.path={model.path}: the weights lack {gone[0]}{more}, which would be drawn at "
            "random. The files are incomplete or of another model; fetch them again, or check "
            "config.json."
        )
    folder = folder_of(model.path)
    stored = stored_as(loaded, folder) if folder else {}
    for name in (n for n in body if n in stored and stored[n][2] not in FLOATS):
        raise AdaptError(
            f"model.path={model.path}: {name} is stored as {stored[name][2]}, but must be one of "
            f"{', '.join(FLOATS)}. Fetch the model again, or one that is not quantized."
        )


def _check_described(model: Model, loaded: nn.Module, unused: Collection[str]) -> None:
    """Check that the files hold no layers and no biases of a body that config.json leaves out.

    Raises:
        AdaptError: they do; the model would be a part of the one that was trained.
    """
    prefix = base_prefix(loaded)
    body = [n for n, _ in loaded.named_parameters() if n.startswith(prefix)]
    modules = {name.rpartition(".")[0] for name in body}
    kinds = {_any_layer(name) for name in body}
    for name in sorted(unused):
        own = prefix + name.removeprefix(prefix)  # as the body's own class stores it
        if own.rpartition(".")[0] in modules or _any_layer(own) in kinds:
            raise AdaptError(
                f"model.path={model.path}: the weights hold {name}, which config.json leaves out "
                "(a bias, or a layer beyond its number). Correct config.json; to use fewer layers "
                "on purpose, save a model that has only those."
            )


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def stored_as(loaded: nn.Module, folder: Path) -> dict[str, tuple[str, Path, str]]:
    """Return for a model's tensors their name in the files, the file and the number format."""
    prefix, names = base_prefix(loaded), set(loaded.state_dict())
    found = {}
    for name, (file, kind) in tensors_in(folder).items():
        for own in (name, prefix + name, name.removeprefix(prefix)):
            if own in names:
                found[own] = (name, file, kind)
    return found


def check_finite(model: Model, loaded: nn.Module) -> None:
    """Check that every number of the weights is finite.

    Raises:
        AdaptError: a tensor holds nan or inf.
    """
    too_large = ", or use model.dtype=bf16: fp16 ends at 65504" * (model.dtype == "fp16")
    for name, parameter in loaded.named_parameters():
        # A sum takes a third of the time of looking at each number.
        if not parameter.detach().sum().isfinite() and not parameter.isfinite().all():
            raise AdaptError(
                f"model.path={model.path}: {name} holds values that are not finite (nan or inf). "
                f"The weights are broken; fetch them again{too_large}."
            )


def head_names(model: nn.Module) -> frozenset[str]:
    """Return the parameters outside the base model: new with the task, if the head says so."""
    prefix = base_prefix(model)
    names = {name for name, _ in model.named_parameters()}
    return frozenset(n for n in names if not n.startswith(prefix) or n.startswith(SPAN_HEAD))


def new_names(loaded: nn.Module, lacking: Collection[str], head: str) -> frozenset[str]:
    """Return the parameters that are new with the task, a pooler that the files lack included."""
    named = {n for n, _ in loaded.named_parameters()}
    return (head_names(loaded) if HEADS[head].new else frozenset()) | (named & set(lacking))
