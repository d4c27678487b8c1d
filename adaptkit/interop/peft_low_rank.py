"""Low-rank updates as PEFT writes them: one pair, A [r, in] and B [out, r], for a whole map.

If several roles share a fused map, each with a pair of its own, their pairs become one. It computes
the same, with zeros for the outputs of other roles:

    A = [A_q; A_v],   B = [[B_q, 0], [0, 0], [0, B_v]],   alpha / r as before

PiSSA is the pair [A; A0], [B, -B0]; AdaLoRA's E goes into B, and pruned triplets are left out (PEFT
divides its own by a number it does not save). DoRA adds the magnitudes. VeRA is VERA if all maps
have one shape, else a LORA with its matrices multiplied out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.errors import AdaptError
from adaptkit.layers.adalora import Triplets
from adaptkit.layers.dora import Decomposed
from adaptkit.layers.embedding_pair import EmbeddingPair
from adaptkit.layers.low_rank import Pair, UpdatedTensor, Updates, matrix_of
from adaptkit.layers.pissa import Principal
from adaptkit.layers.vera import Scaled
from adaptkit.models.anatomy import sharing
from adaptkit.models.body import shape_of, weight_of


@dataclass(frozen=True)
class Factors:
    """The update s B A of a weight [out, in]."""

    A: Tensor  # [r, in]
    B: Tensor  # [out, r]
    scale: float


@dataclass
class LowRank:
    """PEFT's form of all updates of a model; names of maps in the model's order."""

    config: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    maps: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)


def factors(update: nn.Module) -> Factors:
    """Return an update as a pair.

    Raises:
        AdaptError: it is of a kind that PEFT does not have.
    """
    if isinstance(update, Pair | EmbeddingPair):
        return Factors(update.A, update.B, update.scale)
    if isinstance(update, Principal):
        low = torch.cat([update.A, update.delta_A0])
        return Factors(low, torch.cat([update.B, -update.delta_B0], dim=1), update.scale)
    if isinstance(update, Triplets):
        kept = update.E != 0
        return Factors(update.A[kept], (update.B * update.E)[:, kept], update.scale)
    if isinstance(update, Scaled):
        return Factors(update.low, update.b.unsqueeze(1) * update.up * update.d, 1.0)
    raise AdaptError(f"{type(update).__name__}: PEFT has no such update. Try --format merged.")


def low_rank(model: nn.Module) -> LowRank:
    """Return PEFT's form of the low-rank updates in `model`; without maps if it has none.

    Raises:
        AdaptError: PEFT does not have such updates, or not together.
    """
    hosts = {
        name.rpartition(".")[0]: module
        for name, module in model.named_modules()
        if name.endswith(".lora") and isinstance(module, nn.ModuleDict)
    }
    for name, module in model.named_modules():
        if isinstance(module, UpdatedTensor):
            raise AdaptError(
                f"{name.partition('.parametrizations')[0]}: query, key, value and output are bare "
                "tensors here, for which PEFT has no LoRA. Use --format merged."
            )
    updates = [update for held in hosts.values() for update in held.values()]
    kinds = {isinstance(update, Decomposed) for update in updates}
    if len(kinds) > 1:
        raise AdaptError("PEFT's use_dora is for all maps: DoRA next to another low-rank method.")
    form = _vera(hosts) or _lora(model, hosts, dora=kinds == {True})
    form.holders = [f"{name}.lora" for name in hosts]
    return form


def _lora(model: nn.Module, hosts: Mapping[str, nn.ModuleDict], dora: bool) -> LowRank:
    form, shapes = LowRank(), dict[str, tuple[int, int | float]]()
    for name, held in hosts.items():
        module = model.get_submodule(name)
        if isinstance(held, Updates):
            pair, low, up = stack_pairs(module, held), "lora_A.weight", "lora_B.weight"
            targets = [name]
        else:  # the one update of the table of words
            (update,) = held.values()
            pair, low, up = factors(update), "lora_embedding_A", "lora_embedding_B"
            targets = sharing(model, weight_of(module))
        if not len(pair.A):  # every triplet was pruned
            continue
        for target in targets:
            form.maps.append(target)
            form.tensors |= {f"{target}.{low}": pair.A, f"{target}.{up}": pair.B}
            shapes[target] = (len(pair.A), round_off(pair.scale * len(pair.A)))
        if dora and isinstance(held, Updates):
            form.tensors[f"{name}.lora_magnitude_vector"] = magnitudes(module, held)
    if shapes:
        (rank, alpha), _ = Counter(shapes.values()).most_common(1)[0]
        form.config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
            "use_rslora": False, "use_dora": dora, "init_lora_weights": True,
            "rank_pattern": {n: r for n, (r, _) in shapes.items() if r != rank},
            "alpha_pattern": {n: a for n, (_, a) in shapes.items() if a != alpha},
        }  # fmt: skip
    return form


def round_off(number: float) -> int | float:
    """Return a number as written by hand: 16 instead of 16.0, without the last digit's rounding."""
    near = round(number, 9)
    return int(near) if near == int(near) else number


def stack_pairs(module: nn.Module, held: Updates) -> Factors:
    """Return the updates of all roles of a map as one pair for the whole of it."""
    parts = {role: factors(update) for role, update in held.items()}
    scale = next(iter(parts.values())).scale
    low = torch.cat([part.A for part in parts.values()])
    up = low.new_zeros(shape_of(module)[0], len(low))
    column = 0
    for role, part in parts.items():
        rows, width = _rows(held, role, up), len(part.A)
        up[rows, column : column + width] = part.B * (part.scale / scale)
        column += width
    return Factors(low, up, scale)


def magnitudes(module: nn.Module, held: Updates) -> Tensor:
    """Return DoRA's magnitudes [out] of a whole map: ||W|| for the outputs that no role adapts."""
    result = matrix_of(module).float().norm(dim=1)
    for role, update in held.items():
        if isinstance(update, Decomposed):
            result[_rows(held, role, result)] = update.magnitude
    return result


def _rows(held: Updates, role: str, like: Tensor) -> Tensor:
    rows = held.rows(role)
    return torch.arange(len(like), device=like.device) if rows is None else rows


def _vera(hosts: Mapping[str, nn.ModuleDict]) -> LowRank | None:
    updates = {name: _whole_scaled(held) for name, held in hosts.items()}
    scaled = {name: update for name, update in updates.items() if update is not None}
    shapes = {(update.low.shape, update.up.shape) for update in scaled.values()}
    if len(scaled) < len(hosts) or len(shapes) != 1:
        return None
    form = LowRank(maps=list(scaled))
    for name, update in scaled.items():
        form.tensors |= {f"{name}.vera_lambda_b": update.b, f"{name}.vera_lambda_d": update.d}
    # The same in all maps of one shape, and PEFT cannot draw ours from a seed.
    first = next(iter(scaled.values()))
    form.tensors |= {"base_model.vera_A": first.low, "base_model.vera_B": first.up}
    form.config = {
        "peft_type": "VERA", "r": len(first.d), "vera_dropout": 0.0, "d_initial": 0.1,
        "projection_prng_key": 0, "save_projection": True, "init_weights": True,
    }  # fmt: skip
    return form


def _whole_scaled(held: nn.ModuleDict) -> Scaled | None:
    """Return the update of a whole map if it is the only one and VeRA's."""
    if not isinstance(held, Updates) or len(held) > 1:
        return None
    ((role, update),) = held.items()
    return update if isinstance(update, Scaled) and held.rows(role) is None else None
