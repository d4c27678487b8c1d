"""From settings to an adapted body on its device, and back from a saved delta."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from adaptkit.adaptation import Adaptation, Context, Stage, apply
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.models import loading
from adaptkit.models.anatomy import family
from adaptkit.runs import directory as checkpoint
from adaptkit.runs.record import log
from adaptkit.training import precision
from adaptkit.training.batching import Collator
from adaptkit.training.trainer import AdaptTrainer


@dataclass(frozen=True)
class Prepared:
    """A body under a task's head, adapted, on its device, with what feeds it."""

    adaptation: Adaptation
    tokenizer: Any
    collator: Collator
    limit: int | None  # longest text the body can read, beside a prompt
    fingerprint: str
    device: torch.device
    precision: str


def prepare(settings: Settings, labels: tuple[str, ...], updates: int, stage: Stage) -> Prepared:
    """Seed, load the body, adapt it, and put it on its device in its number format.

    Raises:
        AdaptError: the model or tokenizer cannot be loaded, or cannot be adapted in this way.
    """
    set_seed(settings.seed)  # before the model is built: new heads are drawn here
    device = precision.device_of(settings.trainer.device)
    number_format = precision.resolve(settings.trainer.precision, device)
    config = loading.load_config(settings.model, settings.task.outputs(labels))
    tokenizer = loading.load_tokenizer(settings.model, config)
    loaded = loading.load_model(settings.model, config, settings.task.head)
    loaded.model.to(device)  # number formats: precision.cast below
    generator = torch.Generator().manual_seed(settings.seed)
    context = Context(tokenizer, generator, updates, stage, labels)
    methods = (settings.method, *settings.regularizers.values())
    adaptation = apply(Adaptation.of(loaded.model, loaded.head), methods, context)
    precision.cast(adaptation, number_format)
    collator = Collator(tokenizer.pad_token_id, tokenizer.pad_token_type_id)
    positions = family(loaded.model).positions(config)
    limit = positions and positions - adaptation.extra_tokens
    return Prepared(
        adaptation, tokenizer, collator, limit, loaded.fingerprint, device, number_format
    )


def trainer_of(
    prepared: Prepared, settings: Settings, train: Any, validation: Mapping[str, Any],
    callbacks: tuple[TrainerCallback, ...] = (),
) -> AdaptTrainer:  # fmt: skip
    """Return the trainer of a prepared adaptation."""
    return AdaptTrainer(
        prepared.adaptation, settings.task, settings, prepared.collator, train, validation,
        prepared.precision, prepared.device, settings.output_dir, callbacks,
    )  # fmt: skip


def encode(settings: Settings, prepared: Prepared, rows: Any) -> Any:
    """Tokenise rows, and say how many were cut."""
    encoded = settings.task.encode(rows, prepared.tokenizer, prepared.limit)
    longest = min(settings.task.max_length, prepared.limit or settings.task.max_length)
    full = sum(length >= longest for length in encoded["length"][:])
    if full:
        log.info("%d of %d rows fill or exceed %d tokens", full, len(encoded), longest)
    return encoded


def total_updates(settings: Settings, rows: int) -> int:
    """Return how many updates a run makes."""
    trainer = settings.trainer
    if trainer.max_steps:
        return trainer.max_steps
    together = trainer.batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    per_epoch = math.ceil(math.ceil(rows / together) / trainer.gradient_accumulation)
    return math.ceil(trainer.epochs * per_epoch)


def restored(saved: checkpoint.SavedRun, labels: tuple[str, ...]) -> Prepared:
    """Load a run's body again, adapt it, and put the learnt tensors in.

    Raises:
        AdaptError: the body is another one, or the tensors do not fit.
    """
    prepared = prepare(saved.settings, labels, updates=1, stage="restore")
    checkpoint.check_body(saved, prepared.fingerprint)
    try:
        prepared.adaptation.load_delta(saved.tensors)
    except AdaptError as error:
        raise AdaptError(f"{saved.directory}: {error}") from error
    return prepared
