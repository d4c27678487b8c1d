"""What is measured: bodies, rows, and methods with the same hyperparameters on every side."""

from __future__ import annotations

from dataclasses import dataclass

RANK, LENGTH, WIDTH = 8, 20, 64  # of LoRA; of prefixes and prompts; of a bottleneck
EPSILON = 1e-8
WARMUP = 0.06  # share of the updates


@dataclass(frozen=True)
class Shape:
    """Rows to train on."""

    task: str
    text: tuple[str, ...]
    max_length: int
    rows: int
    batch: int


SHAPES = {
    "short": Shape("sst2", ("sentence",), 128, 3000, 32),
    "pairs": Shape("mrpc", ("sentence1", "sentence2"), 128, 1600, 32),
    "long": Shape("imdb", ("text",), 384, 320, 32),
}
# method -> rate, and adaptkit's words for the hyperparameters that all sides use
METHODS: dict[str, tuple[float, list[str]]] = {
    "full": (5e-5, []),
    "lora": (5e-4, [f"method.rank={RANK}", f"method.alpha={RANK}", "method.roles=[query,value]"]),
    "bitfit": (5e-4, []),
    "houlsby": (5e-4, [f"method.size={WIDTH}"]),
    "prefix": (5e-3, [f"method.length={LENGTH}", "method.projection=null"]),
    "prompt": (5e-3, [f"method.length={LENGTH}", "method.init=random"]),
    "top_k": (5e-5, ["method.last=2"]),
    "probe": (1e-3, []),
}


@dataclass(frozen=True)
class Work:
    """One line of the table."""

    method: str
    shape: str
    epochs: int = 1
    body: str = "minilm"

    @property
    def name(self) -> str:
        """How the table calls it."""
        epochs = f", {self.epochs} epochs" if self.epochs > 1 else ""
        return f"{self.method}, {self.shape}{epochs}, {self.body}"


WORKS = [
    Work("lora", "short"),
    Work("lora", "pairs"),
    Work("lora", "long"),
    Work("full", "short"),
    Work("full", "pairs"),
    Work("bitfit", "short"),
    Work("houlsby", "short"),
    Work("prefix", "short"),
    Work("prompt", "short"),
    Work("top_k", "short", epochs=3),
    Work("probe", "short", epochs=20),  # of adaptkit, the time of training is that in all
    Work("lora", "short", body="bert-base"),
    Work("lora", "short", body="gpt2"),
]
QUICK = [Work("lora", "short"), Work("lora", "pairs"), Work("full", "short")]
