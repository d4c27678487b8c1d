"""Which base model: the keys of conf/model/*.yaml. No torch at import time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Model:
    """Which pretrained body: a folder or a hub id."""

    name: str  # name in results and folders
    path: str  # folder, hub id, or adaptkit:NAME for a bundled model
    revision: str | None = None  # branch, tag or commit; null: main
    pooling: Literal["mean", "max", None] = None  # of all tokens; null: the token the class reads
    from_run: str | None = None  # finished run on the same model, to go on from
    architecture: dict[str, Any] | None = None  # config.json's entries, for `plan` without network
