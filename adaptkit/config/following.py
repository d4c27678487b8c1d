"""The runs of a protocol: on the body of the run that they follow, and on the untouched one.

A run that follows gets the base model, seed, data folder, device and number format of the run that
it follows, and the protocol's own words. On the untouched body it lies in its default directory,
where all runs with the same model and seed find it; on the run's body it lies in the run's folder.
No torch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from adaptkit.config.compose import compose_job, load_raw
from adaptkit.config.groups import CONF, options
from adaptkit.config.settings import Settings, settings
from adaptkit.config.words import in_quotes
from adaptkit.errors import ConfigError

FOLDER = "after"  # in a run's directory


@dataclass(frozen=True)
class Pair:
    """One run of a protocol, on both bodies."""

    words: tuple[str, ...]  # all of its overrides
    untouched: Settings
    after: Settings


def pairs_of(job: Settings) -> dict[str, Pair]:
    """Return the runs that follow a run, by their names.

    Raises:
        ConfigError: an override of one is wrong; the message names the run.
    """
    if job.protocol is None:
        return {}
    found = {}
    for name, words in job.protocol.words().items():
        every = [*handed_on(job), *words]
        try:
            plain = compose_job(every)
            after = copy.deepcopy(plain)
            after["model"]["from_run"] = str(job.output_dir.absolute())
            after["output_dir"] = str(job.output_dir / FOLDER / job.protocol.name / name)
            found[name] = Pair(tuple(words), settings(plain), settings(after))
        except ConfigError as error:
            raise ConfigError(f"protocol={job.protocol.name}, run {name}: {error}") from error
    return found


def handed_on(job: Settings) -> list[str]:
    """Return what a run that follows takes from a run, as overrides."""
    model, data, trainer = job.model, job.data, job.trainer
    file = CONF / "model" / f"{model.name}.yaml"
    known = load_raw(file) if model.name in options("model") else {}
    if known.get("path") == model.path:
        words = [f"model={model.name}"]
    else:
        words = ["model=auto", f"model.path={in_quotes(model.path)}",
                 f"model.name={in_quotes(model.name)}"]  # fmt: skip
    if model.revision != known.get("revision"):
        words.append(f"model.revision={in_quotes(model.revision) if model.revision else 'null'}")
    words += [f"model.dtype={model.dtype}"] * (model.dtype != "auto")
    words += [f"model.quantization={model.quantization}"] * bool(model.quantization)
    if model.random_weights:
        words.append("model.random_weights=true")
    if data.root is not None:
        words.append(f"data.root={in_quotes(str(Path(data.root).absolute()))}")
    if data.source != "auto":
        words.append(f"data.source={data.source}")
    words += [f"trainer.device={in_quotes(trainer.device)}"] * (trainer.device != "auto")
    words += [f"trainer.precision={trainer.precision}"] * (trainer.precision != "auto")
    return [*words, f"seed={job.seed}"]
