"""What is measured: bodies, rows, and methods with the same hyperparameters on every side."""

from __future__ import annotations

from dataclasses import dataclass

RANK, LENGTH, WIDTH = 8, 20, 64  # of LoRA; of prefixes and prompts; of a bottleneck
EPSILON = 1e-8
WARMUP = 0.06  # share of the updates


@dataclass(frozen=True)
class Shape:
    """Rows to train on."""

    task: str  # and its folder, unless another is named
    text: tuple[str, ...]  # columns
    max_length: int  # tokens of a text, a window or a source
    rows: int
    batch: int
    kind: str = "classify"  # of task: an entry of RECIPES
    least: int = 0  # characters of the last column of a row
    words: tuple[str, ...] = ()  # what adaptkit must be told besides
    folder: str = ""
    scored: int = 64  # rows

    @property
    def data(self) -> str:
        """The folder of the rows."""
        return self.folder or self.task


NEW = 32  # tokens of a target that is trained on, and of every generated text
STRIDE, N_BEST, LONGEST = 128, 20, 30  # of windows: overlap; ends to combine; tokens of an answer
SHAPES = {
    "short": Shape("sst2", ("sentence",), 128, 3000, 32),
    "pairs": Shape("mrpc", ("sentence1", "sentence2"), 128, 1600, 32),
    "long": Shape("imdb", ("text",), 384, 320, 32),
    "windows": Shape(
        "squad", ("question", "context"), 384, 240, 16, "span", 1500,
        (f"task.stride={STRIDE}", f"task.n_best={N_BEST}", f"task.max_answer_length={LONGEST}"),
    ),
    "generation": Shape(
        "xsum", ("document",), 256, 320, 16, "seq2seq",
        words=(f"task.max_target_length={NEW}", f"task.min_new_tokens={NEW}"),
    ),
    "lm": Shape("lm", ("text",), 768, 96, 8, "lm", folder="corpus_open", scored=16),
}  # fmt: skip
SOURCE = "summarize: "  # before a document
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


# Bodies with random weights: the default shape of an architecture, and whose tokenizer they have.
# Besides these there are MiniLM and the minis that adaptkit brings.
BODIES = {
    "bert-base": ("bert", "minilm"),
    "gpt2": ("gpt2", "mini-gpt2"),
    "t5-small": ("t5", "mini-t5"),
}
# What LoRA adapts, in PEFT's words, by architecture.
TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn"], "t5": ["q", "v"]}


@dataclass(frozen=True)
class Work:
    """One line of the table."""

    method: str
    shape: str
    epochs: int = 1
    body: str = "minilm"
    kept: bool = False  # adaptkit computes the states below what trains once, without dropout there

    @property
    def name(self) -> str:
        """How the table calls it."""
        epochs = f", {self.epochs} epochs" if self.epochs > 1 else ""
        kept = ", states kept" if self.kept else ""
        return f"{self.method}, {self.shape}{epochs}, {self.body}{kept}"

    @property
    def log_every(self) -> int:
        """Updates between two points of the loss curve, which has at least eight."""
        shape = SHAPES[self.shape]
        return max(1, self.epochs * shape.rows // shape.batch // 8)


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
    # of adaptkit, the time of training is that in all: what is computed once comes before it
    Work("top_k", "short", epochs=3, kept=True),
    Work("probe", "short", epochs=20),
    Work("lora", "short", body="bert-base"),
    Work("lora", "windows"),
    Work("lora", "generation", body="mini-t5"),
    Work("lora", "generation", body="t5-small"),
    Work("lora", "short", body="gpt2"),
    Work("lora", "lm", body="gpt2"),
]
QUICK = [Work("lora", "short"), Work("lora", "pairs"), Work("full", "short")]
