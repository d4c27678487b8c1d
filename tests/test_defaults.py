"""With no option set, every method learns on the sample, on every bundled model, and every task."""

from __future__ import annotations

from pathlib import Path

import pytest

import adaptkit
from adaptkit.config.groups import options
from adaptkit.errors import AdaptError
from adaptkit.storage import bundled

MINIS = [name for name in options("model") if name.startswith("mini-")]
METHODS = [name for name in options("method") if name != "chain"]  # chain names no parts by itself
QUICK = (("probe", "mini-bert"),)  # seconds; the others take up to half a minute
PAIRS = [
    pytest.param(method, mini, marks=() if (method, mini) in QUICK else pytest.mark.slow)
    for method in METHODS
    for mini in MINIS
]


@pytest.mark.parametrize(("method", "mini"), PAIRS)
def test_every_method_beats_the_majority_class(method: str, mini: str, tmp_path: Path) -> None:
    words = [f"method={method}", f"model={mini}", "task=sst2", "data.source=sample"]
    try:
        result = adaptkit.run(*words, f"output_dir={tmp_path / 'run'}")
    except AdaptError as error:
        assert (method, mini) == ("bitfit", "mini-t5"), error  # T5 has no biases
        return
    assert result.score is not None and result.score_interval is not None
    assert result.score > result.baseline["value"]
    assert not result.indistinct, (result.score, result.score_interval)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [*(name for name in bundled.sampled_tasks() if name in options("task")), "ud_ewt_heads"],
)
def test_lora_beats_the_baseline_of_every_task(task: str, tmp_path: Path) -> None:
    result = adaptkit.run(
        "method=lora", f"task={task}", "data.source=sample", f"output_dir={tmp_path / 'run'}"
    )
    assert result.score is not None
    trivial = result.baseline["value"] or 0.0  # none: a correlation with a constant
    assert result.score > trivial and not result.indistinct, (result.score, result.score_interval)
