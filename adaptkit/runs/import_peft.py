"""A run directory made of a PEFT adapter: scored, and as whole as one that was trained here."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from adaptkit.adaptation import count
from adaptkit.config.compose import compose
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_file import PeftFile, read
from adaptkit.interop.peft_read import delta_for, method_for
from adaptkit.models import loading
from adaptkit.runs import directory as checkpoint
from adaptkit.runs.evaluate import score
from adaptkit.runs.prepare import Prepared, prepare
from adaptkit.runs.record import device_name, identity, peak
from adaptkit.storage.files import check_free, finite, making_folder, write_json, write_lines
from adaptkit.training.scores import flat_scores

FREE = ("task", "model", "data", "trainer", "seed")


def import_adapter(adapter: Path, overrides: list[str], out: Path) -> dict[str, Any]:
    """Make the run directory `out` of a PEFT adapter, score it, and return its record.

    Raises:
        AdaptError: `out` is not free; the adapter is of another kind, or for another body or task.
    """
    clock, started = time.monotonic(), datetime.now(timezone.utc)
    check_free(out, "--out")
    file = read(adapter)
    plain = compose([*body_of(file, overrides), *overrides, f"output_dir={os.path.abspath(out)}"])
    plain["regularizer"] = {}
    first = settings(plain)
    if first.model.pooling:
        raise AdaptError(
            f"model.pooling={first.model.pooling}: the adapter's head was trained to read what its "
            "class reads. Leave it out."
        )
    splits = first.task.load(first.data, first.seed, train=False)
    plain["method"] = method_on(file, first, splits.labels)
    run = settings(plain)
    prepared = prepare(run, splits.labels, updates=1, stage="restore")
    device = prepared.device
    delta = delta_for(file, prepared.adaptation)
    prepared.adaptation.load_delta({name: t.to(device) for name, t in delta.items()})
    with making_folder(out) as folder:
        scored = score(replace(run, output_dir=folder), prepared, splits)
        shutil.rmtree(folder / checkpoint.CHECKPOINTS, ignore_errors=True)  # the Trainer's, empty
        record = finite(
            {
                **identity(run),
                **facts(file, run, prepared, splits, flat_scores(scored), folder),
                "time": {
                    "total_seconds": round(time.monotonic() - clock, 3), "train_seconds": 0.0,
                    "eval_seconds": 0.0, "train_samples_per_second": 0.0,
                },
                "started_at": started.isoformat(timespec="seconds"),
                "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
        )  # fmt: skip
        checkpoint.write_config(folder, plain)
        checkpoint.write_predictions(folder, scored)
        write_lines(folder / checkpoint.HISTORY, [])
        write_json(folder / checkpoint.RESULT, record)
    return record


def body_of(file: PeftFile, overrides: list[str]) -> list[str]:
    """Return the overrides that name the adapter's own body, where the user names none.

    Raises:
        AdaptError: neither of them does, or an override would change what was learnt.
    """
    touched = [word.partition("=")[0].lstrip("+~") for word in overrides]
    if fixed := [key for key in touched if key.partition(".")[0] not in FREE]:
        raise AdaptError(
            f"{fixed[0]}: the adapter says what was learnt; only {', '.join(FREE)} can be set."
        )
    if any(word.partition("=")[0] in ("model", "model.path") for word in overrides):
        return []
    named = file.config.get("base_model_name_or_path")
    if not named:
        raise AdaptError(f"{file.folder}: names no body. Give it: model=auto model.path=... .")
    revision = file.config.get("revision")
    return ["model=auto", f"model.path='{named}'"] + (
        [f"model.revision='{revision}'"] if revision else []
    )


def method_on(file: PeftFile, run: Settings, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the method's part of the config: name and all options."""
    config = loading.load_config(run.model, run.task.outputs(labels))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = loading.empty_model(run.model, config, run.task.head).model
    chosen = method_for(file, model)  # looks at shapes, and at values of the file
    return {**compose([f"method={chosen['name']}"])["method"], **chosen}


def facts(
    file: PeftFile, run: Settings, prepared: Prepared, splits: Any, scores: Any, folder: Path
) -> dict[str, Any]:
    """Save what was learnt to `folder`; return the entries of the record about it."""
    adaptation = prepared.adaptation
    size = checkpoint.save_delta(folder, adaptation.delta(), run, prepared.fingerprint)
    return {
        "status": "done",
        "error": None,
        "imported_from": os.path.abspath(file.folder),
        "score": scores[run.task.best],
        "scores": scores,
        "split": run.task.validation,
        "data": {
            "source": splits.origin.source,
            "path": splits.origin.path,
            "rows": {"train": 0, "validation": len(splits.validation[""])},
        },
        "labels": list(splits.labels),
        "params": asdict(count(adaptation)),
        "delta_bytes": size,
        "delta_sha256": checkpoint.digest(folder),
        "updates": 0,
        "best_update": 0,
        "epochs": 0.0,
        "memory": peak(prepared.device),
        "precision": prepared.precision,
        "device": device_name(prepared.device),
        "versions": loading.versions(),
    }
