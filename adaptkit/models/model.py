"""Which base model: the keys of conf/model/*.yaml. No torch at import time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Model:
    """Which pretrained body: a folder or a hub id."""

    name: str
    path: str
    revision: str | None = None
    pooling: Literal["mean", "max", None] = None  # null: the head reads what its class reads
    architecture: dict[str, Any] | None = None  # config.json's entries, for `plan` without network
