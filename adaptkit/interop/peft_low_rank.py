"""Low-rank updates as PEFT writes them: one pair, A [r, in] and B [out, r], beside a whole map.

Where several roles share a fused map, each with a pair of its own, theirs become one pair that
computes the same, with zeros where roles do not mix:

    A = [A_q; A_v],   B = [[B_q, 0], [0, 0], [0, B_v]],   alpha / r as before

PiSSA is the pair [A; A0], [B, -B0]; AdaLoRA's E goes into B, and pruned triplets are left out (PEFT
divides its own by a number it does not save). DoRA adds the magnitudes. VeRA is VERA where all maps
have one shape, and a LORA that multiplies its matrices out elsewhere.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.errors import AdaptError
from adaptkit.layers.adalora import Triplets
from adaptkit.layers.dora import Decomposed
from adaptkit.layers.low_rank import EmbeddingPair, Pair, UpdatedTensor, Updates, matrix_of
from adaptkit.layers.pissa import Principal
from adaptkit.layers.vera import Scaled


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


@functools.singledispatch
def factors(update: nn.Module) -> Factors:
    """Return an update as a pair.

    Raises:
        AdaptError: it is of a kind that PEFT does not have.
    """
    raise AdaptError(f"{type(update).__name__}: PEFT has no such update. Try --format merged.")


@factors.register(Pair)
@factors.register(EmbeddingPair)
def _(update: Pair | EmbeddingPair) -> Factors:
    return Factors(update.A, update.B, update.scale)


@factors.register
def _(update: Principal) -> Factors:
    low = torch.cat([update.A, update.delta_A0])
    return Factors(low, torch.cat([update.B, -update.delta_B0], dim=1), update.scale)


@factors.register
def _(update: Triplets) -> Factors:
    kept = update.E != 0
    return Factors(update.A[kept], (update.B * update.E)[:, kept], update.scale)


@factors.register
def _(update: Scaled) -> Factors:
    return Factors(update.low, update.b.unsqueeze(1) * update.up * update.d, 1.0)


def low_rank(model: nn.Module) -> LowRank:
    """Return PEFT's form of the low-rank updates in `model`; without maps where it has none.

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
        raise AdaptError("PEFT's use_dora is for all maps: DoRA beside another low-rank method.")
    found = _vera(hosts) or _lora(model, hosts, dora=kinds == {True})
    found.holders = [f"{name}.lora" for name in hosts]
    return found


def _lora(model: nn.Module, hosts: Mapping[str, nn.ModuleDict], dora: bool) -> LowRank:
    found, shapes = LowRank(), {}
    for name, held in hosts.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            (update,) = held.values()
            pair, low, up = factors(update), "lora_embedding_A", "lora_embedding_B"
            alike = [
                n for n, m in model.named_modules() if getattr(m, "weight", 0) is module.weight
            ]
        else:
            pair, low, up = stacked(module, held), "lora_A.weight", "lora_B.weight"
            alike = [name]
        if not len(pair.A):  # every triplet was pruned
            continue
        for target in alike:
            found.maps.append(target)
            found.tensors |= {f"{target}.{low}": pair.A, f"{target}.{up}": pair.B}
            shapes[target] = (len(pair.A), plain(pair.scale * len(pair.A)))
        if dora:
            found.tensors[f"{name}.lora_magnitude_vector"] = magnitudes(module, held)
    if shapes:
        (rank, alpha), _ = Counter(shapes.values()).most_common(1)[0]
        found.config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
            "use_rslora": False, "use_dora": dora, "init_lora_weights": True,
            "rank_pattern": {n: r for n, (r, _) in shapes.items() if r != rank},
            "alpha_pattern": {n: a for n, (_, a) in shapes.items() if a != alpha},
        }  # fmt: skip
    return found


def plain(number: float) -> int | float:
    """Return a number as written by hand: 16 instead of 16.0, without the last digit's rounding."""
    near = round(number, 9)
    return int(near) if near == int(near) else number


def stacked(module: nn.Module, held: Updates) -> Factors:
    """Return the updates of all roles of a map as one pair beside the whole of it."""
    parts = [factors(update) for update in held.values()]
    scale = parts[0].scale
    low = torch.cat([part.A for part in parts])
    up = low.new_zeros(len(matrix_of(module.weight, module)), len(low))
    column = 0
    for role, part in zip(held, parts, strict=True):
        rows, width = _rows(held, role, up), len(part.A)
        up[rows, column : column + width] = part.B * (part.scale / scale)
        column += width
    return Factors(low, up, scale)


def magnitudes(module: nn.Module, held: Updates) -> Tensor:
    """Return DoRA's magnitudes of a whole map: ||W|| for the outputs that no role adapts."""
    result = matrix_of(module.weight, module).float().norm(dim=1)
    for role, update in held.items():
        result[_rows(held, role, result)] = update.magnitude
    return result


def _rows(held: Updates, role: str, like: Tensor) -> Tensor:
    rows = getattr(held, f"rows_{role}")
    return torch.arange(len(like), device=like.device) if rows is None else rows


def _vera(hosts: Mapping[str, nn.ModuleDict]) -> LowRank | None:
    alone = [(name, *held.items()) for name, held in hosts.items() if len(held) == 1]
    whole = len(alone) == len(hosts) and all(
        isinstance(update, Scaled) and getattr(hosts[name], f"rows_{role}", None) is None
        for name, (role, update) in alone
    )
    shapes = {(u.low.shape, u.up.shape) for _, (_, u) in alone} if whole else set()
    if len(shapes) != 1:
        return None
    found = LowRank(maps=[name for name, _ in alone])
    for name, (_, update) in alone:
        found.tensors |= {f"{name}.vera_lambda_b": update.b, f"{name}.vera_lambda_d": update.d}
    # The same in all maps of one shape, and PEFT cannot draw ours from a seed.
    found.tensors |= {"base_model.vera_A": update.low, "base_model.vera_B": update.up}
    found.config = {
        "peft_type": "VERA", "r": len(update.d), "vera_dropout": 0.0, "d_initial": 0.1,
        "projection_prng_key": 0, "save_projection": True, "init_weights": True,
    }  # fmt: skip
    return found
