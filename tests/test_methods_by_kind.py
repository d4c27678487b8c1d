"""Every method on spans, texts and words: trained, saved, reloaded, or rejected in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import call, tiny, write

METHODS = sorted(file.stem for file in (Path(__file__).parents[1] / "conf" / "method").iterdir())
# Sizes for a width of 32, and options without which a file's defaults are too large.
SMALL = {
    "prefix": ["method.length=3", "method.projection=8"], "prompt": ["method.length=3"],
    "ptuning_v2": ["method.length=3"], "parallel_adapter": ["method.size=8"],
    "houlsby": ["method.size=8"], "pfeiffer": ["method.size=8"], "compacter": ["method.size=8"],
    "mam": ["method.parts=[{name: prefix, length: 3, projection: 8}, "
            "{name: parallel_adapter, size: 8}]"],
    "vera": ["method.rank=8"],
}  # fmt: skip
FAMILIES = {"span": ("bert", "gpt2", "t5", "bart"), "seq2seq": ("bert", "gpt2", "t5", "bart"),
            "cloze": ("bert", "gpt2", "t5"), "text": ("gpt2", "t5", "bart")}  # fmt: skip
NO_TEXTS = "BERT models cannot generate texts, which this task needs. Choose a causal model"
REJECTED = {  # what makes no sense, and the sentence that says so
    **{("seq2seq", method, "bert"): NO_TEXTS for method in METHODS},
    **{(kind, "probe", f): "method=probe: replaces a classifier by a probe, and this "
       "task has a " for kind in ("seq2seq", "cloze", "text") for f in FAMILIES[kind]
       if (kind, f) != ("seq2seq", "bert")},
    **{("span", "hard_prompt", family): "method=hard_prompt: trains nothing, and this task has "
       for family in FAMILIES["span"]},
    **{(kind, method, "t5"): "T5 models have no bias"
       for kind in FAMILIES for method in ("bitfit", "chain")},
}  # fmt: skip
FEW = {"span": {"bert": ("prefix", "probe")},
       "seq2seq": {"gpt2": ("prompt", "probe"), "t5": ("prefix",), "bart": ("mam",)},
       "cloze": {"bert": ("ptuning",), "gpt2": ("prefix",)},
       "text": {"t5": ("bitfit",)}}  # fmt: skip


def table() -> list[tuple[str, str, str] | Any]:
    made = []
    for kind, families in FAMILIES.items():
        for family in families:
            for method in METHODS:
                quick = method in FEW[kind].get(family, ())
                made.append(
                    pytest.param(kind, method, family, marks=() if quick else pytest.mark.slow)
                )
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> dict[str, list[str]]:
    """Return the options of each kind, with its rows in a folder."""
    root = tmp_path_factory.mktemp("kinds")
    text = "the film was not bad , and the music was great"
    rows = {
        "span": [{"question": "what was great ?", "context": f"{text} {i}", "answers": "the music"}
                 for i in range(4)],
        "seq2seq": [{"text": f"{text} {i}", "target": "good film"} for i in range(4)],
        "words": [{"text": f"{text} {i}", "label": "bad" if i % 2 else "good"} for i in range(4)],
    }  # fmt: skip
    for kind, lines in rows.items():
        for split in ("train", "validation"):
            write(root / kind / f"{split}.jsonl", lines)
    words = ["task=classify", f"task.path={root / 'words'}", "task.text=text", "task.max_length=40"]
    return {
        "cloze": [*words, "task.form=cloze", "task.template='{first} It was {label}.'"],
        "text": [*words, "task.form=text"],
        "span": ["task=span", f"task.path={root / 'span'}", "task.max_length=24", "task.stride=4"],
        "seq2seq": ["task=seq2seq", f"task.path={root / 'seq2seq'}", "task.source=text",
                    "task.max_length=40", "task.max_target_length=4"],
    }  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "method", "family"), table())
def test_a_method_on_a_kind(kind, method, family, data, checkpoints, tmp_path):
    run, untrained = tmp_path / "run", method == "hard_prompt"
    updates = [] if untrained else ["trainer.max_steps=2"]
    done = call("train", *data[kind], *tiny(checkpoints[family]), f"method={method}",
                *SMALL.get(method, []), *updates, f"output_dir={run}")  # fmt: skip
    if sentence := REJECTED.get((kind, method, family)):
        assert done.status == 2 and not run.exists(), done.err
        assert sentence in done.err and len(done.err.strip().splitlines()) <= 4
        return
    assert done.status == 0, done.err
    record = json.loads((run / "result.json").read_text())
    assert (record["updates"], record["params"]["trainable"] > 0) == (
        (0, False) if untrained else (2, True)
    )
    assert call("verify", run).status == 0
