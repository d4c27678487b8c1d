"""The README of an export, a model card of the hub: what it is, what it scored, what it cost.

All of it is read from the run's record and settings. A line of which the record knows nothing is
left out. Names of data are text, never marks of Markdown or YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit.config.compose import to_yaml
from adaptkit.runs.delta import SavedRun
from adaptkit.runs.directory import flat
from adaptkit.runs.exchange.base import Base
from adaptkit.runs.exchange.limits import chosen, limits
from adaptkit.runs.exchange.markdown import block, code, table, text
from adaptkit.runs.exchange.metadata import by_split, metadata
from adaptkit.runs.exchange.reproduce import command, shown
from adaptkit.runs.exchange.usage import note, snippet
from adaptkit.runs.record import RunResult

WHAT = {
    "peft": "A PEFT adapter that adaptkit {made}. The file holds the head as well.",
    "merged": "A Hugging Face model that adaptkit {made}, with all weights in fp32.",
    "onnx": "An ONNX graph in fp32 of a model that adaptkit {made}.",
    "card": "The card of a run that adaptkit {made}. It holds no weights.",
}
TRAINING = ("epochs", "max_steps", "batch_size", "gradient_accumulation", "max_grad_norm",
            "early_stopping_patience", "keep", "precision")  # fmt: skip
IMPORTED = ("`method.", "`task.form", "`task.template", "`task.max_length", "`model.")
TASK = ("form", "template", "max_length", "class_weights", "label_smoothing")
PART = "> **SAMPLE DATA.** It was {done} on rows of a small sample that adaptkit " \
       "brings along. The scores say nothing about the real task.\n\n"  # fmt: skip
RANDOM = "> **RANDOM WEIGHTS.** The base model was drawn at random, with " \
         "`model.random_weights=true`: a baseline, not a model for use.\n\n"  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What a card is made of."""

    saved: SavedRun
    kind: str  # peft | merged | onnx | card
    where: str  # what `from_pretrained` takes: a hub id, or words for a folder
    config: Any = None  # of the model, with the task described; a card alone has none


def card(made: Card) -> str:
    """Return the README of an export."""
    saved = made.saved
    run, base = saved.settings, Base.of(saved)
    result = saved.result
    if result is None:  # a run that is still in memory
        return f"# {text(run.method_name)} for {text(run.task.name)}\n"
    done = "scored" if result.imported_from else "trained and scored"
    parts = [
        metadata(saved, made.kind, base),
        f"# {text(run.method_name)} for {text(run.task.name)}\n\n",
        PART.format(done=done) if result.data.get("source") == "sample" else "",
        RANDOM if run.model.random_weights else "",
        WHAT[made.kind].format(made="imported" if result.imported_from else "trained"), "\n\n",
        table(("", ""), summary(saved, base)),
        "\n## Scores\n\n", scores(result), f"\n{chosen(result)}\n",
        "\n## Settings\n\n", table(("setting", "value"), settings(saved)),
        "\n## Costs\n\n", table(("", ""), costs(result)),
        "\n## How to use it\n\n",
        block("python", snippet(made.kind, saved, base, made.where, made.config)),
        f"\n{note(made.kind, saved)}\n",
        "\n## How to repeat it\n\n", repeating(saved, base),
        "\n## Limits\n\n", *(f"- {line}\n" for line in limits(saved)),
    ]  # fmt: skip
    return "".join(parts)


def summary(saved: SavedRun, base: Base) -> list[tuple[str, str]]:
    """Return the rows about model, task and data."""
    result, run = saved.result, saved.settings
    record = result.data if result else {}
    at = f" at {code(base.revision)}" if base.revision else ""
    rows = [
        ("base model", f"{code(base.name)}{at}"),
        ("licence of the base model", text(base.licence or "not known")),
        ("method", code(run.method_name)),
        ("regularizers", ", ".join(map(code, run.regularizers))),
        ("data", data(record, run.plain["task"])),
        ("fingerprint of the rows", code(record.get("fingerprint", ""))),
        ("classes, in the order of the logits", ", ".join(map(code, run.task.classes))),
        ("fingerprint of the base model", code(saved.metadata["fingerprint"])),
    ]
    return [row for row in rows if row[1]]


