"""tune: settings chosen on held-out training rows. No torch until words are checked."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.cli.parser import Parser, command
from adaptkit.config.overrides import sweep_lengths
from adaptkit.config.search import IDLE, TAKEN, check_tried
from adaptkit.config.settings import Settings, settings
from adaptkit.config.words import readable
from adaptkit.errors import ConfigError
from adaptkit.storage.files import processes
from adaptkit.terminal import console
from adaptkit.terminal.budget import sized
from adaptkit.train import checked

if TYPE_CHECKING:
    from adaptkit.runs.tuning.tune import Tuned


def tune_(arguments: list[str]) -> int:
    """`adaptkit tune OVERRIDES [--search KEY=V1,V2] [--budget N] [--out DIR]`."""
    parser = command("tune", "Race learning rates, or other settings, on held-out training rows.")
    add_options(parser)
    parser.add_argument("--out", type=Path, help="default: outputs/tune/TASK/MODEL/METHOD")
    args = parser.parse_intermixed_args(arguments)
    check_one_process("tune")
    check_words(args.overrides)
    base = checked(sized([*args.overrides, "output_dir=unused"]))
    sample = say_sample([base])
    out = args.out or Path("outputs", "tune", base.task.name, base.model.name, base.method_name)
    with console.working() as interface:
        from adaptkit.runs.tuning.tune import tune

        found = tune(made, args.overrides, space_of(args.search), args.budget, out, interface)
    console.show(f"{line_about(found)}{' ON SAMPLE DATA' if sample else ''}")
    console.show(f"  {found.recipe}")
    kept = [word for word in args.overrides if word.partition("=")[0] not in found.winner.values]
    console.show("  adaptkit train " + " ".join([*kept, found.winner.name]))
    return 0


def check_one_process(name: str) -> None:
    """Reject several processes, which would all hold the race.

    Raises:
        ConfigError: this is one of several.
    """
    if processes() > 1:
        raise ConfigError(f"adaptkit {name}: is for one process. Start it without torchrun, and "
                          "train the winner with it.")  # fmt: skip


def say_sample(jobs: Sequence[Settings]) -> bool:
    """Say which tasks have bundled rows alone; return whether any has."""
    kinds = {job.task.name: job.task.origin(job.data).kind for job in jobs}
    if samples := [name for name, kind in kinds.items() if kind == "sample"]:
        console.say(f"WARNING: {', '.join(samples)}: rows of the bundled SAMPLE. Scores say "
                    "nothing about the real task. For real data, set data.root=DIR.")  # fmt: skip
    return bool(samples)


def add_options(parser: Parser) -> None:
    """Add what tune and compare share."""
    parser.add_argument("overrides", nargs="*", default=[], help="as for adaptkit train")
    parser.add_argument(
        "--search", action="append", default=[], metavar="KEY=V1,V2",
        help="values to try; several: every combination. Default: what the method's file "
        "says, mostly seven rates around its own",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=number, metavar="N",
        help="updates of a whole race; default: the last candidate trains as long as a plain run",
    )  # fmt: skip


def number(word: str) -> int:
    """Return a number of updates, seeds or jobs."""
    if not re.fullmatch(r"[1-9]\d{0,9}", word):
        raise ArgumentTypeError(f"{word!r} must be a whole number, at least 1")
    return int(word)


def space_of(words: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values to try by setting.

    Raises:
        ConfigError: a word is not KEY=V1,V2.
    """
    import yaml

    space: dict[str, list[Any]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not (equals and re.fullmatch(r"[\w.]+", key)):
            raise ConfigError(f"--search {word}: write KEY=V1,V2, as in optimizer.lr=1e-4,1e-3.")
        if key in space:
            raise ConfigError(f"--search {word}: {key} is named twice. Leave it out.")
        # commas inside of brackets belong to one value
        parts = [part for part in re.split(r",(?![^\[]*\])", values) if part.strip()]
        try:
            space[key] = [as_number(yaml.safe_load(part), part) for part in parts]
        except yaml.YAMLError as error:
            raise ConfigError(f"--search {word}: cannot be read as values.") from error
        check_tried(f"--search {word}", key, space[key])
    return space


def as_number(value: Any, word: str) -> Any:
    """Return 1e-3 as the number that YAML takes for a text."""
    try:
        return float(word) if isinstance(value, str) else value
    except ValueError:
        return value


def check_words(overrides: Sequence[str], several: Sequence[str] = ()) -> None:
    """Reject overrides that a race sets itself, and sweeps; `several`: what may have many values.

    Raises:
        ConfigError: it names the word.
    """
    for key in sweep_lengths(readable(overrides)).keys() - set(several):
        way = {
            "method": "adaptkit compare takes several methods",
            "task": "adaptkit compare takes several tasks",
            "seed": "adaptkit compare --seeds N repeats the winner of each race",
        }.get(key, f"values to try are given by --search {key}=A,B")
        raise ConfigError(f"{key}: has several values; {way}.")
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key in TAKEN:
            raise ConfigError(f"{word}: is set by the race itself. Leave it out.")
        if key in IDLE:
            instead = ("adaptkit compare has --jobs" if key == "trainer.jobs" else
                       "give it to adaptkit train or eval afterwards")  # fmt: skip
            raise ConfigError(f"{word}: is not carried out in a race. Leave it out; {instead}.")


def made(overrides: Sequence[str], folder: Path) -> Settings:
    """Return the settings of one run in a folder."""
    quoted = str(folder.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return settings(sized([*overrides, f"output_dir='{quoted}'"]))


def line_about(found: Tuned) -> str:
    """Say what won, and what the race took."""
    return (
        f"{found.winner.name}: {found.score} on held-out training rows, best of "
        f"{found.tried}; {found.updates} updates instead of {found.grid}"
    )
