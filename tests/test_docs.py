"""What the documentation shows runs: the example of a kind of task, and the commands' options."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import shallow

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.runs.run import Interface, run
from adaptkit.runs.verify import verify
from adaptkit.tasks import TASKS

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def stars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kind of task of CONTRIBUTING, registered as its step says."""
    (source,) = [block for block in blocks("CONTRIBUTING.md", "python") if "class Stars" in block]
    assert len(source.splitlines()) < 80
    file = tmp_path / "stars_task.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("stars_task", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stars_task", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(TASKS, "stars", module.Stars)
    return module.Stars


def test_the_example_of_a_kind_of_task_runs(stars, checkpoints, tmp_path):
    reviews = [("good", 5), ("bad", 1), ("the film was not bad", 3), ("a dull story", 2)]
    lines = [json.dumps({"review": text, "stars": count}) for text, count in reviews * 3]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    plain = compose([
        "model=auto", f"model.path={shallow(checkpoints['bert'], tmp_path / 'bert')}",
        "method=lora", "trainer=debug", f"output_dir={tmp_path / 'run'}",
    ])  # fmt: skip
    plain["task"] = {"kind": "stars", "name": "stars", "path": str(tmp_path), "text": ["review"],
                     "label": "stars"}  # fmt: skip
    result = run(settings(plain), Interface(lambda _: None, lambda _: ()))
    assert result.metric == "distance" and result.score is not None
    assert result.baseline == {"name": "median", "value": (3 + 1 + 1 + 0) / 4}
    assert result.best_update in (2, 4)
    assert verify(tmp_path / "run") == ""


COMMANDS = [
    (page, line.partition("  #")[0].strip())
    for page in PAGES
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines()
    if line.strip().startswith("adaptkit train ") and "\\" not in line
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_documented_training_commands_compose(page, command):
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    single = [re.sub(r"^([\w.]+)=(?![\[{])([^,()]+),.*", r"\1=\2", word) for word in words]
    fixed = [word for word in single if "range(" not in word and word.upper() != word]
    if any("=" not in word or "=METHOD" in word for word in fixed):
        pytest.skip("a template")
    plain = compose([word.replace("./my-checkpoint", "some/model") for word in fixed])
    settings(plain)
