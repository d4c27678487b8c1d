"""A run directory made of a PEFT adapter: scored, and as whole as one that was trained here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from adaptkit.config.compose import compose, with_absolute_paths
from adaptkit.config.settings import Settings, settings
from adaptkit.counts import count
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_config import short
from adaptkit.interop.peft_file import PeftFile, read
from adaptkit.interop.peft_read import delta_for, method_for
from adaptkit.models import loading
from adaptkit.models.empty import empty_model
from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import digest, save_delta
from adaptkit.runs.directory import HISTORY, write_config
from adaptkit.runs.evaluating.evaluate import score
from adaptkit.runs.memory import Begun, own
from adaptkit.runs.predictions import write_predictions
from adaptkit.runs.prepare import prepare
from adaptkit.runs.record import RunResult, machine_facts, result_of, scoring_facts
from adaptkit.storage import bundled
from adaptkit.storage.files import check_free, making_folder, write_lines

BUNDLED = re.compile(r"(?:adaptkit/models/mini/|^adaptkit:)([\w-]+)/?$")
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
REVISION = re.compile(r"[\w./-]+")
FREE = ("task", "model", "data", "trainer", "seed")
ORDER = (
    "the adapter does not name its classes; the order of its outputs is taken to be {}. If it is "
    "another one, type it: task.labels=[...]"
)


def import_adapter(adapter: Path, overrides: Sequence[str], out: Path) -> RunResult:
    """Make the run directory `out` of a PEFT adapter, score it, and return its record.

    Raises:
        AdaptError: `out` is not free; the adapter is of another kind, or for another base model or
            task.
    """
    begun = Begun.now()
    check_free(out, "--out")
    file = read(adapter)
    check_overrides(overrides)
    plain = composed(file, [*overrides, f"output_dir={os.path.abspath(out)}"])
    if not any(word.startswith("model.pooling=") for word in overrides):
        plain["model"]["pooling"] = None  # a bundled model has one of its own
    plain["regularizer"] = {}
    run = settings(plain)
    if run.model.pooling:
        raise AdaptError(
            f"model.pooling={run.model.pooling}: the adapter's head was trained to read what its "
            "class reads. Leave it out."
        )
    splits, read_off = run.task.load(run.data, run.seed, train=False), not run.task.bound
    run = run.bind(splits.task)
    check_task_type(file, run)
    remark = None
    if file.classes:
        run = run.bind(run.task.with_classes(in_its_order(file, run.task.classes)))
    elif run.task.classes and read_off:
        remark = ORDER.format(",".join(run.task.classes))
    run = settings({**run.plain, "method": method_on(file, run)})
    prepared = prepare(run, updates=1, stage="restore")
    delta = delta_for(file, prepared.adaptation)
    prepared.adaptation.load_delta({name: t.to(prepared.device) for name, t in delta.items()})
    with making_folder(out) as folder:
        here = replace(run, output_dir=folder)
        scored = score(here, prepared, splits)
        size = save_delta(folder, prepared.adaptation.delta(), run, prepared.fingerprint)
        write_config(here)
        write_predictions(folder, scored)
        write_lines(folder / HISTORY, [])
        seconds = (datetime.now(timezone.utc) - begun.at).total_seconds()
        result = result_of(
            run,
            begun.at,
            "done",
            imported_from=os.path.abspath(file.folder),
            params=asdict(count(prepared.adaptation)),
            delta_bytes=size,
            delta_sha256=digest(folder),
            time={"total_seconds": round(seconds, 3), "train_seconds": 0.0, "eval_seconds": 0.0},
            **scoring_facts(run, splits, scored, [remark]),
            **machine_facts(
                prepared.device, prepared.precision, own(prepared.device, begun.earlier)
            ),
        )
        result.write(folder)
    return result


def in_its_order(file: PeftFile, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes in the order of the adapter's outputs.

    Raises:
        AdaptError: it was trained on others.
    """
    if sorted(file.classes) != sorted(classes):
        has = f"has {', '.join(classes)}" if classes else "has none"
        raise AdaptError(
            f"{file.folder}: was trained on the classes {', '.join(file.classes)}, but the task "
            f"{has}. Name a task with the same classes."
        )
    return file.classes


def check_task_type(file: PeftFile, run: Settings) -> None:
    """Reject an adapter whose head is of another kind than the task's.

    Raises:
        AdaptError: PEFT's task_type names another head.
    """
    stated, needed = file.config.get("task_type"), HEADS[run.head].peft
    if stated and stated != needed:
        raise AdaptError(
            f"{file.folder}: task_type={stated}, but task {run.task.name} needs an "
            f"adapter of {needed}. Name a task of the adapter's kind."
        )


def check_overrides(overrides: Sequence[str]) -> None:
    """Reject an override that would change what was trained.

    Raises:
        AdaptError: there is one.
    """
    touched = [word.partition("=")[0].lstrip("+~") for word in overrides]
    if fixed := [key for key in touched if key.partition(".")[0] not in FREE]:
        raise AdaptError(
            f"{fixed[0]}: the adapter says what was trained; only {', '.join(FREE)} can be set."
        )


def composed(file: PeftFile, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose the run's configuration, on the adapter's own body where the user names none.

    The values of the file are put into the composed configuration: they are data, never overrides.

    Raises:
        AdaptError: neither of them names a body, or the file names none that can be looked for.
    """
    if any(word.partition("=")[0] in ("model", "model.path") for word in overrides):
        return compose(list(overrides))
    named, revision = file.config.get("base_model_name_or_path"), file.config.get("revision")
    other = "Give it: model=auto model.path=... ."
    if not named:
        raise AdaptError(f"{file.folder}: names no body. {other}")
    if mini := BUNDLED.search(named):  # as it lies in the package, here or on another machine
        named = bundled.SCHEME + mini[1]
    # A folder of another machine, or a text that is neither a folder nor an id, is not looked for.
    known = mini or HUB_ID.fullmatch(named) or os.path.isdir(os.path.expanduser(named))
    if "${" in named or not known:
        raise AdaptError(
            f"{file.folder}: was made for the base model {short(named)}, which is neither a folder "
            f"here nor a hub id. {other}"
        )
    if revision and not REVISION.fullmatch(revision):
        raise AdaptError(f"{file.folder}: revision={short(revision)} is not a revision. {other}")
    plain = compose(["model=auto", "model.path=unknown", *overrides])
    name = mini[1] if mini else Path(named).stem
    said = {"path": named, "name": name, "revision": revision}
    typed = {word.partition("=")[0].removeprefix("model.") for word in overrides}
    said = {key: value for key, value in said.items() if key not in typed}
    return with_absolute_paths({**plain, "model": {**plain["model"], **said}})


def method_on(file: PeftFile, run: Settings) -> dict[str, Any]:
    """Return the entries of the method that computes what the adapter does, defaults included."""
    form = run.task.posed
    config = loading.load_config(run.model, run.head, form.outputs)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = empty_model(run.model, config, run.head).model
    method = method_for(file, model)  # looks at shapes, and at values of the file
    return {**compose([f"method={method['name']}"])["method"], **method}
