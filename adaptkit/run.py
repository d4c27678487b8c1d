"""The pipeline: config -> data -> body -> adaptation -> training -> score -> a verified record."""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from adaptkit import checkpoint, precision
from adaptkit.adaptation import Adaptation, Context
from adaptkit.batching import Collator
from adaptkit.config import Settings
from adaptkit.errors import AdaptError, MachineError, first_line
from adaptkit.files import is_main_process, write_json
from adaptkit.models import loading
from adaptkit.models.anatomy import family
from adaptkit.plan import Plan, adapted, params, plan
from adaptkit.tasks.text import Splits
from adaptkit.trainer import AdaptTrainer, Scored, flat_scores, last_complete

log = logging.getLogger("adaptkit")
SAMPLE_WARNING = (
    "WARNING: neither a local folder nor the hub has {task}: using the bundled SAMPLE, a few "
    "hundred rows of a grammar. Its scores say nothing about the real task; for that set "
    "data.root=DIR."
)


@dataclass(frozen=True)
class Prepared:
    """A body under a task's head, adapted, on its device, with what feeds it."""

    adaptation: Adaptation
    tokenizer: Any
    collator: Collator
    limit: int | None  # longest input the body can read
    fingerprint: str
    device: torch.device
    precision: str


@dataclass(frozen=True)
class Trained:
    """What is left of training once the model is let go."""

    scored: Mapping[str, Scored]
    sample: Tensor  # logits of the first rows, to compare a rebuilt model with
    facts: dict[str, Any]  # entries of result.json


@dataclass(frozen=True)
class Interface:
    """How a run speaks to the terminal."""

    say: Callable[[str], None]
    callbacks: Callable[[str], tuple[TrainerCallback, ...]]  # what is going on -> progress bar


def run(settings: Settings, interface: Interface) -> dict[str, Any]:
    """Carry out one run and return its record; a run that is done already is not repeated.

    Raises:
        AdaptError: something the user can mend; nothing half-written is left.
        MachineError: disk, memory or network failed.
    """
    directory = settings.output_dir
    with checkpoint.claimed(directory):
        done = already_done(settings)
        if done:
            interface.say(f"done before; to repeat it: trainer.resume=never ({directory})")
            return done
        splits = settings.task.load(settings.data, settings.seed)
        if splits.origin.source == "sample":
            interface.say(SAMPLE_WARNING.format(task=settings.task.name))
        device = precision.device_of(settings.trainer.device)
        number_format = precision.resolve(settings.trainer.precision, device)
        costs = plan(settings, settings.task.outputs(splits.labels), number_format)
        interface.say(counts_line(costs))
        started = datetime.now(timezone.utc)
        checkpoint.write_config(directory, settings.plain)
        with logged(directory):
            try:
                record = complete(settings, splits, costs, started, interface)
            except Exception as error:
                fail(settings, error, started)
                raise
        write_json(directory / checkpoint.RESULT, record)
        if is_main_process():
            shutil.rmtree(directory / checkpoint.CHECKPOINTS, ignore_errors=True)
        return record


