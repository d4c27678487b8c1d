"""A PEFT adapter as it lies on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from adaptkit.errors import AdaptError, first_line
from adaptkit.interop.peft_config import DEFAULTS, check_config, short
from adaptkit.interop.peft_pairs import Maps, as_pairs

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
CLASSES = "adaptkit_classes"  # in the metadata of TENSORS: a JSON list of names
DIMENSIONS = {
    "lora_A": (2,), "lora_B": (2,), "lora_B.bias": (1,), "lora_E": (2,),
    "lora_magnitude_vector": (1, 2), "vera_lambda_b": (1,), "vera_lambda_d": (1,), "ia3_l": (2,),
}  # fmt: skip
KEY = re.compile(
    r"(.+)\.(lora_B\.bias|(?:lora_(?:embedding_)?[AB]|lora_E|lora_magnitude_vector|vera_lambda_[bd]"
    r"|ia3_l)(?=$|\.weight$))(?:\.weight)?"
)


@dataclass(frozen=True)
class PeftFile:
    """An adapter as it lies on disk."""

    folder: Path
    config: dict[str, Any]
    maps: Maps
    others: dict[str, Tensor]  # head and biases, by their names in the task's model
    classes: tuple[str, ...] = ()  # in the order of the head's outputs; none: it does not say


def read(folder: Path) -> PeftFile:
    """Read an adapter.

    Raises:
        AdaptError: a file is missing or damaged, or no method of ours computes the adapter.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        classes = classes_of(folder)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise AdaptError(
            f"{folder}: is not a PEFT adapter, which holds {CONFIG} and {TENSORS} "
            f"({first_line(error)})."
        ) from error
    check_config(folder, config)
    options = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    maps, others = sort_tensors(folder, tensors)
    if not maps:
        raise AdaptError(f"{folder}: {TENSORS} holds no adapted map.")
    check_ranks(folder, options, maps)
    options, maps = as_pairs(folder, options, maps, others)
    return PeftFile(folder, options, maps, others, classes)


def classes_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes that an adapter of ours holds.

    Raises:
        ValueError: they are not a list of texts.
    """
    with safe_open(folder / TENSORS, framework="pt") as file:
        names = json.loads((file.metadata() or {}).get(CLASSES, "[]"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{CLASSES} is not a list of names")
    return tuple(names)


def check_ranks(folder: Path, config: Mapping[str, Any], maps: Maps) -> None:
    """Reject pairs of other ranks than the config says, for which PEFT has no scale.

    Raises:
        AdaptError: there is one.
    """
    if config["peft_type"] != "LORA":
        return
    ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
    for name, tensors in maps.items():
        if "lora_A" in tensors and (rank := len(tensors["lora_A"])) not in ranks:
            raise AdaptError(
                f"{folder}: {short(name)} has rank {rank} in {TENSORS}, and {CONFIG} says "
                f"r={config['r']}: the two files do not belong together."
            )


def sort_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[Maps, dict[str, Tensor]]:
    """Return the tensors of adapted maps, and all others by their names in the task's model.

    Raises:
        AdaptError: a tensor is not finite, of another shape than its kind has, or of a kind that
            ours do not have.
    """
    maps: Maps = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not bool(tensor.float().isfinite().all()):
            raise AdaptError(f"{folder}: {short(key)} holds numbers that are not finite.")
        name = key.removeprefix("base_model.model.")
        if match := KEY.fullmatch(name):
            kind = match[2].replace("embedding_", "")
            if tensor.dim() not in DIMENSIONS[kind]:
                raise AdaptError(
                    f"{folder}: {short(key)} has {tensor.dim()} dimensions: the file is not as "
                    "PEFT wrote it."
                )
            maps.setdefault(match[1], {})[kind] = tensor.float()
        elif "lora_" in name:
            raise AdaptError(f"{folder}: {short(key)}: adaptkit does not read this kind of tensor.")
        elif ".modules_to_save." not in name and ".original_module." not in name:
            # Under those names PEFT saves biases of the head once more.
            others[name.replace(".base_layer.", ".")] = tensor.float()
    return maps, others
