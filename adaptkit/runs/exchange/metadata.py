"""The metadata at the head of a card, as YAML that the hub reads."""

from __future__ import annotations

import math
from typing import Any

import yaml

from adaptkit.runs.delta import SavedRun
from adaptkit.runs.exchange.base import Base
from adaptkit.runs.exchange.markdown import plain
from adaptkit.runs.record import RunResult

LIBRARIES = {"peft": "peft", "merged": "transformers", "onnx": "onnx", "card": "adaptkit"}
PIPELINES = {"sequence": "text-classification", "token": "token-classification",
             "span": "question-answering", "mlm": "fill-mask", "lm": "text-generation",
             "seq2seq": "text-generation"}  # fmt: skip
KINDS = {"choice": "multiple-choice", "gap": "multiple-choice", "summarize": "summarization"}


def metadata(saved: SavedRun, kind: str, base: Base) -> str:
    """Return the block between two lines of dashes; what is not known is left out."""
    run, result = saved.settings, saved.result
    source = result.data.get("source") if result else None
    pipeline = KINDS.get(run.plain["task"]["kind"]) or PIPELINES[run.head]
    tags = [
        "adaptkit",
        run.method_name,
        *run.regularizers,
        *(["sample-data"] if source == "sample" else []),
    ]
    found: dict[str, Any] = {
        "base_model": base.name if base.on_hub else None,
        "base_model_relation": None,
        "datasets": [result.data["path"]] if result and source == "hub" else None,
        "language": list(base.languages) or None,
        "library_name": LIBRARIES[kind],
        "license": base.licence,
        "metrics": sorted(values(result)) or None,
        "pipeline_tag": pipeline,
        "tags": [plain(tag) for tag in tags],
        "model-index": index(saved, pipeline) if result and values(result) else None,
    }
    if base.on_hub and kind != "card":
        found["base_model_relation"] = "adapter" if kind == "peft" else "finetune"
    known = {key: value for key, value in found.items() if value is not None}
    lines = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{lines}---\n\n"


def values(result: RunResult | None) -> dict[str, float]:
    """Return the scores that are numbers."""
    every = result.scores if result else {}
    return {k: v for k, v in every.items() if v is not None and math.isfinite(v)}


def by_split(result: RunResult) -> dict[str, list[str]]:
    """Return the names of the scores by the split of their rows, that which decides first."""
    also = "task.also."
    further = {f"_{key.removeprefix(also)}": str(split) for key, split in result.settings.items()
               if key.startswith(also)}  # fmt: skip
    found: dict[str, list[str]] = {result.split: []}
    for name in result.scores:
        of = [split for suffix, split in further.items()
              if name.endswith(suffix) and name.removesuffix(suffix) in result.scores]  # fmt: skip
        found.setdefault(of[0] if of else result.split, []).append(name)
    return found


def index(saved: SavedRun, pipeline: str) -> list[dict[str, Any]]:
    """Return the scores as the hub lists them: one model, one task, one data set."""
    run, result = saved.settings, saved.result
    if result is None:
        return []
    task, source, known = run.plain["task"], result.data.get("source"), values(result)
    name, mark = plain(run.task.name), {"sample": " (bundled SAMPLE)", "local": " (local files)"}
    dataset: dict[str, Any] = {
        "name": f"{name}{mark.get(str(source), '')}",
        # only a hub id where the rows are those of the hub
        "type": result.data["path"] if source == "hub" else f"adaptkit-{source}-{name}",
    }
    if source == "hub" and task.get("subset"):
        dataset["config"] = task["subset"]
    if source == "hub" and task.get("revision"):
        dataset["revision"] = task["revision"]
    model = f"{plain(run.method_name)} on {plain(run.model.name)} for {name}"
    results = [
        {
            "task": {"type": pipeline},
            "dataset": dataset | {"split": plain(split)},
            "metrics": [{"type": key, "name": key, "value": known[key]} for key in scores],
        }
        for split, names in by_split(result).items()
        if (scores := [key for key in names if key in known])
    ]
    return [{"name": model, "results": results}]
