"""May a run start in its directory? It may be done, resumed, or replace what is there."""

from __future__ import annotations

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs.directory import CHECKPOINTS, CONFIG, DELTA, differences
from adaptkit.runs.record import RunResult


def already_done(settings: Settings) -> RunResult | None:
    """Return the record of a finished run in the directory, if it need not be repeated.

    Raises:
        AdaptError: the directory holds a run with other settings.
    """
    directory = settings.output_dir
    if not (directory / CONFIG).is_file() or starts_again(settings):
        return None
    if other := differences(directory, settings.plain):
        raise AdaptError(
            f"{directory} holds a run with other settings ({', '.join(other[:5])}). "
            "Set output_dir to another folder, or trainer.resume=never to replace it."
        )
    result = RunResult.read(directory)
    return result if result and result.status == "done" else None


def starts_again(settings: Settings) -> bool:
    """Tell whether a run replaces the one in its directory: wanted, or nothing of it was kept."""
    directory = settings.output_dir
    if not (directory / CONFIG).is_file():
        return False
    if settings.trainer.resume == "never":
        return True
    other = differences(directory, settings.plain)
    return bool(other) and nothing_kept(settings, RunResult.read(directory))


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
    kept = (settings.output_dir / name for name in (DELTA, CHECKPOINTS))
    return failed and not any(path.exists() for path in kept)
