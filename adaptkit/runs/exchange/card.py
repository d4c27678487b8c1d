"""The README of an exported adapter: what it is, what it scored, and how it is loaded.

The base model has the name that a user would give: its hub id, its bundled name, or the name of its
folder, never a path of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import SavedRun
from adaptkit.storage import bundled

IN_CACHE = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]+)/?$")  # of the hub's library
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LICENCE = re.compile(r"^license: *['\"]?([\w.+ -]{1,60}?)['\"]? *$", re.MULTILINE)
CARD = """{front}# {method} for {task}

A PEFT adapter that adaptkit trained. The file holds the head as well.

| | |
| --- | --- |
| base model | `{base}`{revision} |
| licence of the base model | {licence} |
| data | {data} |
| {metric} ({split}) | {score} |
| {metric} of the baseline ({baseline}) | {baseline_score} |
| all scores | {scores} |
| trained | {trained} |
| classes, in the order of the logits | {classes} |
| fingerprint of the base model | `{fingerprint}` |

```python
from peft import PeftModel
from transformers import {cls}, AutoTokenizer

{source}
body = {cls}.from_pretrained(
    base, {options}
)
model = PeftModel.from_pretrained(body, "this folder").eval()
tokenizer = AutoTokenizer.from_pretrained("this folder")
```

The tokenizer pads on the side that the model reads correctly. With `truncation=True` it cuts texts
to the length that the run read.
"""


def card(saved: SavedRun, config: Any) -> str:
    """Return the README of a run's adapter; `config`: of the model, with the task described."""
    run, result = saved.settings, saved.result
    base, revision = base_name(run.model.path, run.model.revision)
    on_hub = HUB_ID.fullmatch(base)
    record: dict[str, Any] = result.as_dict() if result else {}
    baseline, params = record.get("baseline", {}), record.get("params", {})
    labels = run.task.classes
    return CARD.format(
        front=f"---\nbase_model: {base}\nlibrary_name: peft\n---\n\n" if on_hub else "",
        method=run.method_name, task=run.task.name, base=base,
        revision=f" at {revision}" if revision else "",
        licence=licence(run.model.path, run.model.revision) or "not known",
        data=data(record.get("data", {})),
        metric=run.task.headline, split=run.task.split, score=decimal(record.get("score")),
        baseline=baseline.get("name", "unknown"), baseline_score=decimal(baseline.get("value")),
        scores=", ".join(f"{n} {decimal(v)}" for n, v in record.get("scores", {}).items()),
        trained=f"{params.get('body_trainable', 0):,} parameters of the base model, "
        f"{params.get('head_trainable', 0):,} of the head",
        classes=", ".join(map(repr, labels)) or "none: one number",
        fingerprint=saved.metadata["fingerprint"], cls=HEADS[run.head].auto,
        source=source(run.model.path, base),
        options=",\n    ".join(loading_options(config, labels, revision)),
    )  # fmt: skip


def loading_options(config: Any, labels: tuple[str, ...], revision: str | None) -> list[str]:
    """Return the arguments by which the base model gets the head that the adapter fills."""
    named = {"num_labels": None if labels else config.num_labels,
             "id2label": config.id2label if labels else None,
             "label2id": config.label2id if labels else None,
             "problem_type": config.problem_type, "pad_token_id": config.pad_token_id,
             "revision": revision}  # fmt: skip
    return [f"{name}={value!r}" for name, value in named.items() if value is not None]


def base_name(path: str, revision: str | None) -> tuple[str, str | None]:
    """Return a base model's name as a user would write it, and its revision."""
    if cached := IN_CACHE.search(path):
        return f"{cached[1]}/{cached[2]}", cached[3]
    if _is_local(path):
        path = os.path.basename(os.path.abspath(Path(path).expanduser()))
    return path, revision


def source(path: str, base: str) -> str:
    """Return the lines of Python that say what `from_pretrained` takes."""
    if path.startswith(bundled.SCHEME):
        return f'from adaptkit.storage import bundled\n\nbase = bundled.model("{base}")'
    remark = "" if HUB_ID.fullmatch(base) or not _is_local(path) else "  # your copy of this folder"
    return f"base = {base!r}{remark}"


def licence(path: str, revision: str | None) -> str | None:
    """Return the licence that a base model's own README states, if one is at hand."""
    if path.startswith(bundled.SCHEME):
        return "apache-2.0"
    folder = Path(path).expanduser()
    if folder.is_dir():
        readme: Any = folder / "README.md"
    else:
        from huggingface_hub import try_to_load_from_cache

        readme = try_to_load_from_cache(path, "README.md", revision=revision or "main")
    if not isinstance(readme, str | Path) or not Path(readme).is_file():
        return None
    text = Path(readme).read_text(encoding="utf-8", errors="replace")
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = LICENCE.search(front)
    return found[1] if found else None


def data(record: Mapping[str, Any]) -> str:
    """Say which rows trained and scored the adapter; of a local file its name alone."""
    kinds = {"hub": f"`{record.get('path')}` from the hub",
             "local": f"local files `{Path(str(record.get('path'))).name}`",
             "sample": "a bundled SAMPLE, which says nothing about the real task"}  # fmt: skip
    rows = record.get("rows", {})
    return (
        f"{kinds.get(str(record.get('source')), 'unknown')}; {rows.get('train', 0):,} rows for "
        f"training, {rows.get('validation', 0):,} for validation"
    )


def decimal(score: float | None) -> str:
    """Return a score as in the result line."""
    return "undefined" if score is None else f"{score:.4f}"


def _is_local(path: str) -> bool:
    return not path.startswith(bundled.SCHEME) and Path(path).expanduser().is_dir()
