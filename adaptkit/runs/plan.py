"""What a run costs, before it starts: parameters, bytes, memory. No weights, no network."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from adaptkit.adaptation import Adaptation, Context
from adaptkit.config.settings import Settings
from adaptkit.counts import Params, count, numbers
from adaptkit.methods.chain import apply
from adaptkit.models.anatomy import ROLES, family_of, roles_of, width
from adaptkit.models.compiled import check_compilable
from adaptkit.models.empty import Gaps, empty_model, gaps
from adaptkit.models.fast import packed_bytes as layout_bytes
from adaptkit.models.loading import load_config
from adaptkit.models.quantized import mark
from adaptkit.models.recompute import recompute_layers
from adaptkit.runs.activations import Living, step, storages
from adaptkit.runs.prepare import uses_fast_kernels
from adaptkit.storage import cache
from adaptkit.tasks.task import Form
from adaptkit.training.precision import DTYPES, cast, device_of, halved, kept_in

LIBRARIES = 90_000_000  # measured with torch 2.13 in fresh processes: 80 to 100 MB


@dataclass(frozen=True)
class Memory:
    """Estimated bytes during training."""

    weights: int
    gradients: int
    optimizer: int
    copies: int  # of weights, that methods and regularizers keep next to the model
    activations: int  # saved for the backward pass, at the longest input
    passing: int  # values between two operations, at the peak of a step or of an evaluation
    libraries: int  # what Python, torch and the data take once a run goes on, on a CPU
    batch_size: int
    tokens: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        lasting = self.weights + self.gradients + self.optimizer + self.copies
        return lasting + self.activations + self.passing + self.libraries


@dataclass(frozen=True)
class Plan:
    """Everything `adaptkit plan` prints."""

    task: str
    model: str
    method: str
    params: Params
    roles: dict[str, int]  # trainable parameters by role
    shapes: dict[str, list[int]]  # of every trainable tensor, by its name
    delta_bytes: int
    memory: Memory | None
    precision: str
    extra_tokens: int  # by which the base model's input is longer than the text
    base: int  # parameters of the base model, before the method adds any
    merges: bool  # what is trained can be folded into the body's own weights

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; the counts of parameters stand at the top as well."""
        plain = asdict(self)
        del plain["shapes"]
        if self.memory:
            plain["memory"]["total"] = self.memory.total
        return {**plain["params"], **plain}


def by_role(adaptation: Adaptation, roles: dict[str, str]) -> dict[str, int]:
    """Count what trains by role: that of the map it belongs to, the head, or 'other'."""
    counts: Counter[str] = Counter()
    for name, parameter in adaptation.trainable.items():
        # What a method adds stands under the name of the role it belongs to.
        named = [part for part in name.split(".") if part in (*ROLES, "embeddings")]
        role = roles.get(name) or (named[-1] if named else "other")
        where = "head" if name in adaptation.head else role
        counts[where] += parameter.numel()
    return dict(counts)


def plan(run: Settings, precision: str, updates: int = 1, memory: bool = True) -> Plan:
    """Build the adapted model from shapes alone and add up what it will cost.

    `run.task` is bound. `memory=False` leaves out the estimate of memory, which takes seconds.

    Raises:
        AdaptError: the method cannot adapt this model; nothing was loaded.
    """
    form = run.task.posed
    config = load_config(run.model, run.head, form.outputs, offline=True)
    lacking = gaps(run.model, config, run.head)
    with FakeTensorMode(allow_non_fake_inputs=True):
        empty = empty_model(run.model, config, run.head, lacking)
        if run.model.quantization:
            mark(empty.model, run.model.quantization)
        roles = roles_of(empty.model)
        base = sum(numbers(p) for n, p in empty.model.named_parameters() if n not in empty.head)
        generator = torch.Generator().manual_seed(0)
        context = Context(
            None,
            generator,
            updates,
            "plan",
            labels=run.task.classes,
            head=run.head,
            pooling=run.model.pooling,
            prompted=form.prompted,
            form=form,
        )
        with Living(storages(empty.model)) as made:
            adaptation = apply(Adaptation.of(empty.model, empty.head), run.methods, context)
        if memory:
            gc.collect()  # what only took part in it
        copies = made.held() - made.held(storages(adaptation.model))
        counts = count(adaptation)
        trains = by_role(adaptation, roles)
        shapes = {name: list(tensor.shape) for name, tensor in adaptation.trainable.items()}
        wrapped = form if adaptation.form is None else adaptation.form(form)
        needed = None
        if memory:
            estimate = partial(
                memory_of, run, adaptation, wrapped, counts, copies, precision, config
            )
            needed = estimated(estimate, run, lacking, precision, config)
        for last in adaptation.finish:
            last()
        counts = replace(counts, stored=count(adaptation).stored)
        return Plan(
            run.task.name, run.model.name, run.method_name, counts, trains, shapes,
            4 * counts.stored, needed, precision, adaptation.extra_tokens,
            base, adaptation.merge is not None,
        )  # fmt: skip


