"""A PEFT adapter as it lies on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adaptkit.errors import AdaptError, first_line
from adaptkit.interop.peft_pairs import Maps, as_pairs

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
DEFAULTS = {"lora_alpha": 8, "init_r": 12}  # PEFT's
TYPES = ("LORA", "ADALORA", "VERA", "IA3")
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING")
# Options about training or initialisation; only the tensors define the function.
HARMLESS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "auto_mapping",
    "peft_version", "inference_mode", "target_modules", "exclude_modules", "feedforward_modules",
    "modules_to_save", "layers_to_transform", "layers_pattern", "init_lora_weights",
    "init_ia3_weights", "fan_in_fan_out", "lora_dropout", "bias", "r", "lora_alpha",
    "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "megatron_core",
    "qalora_group_size", "runtime_config", "loftq_config", "eva_config", "ensure_weight_tying",
    "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight",
    "total_step", "vera_dropout", "d_initial", "projection_prng_key", "save_projection",
    "init_weights",
}  # fmt: skip
# These start from a changed body, not from the one they name: its principal part is taken out.
CHANGED_BODY = ("pissa", "olora", "corda", "loftq", "lora_ga")
KEY = re.compile(
    r"(.+)\.(lora_(?:embedding_)?[AB]|lora_E|lora_magnitude_vector|vera_lambda_[bd]|ia3_l)(?:\.weight)?"
)


@dataclass(frozen=True)
class PeftFile:
    """An adapter as it lies on disk."""

    folder: Path
    config: dict[str, Any]
    maps: Maps
    others: dict[str, Tensor]  # head and biases, by their names in the task's model


def read(folder: Path) -> PeftFile:
    """Read an adapter.

    Raises:
        AdaptError: a file is missing or damaged, or no method of ours computes the adapter.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdaptError(
            f"{folder}: is not a PEFT adapter, which holds {CONFIG} and {TENSORS} "
            f"({first_line(error)})."
        ) from error
    check_options(folder, config)
    options = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    maps, others = sort_tensors(folder, tensors)
    if not maps:
        raise AdaptError(f"{folder}: {TENSORS} holds no adapted map.")
    options, maps = as_pairs(folder, options, maps, others)
    return PeftFile(folder, options, maps, others)


def sort_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[Maps, dict[str, Tensor]]:
    """Return the tensors of adapted maps, and all others by their names in the task's model.

    Raises:
        AdaptError: a tensor is not finite, or of a kind that ours do not have.
    """
    maps: Maps = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise AdaptError(f"{folder}: {key} holds numbers that are not finite.")
        name = key.removeprefix("base_model.model.")
        if match := KEY.fullmatch(name):
            maps.setdefault(match[1], {})[match[2].replace("embedding_", "")] = tensor.float()
        elif "lora_" in name:
            raise AdaptError(f"{folder}: {key}: adaptkit does not read this kind of tensor.")
        elif ".modules_to_save." not in name and ".original_module." not in name:
            # Under those names PEFT saves biases of the head once more.
            others[name.replace(".base_layer.", ".")] = tensor.float()
    return maps, others


def check_options(folder: Path, config: Mapping[str, Any]) -> None:
    """Reject an adapter that no method of ours computes.

    Raises:
        AdaptError: another kind of adapter, or an option that changes its function.
    """
    kind = config.get("peft_type") if isinstance(config, Mapping) else None
    if kind not in TYPES:
        why = ": PEFT puts a prompt in front of padding and [CLS], adaptkit does not"
        why = why if kind in PROMPTS else ""
        known = ", ".join(TYPES)
        raise AdaptError(f"{folder}: peft_type={kind} is not imported{why}. There is: {known}.")
    for key, value in sorted(config.items()):
        if value and key not in HARMLESS:
            raise AdaptError(f"{folder}: {key}={value}: adaptkit does not compute this.")
    alpha = config.get("lora_alpha")
    if kind == "LORA" and isinstance(alpha, int | float) and alpha <= 0:
        raise AdaptError(f"{folder}: lora_alpha={alpha}: adaptkit takes numbers above 0 only.")
    initialisation = str(config.get("init_lora_weights", "")).lower()
    if initialisation.startswith(CHANGED_BODY):
        raise AdaptError(
            f"{folder}: init_lora_weights={initialisation}: it belongs to a changed body. Save it "
            "with path_initial_model_for_weight_conversion first."
        )
