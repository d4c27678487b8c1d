"""With no option set, every method learns on the sample, on every bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

import adaptkit
from adaptkit.config.groups import options
from adaptkit.errors import AdaptError

MINIS = [name for name in options("model") if name.startswith("mini-")]
METHODS = [name for name in options("method") if name != "chain"]  # chain names no parts by itself
QUICK = ("probe",)  # seconds; the others take up to half a minute
PAIRS = [
    pytest.param(method, mini, marks=() if method in QUICK else pytest.mark.slow)
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
