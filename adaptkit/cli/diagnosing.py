"""data and doctor: what is in a task's rows, what the machine can do. No torch until needed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from adaptkit.cli.parser import command
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.storage.files import to_json, write_text
from adaptkit.terminal import console

if TYPE_CHECKING:
    from adaptkit.reports.data.diagnosis import Diagnosis

FOUND = 3  # exit status of --strict


def data_(arguments: list[str]) -> int:
    """`adaptkit data OVERRIDES [--json] [--html FILE] [--strict]`."""
    parser = command("data", "What is in a task's rows, as its model would read them: no weights.")
    parser.add_argument(
        "overrides", nargs="*", default=[],
        help="as for adaptkit train: task=sst2 data.root=DIR model=mini-bert task.max_length=64",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    parser.add_argument(
        "--strict", action="store_true", help=f"exit status {FOUND} if there is any finding"
    )
    args = parser.parse_intermixed_args(arguments)
    if args.html:
        _check_page(args.html)
    run = settings(compose(args.overrides))
    with console.working() as interface, console.waiting("reading rows"):
        from adaptkit.reports.data.diagnosis import diagnose
        from adaptkit.reports.data.page import page
        from adaptkit.runs.remarks import of_sample

        found = diagnose(run)
        for line in of_sample(found.loaded, run.data.source == "sample"):
            interface.say(line)
    if args.html:
        write_text(args.html, page(found))
    if args.json:
        print(to_json(found.as_dict(), indent=2))
    else:
        show(found)
    return FOUND if args.strict and found.findings else 0


def doctor_(arguments: list[str]) -> int:
    """`adaptkit doctor [--json]`: what this machine and installation can do."""
    parser = command("doctor", "Versions, cores, memory, speed, hub: text for a bug report.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    threads, policy = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"))
    with console.working(), console.waiting("measuring"):
        from adaptkit.terminal.doctor import examine, report

        found = examine(threads, policy)
    if args.json:
        print(to_json([dataclasses.asdict(one) for one in found], indent=2))
    else:
        console.show(report(found))
    return 0


def _check_page(file: Path) -> None:
    """Check that a page can be written, before rows are read.

    Raises:
        AdaptError: it cannot.
    """
    if file.suffix not in (".html", ".htm"):
        raise AdaptError(f"--html={file}: must end in .html.")
    if file.is_dir() or not file.parent.is_dir():
        problem = "is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise AdaptError(f"--html={file}: {problem}. Name a file in a folder that is there.")


def show(found: Diagnosis) -> None:
    """Print a diagnosis as tables and lines."""
    from rich.table import Table
    from rich.text import Text

    from adaptkit.reports.data.tables import baselines, class_table, padding_line, split_table

    source = found.loaded.source
    screen = console.screen()
    console.show(f"{found.loaded.task.name} ({found.kind}) as {found.model} reads it")
    console.show(f"  {source.kind}: {source.path}")
    for note in found.loaded.notes:
        console.show(f"  {note}")
    for head, *lines in filter(None, (split_table(found), class_table(found))):
        table = Table(box=None)
        for place, name in enumerate(head):
            table.add_column(Text(console.harmless(name)), justify="right" if place else "left")
        for line in lines:
            table.add_row(*(Text(console.harmless(value)) for value in line))
        screen.print(table)
    for text in (*padding_line(found), *baselines(found)):
        console.show(text)
    console.show(f"\n{len(found.findings) or 'no'} finding{'s' * (len(found.findings) != 1)}")
    for finding in found.findings:
        console.show(f"- {finding.line()}")
