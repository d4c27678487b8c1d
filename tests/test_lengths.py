"""Texts that are longer than the limit: how many are cut and by how much is said and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import call, tiny, write

from adaptkit.runs.lengths import lines_about

WORDS = "the film was not bad the plot was good the music good".split()  # 12 known words
TRAIN, VALIDATION = [12] * 6 + [3] * 4, [12] + [3] * 9  # words of each row


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, sizes in (("train", TRAIN), ("validation", VALIDATION)):
        table = [{"sentence": " ".join(WORDS[:n]), "label": i % 2} for i, n in enumerate(sizes)]
        write(tmp_path / "data" / f"{split}.jsonl", table)
    return tmp_path / "data"


def train(model: Path, data: Path, *more: str) -> tuple[str, dict, Path]:
    run = data.parent / "run"
    words = ["task=sst2", f"task.path={data}", "trainer.max_steps=1", f"output_dir={run}"]
    answer = call("train", *tiny(model), *words, *more)
    assert answer.status == 0, answer.err
    return answer.err, json.loads((run / "result.json").read_text())["lengths"], run


def test_what_a_prompt_leaves_no_room_for_is_said(checkpoints, data):
    """128 positions, 121 of them a prompt: [CLS], five words, [SEP]; seven of 14 tokens go."""
    said, lengths, run = train(checkpoints["bert"], data, "method=prompt", "method.length=121")
    assert lengths == {
        "max_length": 128,
        "limit": 7,
        "splits": {
            "training": {"rows": 10, "cut": 6, "tokens": 84, "lost_tokens": 42},
            "validation": {"rows": 10, "cut": 1, "tokens": 14, "lost_tokens": 7},
        },
    }
    assert "task.max_length=128: this model has room for 7 tokens of text" in said
    cut = "6 of 10 training rows are cut to 7 tokens and lose 50 % of their tokens"
    assert f"WARNING: {cut}" in said
    assert "WARNING: 1 of 10 validation" not in said  # a tenth, not more
    assert "1 of 10 validation rows are cut to 7 tokens" in said
    answer = call("eval", run, "task.validation=train")
    assert "WARNING: 6 of 10 validation rows are cut to 7 tokens" in answer.err


def test_a_limit_beyond_the_model_is_said(checkpoints, data):
    said, lengths, _ = train(checkpoints["bert"], data, "method=bitfit", "task.max_length=100000")
    assert lengths["limit"] == 128
    assert "task.max_length=100000: this model has room for 128 tokens of text" in said
    assert "are cut" not in said


def test_the_way_out_is_a_larger_limit():
    cut = {"rows": 4, "cut": 2, "tokens": 40, "lost_tokens": 10}
    lengths = {"max_length": 15, "limit": 15, "splits": {"training": cut}}
    (line,) = lines_about(lengths)
    assert line == (
        "WARNING: 2 of 4 training rows are cut to 15 tokens and lose 25 % of their tokens. Raise "
        "task.max_length."
    )
