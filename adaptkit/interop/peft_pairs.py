"""PEFT's AdaLoRA and VeRA as pairs B A: the same function with the factors multiplied out.

AdaLoRA computes alpha / (r + 1e-5) B diag(E) A with r the rank at the start, VeRA
diag(b) B diag(d) A with one A and B for all maps, of which each uses the first columns and rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptkit.errors import AdaptError

Maps = dict[str, dict[str, Tensor]]  # module -> "lora_A" and so on -> tensor
SMALL = 1e-5  # PEFT adds it to r


def as_pairs(
    folder: Path, config: Mapping[str, Any], maps: Maps, others: dict[str, Tensor]
) -> tuple[dict[str, Any], Maps]:
    """Return config and maps with lora_A [r, in] and lora_B [out, r] alone; LORA and IA3 as is.

    The shared matrices of VeRA are taken out of `others`.

    Raises:
        AdaptError: parts are missing.
    """
    kind = config["peft_type"]
    if kind == "ADALORA":
        start = config["init_r"] + SMALL
        made = {name: _triplets(folder, name, parts, start) for name, parts in maps.items()}
        # The pattern says which triplets were kept; the tensors hold these alone.
        kept = {name: parts for name, parts in made.items() if len(parts["lora_A"])}
        return {**config, "rank_pattern": {}, "use_rslora": False, "use_dora": False}, kept
    if kind == "VERA":
        low, up = (others.pop(f"base_model.vera_{letter}", None) for letter in "AB")
        if low is None or up is None:
            raise AdaptError(
                f"{folder}: save_projection=False: VeRA's matrices are not in the file. Save it "
                "with save_projection=True."
            )
        return {**config, "lora_alpha": len(low)}, {
            name: _scaled(folder, name, parts, low, up) for name, parts in maps.items()
        }
    return dict(config), maps


def _triplets(
    folder: Path, name: str, parts: Mapping[str, Tensor], start: float
) -> dict[str, Tensor]:
    low, up, singular = (_part(folder, name, parts, f"lora_{letter}") for letter in "ABE")
    # A pair is multiplied by alpha / rank.
    return {"lora_A": low, "lora_B": up * singular.flatten() * (len(low) / start)}


def _scaled(
    folder: Path, name: str, parts: Mapping[str, Tensor], low: Tensor, up: Tensor
) -> dict[str, Tensor]:
    b, d = (_part(folder, name, parts, f"vera_lambda_{letter}") for letter in "bd")
    return {"lora_A": low, "lora_B": b.unsqueeze(1) * up[: len(b)] * d}


def _part(folder: Path, name: str, parts: Mapping[str, Tensor], kind: str) -> Tensor:
    if kind not in parts:
        raise AdaptError(f"{folder}: holds no {kind} of {name}.")
    return parts[kind]
