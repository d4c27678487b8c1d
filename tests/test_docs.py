"""What the documentation shows runs: the example of a kind of task, and the commands' options."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import call
from runs import shallow

from adaptkit.cli.completion import FLAGS
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.runs.record import RunResult
from adaptkit.runs.run import Interface, run
from adaptkit.runs.verify import verify
from adaptkit.tasks import TASKS
from adaptkit.terminal.budget import sized

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "AGENTS.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def stars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kind of task of CONTRIBUTING, registered as its step says."""
    (source,) = [block for block in blocks("CONTRIBUTING.md", "python") if "class Stars" in block]
    assert len(source.splitlines()) < 85
    file = tmp_path / "stars_task.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("stars_task", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stars_task", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(TASKS, "stars", module.Stars)
    return module.Stars


def test_the_example_of_a_kind_of_task_runs(stars, checkpoints, tmp_path, monkeypatch):
    """Its YAML as printed, on a CSV."""
    base, data_set = (yaml.safe_load(block) for block in blocks("CONTRIBUTING.md", "yaml"))
    assert set(base) - {"kind"} == {field.name for field in dataclasses.fields(stars)}
    assert data_set.pop("defaults") == ["stars", "_self_"]
    reviews = [("good", 5), ("bad", 1), ("the film was not bad", 3), ("a dull story", 2)]
    (tmp_path / "reviews.csv").write_text(
        "review,stars\n" + "".join(f"{text},{count}\n" for text, count in reviews * 5)
    )
    plain = compose([
        "model=auto", f"model.path={shallow(checkpoints['bert'], tmp_path / 'bert')}",
        "method=lora", "trainer=debug", f"output_dir={tmp_path / 'run'}",
    ])  # fmt: skip
    monkeypatch.chdir(tmp_path)
    plain["task"] = {**base, **data_set}
    result = run(settings(plain), Interface(lambda _: None, lambda _: ()))
    assert result.metric == "distance" and result.score is not None
    assert result.baseline["name"] == "median" and 0 <= result.baseline["value"] <= 3
    assert result.best_update in (2, 4)
    assert verify(tmp_path / "run") == ""
    with pytest.raises(AdaptError, match=r"task\.text=\[\]: name one column"):
        settings({**plain, "task": {**plain["task"], "text": []}})
    (tmp_path / "reviews.csv").write_text("review,stars\ngood,5\nbad,none\nwell,3\n")
    with pytest.raises(AdaptError, match="stars is 'none', not a whole number"):
        settings(plain).task.load(settings(plain).data, 0)


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").rglob("*.py")), ids=lambda p: p.name)
def test_what_scripts_import_exists(script):
    tree = ast.parse(script.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adaptkit"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                known = hasattr(module, alias.name) or importlib.util.find_spec(
                    f"{node.module}.{alias.name}"
                )
                assert known, f"{node.module}.{alias.name}"


COMMANDS = dict.fromkeys(  # several pages show some of them
    line.partition("  #")[0].strip()
    for page in PAGES
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines()
    if re.match(r"\s*adaptkit (train|data|plan|tune|compare) ", line) and "\\" not in line
)


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_compose(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (template,) = blocks("docs/words.md", "yaml")
    (tmp_path / "mine.yaml").write_text(template, encoding="utf-8")
    typed = re.sub(r"--(seeds|out|search|budget) \S+", "", command)
    words = [word for word in shlex.split(typed)[2:] if not word.startswith("-")]
    single = [re.sub(r"^([\w.]+)=(?![\[{])([^,()]+),.*", r"\1=\2", word) for word in words]
    fixed = [word for word in single if "range(" not in word and word.upper() != word]
    if any("=" not in word or "=METHOD" in word for word in fixed):
        pytest.skip("a template")
    plain = sized([word.replace("./my-checkpoint", "some/model") for word in fixed])
    settings(plain)


@cache
def status_of_list(*words):
    return call("list", *words).status


@pytest.mark.parametrize("page", PAGES)
def test_documented_flags_exist(page):
    """In lines of commands and in sentences. What `adaptkit list` shows is there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for words in re.findall(r"(?:^ +|`)adaptkit (.+?)(?:`|  |$)", text, re.MULTILINE):
        if words[0] == "-":
            assert words.split()[0] in ("--help", "--version", "-sc"), words
            continue
        command, *rest = words.split()
        for flag in re.findall(r"(?<!\S)--[\w-]+", words):
            assert flag in FLAGS[command], words
        if command == "list" and not any(word.isupper() for word in rest):
            assert status_of_list(*rest) == 0, words


def test_the_keys_that_agents_read_are_those_of_the_record():
    rows = re.findall(r"^  \| (`.+?) \|", (ROOT / "AGENTS.md").read_text(), re.MULTILINE)
    named = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert len(named) > 20 and set(named) <= {f.name for f in dataclasses.fields(RunResult)}
