"""The files that the server of the GLUE benchmark reads: index<TAB>prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError, invalid, unknown
from adaptkit.storage.files import replacing
from adaptkit.tasks.task import Answer, Task

ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
ROWS = {  # of the test sets, by the name of the file
    "CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "STS-B": 1379, "QQP": 390_965, "MNLI-m": 9796,
    "MNLI-mm": 9847, "QNLI": 5463, "RTE": 3000, "WNLI": 146, "AX": 1104,
}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """How a task's answers are written; `words` of the classes: none for a number from 0 to 5."""

    files: tuple[str, ...]  # names without their ending
    words: Mapping[str, str]  # class -> what the server calls it

    def word(self, answer: Answer) -> str:
        """Return an answer as the server reads it."""
        if not self.words:
            return f"{min(max(float(answer), 0.0), 5.0):.4f}"
        return self.words[answer]


def numbered(*classes: str) -> dict[str, str]:
    """Return the numbers of classes, as words."""
    return {name: str(number) for number, name in enumerate(classes)}


GLUE = {
    "cola": Submission(("CoLA",), numbered("unacceptable", "acceptable")),
    "sst2": Submission(("SST-2",), numbered("negative", "positive")),
    "mrpc": Submission(("MRPC",), numbered("not_equivalent", "equivalent")),
    "stsb": Submission(("STS-B",), {}),
    "qqp": Submission(("QQP",), numbered("not_duplicate", "duplicate")),
    "mnli": Submission(("MNLI-m", "MNLI-mm", "AX"), {name: name for name in NLI}),
    "qnli": Submission(("QNLI",), {name: name for name in ENTAILMENT}),
    "rte": Submission(("RTE",), {name: name for name in ENTAILMENT}),
    "wnli": Submission(("WNLI",), numbered("not_entailment", "entailment")),
    "ax": Submission(("AX",), {name: name for name in NLI}),
}


def submission_of(task: Task) -> Submission:
    """Return how the answers of a task are handed in.

    Raises:
        ConfigError: it is not a task of GLUE, or its classes have other names.
    """
    if task.name not in GLUE:
        raise unknown("--format=glue: task.name", task.name, GLUE)
    found = GLUE[task.name]
    if set(task.classes) != set(found.words):
        raise invalid(
            "task.labels", list(task.classes), f"--format=glue of {task.name} needs the classes "
            f"{', '.join(found.words) or '(none: a number)'}",
        )  # fmt: skip
    return found


def file_for(submission: Submission, output: Path, split: str | None) -> Path:
    """Return the file to write; `output`: it, or the folder in which it shall lie.

    Raises:
        AdaptError: the server knows no file of that name, or which one it is cannot be told.
    """
    names = [f"{name}.tsv" for name in submission.files]
    if output.suffix:
        if output.name not in names:
            raise AdaptError(
                f"--output={output}: the server of GLUE reads {' or '.join(names)}. Use that "
                "name, or give a folder."
            )
        return output
    ending = (split or "").rpartition("_")[2]
    if len(names) == 1:
        return output / names[0]
    if ending in ("matched", "mismatched"):
        return output / names[ending == "mismatched"]
    raise AdaptError(
        f"--output={output}: the rows may belong to {', '.join(names)}. Name the file: "
        f"--output {output / names[0]}."
    )


def remark_on(output: Path, rows: int) -> tuple[str, ...]:
    """Return a remark if the server expects another number of rows."""
    expected = ROWS[output.stem]
    if rows == expected:
        return ()
    return (f"{output.name} has {rows:,} rows; the server of GLUE expects {expected:,}",)


def check_index(identity: str) -> None:
    """Check that a row's id can be its index.

    Raises:
        AdaptError: it is not a whole number.
    """
    if not identity.isdecimal():
        raise AdaptError(
            f"--format=glue: the row with id {identity!r} needs a whole number as its id. Set "
            "task.id to the column of the index, or task.id=null to number the rows."
        )


def write_submission(
    output: Path, rows: Iterable[Mapping[str, Any]], submission: Submission
) -> None:
    """Write the file, atomically; an id is a row's index."""
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write("index\tprediction\n")
        for row in rows:
            file.write(f"{row['id']}\t{submission.word(row['prediction'])}\n")
