"""Write docs/reference: a page per method, kind of task and regularizer, and copied texts.

    python scripts/write_reference.py

Pages come from the module docstrings and from `adaptkit.config.describe`. mkdocs calls `on_config`
before it builds (`hooks` in mkdocs.yml), so the site never shows an older state. Git ignores the
folder.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from adaptkit.config.choices import also_set, headline, shown, source
from adaptkit.config.compose import load_raw
from adaptkit.config.describe import Option, options_in
from adaptkit.config.groups import CONF, options
from adaptkit.config.overrides import composed
from adaptkit.methods import METHODS
from adaptkit.regularizers import REGULARIZERS
from adaptkit.tasks import TASKS

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
GROUPS = {"method": METHODS, "task": TASKS, "regularizer": REGULARIZERS}
COPIES = {
    "adding.md": "CONTRIBUTING.md",
    "agents.md": "AGENTS.md",
    "changelog.md": "CHANGELOG.md",
    "mini.md": "adaptkit/models/mini/README.md",
}
# Links of docs/ to files that are not pages: what the site has instead.
OUTSIDE = {
    "[docs/records](records)": "`docs/records`",
    "](../adaptkit/models/mini/README.md)": "](reference/mini.md)",
    "](../AGENTS.md)": "](reference/agents.md)",
}


def pages() -> dict[str, str]:
    """Return {path below docs/reference: Markdown}."""
    found = {name: copied(ROOT / file) for name, file in COPIES.items()}
    for group, registry in GROUPS.items():
        found[f"{group}s/index.md"] = index(group, registry)
        found |= {f"{group}s/{name}.md": page(group, name, cls) for name, cls in registry.items()}
    return found


def copied(file: Path) -> str:
    """Return a text of the repository; its links lead from docs/reference."""
    text = file.read_text(encoding="utf-8").replace("](docs/", "](../")
    for name, original in {**COPIES, "../index.md": "README.md"}.items():
        text = text.replace(f"]({original})", f"]({name})")
    return text


def index(group: str, registry: dict[str, type]) -> str:
    """Return the table of a group's choices."""
    title = {"method": "Methods", "task": "Kinds of task", "regularizer": "Regularizers"}[group]
    rows = [(f"[`{name}`]({name}.md)", cell(headline(cls))) for name, cls in registry.items()]
    return f"# {title}\n\n{table((group, 'what it is'), rows)}"


def page(group: str, name: str, cls: type) -> str:
    """Return the page of one choice: what its module says, its options, and a command."""
    words = command(group, name)
    plain = composed([f"task={name}"] if group == "task" else words.split())
    text = (sys.modules[cls.__module__].__doc__ or "").strip()
    summary, _, rest = text.partition("\n")
    parts = [f"# {name}", summary, rest.strip("\n"), f"## Command\n\n    adaptkit train {words}",
             f"## Options\n\n{option_table(options_in(plain, group, name))}"]  # fmt: skip
    if sets := also_set(group, name):
        parts.append(f"It also sets `{sets.replace(', ', '`, `')}`.")
    if group == "task":
        parts.append(f"## Data sets\n\n{data_sets(name)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def command(group: str, name: str) -> str:
    """Return the overrides of a run that uses the choice; a kind of task needs a data set."""
    if group == "method":
        return f"method={name} task=sst2"
    if group == "regularizer":
        return f"method=full regularizer=[{name}] task=sst2"
    model = {"seq2seq": "model=mini-t5 ", "lm": "model=mini-gpt2 "}.get(name, "")
    return f"{model}method=lora task={sets_of(name)[0]}"


def sets_of(kind: str) -> list[str]:
    """Return the data sets of a kind of task, those with a bundled sample first."""
    names = [name for name in options("task") if name not in TASKS and kind_of(name) == kind]
    return sorted(names, key=lambda name: not (ROOT / "adaptkit" / "samples" / name).is_dir())


@cache
def kind_of(name: str) -> str:
    """Return the kind of a data set: its own, or that of the YAML it inherits."""
    plain = load_raw(CONF / "task" / f"{name}.yaml")
    parents = [each for each in plain.get("defaults", ()) if isinstance(each, str)]
    return plain.get("kind") or next(kind_of(each) for each in parents if each != "_self_")


def data_sets(kind: str) -> str:
    """Return the table of a kind's data sets."""
    rows = [(f"`task={name}`", cell(source("task", name))) for name in sets_of(kind)]
    return table(("data set", "what it is"), rows)


def option_table(found: list[Option]) -> str:
    """Return the options with meaning, default and range."""
    rows = [
        (f"`{option.name}`", cell(option.meaning), f"`{shown(option.default)}`", cell(option.rule))
        for option in found
    ]
    return table(("option", "meaning", "default", "values"), rows) if rows else "No options."


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Return plain text for a cell: nothing in it is markup."""
    return re.sub(r"([\\|<>*_\[\]])", r"\\\1", text)


def write() -> dict[str, str]:
    """Write all pages, and remove those of choices that are gone."""
    found = pages()
    for old in FOLDER.rglob("*.md"):
        if old.relative_to(FOLDER).as_posix() not in found:
            old.unlink()
    for name, text in found.items():
        file = FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    return found


def on_config(config: Any) -> Any:
    """Write the pages and put them into the navigation of mkdocs."""
    found = write()
    for group in GROUPS:
        title = {"method": "Methods", "task": "Tasks", "regularizer": "Regularizers"}[group]
        inside = [f"reference/{name}" for name in found if name.startswith(f"{group}s/")]
        (place,) = [entry for entry in config.nav if isinstance(entry, dict) and title in entry]
        place[title] = [*inside[:1], *place[title], *inside[1:]]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links that lead out of docs/."""
    for link, instead in OUTSIDE.items():
        markdown = markdown.replace(link, instead)
    return markdown


if __name__ == "__main__":
    write()
