"""The pages that scripts/write_reference.py generates, and the links between all pages."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest
import yaml
from omegaconf import OmegaConf

from adaptkit.config.compose import plain_data, without_hydra
from adaptkit.config.overrides import composed
from adaptkit.config.settings import settings
from adaptkit.methods import METHODS
from adaptkit.regularizers import REGULARIZERS
from adaptkit.tasks import TASKS

ROOT = Path(__file__).parent.parent
REGISTRIES = {"method": METHODS, "task": TASKS, "regularizer": REGULARIZERS}


@pytest.fixture(scope="module")
def script():
    """scripts/write_reference.py as a module."""
    file = ROOT / "scripts" / "write_reference.py"
    spec = importlib.util.spec_from_file_location("write_reference", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections(text: str) -> set[str]:
    """The anchors of a page, as mkdocs and GitHub make them of headings."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", plain, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


def broken(texts: dict[str, str]) -> list[str]:
    """The links of pages, {path from the root: text}, that lead to no page, file or heading."""
    found = []
    for page, text in texts.items():
        plain = re.sub(r"```.*?```|`[^`\n]*`|^    .*$", "", text, flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", plain):
            path, _, anchor = link.partition("#")
            target = normpath(join(dirname(page), path)) if path else page
            if re.match(r"\w+:", link):
                continue
            if target not in texts and not (ROOT / target).exists():
                found.append(f"{page}: {link}")
            elif anchor and anchor not in sections(texts.get(target, "")):
                found.append(f"{page}: {link}")
    return found


def test_the_check_of_links_finds_broken_ones():
    texts = {
        "docs/a.md": "# A b\n[x](b.md#c-d) [y](#a-b) [z](c.md) [w](b.md#e) `[q](r.md)`\n"
        "[v](https://example.org/x.md) [u](../README.md) [t](reference/b.md)",
        "docs/b.md": "# B\n## C, d\n```\n# e\n```\n",
    }
    assert broken(texts) == ["docs/a.md: c.md", "docs/a.md: b.md#e", "docs/a.md: reference/b.md"]


def test_every_choice_has_its_page_and_every_page_is_sound(script, monkeypatch):
    """One test, because composing takes seconds: pages, options, commands, links, navigation."""
    once = cache(lambda words: composed(list(words)))
    monkeypatch.setattr(script, "composed", lambda words: once(tuple(words)))
    pages = script.pages()
    for group, registry in REGISTRIES.items():
        listed = pages[f"{group}s/index.md"]
        for name, cls in registry.items():
            page = pages[f"{group}s/{name}.md"]
            assert f"]({name}.md)" in listed
            where = f"regularizer.{name}" if group == "regularizer" else group
            for field in dataclasses.fields(cls):
                assert not field.init or f"| `{where}.{field.name}` |" in page, (name, field.name)
            commands = re.findall(r"^    adaptkit train (.*)$", page, re.MULTILINE)
            assert any(name in command or group == "task" for command in commands)
            for command in commands:
                whole = {**once(tuple(shlex.split(command))), "output_dir": "run"}
                plain = plain_data(without_hydra(OmegaConf.create(whole)))
                settings(plain)
                assert group != "task" or plain["task"]["kind"] == name
    texts = {f"docs/reference/{name}": text for name, text in pages.items()}
    for file in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        texts[file.relative_to(ROOT).as_posix()] = file.read_text(encoding="utf-8")
    assert broken(texts) == []
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = set(re.findall(r"[\w/]+\.md", str(nav)))
    assert {file.name for file in (ROOT / "docs").glob("*.md")} <= named
    assert {f"reference/{name}" for name in script.COPIES} <= named


def test_links_out_of_the_site_have_a_replacement(script):
    """What leads out of docs/ is a file of the repository, which a site does not have."""
    for file in (ROOT / "docs").glob("*.md"):
        text = script.on_page_markdown(file.read_text(encoding="utf-8"))
        assert not re.findall(r"\]\((?:\.\./|records)[^)]*\)", text), file.name