def data(record: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Say which rows trained and scored the run; of a local file its name alone."""
    parts = [code(task.get("subset")) if task.get("subset") else ""]
    if task.get("revision"):
        parts.append(f"at {code(task['revision'])}")
    hub = " ".join([code(record.get("path")), *filter(None, parts), "from the hub"])
    local = f"local files {code(Path(str(record.get('path'))).name)}"
    sample = "a bundled SAMPLE, which says nothing about the real task"
    kinds = {"hub": hub, "local": local, "sample": sample}
    rows = record.get("rows", {})
    trained = f"{rows['train']:,} rows for training, " if rows.get("train") else ""
    return (
        f"{kinds.get(str(record.get('source')), 'unknown')}; {trained}"
        f"{rows.get('validation', 0):,} {'' if trained else 'rows '}scored"
    )


def scores(result: RunResult) -> str:
    """Return the table of scores, with the interval and the trivial answer of the deciding one."""
    base, between = result.baseline, result.score_interval
    trivial = f"{text(base['name'])} (no training)" if base.get("name") else "trivial answer"
    rows = []
    names = sorted(result.scores, key=lambda name: name != result.metric)  # stable
    split_of = {key: split for split, found in by_split(result).items() for key in found}
    for name in names:
        deciding = name == result.metric
        low_high = " to ".join(map(decimal, between)) if deciding and between else ""
        other = f", on {code(split_of[name])}" if split_of[name] != result.split else ""
        rows.append((f"{code(name)}{' (decides)' if deciding else ''}{other}",
                     decimal(result.scores[name]), low_high,
                     decimal(base.get("value")) if deciding and base else ""))  # fmt: skip
    count = result.data.get("rows", {}).get("validation", 0)
    split = f"{text(result.split)}, {count:,} rows"
    shown = table((split, "score", "95 % interval", trivial), rows)
    how = "\nThe interval is a percentile bootstrap over the rows; it knows nothing of other seeds."
    return shown + (f"{how}\n" if between else "")


def settings(saved: SavedRun) -> list[tuple[str, str]]:
    """Return the settings; of an imported adapter without its training, of which none is known."""
    every = hyperparameters(saved.settings.plain)
    if saved.result and saved.result.imported_from:
        return [row for row in every if row[0].startswith(IMPORTED)]
    return every


def hyperparameters(plain: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of method, regularizers and optimizer, and those that shape training."""
    wanted = {
        **{f"method.{k}": v for k, v in plain["method"].items() if k != "name"},
        **flat(plain.get("regularizer") or {}, "regularizer"),
        "optimizer": plain["optimizer"]["name"],
        **{f"optimizer.{k}": v for k, v in plain["optimizer"].items() if k != "name"},
        **{f"trainer.{k}": plain["trainer"].get(k) for k in TRAINING},
        **{f"task.{k}": plain["task"].get(k) for k in TASK},
        "model.pooling": plain["model"].get("pooling"),
        "model.quantization": plain["model"].get("quantization"),
        "seed": plain["seed"],
    }
    return [(code(k), code(v)) for k, v in wanted.items() if v not in (None, "", [], {})]


def costs(result: RunResult) -> list[tuple[str, str]]:
    """Return what training took; units are those of a person."""
    unknown = bool(result.imported_from)  # the other library trained it
    p, time, memory = result.params, result.time, result.memory
    resident, device = memory.get("peak_rss_bytes"), memory.get("peak_device_bytes")
    rows = [
        ("trained", f"{p.get('body_trainable', 0):,} parameters of the base model, "
         f"{p.get('head_trainable', 0):,} of the head; {p.get('trainable_percent', 0):.3g} % of "
         f"{p.get('total', 0):,}"),
        ("stored", f"{result.delta_bytes:,} bytes"),
        ("updates", "" if unknown else f"{result.updates:,} ({result.epochs:.3g} epochs)"),
        ("time", "" if unknown else f"{time.get('total_seconds', 0):,.1f} s, of which training "
         f"{time.get('train_seconds', 0):,.1f} s"),
        ("memory of the process at its peak", f"{resident:,} bytes" if resident else ""),
        ("memory of the device at its peak", f"{device:,} bytes" if device else ""),
        ("device", f"{text(result.device)}, {text(result.precision)}"),
        ("processes", f"{result.processes}"),
        ("versions", ", ".join(f"{text(k)} {text(v)}" for k, v in result.versions.items())),
    ]  # fmt: skip
    return [row for row in rows if row[1]]


def repeating(saved: SavedRun, base: Base) -> str:
    """Return the command of the run, or all its settings where no command gives them."""
    plain, result = saved.settings.plain, saved.result
    if result and result.imported_from:
        return "It was imported from another library; its training is not known.\n"
    if result and result.data.get("source") == "sample":
        plain = {**plain, "data": {**plain["data"], "source": "sample"}}
    if base.on_hub:
        model = {**plain["model"], "path": base.name, "revision": base.revision}
        plain = {**plain, "model": model}
    line = command(plain)
    if line is None:
        kept = {key: value for key, value in plain.items() if key not in ("output_dir", "tracker")}
        lines = re.sub(r"(?m)^(\s*[\w-]+): (/.*)$", hidden, to_yaml(kept))
        return f"No single command gives these settings:\n\n{block('yaml', lines)}"
    said = "Folders have the names that they had where it was trained.\n" if "/" not in line else ""
    return f"{block('', line)}{said}"


def hidden(entry: re.Match[str]) -> str:
    """Return an entry of YAML without the place of a folder on this machine."""
    return shown(f"{entry[1]}={entry[2]}").replace("=", ": ", 1)


def decimal(score: float | None) -> str:
    """Return a score as in the result line."""
    return "undefined" if score is None else f"{score:.4f}"
