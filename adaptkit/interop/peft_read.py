"""A PEFT adapter on a model: which method of ours computes the same, and its tensors by our names.

LORA (rank-stabilised, DoRA, patterns of ranks and alphas, embeddings) becomes lora or dora, ADALORA
and VERA become lora, IA3 becomes ia3. A pair beside a fused map becomes one pair per role with the
same A. Ours have one rank per role in all layers: lower ranks are filled up with zeros, layers
without a pair keep one that adds nothing, and what is left of a factor goes into B. So the function
is the same, the count may be higher.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, equal, eye, nn
from torch.nn.functional import pad

from adaptkit.adaptation import Adaptation
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_file import PeftFile
from adaptkit.models.anatomy import ROLES, Site, family, sites, word_embeddings


def method_for(file: PeftFile, model: nn.Module) -> dict[str, Any]:
    """Return name and options of the method that computes the adapter on `model`.

    Raises:
        AdaptError: it adapts what this model does not have, or what no role names.
    """
    there = {site.role for site in found_sites(file, model)}
    roles = [role for role in (*ROLES, "embeddings") if role in there]
    if file.config["peft_type"] == "IA3":
        return {"name": "ia3", "roles": roles}
    ranks = {role: max(rank_of(file, site) for site in all_of(file, model, role)) for role in roles}
    rank, stable = max(ranks.values()), bool(file.config.get("use_rslora"))
    alpha = float(file.config["lora_alpha"])
    if file.config.get("use_dora"):
        if "embeddings" in roles:
            raise AdaptError(f"{file.folder}: use_dora=True: adaptkit has no DoRA of embeddings.")
        # ours has no rank-stabilised form: alpha makes up for it
        alpha = alpha * math.sqrt(rank) if stable else alpha
        return {"name": "dora", "rank": rank, "alpha": alpha, "roles": roles}
    return {
        "name": "lora", "rank": rank, "alpha": alpha, "roles": roles,
        "ranks": {role: r for role, r in ranks.items() if r != rank},
        "rank_stabilised": stable, "bias": file.config.get("bias", "none"),
    }  # fmt: skip


def rank_of(file: PeftFile, site: Site) -> int:
    """Return the rank of a pair; more than the matrix can have is multiplied out."""
    return min(len(file.maps[site.module]["lora_A"]), site.fan_in, site.fan_out)


def all_of(file: PeftFile, model: nn.Module, role: str) -> list[Site]:
    """Return the maps of a role that the file adapts."""
    return [site for site in found_sites(file, model) if site.role == role]


def found_sites(file: PeftFile, model: nn.Module) -> list[Site]:
    """Return the adapted maps, of fused ones all roles they serve.

    Raises:
        AdaptError: a module is not in the model, has another shape, or no role.
    """
    known: dict[str, list[Site]] = {}
    for site in sites(model, ("all",)):
        if not site.parameter:
            known.setdefault(site.module, []).append(site)
    modules = dict(model.named_modules())
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
            raise AdaptError(f"{file.folder}: adapts {name}, which no role of adaptkit's names.")
        _check_shapes(file, name, known[name])
    chosen = [site for name in names for site in known[name]]
    return _scaled_alone(file, chosen) if file.config["peft_type"] == "IA3" else chosen


def _tables(file: PeftFile, model: nn.Module) -> list[str]:
    """Return the modules that share the table of words, if the file adapts it."""
    table = model.get_input_embeddings().weight
    shared = [n for n, module in model.named_modules() if getattr(module, "weight", 0) is table]
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
    if file.config["peft_type"] == "IA3":
        wrong = list(tensors) != ["ia3_l"] or tensors["ia3_l"].shape not in (
            (fan_out, 1),
            (1, fan_in),
        )
    else:
        wanted = {"lora_A", "lora_B"}
        wanted |= {"lora_magnitude_vector"} if file.config.get("use_dora") else set()
        wrong = set(tensors) != wanted
        if not wrong:
            (rank, wide), up = tensors["lora_A"].shape, tuple(tensors["lora_B"].shape)
            if file.config["peft_type"] == "VERA":  # one A for all maps, as wide as the widest
                wide = min(wide, fan_in)
            wrong = wide != fan_in or up != (fan_out, rank)
    if wrong:
        found = ", ".join(f"{kind} {tuple(t.shape)}" for kind, t in tensors.items())
        raise AdaptError(
            f"{file.folder}: {name} maps {fan_in} to {fan_out} numbers in this model, the file "
            f"holds {found}: it was made for another body."
        )


def _scaled_alone(file: PeftFile, found: list[Site]) -> list[Site]:
    kept = []
    for site in found:
        vector = file.maps[site.module]["ia3_l"]
        at_input = vector.shape[0] == 1
        part = vector.flatten() if site.rows is None else vector.flatten()[list(site.rows)]
        if at_input == (site.role == "down") and site.role in ("key", "value", "down"):
            kept.append(site)
        elif site.rows is None or not bool((part == 1).all()):
            side = "input" if at_input else "output"
            raise AdaptError(
                f"{file.folder}: IA3 scales the {side} of {site.module} ({site.role}); adaptkit's "
                "scales the outputs of key and value and the input of down."
            )
    return kept


def delta_for(file: PeftFile, adaptation: Adaptation) -> dict[str, Tensor]:
    """Return the adapter's tensors by the names of `adaptation`, made by `method_for`.

    Raises:
        AdaptError: the file lacks the head, or holds tensors that have no place.
    """
    body = dict(adaptation.model.named_parameters())
    result = {name: tensor.clone() for name, tensor in adaptation.delta().items()}
    kind = scale_of if file.config["peft_type"] == "IA3" else pair_of
    for site in found_sites(file, adaptation.model):
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
            continue  # PEFT saves a table of words whole when there is an adapter beside it
        if name not in result or result[name].shape != tensor.shape:
            raise AdaptError(
                f"{file.folder}: {name} {tuple(tensor.shape)} has no place in this model: it was "
                "made for another body or task, or trains what this method does not."
            )
        result[name] = tensor
    return result


def pair_of(file: PeftFile, site: Site, model: nn.Module) -> dict[str, Tensor]:
    """Return A, B and DoRA's magnitude of one role, filled up to our rank and scale."""
    tensors, update = file.maps[site.module], model.get_submodule(site.module).lora[site.role]
    rows = slice(None) if site.rows is None else list(site.rows)
    factor = scale(file.config, site.module, len(tensors["lora_A"])) / update.scale
    low, up = tensors["lora_A"][:, : site.fan_in], tensors["lora_B"][rows] * factor
    rank, stem = rank_of(file, site), f"{site.module}.lora.{site.role}"
    if len(low) > rank:
        whole = up @ low
        low, up = (whole, eye(rank)) if rank == site.fan_out else (eye(rank), whole)
    extra = len(update.A) - rank
    found = {f"{stem}.A": pad(low, (0, 0, 0, extra)), f"{stem}.B": pad(up, (0, extra))}
    if "lora_magnitude_vector" in tensors:
        found[f"{stem}.magnitude"] = tensors["lora_magnitude_vector"].flatten()[rows]
    return found


def scale_of(file: PeftFile, site: Site, model: nn.Module) -> dict[str, Tensor]:
    """Return the vector of one role."""
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