def complete(
    settings: Settings, splits: Splits, costs: Plan, started: datetime, interface: Interface
) -> dict[str, Any]:
    """Train, score, save and prove; return the record of the finished run."""
    clock = time.monotonic()
    trained = train(settings, splits, interface)
    gc.collect()
    if is_main_process():
        prove(settings, splits, trained.sample)
    scores = flat_scores(trained.scored)
    record = {
        **identity(settings),
        "status": "done",
        "error": None,
        "score": scores[settings.task.best],
        "scores": scores,
        "split": settings.task.validation,
        "data": {
            "source": splits.origin.source,
            "path": splits.origin.path,
            "rows": {"train": len(splits.train), "validation": len(splits.validation[""])},
        },
        **trained.facts,
        "versions": loading.versions(),
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    record["time"]["total_seconds"] = round(
        time.monotonic() - clock + record["time"].pop("before_seconds"), 3
    )
    return record


def identity(settings: Settings) -> dict[str, Any]:
    """Return what tells one run from another."""
    return {
        "task": settings.task.name,
        "model": settings.model.name,
        "method": settings.method_name,
        "regularizers": sorted(settings.regularizers),
        "variant": settings.output_dir.parent.name,
        "seed": settings.seed,
        "metric": settings.task.best,
    }


def already_done(settings: Settings) -> dict[str, Any] | None:
    """Return the record of a finished run in the directory; make room for one that starts anew.

    Raises:
        AdaptError: the directory holds a run with other settings.
    """
    directory = settings.output_dir
    if not (directory / checkpoint.CONFIG).is_file():
        return None
    if settings.trainer.resume == "never":
        checkpoint.clear(directory)
        return None
    other = checkpoint.differences(directory, settings.plain)
    if other:
        raise AdaptError(
            f"{directory} holds a run with other settings ({', '.join(other[:5])}). "
            "Set output_dir to another folder, or trainer.resume=never to replace it."
        )
    result = checkpoint.read_result(directory)
    return result if result and result["status"] == "done" else None


def prepare(settings: Settings, labels: tuple[str, ...], updates: int, restoring: bool) -> Prepared:
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
    loaded.model.to(device).float()
    generator = torch.Generator().manual_seed(settings.seed)
    context = Context(tokenizer, generator, updates, restoring)
    adaptation = adapted(loaded.model, loaded.head, settings, context)
    precision.cast(adaptation, number_format)
    collator = Collator(tokenizer.pad_token_id, tokenizer.pad_token_type_id)
    limit = family(loaded.model).positions(config)
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


def train(settings: Settings, splits: Splits, interface: Interface) -> Trained:
    """Train (or go on training), put back the best weights, score and save the delta."""
    clock, directory = time.monotonic(), settings.output_dir
    updates = total_updates(settings, len(splits.train))
    prepared = prepare(settings, splits.labels, updates, restoring=False)
    encoded = {s: encode(settings, prepared, rows) for s, rows in splits.validation.items()}
    text_rows = encoded[""].select(range(min(len(encoded[""]), settings.trainer.eval_batch_size)))
    rows = encode(settings, prepared, splits.train)
    trainer = trainer_of(prepared, settings, rows, encoded, interface.callbacks("training"))
    if prepared.adaptation.features is not None and settings.trainer.cache_frozen == "auto":
        interface.say("the body is frozen: its features are computed once")
        trainer.train_dataset = trainer.cache_features(rows)
        trainer.validation = {s: trainer.cache_features(r) for s, r in encoded.items()}
    resumed = last_complete(directory / checkpoint.CHECKPOINTS)
    if resumed:
        interface.say(f"going on from update {resumed.rpartition('-')[2]}")
    reset_peak(prepared.device)
    trainer.go_on(resumed)
    if not any(h["step"] == trainer.state.global_step for h in evaluations(trainer)):
        trainer.evaluate()
    trainer.restore_best()
    trainer.finish()
    scored = trainer.final_scores()
    sample = first_logits(trainer, prepared, text_rows)
    counts = params(prepared.adaptation)
    size = checkpoint.save_delta(
        directory, prepared.adaptation.delta(), settings, prepared.fingerprint
    )
    checkpoint.write_predictions(directory, scored)
    seconds = trainer.elapsed()
    facts = {
        "params": asdict(counts),
        "delta_bytes": size,
        "delta_sha256": checkpoint.digest(directory),
        "updates": trainer.state.global_step,
        "best_update": trainer.best.update,
        "epochs": round(trainer.state.epoch, 4),
        "time": {
            "before_seconds": max(0.0, seconds - (time.monotonic() - clock)),
            "train_seconds": round(seconds - trainer.seconds["eval"], 3),
            "eval_seconds": round(trainer.seconds["eval"], 3),
            "train_samples_per_second": round(
                trainer.state.epoch * len(splits.train) / (seconds - trainer.seconds["eval"]), 2
            ),
        },
        "memory": peak(prepared.device),
        "precision": prepared.precision,
        "device": device_name(prepared.device),
    }
    return Trained(scored, sample, facts)


def evaluations(trainer: AdaptTrainer) -> list[dict[str, Any]]:
    """Return the logged evaluations."""
    return [h for h in trainer.state.log_history if f"eval_{trainer.task.best}" in h]


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


def first_logits(trainer: AdaptTrainer, prepared: Prepared, rows: Any) -> Tensor:
    """Return the logits of the given rows as one batch."""
    return trainer.logits(prepared.collator(list(rows))).float().cpu()


def restored(saved: checkpoint.SavedRun, labels: tuple[str, ...]) -> Prepared:
    """Load a run's body again, adapt it, and put the learnt tensors in.

    Raises:
        AdaptError: the body is another one, or the tensors do not fit.
    """
    prepared = prepare(saved.settings, labels, updates=1, restoring=True)
    checkpoint.check_body(saved, prepared.fingerprint)
    try:
        prepared.adaptation.load_delta(saved.tensors)
    except AdaptError as error:
        raise AdaptError(f"{saved.directory}: {error}") from error
    return prepared


def prove(settings: Settings, splits: Splits, expected: Tensor) -> None:
    """Load what was saved into a fresh model: it must give the same logits.

    Raises:
        MachineError: it does not; the run counts as failed.
    """
    prepared = restored(checkpoint.read_delta(settings), splits.labels)
    rows = splits.validation[""].select(range(len(expected)))
    encoded = encode(settings, prepared, rows)
    trainer = trainer_of(prepared, settings, None, {})
    found = first_logits(trainer, prepared, encoded)
    if not same(found, expected, prepared.device):
        raise MachineError(
            f"{settings.output_dir / checkpoint.DELTA}: the reloaded model gives other logits "
            f"(largest difference {float((found - expected).abs().max()):.3g}). The saved file "
            "cannot be trusted; please report this."
        )


def same(found: Tensor, expected: Tensor, device: torch.device) -> bool:
    """Compare logits: to the bit on the CPU, where kernels are deterministic."""
    if device.type == "cpu":
        return torch.equal(found, expected)
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


# ---- the log, the clock, the memory ----


class logged:
    """Context in which the log is also appended to train.log."""

    def __init__(self, directory: Path) -> None:
        self.handler = (
            logging.FileHandler(directory / "train.log", encoding="utf-8")
            if is_main_process()
            else logging.NullHandler()
        )
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> None:
        log.addHandler(self.handler)
        log.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self.handler)
        self.handler.close()


def fail(settings: Settings, error: Exception, started: datetime) -> None:
    """Leave a record of a failed run; checkpoints stay for another try."""
    expected = isinstance(error, AdaptError | MachineError)
    log.error("%s", error if expected else traceback.format_exc())
    record = {
        **identity(settings),
        "status": "failed",
        "error": str(error) if expected else f"{type(error).__name__}: {first_line(error)}",
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    try:
        write_json(settings.output_dir / checkpoint.RESULT, record)
    except MachineError:  # the disk may be what failed
        log.error("the record of the failure could not be written")


def reset_peak(device: torch.device) -> None:
    """Start counting device memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, int | None]:
    """Return the highest memory use so far, of the process and of the device."""
    rss = None
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": rss, "peak_device_bytes": on_device}


def device_name(device: torch.device) -> str:
    """Return 'cpu' or the name of the accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def counts_line(costs: Plan) -> str:
    """Say how much learns, as `adaptkit plan` counts it."""
    p = costs.params
    return (
        f"{costs.method} on {costs.model}: {p.body_trainable:,} of the body learn and "
        f"{p.head_trainable:,} of the head, {p.trainable_percent:.3g} % of {p.total:,}"
    )
