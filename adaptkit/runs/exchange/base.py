"""The base model as a card names it, and what its own card says: licence and languages.

Its name is what a user would give: its hub id, its bundled name, or the name of its folder, never a
path of this machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit.runs.delta import SavedRun
from adaptkit.storage import bundled, hub

IN_CACHE = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]+)/?$")  # of the hub's library
COMMIT = re.compile(r"[0-9a-f]{40}")
LICENCE = re.compile(r"[\w.+-][\w.+ -]{0,59}", re.ASCII)
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?|multilingual")


@dataclass(frozen=True)
class Base:
    """A base model as a card names it."""

    name: str
    revision: str | None
    on_hub: bool  # under this name
    source: str  # lines of Python that say what `from_pretrained` takes
    licence: str | None
    languages: tuple[str, ...]

    @classmethod
    def of(cls, saved: SavedRun) -> Base:
        """Return the base model of a run."""
        path, wanted = saved.settings.model.path, saved.settings.model.revision
        name, revision = base_name(path, wanted)
        on_hub = (hub.is_hub_id(path) and not _is_local(path)) or bool(IN_CACHE.search(path))
        found = (saved.result.made_of if saved.result else {}).get("model")
        if on_hub and revision is None and COMMIT.fullmatch(str(found)):
            revision = found  # which the main branch had
        front = front_of(path, wanted)
        return cls(name, revision, on_hub, source(path, name, on_hub), licence_in(front),
                   languages_in(front))  # fmt: skip


def base_name(path: str, revision: str | None) -> tuple[str, str | None]:
    """Return a base model's name as a user would write it, and its revision."""
    if cached := IN_CACHE.search(path):
        return f"{cached[1]}/{cached[2]}", cached[3]
    if _is_local(path) or path.startswith((".", "/", "~")):
        path = os.path.basename(os.path.abspath(Path(path).expanduser()))
    return path, revision


def source(path: str, name: str, on_hub: bool) -> str:
    """Return the lines of Python that say what `from_pretrained` takes."""
    if path.startswith(bundled.SCHEME):
        return f'from adaptkit.storage import bundled\n\nbase = bundled.model("{name}")'
    return f"base = {name!r}{'' if on_hub else '  # your copy of this folder'}"


def licence(path: str, revision: str | None) -> str | None:
    """Return the licence that a base model's own README states, if one is at hand."""
    return licence_in(front_of(path, revision))


def front_of(path: str, revision: str | None) -> dict[str, Any]:
    """Return the metadata of a base model's own README, if one is at hand."""
    import yaml

    if path.startswith(bundled.SCHEME):
        return {"license": "apache-2.0", "language": "en"}
    folder = Path(path).expanduser()
    if folder.is_dir():
        readme: Any = folder / "README.md"
    else:
        from huggingface_hub import try_to_load_from_cache

        known = hub.is_hub_id(path)
        readme = known and try_to_load_from_cache(path, "README.md", revision=revision or "main")
    if not isinstance(readme, str | Path) or not Path(readme).is_file():
        return {}
    text = Path(readme).read_text(encoding="utf-8", errors="replace")
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = yaml.safe_load(parts[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return front if isinstance(front, dict) else {}


def licence_in(front: dict[str, Any]) -> str | None:
    """Return the licence in a README's metadata, if it is a name of one."""
    found = front.get("license")
    return found if isinstance(found, str) and LICENCE.fullmatch(found) else None


def languages_in(front: dict[str, Any]) -> tuple[str, ...]:
    """Return the codes of the languages in a README's metadata."""
    found = front.get("language")
    named = found if isinstance(found, list) else [found]
    return tuple(one for one in named if isinstance(one, str) and LANGUAGE.fullmatch(one))


def _is_local(path: str) -> bool:
    return not path.startswith(bundled.SCHEME) and Path(path).expanduser().is_dir()
