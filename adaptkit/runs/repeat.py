"""May a run start in its directory? It may be done, resumed, or replace what is there. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs.directory import CHECKPOINTS, CONFIG, DELTA, differences
from adaptkit.runs.identity import changes, made_of
from adaptkit.runs.record import RunResult
from adaptkit.storage.files import is_main_process


def done_before(settings: Settings, say: Callable[[str], None]) -> RunResult | None:
    """Return the record of a finished run that need not be repeated, and say so.

    Raises:
        AdaptError: the directory holds a run with other settings, or made of something else.
    """
    origin = settings.task.origin(settings.data)
    done = already_done(settings, origin.kind, made_of(settings, origin))
    if done:
        if is_main_process():  # a kill after the record was written left them
            shutil.rmtree(settings.output_dir / CHECKPOINTS, ignore_errors=True)
        say(f"done before (to repeat it: trainer.resume=never): {settings.output_dir}")
    return done


def already_done(settings: Settings, source: str, now: Mapping[str, Any]) -> RunResult | None:
    """Return the record of a finished run in the directory, if it need not be repeated.

    `source`: of the data, `sample` for example; `now`: what the run would be made of.

    Raises:
        AdaptError: the directory holds a run with other settings, or made of something else.
    """
    directory = settings.output_dir
    if not (directory / CONFIG).is_file() or starts_again(settings, source):
        return None
    if other := differences(directory, settings.plain):
        raise AdaptError(
            f"{directory} holds a run with other settings ({', '.join(other[:5])}). "
            "Set output_dir to another folder, or trainer.resume=never to replace it."
        )
    result = RunResult.read(directory)
    if result is None or result.status != "done":
        return None
    delta = directory / DELTA
    if (delta.stat().st_size if delta.is_file() else 0) != result.delta_bytes:
        raise AdaptError(
            f"{delta} is missing or damaged, though the run is done. trainer.resume=never trains "
            "it again."
        )
    out_of_reach = source == "sample" and result.data.get("source") != "sample"
    compared = ("model", "parent") if out_of_reach else ("data", "model", "parent")
    if changed := changes(result.made_of, now, compared):
        raise AdaptError(
            f"{directory} holds a finished run, and this has changed since: "
            f"{', '.join(changed)}. Set output_dir to another folder, or trainer.resume=never "
            "to replace it."
        )
    return result


def starts_again(settings: Settings, source: str) -> bool:
    """Tell whether a run replaces the one in its directory.

    It does if that is wanted, if nothing of the other was kept, or if the other was made on sample
    data and there are real ones now.
    """
    directory = settings.output_dir
    if not (directory / CONFIG).is_file():
        return False
    if settings.trainer.resume == "never":
        return True
    result = RunResult.read(directory)
    if result and result.data.get("source") == "sample" and source != "sample":
        return True
    return bool(differences(directory, settings.plain)) and nothing_kept(settings, result)


def check_bound(settings: Settings) -> None:
    """Reject resuming a run whose classes were read off other data.

    Raises:
        AdaptError: the directory's config has other classes.
    """
    directory = settings.output_dir
    if (directory / CONFIG).is_file() and (other := differences(directory, settings.plain)):
        raise AdaptError(
            f"{directory} holds a run on other data ({', '.join(other[:5])} changed). Set "
            "output_dir to another folder, or trainer.resume=never to replace it."
        )


def nothing_kept(settings: Settings, result: RunResult | None) -> bool:
    """Tell whether a run failed before it had trained anything that was saved."""
    failed = result is not None and result.status == "failed"
    directory = settings.output_dir
    kept = (directory / DELTA).exists() or any((directory / CHECKPOINTS).glob("checkpoint-*"))
    return failed and not kept
