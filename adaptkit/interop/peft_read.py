"""A PEFT adapter on a model: the method that computes the same, and its tensors by our names.

LORA (rank-stabilised, DoRA, patterns of ranks and alphas, embeddings) becomes lora or dora, ADALORA
and VERA become lora, IA3 becomes ia3. A pair of a fused map becomes one pair per role with the same
A. Ours have one rank per role in all layers: lower ranks are filled up with zeros, layers without a
pair keep one that adds nothing, and the rest of a factor goes into B. So the function is the same,
but the count may be higher.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, equal, eye, nn
from torch.nn.functional import pad

from adaptkit.adaptation import Adaptation
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_file import PeftFile
from adaptkit.layers.embedding_pair import EmbeddingPair
from adaptkit.layers.low_rank import Pair
from adaptkit.layers.scaling import INPUTS
from adaptkit.models.anatomy import (
    ROLES,
    Site,
    base_prefix,
    family,
    sharing,
    sites,
    word_embeddings,
)
from adaptkit.models.body import words_of
from adaptkit.models.other_maps import other_maps


def method_for(file: PeftFile, model: nn.Module) -> dict[str, Any]:
    """Return name and options of the method that computes the adapter on `model`.

    Raises:
        AdaptError: it adapts a map that this model does not have, or that no role names.
    """
    by_role: dict[str, list[Site]] = {}
    for site in adapted_sites(file, model):
        by_role.setdefault(site.role, []).append(site)
    roles = [role for role in (*ROLES, "other", "embeddings") if role in by_role]
    if file.config["peft_type"] == "IA3":
        return {"name": "ia3", "roles": roles}
    ranks = {role: max(rank_of(file, site) for site in by_role[role]) for role in roles}
    rank, stable = max(ranks.values()), bool(file.config.get("use_rslora"))
    alpha = float(file.config["lora_alpha"])
    if file.config.get("use_dora"):
        if "embeddings" in roles:
            raise AdaptError(f"{file.folder}: use_dora=True: adaptkit has no DoRA of embeddings.")
        # Ours has no rank-stabilised form: alpha makes up for it.
        alpha = alpha * math.sqrt(rank) if stable else alpha
        return {"name": "dora", "rank": rank, "alpha": alpha, "roles": roles}
    return {
        "name": "lora", "rank": rank, "alpha": alpha, "roles": roles,
        "ranks": {role: r for role, r in ranks.items() if r != rank},
        "rank_stabilised": stable, "bias": bias_of_pairs(file),
    }  # fmt: skip


def bias_of_pairs(file: PeftFile) -> str:
    """Return which biases train: those of the adapted maps if their pairs have biases of theirs."""
    bias = file.config.get("bias", "none")
    return "lora_only" if bias == "none" and file.config.get("lora_bias") else bias


def rank_of(file: PeftFile, site: Site) -> int:
    """Return the rank of a pair; one above that of the matrix itself is multiplied out."""
    return min(len(file.maps[site.module]["lora_A"]), site.fan_in, site.fan_out)


def adapted_sites(file: PeftFile, model: nn.Module) -> list[Site]:
    """Return the adapted maps, of fused ones all roles they serve.

    Raises:
        AdaptError: a module is not in the model, has another shape, or no role.
    """
    known: dict[str, list[Site]] = {}
    for site in sites(model, ("all",)):
        if not site.parameter:
            known.setdefault(site.module, []).append(site)
    modules = dict(model.named_modules())
    for site in other_maps(model, {name for name, _ in model.named_parameters()}):
        known[site.module] = [site]
    tables = _tables(file, model)
    if tables:
        known[tables[0]] = [word_embeddings(model)]
    names = [name for name in file.maps if name not in tables[1:]]  # one for all that share it
    for name in names:
        if name not in modules:
            raise AdaptError(
                f"{file.folder}: adapts {name}, which this {family(model).name} model does not "
                "have: it was made for another body. Give that one: model=auto model.path=... ."
            )
        if name not in known:
            head = not name.startswith(base_prefix(model))
            raise AdaptError(
                f"{file.folder}: adapts {name}, "
                + (
                    "a map of the head whose own weights PEFT did not save, so it cannot be "
                    "rebuilt. Name it in modules_to_save when training with PEFT."
                    if head
                    else "which no role of adaptkit's names."
                )
            )
        _check_shapes(file, name, known[name])
    adapted = [site for name in names for site in known[name]]
    return _only_scaled(file, adapted) if file.config["peft_type"] == "IA3" else adapted


def _tables(file: PeftFile, model: nn.Module) -> list[str]:
    """Return the modules that share the table of words, if the file adapts it."""
    shared = sharing(model, words_of(model).weight)
    adapted = [file.maps[name] for name in shared if name in file.maps]
    if not adapted:
        return []
    alike = all(all(map(equal, adapted[0].values(), other.values())) for other in adapted)
    if len(adapted) < len(shared) or not alike:
        raise AdaptError(
            f"{file.folder}: {', '.join(shared)} share a table in this model, but the file does "
            "not adapt all of them alike."
        )
    return shared


def _check_shapes(file: PeftFile, name: str, here: list[Site]) -> None:
    tensors, fan_in = file.maps[name], here[0].fan_in
    fan_out = sum(site.fan_out for site in here)
    fits = _scale_fits if file.config["peft_type"] == "IA3" else _pair_fits
    if not fits(file, tensors, fan_in, fan_out):
        held = ", ".join(f"{kind} {tuple(t.shape)}" for kind, t in tensors.items())
        raise AdaptError(
            f"{file.folder}: {name} maps {fan_in} to {fan_out} numbers in this model, the file "
            f"holds {held}: it was made for another body."
        )


def _scale_fits(file: PeftFile, tensors: Mapping[str, Tensor], fan_in: int, fan_out: int) -> bool:
    if list(tensors) != ["ia3_l"]:
        return False
    return tensors["ia3_l"].shape in ((fan_out, 1), (1, fan_in))


def _pair_fits(file: PeftFile, tensors: Mapping[str, Tensor], fan_in: int, fan_out: int) -> bool:
    kinds = {"lora_A", "lora_B"}
    if file.config.get("use_dora"):
        kinds.add("lora_magnitude_vector")
    if file.config.get("lora_bias"):
        kinds.add("lora_B.bias")
    if set(tensors) != kinds:
        return False
    for_outputs = (tensors[kind] for kind in kinds - {"lora_A", "lora_B"})
    if any(tensor.numel() != fan_out for tensor in for_outputs):
        return False
    rank, wide = tensors["lora_A"].shape
    if file.config["peft_type"] == "VERA":  # one A for all maps, as wide as the widest
        wide = min(wide, fan_in)
    return wide == fan_in and tensors["lora_B"].shape == (fan_out, rank)


def _only_scaled(file: PeftFile, adapted: list[Site]) -> list[Site]:
    """Leave out the query of a fused map if its scales are all 1."""
    kept = []
    for site in adapted:
        vector = file.maps[site.module]["ia3_l"]
        at_input = vector.shape[0] == 1
        if at_input != (site.role in INPUTS):
            side, other = ("input", "output") if at_input else ("output", "input")
            raise AdaptError(
                f"{file.folder}: IA3 scales the {side} of {site.module} ({site.role}); adaptkit's "
                f"scales its {other}."
            )
        rows = None if site.role != "query" else site.rows
        if rows is None or not bool((vector.flatten()[list(rows)] == 1).all()):
            kept.append(site)
    return kept


def delta_for(file: PeftFile, adaptation: Adaptation) -> dict[str, Tensor]:
    """Return the adapter's tensors by the names of `adaptation`, made by `method_for`.

    Raises:
        AdaptError: the file lacks the head, or holds tensors that the model does not have.
    """
    body = dict(adaptation.model.named_parameters())
    result = {name: tensor.clone() for name, tensor in adaptation.delta().items()}
    kind = scale_of if file.config["peft_type"] == "IA3" else pair_of
    for site in adapted_sites(file, adaptation.model):
        result |= kind(file, site, adaptation.model)
    missing = sorted(n for n in adaptation.head if n not in file.others)
    if missing:
        raise AdaptError(
            f"{file.folder}: holds no {missing[0]}, which is new with the task: PEFT left "
            f"{len(missing)} tensors of the head as they were drawn, so it cannot be rebuilt. Name "
            "their modules in modules_to_save when training with PEFT."
        )
    for name, tensor in file.others.items():
        if name not in result and name in body and equal(body[name].float().cpu(), tensor):
            continue  # PEFT saves the whole table of words together with an adapter of it
        if name not in result and name in body:
            raise AdaptError(
                f"{file.folder}: {name} of the base model was trained as a whole (modules_to_save, "
                "or another bias); adaptkit imports adapted maps and the head only."
            )
        if name not in result or result[name].shape != tensor.shape:
            raise AdaptError(
                f"{file.folder}: {name} {tuple(tensor.shape)} does not fit this model: it was "
                "made for another body or task, or trains other tensors than this method."
            )
        result[name] = tensor
    return result | _biases_of_pairs(file, result)


def _biases_of_pairs(file: PeftFile, result: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the biases of maps with those of their pairs added: W x + b + s (B A x + c)."""
    found = {}
    for module, tensors in file.maps.items():
        if "lora_B.bias" not in tensors:
            continue
        name = f"{module}.bias"
        if name not in result:
            raise AdaptError(
                f"{file.folder}: lora_bias=True: {module} has no bias in this model, and adaptkit "
                "adds none. Train it with lora_bias=False."
            )
        factor = scale(file.config, module, len(tensors["lora_A"]))
        found[name] = result[name].cpu() + factor * tensors["lora_B.bias"]
    return found


