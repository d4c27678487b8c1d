"""Can the model hub be reached? Asked once, answered within 5 seconds; else work from the cache."""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from urllib.parse import urlparse

ALTERNATIVES = (
    "The hub cannot be reached and its cache does not hold it. Give a local folder "
    "(model=auto model.path=DIR, data.root=DIR), or fetch it once on a machine with a network."
)
SECONDS = 4.0


def settle() -> None:
    """Before the hub is asked for anything: if it cannot be reached, use its cache alone."""
    if not reachable():
        _work_offline()


@functools.cache
def reachable() -> bool:
    """Try to connect to the hub, or to the proxy that leads there; name lookup included."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    url = urlparse(proxy or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    address = (url.hostname or "huggingface.co", url.port or (443 if url.scheme == "https" else 80))
    answer: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=SECONDS).close()
            answer.append(True)
        except OSError:
            answer.append(False)

    # In a thread, because a name lookup cannot be given a time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(answer and answer[0])


def _work_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    # These read the variable when imported, which may have been before.
    for module, flag in (("huggingface_hub.constants", "HF_HUB_OFFLINE"),
                         ("datasets.config", "HF_HUB_OFFLINE")):  # fmt: skip
        if module in sys.modules:
            setattr(sys.modules[module], flag, True)
