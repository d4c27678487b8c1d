"""The run directory: what a run leaves behind, and how it is held by one process at a time.

config.yaml          the resolved config with the classes filled in: enough to rebuild the run
delta.safetensors    what was trained, names as in the adapted model
result.json          one flat record
history.jsonl        one line per logged step
predictions.jsonl    the scored split: id, prediction, label
train.log            the log
after/               runs that followed it
checkpoints/         training state, removed when the run is done
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptkit.config.compose import load_plain, to_yaml
from adaptkit.config.following import FOLDER
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError, ConfigError, MachineError
from adaptkit.storage.files import is_main_process, to_json, write_text
from adaptkit.training.settings import chosen_on

DELTA, RESULT, CONFIG = "delta.safetensors", "result.json", "config.yaml"
HISTORY, PREDICTIONS, CHECKPOINTS = "history.jsonl", "predictions.jsonl", "checkpoints"
LOG = "train.log"
FILES = (DELTA, RESULT, CONFIG, HISTORY, PREDICTIONS)
# Say where or how a run is carried out, not what it computes.
IRRELEVANT = (
    "output_dir", "trainer.resume", "trainer.log_every", "trainer.jobs", "tracker", "tracker.name",
    "tracker.tensorboard", "tracker.wandb", "tracker.mlflow", "trainer.find_batch_size",
)  # fmt: skip
# As typed; read off the data in config.yaml.
FILLED_IN: dict[str, tuple] = {"task.labels": ([], None), "task.class_weights": ("balanced",),
                             "task.demonstrations": ([],),
                             "task.control_shares": ([],)}  # fmt: skip
# Options that came later, and the value that older runs had: they are the same runs with it.
ADDED: dict[str, Any] = {"optimizer.bias_correction": True, "trainer.features": None,
                         "trainer.description_length": False, "trainer.fast": True,
                         "trainer.gradient_checkpointing": False, "trainer.max_tokens": None,
                         "data.holdout": False, "model.dtype": "auto", "trainer.compile": False,
                         "model.quantization": None,
                         "trainer.select_on": "validation"}  # fmt: skip
UNLIKE = ("trainer.select_on",)  # of these, what every run has, and by now with another default


def write_config(run: Settings) -> None:
    """Write the resolved config."""
    write_text(run.output_dir / CONFIG, to_yaml(run.plain))


def read_config(directory: Path) -> Settings:
    """Return the settings of a run.

    Raises:
        AdaptError: the file is damaged, or was edited into something else.
    """
    try:
        plain = load_plain(directory / CONFIG)
        for group, key in (name.split(".") for name in UNLIKE):
            if isinstance(node := plain.get(group), dict):
                node.setdefault(key, ADDED[f"{group}.{key}"])
        return settings(plain)
    except ConfigError as error:
        raise AdaptError(f"{directory / CONFIG} is damaged or was edited. {error}") from error


def differences(directory: Path, plain: Mapping[str, Any]) -> list[str]:
    """Return the options in which a directory's config differs from this run's."""
    before, now = options_of(load_plain(directory / CONFIG)), options_of(plain)
    return sorted(
        key
        for key in before.keys() | now.keys()
        if key not in IRRELEVANT
        and effect(key, before.get(key, ADDED.get(key))) != effect(key, now.get(key))
        and now.get(key) not in FILLED_IN.get(key, ())
    )


def relevant(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say what a run computes, in a fixed order."""
    options = sorted(options_of(plain).items())
    named = {k: effect(k, v) for k, v in options if k not in IRRELEVANT}
    return {k: v for k, v in named.items() if k not in ADDED or v != effect(k, ADDED[k])}


def options_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a config, flat; not by which rows to choose, where nothing is."""
    options, trainer = flat(plain), plain.get("trainer")
    if isinstance(trainer, Mapping) and chosen_on(trainer) == "none":
        options.pop("trainer.select_on", None)
    return options


def effect(key: str, value: Any) -> Any:
    """Return what matters of an option's value: where features are kept does not, whether does."""
    return value is not None if key == "trainer.features" else value


def identity(plain: Mapping[str, Any], rows: str, body: str) -> str:
    """Return what a run's checkpoints share: a digest of its settings, rows and base model."""
    return hashlib.sha256(to_json((relevant(plain), rows, body)).encode()).hexdigest()


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as {dotted.key: value}."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    below = [flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in node.items()]
    return {key: value for part in below for key, value in part.items()}


def clear(directory: Path) -> None:
    """Remove what a run wrote, and nothing else that lies in its directory.

    The record goes first: a kill in between must not leave a run that looks done.
    """
    for name in (RESULT, *FILES, LOG):
        (directory / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, "eval", FOLDER, "tensorboard", "wandb"):
        shutil.rmtree(directory / name, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Remove files whose writing was cut short by a kill."""
    for name in FILES:
        for partial in directory.glob(f".{name}.*.tmp"):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Make a directory and hold it for one process; where nothing is written, remove it again.

    Raises:
        AdaptError: another process is at work there, or a file is in the way.
        MachineError: the directory cannot be written.
    """
    if not is_main_process():
        yield
        return
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        with locked(directory):
            sweep(directory)
            yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of however the process ends."""
    path = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except (FileExistsError, NotADirectoryError) as error:
        raise AdaptError(
            f"output_dir={directory}: a file is in the way. Give a folder, or a new name."
        ) from error
    except OSError as error:
        raise MachineError(
            f"output_dir={directory}: cannot be written ({error}). Give another folder."
        ) from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has no such lock
            pass
        except OSError as error:
            raise at_work(directory) from error
        # The one who held it before may have removed the file between our two calls.
        if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            raise at_work(directory)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def at_work(directory: Path) -> AdaptError:
    """Return the error for a directory that another process holds."""
    return AdaptError(
        f"{directory}: another process is running here. Wait for it, or set output_dir."
    )


def check_place(directory: Path) -> None:
    """Refuse a folder in which something else lies than what runs write.

    Raises:
        AdaptError: there are other files, and no run.
    """
    ours = {*FILES, LOG, CHECKPOINTS, ".lock", "eval", "tensorboard", "wandb"}
    if (directory / CONFIG).is_file():
        return
    if other := sorted(path.name for path in directory.iterdir() if path.name not in ours):
        raise AdaptError(
            f"output_dir={directory}: is not a run and holds other files "
            f"({', '.join(other[:3])}). Give a new folder."
        )
