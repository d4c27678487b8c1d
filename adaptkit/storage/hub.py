"""Can the model hub be reached? Asked once, answered within 5 seconds; else work from the cache."""

from __future__ import annotations

import functools
import os
import re
import ssl
import sys
import threading
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from adaptkit.errors import AdaptError
from adaptkit.storage import bundled

ALTERNATIVES = (
    "The hub cannot be reached and its cache does not hold it. Give a local folder "
    "(model=auto model.path=DIR) or a bundled model (model=mini-bert), or fetch it once on a "
    "machine with a network."
)
SECONDS = 4.0


def go_offline_if_unreachable() -> None:
    """Before the hub is asked for anything: if it cannot be reached, use its cache alone."""
    if not reachable():
        _work_offline()


@functools.cache
def reachable() -> bool:
    """Ask the hub for an answer, through the proxy where there is one; any answer will do."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer: list[bool] = []
    # In a thread, because a name lookup cannot be given a time limit.
    thread = threading.Thread(target=lambda: answer.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(answer and answer[0])


def check_model(path: str, revision: str | None) -> None:
    """Before any library is loaded: is there such a folder, or can the hub or its cache serve it?

    Raises:
        AdaptError: there is not, or it cannot; the message names the alternatives.
    """
    if bundled.model(path) or Path(path).expanduser().is_dir():
        return
    if path.startswith((".", "/", "~")):
        raise AdaptError(
            f"model.path={path}: no such folder. Give a folder or a hub id (owner/name)."
        )
    if not is_hub_id(path):
        raise AdaptError(f"model.path={path}: is neither a folder nor a hub id (owner/name).")
    go_offline_if_unreachable()
    if reachable():
        return
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, "config.json", revision=revision or "main")
    if not isinstance(cached, str):
        raise AdaptError(f"model.path={path}: {ALTERNATIVES}")


def is_hub_id(name: str) -> bool:
    """Tell whether a model may have this name on the hub: owner/name, or the name of an old one."""
    words = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII)
    return bool(words) and ".." not in name and "--" not in name and len(name) <= 96


def commit(path: str, revision: str | None) -> str | None:
    """Return the commit of a hub model in the cache; None: it is not there yet."""
    from huggingface_hub import try_to_load_from_cache

    if not is_hub_id(path):
        return None
    cached = try_to_load_from_cache(path, "config.json", revision=revision or "main")
    return Path(cached).parent.name if isinstance(cached, str) else None


def may_have_cached(data_set: str) -> bool:
    """Tell whether a cache has a folder of the data set's owner; `datasets` takes long to say."""
    from huggingface_hub import constants

    owner, slash, _ = data_set.partition("/")
    converted = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    starts = f"datasets--{owner}--".lower(), f"{owner}___".lower()
    return not slash or any(
        name.lower().startswith(starts)
        for folder in (constants.HF_HUB_CACHE, converted) for name in _names_in(folder)
    )  # fmt: skip


def _names_in(folder: str | Path) -> list[str]:
    try:
        return os.listdir(Path(folder).expanduser())
    except OSError:  # not there, or not to be read: then `datasets` cannot read it either
        return []


def _answers(url: str) -> bool:
    """Tell whether a server answers: one that accepts connections may still be silent."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=SECONDS).close()
    except HTTPError:  # a refusal is an answer
        return True
    except URLError as error:  # which certificates to trust, the hub's library decides
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException, ValueError):
        return False
    return True


def _work_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    # These read the variable when imported, which may have been before.
    for module, flag in (("huggingface_hub.constants", "HF_HUB_OFFLINE"),
                         ("datasets.config", "HF_HUB_OFFLINE")):  # fmt: skip
        if module in sys.modules:
            setattr(sys.modules[module], flag, True)
