"""predict: a file of answers. No torch until the words are checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from adaptkit.cli.commands import check_run
from adaptkit.cli.parser import Parser, command
from adaptkit.errors import AdaptError
from adaptkit.runs.predicting.answer_file import check_output
from adaptkit.tasks.reading.files import ENDINGS, kind_of
from adaptkit.terminal import console


def predict_(arguments: list[str]) -> int:
    """`adaptkit predict RUN OVERRIDES (--input FILE | --split NAME) --output FILE`."""
    args = _parser().parse_intermixed_args(arguments)
    typed = {"trainer.eval_batch_size": args.batch_size, "trainer.device": args.device}
    overrides = [*args.overrides, *(f"{k}={v}" for k, v in typed.items() if v is not None)]
    check_run(args.run)
    _check_places(args.input, args.output, args.format, args.overwrite)
    with console.working():
        from adaptkit.runs.predicting.predict_file import Wanted, predict_file
        from adaptkit.terminal.progress import counting

        wanted = Wanted(
            args.run, overrides, args.input, args.split, args.output, args.format == "glue",
            args.overwrite,
        )  # fmt: skip
        with counting("rows") as count:
            stdin: Any = getattr(sys.stdin, "buffer", None)  # closed, if nobody needs it
            emit: Any = getattr(sys.stdout, "write", None)
            written = predict_file(wanted, stdin, emit, count)
    for note in written.notes:
        console.say(note)
    new = written.rows - written.before
    again = f" ({written.before:,} were answered before)" if written.before else ""
    speed = f"{new / written.seconds:,.1f} rows per second" if new else "nothing was left to do"
    rows = "1 row" if written.rows == 1 else f"{written.rows:,} rows"
    line = f"{rows}{again}, {speed}: {written.output}"
    (console.say if args.output == Path("-") else console.show)(line)
    return 0


def _parser() -> Parser:
    parser = command("predict", "Answer the rows of a file with a finished run.")
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "overrides", nargs="*", default=[],
        help="task.text=[review] if the columns have other names, task.id=COLUMN, data.root=DIR",
    )  # fmt: skip
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument(
        "--input", type=Path, help=f"{ENDINGS}; -: JSON lines from standard input; no labels needed"
    )
    rows.add_argument("--split", help="a split of the task's own data; labels may be withheld")
    parser.add_argument(
        "--output", type=Path, required=True,
        help=".jsonl, .csv, .tsv or .parquet; -: JSON lines to standard output",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("glue",),
        help="glue: the file that the server of GLUE or SuperGLUE reads, such as CoLA.tsv or "
        "BoolQ.jsonl; --output may be its folder",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="ROWS", help="rows per forward pass")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; default: as in trainer.device")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser


def _check_places(file: Path | None, output: Path, kind: str | None, overwrite: bool) -> None:
    """Check what can be checked before the libraries are loaded.

    Raises:
        AdaptError: there is no such input, or the output cannot be written.
    """
    if file is not None and file != Path("-"):
        if kind_of(file.name) is None:
            raise AdaptError(f"--input={file}: must end in {ENDINGS}, or be -.")
        if not file.is_file():
            raise AdaptError(f"--input={file}: no such file.")
        if output.exists() and output.samefile(file):
            raise AdaptError(f"--output={output}: is the input itself. Give another name.")
    closed = [n for n, s in ((file, sys.stdin), (output, sys.stdout)) if n == Path("-") and not s]
    if closed:
        raise AdaptError("-: this standard stream is closed. Name a file.")
    if kind is None and output != Path("-"):
        check_output(output, overwrite)
    if kind is not None and output == Path("-"):
        raise AdaptError("--output=-: --format=glue writes a file. Name it, or its folder.")
