"""adapter_config.json as data: which adapters we compute, and values of the right kind.

The file is somebody else's. Its texts are never resolved, and its patterns never run unbounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError

DEFAULTS = {"r": 8, "lora_alpha": 8, "init_r": 12}  # PEFT's
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
    "init_weights", "lora_bias",
}  # fmt: skip
# These start from a changed body, not from the one they name: its principal part is taken out.
CHANGED_BODY = ("pissa", "olora", "corda", "loftq", "lora_ga")
# A pattern without a repeated group and with two repetitions at most takes no time to speak of.
PATTERN = re.compile(r"(?:[\w.\-|^$]|\\[.dw]|\((?!\?)|\)(?![*+?{])|\[[\w\-]+\]|[*+](?![*+?]))+")
REPEATED = 2
HUGE = 1e30
LONGEST = 120  # characters of a value in a message


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _numbers_by_name(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(n) and n > 0 for n in value.values())


BIASES = ("none", "all", "lora_only", "vera_only")
BOOLEAN = (lambda value: isinstance(value, bool), "must be true or false")
TEXT = (lambda value: isinstance(value, str), "must be text")
RANK = (_is_rank, "must be a whole number of 1 or more")
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lora_alpha": (_is_number, "must be a number"),
    "alpha_pattern": (_numbers_by_name, "must give names of maps numbers above 0"),
    "rank_pattern": (lambda value: isinstance(value, Mapping), "must give names of maps ranks"),
    "r": RANK, "init_r": RANK,
    "use_rslora": BOOLEAN, "use_dora": BOOLEAN, "lora_bias": BOOLEAN,
    "bias": (lambda value: value in BIASES, f"must be one of {', '.join(BIASES)}"),
    "task_type": (lambda value: isinstance(value, str) and value.isidentifier(), "must be a name"),
    "base_model_name_or_path": TEXT, "revision": TEXT,
}  # fmt: skip


def check_config(folder: Path, config: Any) -> None:
    """Reject an adapter that no method of ours computes, and values of another kind.

    Raises:
        AdaptError: another kind of adapter, an option that changes its function, or a value that
            PEFT would not write.
    """
    kind = config.get("peft_type") if isinstance(config, Mapping) else None
    if kind not in TYPES:
        why = ": PEFT puts a prompt in front of padding and [CLS], adaptkit does not"
        why = why if kind in PROMPTS else ""
        known = ", ".join(TYPES)
        shown = kind if isinstance(kind, str) and kind.isidentifier() else short(kind)
        raise AdaptError(f"{folder}: peft_type={shown} is not imported{why}. There is: {known}.")
    for key, value in sorted(config.items()):
        shown = f"{key if key.isidentifier() else short(key)}={short(value)}"
        if value and key not in HARMLESS:
            raise AdaptError(f"{folder}: {shown}: adaptkit does not compute this.")
        fits, rule = KINDS.get(key, (lambda value: True, ""))
        if value is not None and not fits(value):
            raise AdaptError(f"{folder}: {shown}: {rule}. The file is not as PEFT wrote it.")
    alpha = config.get("lora_alpha")
    if kind == "LORA" and alpha is not None and alpha <= 0:
        raise AdaptError(f"{folder}: lora_alpha={alpha}: adaptkit takes numbers above 0 only.")
    initialisation = str(config.get("init_lora_weights", "")).lower()
    if initialisation.startswith(CHANGED_BODY):
        raise AdaptError(
            f"{folder}: init_lora_weights={initialisation[:20]}: it belongs to a changed body. "
            "Save it with path_initial_model_for_weight_conversion first."
        )
    for pattern in config.get("alpha_pattern") or {}:
        check_pattern(folder, pattern)


def check_pattern(folder: Path, pattern: str) -> None:
    """Reject a regular expression that could take for ever.

    Raises:
        AdaptError: it repeats a group, or repeats too often.
    """
    repeated = sum(pattern.count(sign) for sign in "*+")
    try:
        re.compile(pattern)
        simple = len(pattern) <= 300 and PATTERN.fullmatch(pattern) and repeated <= REPEATED
    except re.error:
        simple = None
    if not simple:
        raise AdaptError(
            f"{folder}: alpha_pattern: {short(pattern)} is not a name, nor a pattern simple enough "
            "to be matched. Write the names of the maps instead."
        )


def short(value: Any) -> str:
    """Return a value for a message: one line, control characters escaped, cut if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