def pair_of(file: PeftFile, site: Site, model: nn.Module) -> dict[str, Tensor]:
    """Return A [r, in], B [out, r] and DoRA's magnitude [out] of a role, by our rank and scale."""
    stem, tensors = f"{site.module}.lora.{site.role}", file.maps[site.module]
    update = cast("Pair | EmbeddingPair", model.get_submodule(stem))
    rows = slice(None) if site.rows is None else list(site.rows)
    factor = scale(file.config, site.module, len(tensors["lora_A"])) / update.scale
    low, up = tensors["lora_A"][:, : site.fan_in], tensors["lora_B"][rows] * factor
    rank = rank_of(file, site)
    if len(low) > rank:
        whole = up @ low
        low, up = (whole, eye(rank)) if rank == site.fan_out else (eye(rank), whole)
    extra = len(update.A) - rank
    result = {f"{stem}.A": pad(low, (0, 0, 0, extra)), f"{stem}.B": pad(up, (0, extra))}
    if "lora_magnitude_vector" in tensors:
        result[f"{stem}.magnitude"] = tensors["lora_magnitude_vector"].flatten()[rows]
    return result


def scale_of(file: PeftFile, site: Site, model: nn.Module) -> dict[str, Tensor]:
    """Return the vector [out] or [in] of one role."""
    vector = file.maps[site.module]["ia3_l"].flatten()
    part = vector if site.rows is None else vector[list(site.rows)]
    return {f"{site.module}.ia3.{site.role}.scale": part}


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return PEFT's factor before B A x of one map."""
    if config["peft_type"] == "VERA":
        return 1.0
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
