"""The runs of a protocol: each on the body of a finished run and on the untouched one, compared.

    difference = score after the run - score of the untouched body   (the other way round where less
                                                                      is better)

Both are ordinary runs with the same options, seed and rows. Finished ones are not repeated, so that
those on the untouched body are carried out once per model and seed. One on the run's body that was
made with other options of the protocol is replaced.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from adaptkit.config.following import FOLDER, Pair, pairs_of
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, ConfigError, MachineError
from adaptkit.runs.directory import CONFIG, differences
from adaptkit.runs.record import RunResult
from adaptkit.runs.run import Interface, run
from adaptkit.storage.files import finite, write_json
from adaptkit.training.scorer import distributed


def with_protocol(job: Settings, result: RunResult, interface: Interface) -> RunResult:
    """Carry out what follows a finished run, and add the comparisons to its record.

    They are written to after/PROTOCOL.json as well. A run whose rows cannot be had is named there
    with the reason.

    Raises:
        AdaptError: none of the runs could be carried out, or an option of one is wrong.
        MachineError: disk, memory or network failed.
    """
    if job.protocol is None:
        return result
    if distributed():
        torch.distributed.barrier()  # the main process has written the run
    entries: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for name, pair in pairs_of(job).items():
        try:
            entries.append(entry := compared(name, pair, interface))
            interface.say(line(entry))
        except (ConfigError, MachineError):
            raise
        except AdaptError as error:
            missing[name] = str(error)
            interface.say(f"{name}: not carried out")
    if not entries:
        raise AdaptError(f"protocol={job.protocol.name}: none of its runs could be carried out. "
                         f"{next(iter(missing.values()))}")  # fmt: skip
    record = finite(
        {
            "protocol": job.protocol.name,
            "asked": job.protocol.words(),
            "run": str(job.output_dir),
            "runs": entries,
            "missing": missing,
        }
    )
    write_json(job.output_dir / FOLDER / f"{job.protocol.name}.json", record)
    result = replace(result, after={**result.after, job.protocol.name: record})
    result.write(job.output_dir)
    return result


def compared(name: str, pair: Pair, interface: Interface) -> dict[str, Any]:
    """Carry out one run on both bodies, and return the entry of the record.

    Raises:
        AdaptError: one cannot be carried out, or they are not of the same rows.
    """
    found = {}
    for body, one in (("after the run", pair.after), ("untouched", pair.untouched)):
        interface.say(f"{name}, {body}:")
        found[body] = run(renewed(one), interface)
        gc.collect()
    after, before = found.values()
    if after.data["fingerprint"] != before.data["fingerprint"]:
        raise AdaptError(
            f"{pair.untouched.output_dir} and {pair.after.output_dir} were scored on other rows. "
            "Remove the one whose rows cannot be had any more."
        )
    sign = 1 if pair.after.task.larger_is_better else -1
    known = after.score is not None and before.score is not None
    return {
        "name": name,
        "task": after.task,
        "metric": after.metric,
        "untouched": before.score,
        "after": after.score,
        "difference": sign * ((after.score or 0) - (before.score or 0)) if known else None,
        "baseline": after.baseline,
        "rows": after.data["rows"]["validation"],
        "data": after.data["source"],
        "directories": {"untouched": str(pair.untouched.output_dir),
                        "after": str(pair.after.output_dir)},
    }  # fmt: skip


def renewed(one: Settings) -> Settings:
    """Let a run replace one with other options that lies in its place."""
    place = one.output_dir
    if place.parent.parent.name != FOLDER or not (place / CONFIG).is_file():
        return one
    other = differences(place, one.plain)
    return replace(one, trainer=replace(one.trainer, resume="never")) if other else one


def line(entry: Mapping[str, Any]) -> str:
    """Say how one comparison went."""
    before, after = ("undefined" if entry[key] is None else f"{entry[key]:.4f}"
                     for key in ("untouched", "after"))  # fmt: skip
    return f"{entry['name']}: {entry['metric']} {before} untouched, {after} after the run"
