"""Templates of the bundled tasks, and the first row as a model reads it."""

from __future__ import annotations

import json
from typing import Any

from adaptkit.config.compose import load_raw
from adaptkit.config.groups import CONF, options
from adaptkit.config.overrides import composed
from adaptkit.config.settings import settings
from adaptkit.config.suggest import of_choice
from adaptkit.errors import AdaptError, ConfigError, unknown
from adaptkit.terminal import console
from adaptkit.terminal.budget import sized

GROUP = "/template@templates"  # in the defaults of a task
EXAMPLE = "--show-example"


def templated() -> list[str]:
    """Return the tasks that bring templates."""

    def brings(name: str) -> bool:
        defaults = load_raw(CONF / "task" / f"{name}.yaml").get("defaults", [])
        tasks = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]
        return any(isinstance(e, dict) and GROUP in e for e in defaults) or any(map(brings, tasks))

    return [name for name in options("task") if brings(name)]


def list_templates(task: str | None, as_json: bool) -> int:
    """Print the styles of one task, or of all: their texts and words.

    Raises:
        ConfigError: there is no such task, or it has none.
    """
    known = templated()
    if task and task not in options("task"):
        raise of_choice("task", task, options("task"))
    if task and task not in known:
        raise unknown("list templates", task, known)
    found = {name: styles(name) for name in ([task] if task else known)}
    if as_json:
        print(json.dumps({"templates": found}, indent=2, ensure_ascii=False))
        return 0
    for name, entries in found.items():
        print(name)
        for entry in entries:
            words = [f"{c}: {word_or_words(w)}" for c, w in entry["words"].items()]
            print(f"  {entry['style']:12} {entry['text']}")
            print(f"  {'':12} {', '.join(words) or 'the names of the classes'}")
    return 0


def styles(task: str) -> list[dict[str, Any]]:
    """Return the templates of a task: style, text and words."""
    found = composed([f"task={task}"])["task"]["templates"]
    return [
        {"style": style, "text": entry["text"], "words": entry.get("words", {})}
        for style, entry in found.items()
    ]


def word_or_words(value: Any) -> str:
    """Return the words of a class, several with a stroke between them."""
    return " | ".join(value) if isinstance(value, list) else value


def show_example(words: list[str]) -> int:
    """Print the first training row as `adaptkit train WORDS` puts it to the model.

    Raises:
        AdaptError: the settings, the rows or the model do not fit; no weights are loaded.
    """
    if flags := [word for word in words if word.startswith("-")]:
        raise ConfigError(f"{flags[0]}: does not go with {EXAMPLE}, which shows one run's row.")
    run = settings(sized(words))
    with console.working() as interface:
        from adaptkit.runs.example import example
        from adaptkit.runs.remarks import of_sample

        splits = run.task.load(run.data, run.seed)
        for line in of_sample(splits, run.data.source == "sample"):
            interface.say(line)
        if splits.train is None:
            raise AdaptError(f"task {run.task.name}: has no training rows.")
        shown = example(run.bind(splits.task), splits.train)
    width = max(map(len, shown)) + 2
    for name, text in shown.items():
        console.show(f"{name:{width}}{text}".replace("\n", "\n" + " " * width))
    return 0