def estimated(
    estimate: Callable[[], Memory],
    run: Settings,
    lacking: Gaps,
    precision: str,
    config: PretrainedConfig,
) -> Memory:
    """Return an estimate from the cache folder, or make it: it takes as long as a few updates."""
    key = cache.key_of(
        "memory", run.methods, run.task.posed, run.task.max_length, run.model, run.trainer,
        run.optimizer.state_bytes, device_of(run.trainer.device).type, precision,
        config.to_json_string(use_diff=False), sorted(lacking.lacking), sorted(lacking.untied),
    )  # fmt: skip
    if key and (kept := cache.read(key)):
        return Memory(**json.loads(bytes(kept)))
    made = estimate()
    if key:
        cache.write(key, json.dumps(asdict(made)).encode())
    return made


def memory_of(
    run: Settings,
    adaptation: Adaptation,
    form: Form,
    counts: Params,
    copies: int,
    precision: str,
    config: PretrainedConfig,
) -> Memory:
    """Estimate the memory of training: what trains is fp32, frozen matrices are as `kept_in` says.

    Raises:
        ConfigError: model.dtype and the precision do not go together.
    """
    packed = run.model.quantization
    kept = kept_in(run.model.dtype, precision)
    frozen = frozen_bytes(adaptation, kept)
    device = device_of(run.trainer.device)
    if uses_fast_kernels(run, adaptation, device, precision) and kept == "bf16" and not packed:
        frozen += layout_bytes(adaptation.model)
    positions = family_of(config.model_type).positions(config)
    limit = None if positions is None else positions - adaptation.extra_tokens
    tokens = min(run.task.max_length, limit or run.task.max_length)
    cast(adaptation, precision, kept)
    if run.trainer.gradient_checkpointing:
        recompute_layers(adaptation.model)
    if run.trainer.compile:
        check_compilable(adaptation.model)
    trainer, gradients = run.trainer, 4 * counts.trainable
    rows, scored = (
        most if trainer.max_tokens is None
        else min(most, max(1, trainer.max_tokens // (tokens * form.sequences)))
        for most in (trainer.batch_size, trainer.eval_batch_size)
    )  # fmt: skip
    batch = rows * form.sequences
    if adaptation.features is None:
        saved, highest = step(adaptation, batch, tokens, precision, backward=True)
        further = (adaptation.passes - 1) * saved
        saved, highest = saved + further, highest + further
    else:  # the body runs without gradients, and the head reads what it made
        saved, highest = batch * width(adaptation.model) * 4, 0
    _, evaluating = step(adaptation, scored * form.sequences, tokens, precision, backward=False)
    return Memory(
        weights=4 * counts.trainable + frozen,
        gradients=gradients,
        optimizer=run.optimizer.state_bytes * counts.trainable,
        copies=copies,
        activations=saved,
        passing=max(0, highest - gradients - saved, evaluating - gradients - saved),
        libraries=LIBRARIES if device.type == "cpu" else 0,
        batch_size=rows,
        tokens=tokens,
    )


def frozen_bytes(adaptation: Adaptation, kept: str) -> int:
    """Return the bytes of what stays frozen; `kept`: the format of its matrices."""
    total, size = 0, DTYPES[kept].itemsize
    for name, parameter in adaptation.model.named_parameters():
        if not parameter.requires_grad:
            whole = parameter.numel() * (size if halved(name, parameter) else 4)
            total += getattr(parameter, "packed_bytes", whole)  # `mark`
    return total
