"""PEFT's AdaLoRA and VeRA as pairs B A: the same function with the factors multiplied out.

AdaLoRA computes alpha / (r + 1e-5) B diag(E) A, r the rank at the start. VeRA computes
diag(b) B diag(d) A. Its A and B serve all maps: each uses the first columns of A and rows of B.
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
    """Return config and maps with lora_A [r, in] and lora_B [out, r] only; LORA and IA3 as is.

    The shared matrices of VeRA are taken out of `others`.

    Raises:
        AdaptError: parts are missing.
    """
    kind = config["peft_type"]
    if kind == "ADALORA":
        alpha, start = config["lora_alpha"], config["init_r"] + SMALL
        pairs = {
            name: _pair_of_triplets(folder, name, parts, alpha, start)
            for name, parts in maps.items()
        }
        # The tensors hold the kept triplets only, and PEFT's AdaLoRA looks at no other option.
        unused = {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "use_dora": False,
                  "lora_bias": False}  # fmt: skip
        return {**config, **unused, "lora_alpha": alpha if alpha > 0 else 1}, pairs
    if kind == "VERA":
        low, up = (others.pop(f"base_model.vera_{letter}", None) for letter in "AB")
        if low is None or up is None:
            raise AdaptError(
                f"{folder}: save_projection=False: VeRA's matrices are not in the file. Save it "
                "with save_projection=True."
            )
        if low.dim() != 2 or up.dim() != 2:
            raise AdaptError(f"{folder}: base_model.vera_A and vera_B are not matrices.")
        pairs = {
            name: _pair_of_scales(folder, name, parts, low, up) for name, parts in maps.items()
        }
        bias = str(config.get("bias", "none")).replace("vera_only", "lora_only")
        return {**config, "lora_alpha": len(low), "bias": bias}, pairs
    return dict(config), maps


def _pair_of_triplets(
    folder: Path, name: str, parts: Mapping[str, Tensor], alpha: float, start: float
) -> dict[str, Tensor]:
    low, up, singular = (_part(folder, name, parts, f"lora_{letter}") for letter in "ABE")
    _check_equal(folder, name, len(low), up.shape[1], singular.numel())
    if not len(low):  # all pruned: a pair that adds nothing
        return {"lora_A": low.new_zeros(1, low.shape[1]), "lora_B": up.new_zeros(len(up), 1)}
    # A pair is multiplied by alpha / rank. PEFT takes the rank for an alpha that is not positive.
    factor = len(low) / start * (1 if alpha > 0 else len(low))
    return {"lora_A": low, "lora_B": up * singular.flatten() * factor}


def _pair_of_scales(
    folder: Path, name: str, parts: Mapping[str, Tensor], low: Tensor, up: Tensor
) -> dict[str, Tensor]:
    b, d = (_part(folder, name, parts, f"vera_lambda_{letter}") for letter in "bd")
    _check_equal(folder, name, len(low), up.shape[1], len(d))
    _check_equal(folder, name, len(b), min(len(b), len(up)))
    up = b.unsqueeze(1) * up[: len(b)] * d
    return {"lora_A": low, "lora_B": up}


def _check_equal(folder: Path, name: str, *sizes: int) -> None:
    if len(set(sizes)) > 1:
        shown = ", ".join(map(str, sizes))
        raise AdaptError(f"{folder}: the tensors of {name} do not fit each other ({shown}).")


def _part(folder: Path, name: str, parts: Mapping[str, Tensor], kind: str) -> Tensor:
    if kind not in parts:
        raise AdaptError(f"{folder}: holds no {kind} of {name}.")
    return parts[kind]
