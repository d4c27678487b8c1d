"""Which base model: the keys of conf/model/*.yaml. No torch at import time."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from adaptkit.errors import invalid


@dataclass(frozen=True)
class Model:
    """Which pretrained body: a folder or a hub id."""

    name: str  # name in results and folders
    path: str  # folder, hub id, or adaptkit:NAME for a bundled model
    revision: str | None = None  # branch, tag or commit; null: main
    pooling: Literal["mean", "max", None] = None  # of all tokens; null: the token the class reads
    # of frozen weights, which are loaded and kept in it; auto: as trainer.precision says
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # packs frozen matrices in fewer bits while they are loaded; null: none
    quantization: Literal["8bit", "4bit", None] = None
    random_weights: bool = False  # draw the base model anew from the seed: a baseline
    from_run: str | None = None  # finished run on the same model, to go on from
    architecture: dict[str, Any] | None = None  # config.json's entries, for `plan` without network

    def __post_init__(self) -> None:
        if self.random_weights and self.from_run is not None:
            raise invalid("model.random_weights", True, "draws what model.from_run brings",
                          "Leave one of them out")  # fmt: skip
        for name in ("random_weights", "from_run"):
            if self.quantization and getattr(self, name):
                raise invalid("model.quantization", self.quantization, "packs the weights of the "
                              f"model's files, and model.{name} brings others",
                              "Leave one of them out")  # fmt: skip

    def check_installed(self) -> None:
        """Raise ConfigError unless what packs weights is installed; plans do without."""
        if self.quantization and importlib.util.find_spec("bitsandbytes") is None:
            raise invalid(
                "model.quantization", self.quantization,
                "needs the package bitsandbytes, which is not installed",
                "pip install 'adaptkit[quantization]', or leave it out",
            )  # fmt: skip
