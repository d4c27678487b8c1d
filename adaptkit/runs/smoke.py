"""`adaptkit smoke`: everything there is, a few updates each, with no network.

Every method and every regularizer on every bundled model, and every task that has a bundled sample:
trained, scored, saved, reloaded and verified; some tasks in other forms as well. What is new in
`conf/` appears by itself.
"""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit.config.compose import compose
from adaptkit.config.groups import options
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, first_line
from adaptkit.runs.plan import plan
from adaptkit.runs.run import Interface, run
from adaptkit.runs.verify import verify
from adaptkit.storage import bundled
from adaptkit.training import precision

SHORT = (
    "data.source=sample", "data.train_rows=64", "data.eval_rows=16", "trainer.max_steps=4",
    "trainer.batch_size=8", "trainer.log_every=1", "trainer.device=cpu",
)  # fmt: skip
FORMS = {"sst2": ("cloze", "text"), "stsb": ("text",), "copa": ("text",), "squad": ("text",)}


@dataclass(frozen=True)
class Result:
    """How one pair fared."""

    row: str  # method=lora
    column: str  # mini-bert
    outcome: str  # ok | rejected | failed
    reason: str
    seconds: float


def pairs() -> list[tuple[str, str, list[str]]]:
    """Return (row, column, overrides) of everything to be tried, read off the configuration."""
    minis = [name for name in options("model") if name.startswith("mini-")]
    untrained = {"hard_prompt": ["trainer.max_steps=0"]}
    tried = [
        ("method", name, [f"method={name}", *untrained.get(name, [])]) for name in options("method")
    ]
    tried += [
        ("regularizer", name, ["method=full", f"regularizer=[{name}]"])
        for name in options("regularizer")
    ]
    methods = [
        (f"{group}={name}", mini, [*overrides, "task=sst2", f"model={mini}"])
        for group, name, overrides in tried
        for mini in minis
    ]
    sampled = {*bundled.sampled_tasks(), "ud_ewt_heads"}  # it reads the sample of ud_ewt
    tasks = [name for name in options("task") if name in sampled]
    posed = [(f"task={name}", [f"task={name}"]) for name in tasks if name != "sst2"]
    posed += [
        (f"task={name} task.form={form}", [f"task={name}", f"task.form={form}"])
        for name, forms in FORMS.items()
        for form in forms
    ]
    return methods + [
        (row, mini, ["method=lora", *overrides, f"model={mini}"])
        for row, overrides in posed
        for mini in minis
    ]


def smoke(only: list[str], directory: Path | None, tell: Callable[[Result], None]) -> list[Result]:
    """Try the pairs named in `only` (none: all); return what came of them.

    A model's name chooses a column, any other word the rows that contain it. Run directories are
    kept under `directory`, where one is given.

    Raises:
        AdaptError: nothing has such a name.
    """
    everything = pairs()
    columns = {column for _, column, _ in everything} & set(only)
    words = [word for word in only if word not in columns]
    for word in words:
        if not any(word in row for row, _, _ in everything):
            raise AdaptError(f"smoke {word}: nothing of that name. Try: adaptkit smoke lora.")
    wanted = [
        pair
        for pair in everything
        if (not words or any(word in pair[0] for word in words))
        and (not columns or pair[1] in columns)
    ]
    results = []
    with no_network(), place(directory) as root:
        for row, column, overrides in wanted:
            results.append(one(row, column, overrides, root / column / re.sub(r"\W+", "-", row)))
            tell(results[-1])
    return results


def one(row: str, column: str, overrides: list[str], directory: Path) -> Result:
    """Try one pair. Rejected is what `plan` rejects; whatever fails before or after has failed."""
    clock = time.monotonic()

    def result(outcome: str, reason: str = "") -> Result:
        return Result(row, column, outcome, reason, time.monotonic() - clock)

    stage = "settings"
    try:
        pair = settings(compose([*SHORT, *overrides, f"output_dir={directory}"]))
        bound = pair.bind(pair.task.load(pair.data, pair.seed).task)
        stage = "plan"
        plan(bound, precision.resolve("fp32", precision.device_of("cpu")), memory=False)
        stage = "train"
        run(pair, Interface(lambda _: None, lambda _: ()))
        stage = "verify"
        problem = verify(directory)
    except AdaptError as error:
        if stage == "plan":
            return result("rejected", str(error))
        return result("failed", f"{stage}: {error}")
    except Exception as error:  # the table names it, the other pairs go on
        return result("failed", f"{stage}: {type(error).__name__}: {first_line(error)}")
    return result("failed", problem) if problem else result("ok")


@contextlib.contextmanager
def place(directory: Path | None) -> Iterator[Path]:
    """Give the folder asked for, or one that is removed at the end."""
    if directory:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="adaptkit-smoke-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Refuse every connection and every look-up of a name in this process."""

    def block(*_: Any, **__: Any) -> Any:
        raise OSError("smoke runs without a network, and something asked for it")

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            block()
        original[0](self, address)

    original = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)
    blocked = (connect, block, block)
    owners = ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo"))
    for (owner, name), blocker in zip(owners, blocked, strict=True):
        setattr(owner, name, blocker)
    try:
        yield
    finally:
        for (owner, name), function in zip(owners, original, strict=True):
            setattr(owner, name, function)
