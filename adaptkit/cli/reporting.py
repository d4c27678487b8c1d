"""report: many runs as one answer. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adaptkit.cli.parser import command
from adaptkit.errors import AdaptError
from adaptkit.storage.files import write_text
from adaptkit.terminal import console

if TYPE_CHECKING:
    from adaptkit.reports.comparison.runs import Found
    from adaptkit.reports.comparison.table import Table


def report_(arguments: list[str]) -> int:
    """`adaptkit report DIR ... [--out FILE] [--by SETTING]`."""
    from adaptkit.reports.comparison.text import FORMATS, grid, sentences

    endings = (".html", ".svg", *FORMATS)
    parser = command("report", "Many runs as one answer: means, intervals, tests, costs, pictures.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders with runs")
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE",
        help=f"write a file, by its ending {', '.join(endings)}; may be given several times",
    )  # fmt: skip
    parser.add_argument("--by", metavar="SETTING", help="also draw the scores over a number, as in "
                        "optimizer.lr, method.rank or data.train_rows")  # fmt: skip
    args = parser.parse_args(arguments)
    for file in args.out:
        if file.suffix not in endings:
            raise AdaptError(f"--out={file}: must end in {', '.join(endings)}.")
        if file.is_dir() or not file.parent.is_dir():
            raise AdaptError(f"--out={file}: name a file in a folder that is there.")
    with console.waiting("reading runs"):
        from adaptkit.reports.comparison.runs import collect
        from adaptkit.reports.comparison.table import table_of

        found = collect(args.folders)
        if args.by:
            check_axis(args.by, found)
        table = table_of(found)
    head, *body = grid(table)
    show(head, body)
    for line in sentences(table, most=10):
        console.show(line)
    for remark in table.remarks:
        console.say(remark)
    made = [(file, written(table, file.suffix, args.by)) for file in args.out]
    for file, whole in made:
        write_text(file, whole)
        console.show(f"  {file}")
    return 0


def written(table: Table, ending: str, axis: str | None) -> str:
    """Return a report in the format of a file's ending."""
    from adaptkit.reports.comparison.page import page, scores_of
    from adaptkit.reports.comparison.text import FORMATS

    if ending == ".html":
        return page(table, axis)
    return scores_of(table) if ending == ".svg" else FORMATS[ending](table)


def check_axis(name: str, found: Found) -> None:
    """Reject a setting that no run has as a number.

    Raises:
        ConfigError: it names settings that are similar.
    """
    import difflib

    from adaptkit.errors import invalid
    from adaptkit.reports.comparison.runs import settings_of

    numbers = {
        key
        for run in found.runs
        for key, value in settings_of(run).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if name not in numbers:
        near = difflib.get_close_matches(name, numbers, 3)
        raise invalid("--by", name, "is not a number in the settings of these runs",
                      f"Did you mean {', '.join(near)}?" if near else "Name one as "
                      "optimizer.lr")  # fmt: skip


def show(head: list[str], body: list[list[str]]) -> None:
    """Print the table."""
    from rich.table import Table
    from rich.text import Text

    grid = Table()
    for place, name in enumerate(head):
        grid.add_column(Text(console.harmless(name)), justify="right" if place else "left")
    for line in body:
        grid.add_row(*(Text(console.harmless(cell)) for cell in line))
    console.screen(200).print(grid)
