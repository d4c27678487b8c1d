"""plan, eval, verify, export, import and smoke. No torch until a command needs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from adaptkit.cli.parser import command
from adaptkit.cli.prompting import EXAMPLE, show_example
from adaptkit.config.settings import settings
from adaptkit.config.suite import apart
from adaptkit.errors import AdaptError
from adaptkit.storage.files import check_free, check_parents
from adaptkit.terminal import console
from adaptkit.terminal.budget import sized
from adaptkit.terminal.suite import cells, evaluation

if TYPE_CHECKING:
    from adaptkit.runs.plan import Plan


def plan_(arguments: list[str]) -> int:
    """`adaptkit plan OVERRIDES [--names] [--json] [--show-example]`."""
    parser = command("plan", "What a run would cost: no weights, no network.")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="as for adaptkit train: method=lora ..."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--names", action="store_true", help="list what trains, with shapes")
    parser.add_argument(EXAMPLE, action="store_true", help="print the first training row instead")
    args = parser.parse_intermixed_args(arguments)
    if args.show_example:
        return show_example(args.overrides)
    run = settings(sized(args.overrides))
    with console.working():
        from adaptkit.runs.plan import plan
        from adaptkit.training import precision

        number_format = precision.resolve(
            run.trainer.precision, precision.device_of(run.trainer.device)
        )
        if not run.task.bound:  # the classes must be read off the data
            run = run.bind(run.task.load(run.data, run.seed).task)
        costs = plan(run, number_format)
    if args.json:
        names = {"shapes": costs.shapes} if args.names else {}
        print(json.dumps({**costs.as_dict(), **names}, indent=2))
    else:
        show_plan(costs)
        if args.names:
            console.show("\ntrains, with shapes:")
            for name, shape in costs.shapes.items():
                console.show(f"  {name} [{', '.join(map(str, shape))}]")
    return 0


def show_plan(costs: Plan) -> None:
    """Print a plan as tables."""
    from rich.console import Console
    from rich.table import Table

    screen, p = Console(), costs.params
    console.show(f"{costs.method} on {costs.model} for {costs.task}")
    counts = Table("parameters", "", box=None)
    rows = {
        "total": p.total, "trainable": p.trainable, "  of the base model": p.body_trainable,
        "  of the head": p.head_trainable, "stored": p.stored,
    }  # fmt: skip
    for name, value in rows.items():
        counts.add_row(name, f"{value:,}", style=None)
    counts.add_row("trainable %", f"{p.trainable_percent:.4f}")
    screen.print(counts)
    roles = Table("trains", "", box=None)
    for role, value in sorted(costs.roles.items(), key=lambda item: -item[1]):
        roles.add_row(role, f"{value:,}")
    screen.print(roles)
    if m := costs.memory:
        memory = Table(f"memory ({costs.precision})", "", box=None)
        parts = (
            "weights",
            "gradients",
            "optimizer",
            "copies",
            "activations",
            "passing",
            "libraries",
        )
        for name in (*parts, "total"):
            memory.add_row(name, console.size(getattr(m, name)))
        screen.print(memory)
        console.show(
            f"activations: batch {m.batch_size} of {m.tokens} tokens each, the longest; shorter "
            "batches take less. passing: values between two operations."
        )
    console.show(f"saved: {console.size(costs.delta_bytes)}")


def eval_(arguments: list[str]) -> int:
    """`adaptkit eval RUN OVERRIDES`: score a finished run on another task or split."""
    parser = command("eval", "Score a finished run on another task, split or suite of them.")
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        help="task=imdb, task.validation=test, data.root=DIR, ..., or suite=ood: many sets, drops",
    )
    parser.add_argument("--output", type=Path, help="default: RUN/eval/TASK-SPLIT")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    args = parser.parse_intermixed_args(arguments)
    check_run(args.run)
    suite, overrides = apart(args.overrides)
    if suite:
        return evaluation(args.run, suite, overrides, args.output, args.json)
    with console.working():
        from adaptkit.runs.evaluating.evaluate import evaluate
        from adaptkit.runs.lengths import lines_about

        result, place = evaluate(args.run, overrides, args.output)
    if args.json:
        print(json.dumps({**result.as_dict(), "directory": str(place)}, indent=2))
    else:
        rows = result.data["rows"]["validation"]
        scores = console.scores(result)
        for line in (*result.data["notes"], *lines_about(result.lengths)):
            console.say(line)
        for remark in result.remarks:
            console.say(f"WARNING: {remark}")
        console.show(f"{args.run} on {result.task} ({result.split}, {rows} rows): {scores}")
        for line in cells(result.task, result.details["validation"].get("by", {})):
            console.show(line)
        console.show(f"  {place}")
    return 0


def verify_(arguments: list[str]) -> int:
    """`adaptkit verify RUN`: rebuild it from disk and compare predictions and scores."""
    parser = command("verify", "Rebuild a run from disk: the same predictions?")
    parser.add_argument("run", type=Path, nargs="+", help="run directories")
    args = parser.parse_args(arguments)
    statuses = [verified(directory) for directory in args.run]
    return 1 if 1 in statuses else max(statuses)


def verified(directory: Path) -> int:
    """Verify one run, and return its exit status: the others are verified all the same."""
    try:
        check_run(directory)
        with console.working():
            from adaptkit.runs.verify import verify

            problem = verify(directory)
    except AdaptError as error:
        console.error(str(error))
        return error.status
    console.show(f"{directory}: {problem or 'the same predictions and scores'}")
    return int(bool(problem))


def export_(arguments: list[str]) -> int:
    """`adaptkit export RUN --format peft|merged|onnx|card --out DIR [--push OWNER/NAME]`."""
    parser = command("export", "Write a finished run, its head included, for other libraries.")
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "--format", required=True, choices=("peft", "merged", "onnx", "card"),
        help="peft: an adapter for PeftModel.from_pretrained; merged: a plain Hugging Face model; "
        "onnx: a graph for onnxruntime; card: the model card alone, which the others have as well",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--push", metavar="OWNER/NAME", help="also send the folder to the hub")
    parser.add_argument("--private", action="store_true", help="where --push makes a repository, "
                        "nobody else sees it")  # fmt: skip
    args = parser.parse_args(arguments)
    check_run(args.run)
    check_free(args.out, "--out")
    if args.private and args.push is None:
        raise AdaptError("--private: says who sees what --push sends. Add --push, or leave it out.")
    if args.push is not None:
        from adaptkit.storage.pushing import check_push

        check_push(args.push)
    with console.working():
        from adaptkit.runs.exchange.export import export

        written = export(args.run, args.format, args.out, args.push)
    console.show(f"{args.out}: {written}")
    return pushed(args.out, args.push, args.private) if args.push else 0


def pushed(folder: Path, name: str, private: bool) -> int:
    """Send an exported folder to the hub, and say what was sent."""
    from adaptkit.storage.pushing import push

    sent = push(folder, name, private)
    for file, size in sent.files.items():
        console.show(f"  {file} ({console.size(size)})")
    console.show(f"{sent.url}: {len(sent.files)} files in commit {sent.commit}")
    return 0


def import_(arguments: list[str]) -> int:
    """`adaptkit import PEFT_DIR OVERRIDES --out DIR`."""
    parser = command(
        "import", "Make a run directory of a PEFT adapter (low-rank or IA3) and score it."
    )
    parser.add_argument("adapter", type=Path, help="a folder with adapter_config.json")
    parser.add_argument(
        "overrides", nargs="*", default=[],
        help="task=sst2, and model=NAME or model=auto model.path=DIR for another body than the "
        "one it names",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="a new run directory")
    args = parser.parse_intermixed_args(arguments)
    check_free(args.out, "--out")
    with console.working():
        from adaptkit.runs.exchange.import_peft import import_adapter

        result = import_adapter(args.adapter, args.overrides, args.out)
    for remark in result.remarks:
        console.say(f"WARNING: {remark}")
    console.show(f"{args.adapter} on {result.task} ({result.split}): {console.scores(result)}")
    console.show(f"  {args.out}")
    return 0


def smoke_(arguments: list[str]) -> int:
    """`adaptkit smoke [NAME ...]`: every method, regularizer and task on the bundled models."""
    parser = command(
        "smoke",
        "Train, score, save, reload and verify everything there is for a few updates "
        "on the bundled models and samples, with the network blocked.",
    )
    parser.add_argument("only", nargs="*", help="names to try: lora, mini-t5, task=; default: all")
    parser.add_argument("--output", type=Path, help="keep the run directories there")
    args = parser.parse_args(arguments)
    if args.output:
        check_parents(args.output / "run", "--output")
    with console.working():
        from adaptkit.runs.smoke import smoke
        from adaptkit.terminal.smoke import table, tried

        results = smoke(args.only, args.output, tried)
    table(results)
    return int(any(result.outcome == "failed" for result in results))


def check_run(directory: Path) -> None:
    """Reject what is not a run directory before the libraries are loaded."""
    if not (directory / "config.yaml").is_file():
        raise AdaptError(
            f"{directory} is not a run directory: a finished run holds config.yaml, "
            "delta.safetensors and result.json."
        )
