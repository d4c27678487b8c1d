"""The pipeline: config -> data -> body -> adaptation -> training -> score -> a verified record."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from adaptkit.adaptation import count
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, MachineError
from adaptkit.models import loading
from adaptkit.runs import directory as checkpoint
from adaptkit.runs.plan import Plan, plan
from adaptkit.runs.prepare import Prepared, encode, prepare, restored, total_updates, trainer_of
from adaptkit.runs.record import counts_line, device_name, fail, identity, logged, peak, reset_peak
from adaptkit.storage.files import finite, is_main_process, write_json
from adaptkit.tasks.text import Splits
from adaptkit.training import precision
from adaptkit.training.scores import Scored, flat_scores
from adaptkit.training.state import last_complete
from adaptkit.training.trainer import AdaptTrainer

SAMPLE_WARNING = (
    "WARNING: {why}, using the bundled SAMPLE of {task}: a few hundred rows of a grammar. Its "
    "scores say nothing about the real task; for that set data.root=DIR."
)


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
            asked = settings.data.source == "sample"
            why = "data.source=sample" if asked else "neither a local folder nor the hub has it"
            interface.say(SAMPLE_WARNING.format(why=why, task=settings.task.name))
        device = precision.device_of(settings.trainer.device)
        number_format = precision.resolve(settings.trainer.precision, device)
        outputs = settings.task.outputs(splits.labels)
        costs = plan(settings, outputs, number_format, memory=False)
        interface.say(counts_line(costs))
        started = datetime.now(timezone.utc)
        checkpoint.write_config(directory, settings.plain)
        with logged(directory):
            try:
                record = complete(settings, splits, costs, started, interface)
            except Exception as error:
                fail(settings, error, started)
                raise
        record = finite(record)
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
        "labels": list(splits.labels),
        **trained.facts,
        "versions": loading.versions(),
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    record["time"]["total_seconds"] = round(
        time.monotonic() - clock + record["time"].pop("before_seconds"), 3
    )
    return record


def already_done(settings: Settings) -> dict[str, Any] | None:
    """Return the record of a finished run in the directory; make room for one that starts anew.

    Raises:
        AdaptError: the directory holds a run with other settings.
    """
    directory = settings.output_dir
    if not (directory / checkpoint.CONFIG).is_file():
        return None
    if settings.trainer.resume == "never":
        if is_main_process():
            checkpoint.clear(directory)
        return None
    other = checkpoint.differences(directory, settings.plain)
    if other and checkpoint.empty(directory):  # it failed before there was anything to keep
        if is_main_process():
            checkpoint.clear(directory)
        return None
    if other:
        raise AdaptError(
            f"{directory} holds a run with other settings ({', '.join(other[:5])}). "
            "Set output_dir to another folder, or trainer.resume=never to replace it."
        )
    result = checkpoint.read_result(directory)
    return result if result and result["status"] == "done" else None


def train(settings: Settings, splits: Splits, interface: Interface) -> Trained:
    """Train (or go on training), put back the best weights, score and save the delta."""
    clock, directory = time.monotonic(), settings.output_dir
    updates = total_updates(settings, len(splits.train))
    prepared = prepare(settings, splits.labels, updates, stage="train")
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
    if trainer.state.global_step not in trainer.evaluated():
        trainer.evaluate()
    seconds = trainer.elapsed()  # those before an interruption included
    before = max(0.0, seconds - (time.monotonic() - clock))
    trainer.restore_best()
    counts = count(prepared.adaptation)
    trainer.finish()
    counts = replace(counts, stored=count(prepared.adaptation).stored)
    scored = trainer.final_scores()
    sample = first_logits(trainer, prepared, text_rows)
    size = checkpoint.save_delta(
        directory, prepared.adaptation.delta(), settings, prepared.fingerprint
    )
    checkpoint.write_predictions(directory, scored)
    facts = {
        "params": asdict(counts),
        "delta_bytes": size,
        "delta_sha256": checkpoint.digest(directory),
        "updates": trainer.state.global_step,
        "best_update": trainer.best.update,
        "epochs": round(trainer.state.epoch, 4),
        "time": {
            "before_seconds": before,
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


def first_logits(trainer: AdaptTrainer, prepared: Prepared, rows: Any) -> Tensor:
    """Return the logits of the given rows as one batch."""
    return trainer.logits(prepared.collator(list(rows))).float().cpu()


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
