"""model.from_run=RUN: training goes on from what a finished run left, its parent.

body   If the parent's method can be merged into the weights, its adapted model, merged in fp32, is
       the new base model. If it cannot, the same method with the same options goes on from the
       parent's tensors; any other method is rejected.
head   The parent's, if it answers with classes of the same names (rows are put into the new order);
       otherwise a new one.

A run pins its parent: the fingerprint of its base model covers the digest of the parent's tensors.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptkit.adaptation import Adaptation
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import base_prefix
from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.record import log
from adaptkit.training.scorer import Prepared

Restore = Callable[[SavedRun], Prepared]


def parent_of(run: Settings) -> SavedRun | None:
    """Return the run that this one starts from, on the CPU in fp32; None if there is none.

    Raises:
        AdaptError: it is not a finished run, is damaged, or was trained on another base model.
    """
    if run.model.from_run is None:
        return None
    where = f"model.from_run={run.model.from_run}"
    try:
        saved = load_run(Path(run.model.from_run))
    except AdaptError as error:
        moved = "" if Path(run.model.from_run).exists() else " If it was moved, put it back there."
        raise type(error)(f"{where}: {error}{moved}") from error
    own, theirs = run.model, saved.settings.model
    if theirs.quantization:
        raise AdaptError(
            f"{where}: was trained on weights in {theirs.quantization}, which cannot take in what "
            "it learned. Name a run without model.quantization."
        )
    if (own.path, own.revision) != (theirs.path, theirs.revision):
        raise AdaptError(
            f"{where}: was trained on {theirs.path}, not on {own.path}. Name the same base model: "
            f"model={theirs.name}, or model=auto model.path={theirs.path}."
        )
    trainer = replace(saved.settings.trainer, precision="fp32", device="cpu")
    return replace(saved, settings=replace(saved.settings, trainer=trainer))


def lineage(run: Settings) -> list[dict[str, Any]]:
    """Return the runs that a run descends from, the nearest first, for its record.

    Raises:
        AdaptError: the parent cannot be read, or lies where this run would be written.
    """
    saved = parent_of(run)
    if saved is None or saved.result is None:
        return []
    result = saved.result
    chain = [
        {"directory": str(saved.directory), "task": result.task, "method": result.method,
         "score": result.score, "delta_sha256": result.delta_sha256},
        *result.from_runs,
    ]  # fmt: skip
    for entry in chain:
        if Path(entry["directory"]).resolve() == run.output_dir.resolve():
            raise AdaptError(
                f"output_dir={run.output_dir}: holds a run that this one starts from "
                "(model.from_run), and would replace it. Give another folder."
            )
    return chain


def inherit(run: Settings, model: nn.Module, restore: Restore) -> str:
    """Give a fresh model the body and the head of the run's parent; return the parent's digest.

    `restore` rebuilds a run. Without a parent nothing is done, and the digest is empty.

    Raises:
        AdaptError: the parent cannot be rebuilt, or its method can only go on by itself.
    """
    given = give_body(run, model, restore)
    if given is None:
        return ""
    saved, adaptation = given
    if adaptation.merge is None:
        check_continues(run, saved)
    kept = copy_head(run, saved, adaptation.model, model)
    log.info("from %s: its body, and %s head", saved.directory, "its" if kept else "a new")
    return saved.result.delta_sha256 if saved.result else ""


def give_body(
    run: Settings, model: nn.Module, restore: Restore
) -> tuple[SavedRun, Adaptation] | None:
    """Give a fresh model the body that the run starts from; return the parent and its model.

    Raises:
        AdaptError: the parent cannot be rebuilt, or is a probe.
    """
    saved = parent_of(run)
    if saved is None:
        return None
    with random_numbers_kept():
        adaptation = restore(saved).adaptation
    if adaptation.features is not None:
        raise AdaptError(
            f"model.from_run={saved.directory}: a probe leaves the base model as it was, so there "
            "is nothing to go on from. Leave it out, or name a run of another method."
        )
    if adaptation.merge is not None:
        adaptation.merge()
        copy_body(adaptation.model, model)
    else:  # its own start; its tensors follow in `resume_delta`
        give_body(saved.settings, model, restore)
    return saved, adaptation


def pinned(fingerprint: str, parent: str) -> str:
    """Return the fingerprint of a body that a parent with this digest changed."""
    return hashlib.sha256(f"{fingerprint} {parent}".encode()).hexdigest() if parent else fingerprint


def check_continues(run: Settings, saved: SavedRun) -> None:
    """Reject another method on a parent whose own cannot be merged into the weights.

    Raises:
        AdaptError: the methods or their options differ.
    """
    if run.plain["method"] != saved.settings.plain["method"]:
        raise AdaptError(
            f"model.from_run={saved.directory}: method={saved.settings.method_name} cannot be "
            "merged into the weights, so only the same method with the same options can go on "
            "from it."
        )


def resume_delta(run: Settings, adaptation: Adaptation) -> None:
    """Let a method that cannot be merged start from the parent's tensors of the body.

    Raises:
        AdaptError: the parent kept less than its method trains.
    """
    saved = parent_of(run)
    if saved is None or adaptation.merge is not None:
        return
    if run.plain["method"] != saved.settings.plain["method"]:  # the parent was merged
        return
    if run.task.posed.prompted != saved.settings.task.posed.prompted:
        raise AdaptError(
            f"model.from_run={saved.directory}: its prompt has other places in the template. Use "
            "the same task.template."
        )
    head, body = adaptation.head, base_prefix(adaptation.model)
    # A pooler that the checkpoint lacks is new, and yet a part of the body.
    delta = adaptation.delta().items()
    mine = {name: t for name, t in delta if name not in head or name.startswith(body)}
    shapes = {n: t.shape for n, t in saved.tensors.items()}
    if any(shapes.get(name) != tensor.shape for name, tensor in mine.items()):
        raise AdaptError(
            f"model.from_run={saved.directory}: method={run.method_name} keeps less than it "
            "trains, so training cannot go on from it."
        )
    for name, tensor in mine.items():
        tensor.copy_(saved.tensors[name])


@torch.no_grad()
def copy_body(source: nn.Module, target: nn.Module) -> None:
    """Copy the body of a merged model into that of a fresh one, in fp32, by name."""
    target.float()
    theirs, start, own = dict(source.named_parameters()), base_prefix(source), base_prefix(target)
    for name, parameter in target.named_parameters():
        other = f"{start}{name.removeprefix(own)}"
        # T5 that generates has no prefix. One of them may have no pooler.
        if name.startswith(own) and other in theirs:
            parameter.copy_(theirs[other])


@torch.no_grad()
def copy_head(run: Settings, saved: SavedRun, source: nn.Module, target: nn.Module) -> bool:
    """Copy the head, with its last map's outputs in the new order; tell whether it fits."""
    own, theirs = run.task, saved.settings.task
    alike = (type(own.posed), set(own.classes), run.model.pooling)
    if alike != (type(theirs.posed), set(theirs.classes), saved.settings.model.pooling):
        return False
    mine, given = outside(target), outside(source)
    if {n: p.shape for n, p in mine.items()} != {n: p.shape for n, p in given.items()}:
        return False
    last = [n for n, module in target.named_modules() if isinstance(module, nn.Linear)][-1]
    order = [theirs.classes.index(name) for name in own.classes] if HEADS[run.head].new else []
    for name, parameter in mine.items():
        tensor = given[name]
        parameter.copy_(tensor[order] if order and name.startswith(f"{last}.") else tensor)
    return True


def outside(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters outside the base model."""
    prefix = base_prefix(model)
    return {n: p for n, p in model.named_parameters() if not n.startswith(prefix)}


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Leave every generator as it was: a run draws the same numbers with and without a parent."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
