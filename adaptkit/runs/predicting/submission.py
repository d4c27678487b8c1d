"""The files that the servers of GLUE and SuperGLUE read.

    GLUE        TASK.tsv: index<TAB>prediction
    SuperGLUE   TASK.jsonl: {"idx": ..., "label": ...}; of MultiRC one line per passage, with its
                questions and their answers in it, each with its own idx

The words for classes are those of the benchmarks' own software (jiant): true and false in small
letters for BoolQ and WiC, with a capital for WSC, numbers for COPA and MultiRC.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptError, invalid, unknown
from adaptkit.storage.files import replacing, to_json
from adaptkit.tasks.task import Answer, Task

ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
ROWS = {  # of the test sets, by the name of the file
    "CoLA.tsv": 1063, "SST-2.tsv": 1821, "MRPC.tsv": 1725, "STS-B.tsv": 1379, "QQP.tsv": 390_965,
    "MNLI-m.tsv": 9796, "MNLI-mm.tsv": 9847, "QNLI.tsv": 5463, "RTE.tsv": 3000, "WNLI.tsv": 146,
    "AX.tsv": 1104, "BoolQ.jsonl": 3245, "CB.jsonl": 250, "COPA.jsonl": 500, "MultiRC.jsonl": 9693,
    "ReCoRD.jsonl": 10_000, "RTE.jsonl": 3000, "WiC.jsonl": 1400, "WSC.jsonl": 146,
    "AX-b.jsonl": 1104, "AX-g.jsonl": 356,
}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """How a task's answers are written; `words` of the classes: none for numbers and texts."""

    files: tuple[str, ...]
    words: Mapping[str, Any]  # class -> what the server calls it
    keys: tuple[str, ...] = ()  # of a row's id, if it is an object: its numbers are the index

    @property
    def server(self) -> str:
        """Name of the benchmark."""
        return "SuperGLUE" if self.files[0].endswith(".jsonl") else "GLUE"

    def word(self, answer: Answer) -> Any:
        """Return an answer as the server reads it; numbers are limited to 0 to 5, as in STS-B.

        Raises:
            AdaptError: there is none: a text was generated that is not an answer.
        """
        if answer is None:
            raise AdaptError(
                "--format=glue: a text was generated that is not an answer to the task, and the "
                "server wants one for every row. Classes can be ranked instead: task.decode=rank."
            )
        if isinstance(answer, float):
            return f"{min(max(answer, 0.0), 5.0):.4f}"
        return self.words[answer] if self.words else answer

    def index(self, identity: str) -> list[int]:
        """Return the numbers that a row's id holds: one, or one per key.

        Raises:
            AdaptError: it holds others.
        """
        if not self.keys:
            if identity.isdecimal():
                return [int(identity)]
            raise AdaptError(
                f"--format=glue: the row with id {identity!r} needs a whole number as its id. Set "
                "task.id to the column of the index, or task.id=null to number the rows."
            )
        try:
            found = json.loads(identity)
            return [int(found[key]) for key in self.keys]
        except (ValueError, TypeError, KeyError) as error:
            raise AdaptError(
                f"--format=glue: the row with id {identity!r} needs an id with the numbers "
                f"{', '.join(self.keys)}. Set task.id to the column that holds such objects, as "
                "idx does in the benchmark's own data."
            ) from error


def numbered(*classes: str) -> dict[str, str]:
    """Return the numbers of classes, as words."""
    return {name: str(number) for number, name in enumerate(classes)}


def itself(*classes: str) -> dict[str, str]:
    """Return classes that the server calls as we do."""
    return {name: name for name in classes}


SMALL = {"False": "false", "True": "true"}
SUBMISSIONS = {
    "cola": Submission(("CoLA.tsv",), numbered("unacceptable", "acceptable")),
    "sst2": Submission(("SST-2.tsv",), numbered("negative", "positive")),
    "mrpc": Submission(("MRPC.tsv",), numbered("not_equivalent", "equivalent")),
    "stsb": Submission(("STS-B.tsv",), {}),
    "qqp": Submission(("QQP.tsv",), numbered("not_duplicate", "duplicate")),
    "mnli": Submission(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), itself(*NLI)),
    "qnli": Submission(("QNLI.tsv",), itself(*ENTAILMENT)),
    "rte": Submission(("RTE.tsv",), itself(*ENTAILMENT)),
    "wnli": Submission(("WNLI.tsv",), numbered("not_entailment", "entailment")),
    "ax": Submission(("AX.tsv",), itself(*NLI)),
    "boolq": Submission(("BoolQ.jsonl",), SMALL),
    "cb": Submission(("CB.jsonl",), itself(*NLI)),
    "copa": Submission(("COPA.jsonl",), {}),
    "multirc": Submission(
        ("MultiRC.jsonl",), {"False": 0, "True": 1}, ("paragraph", "question", "answer")
    ),
    "record": Submission(("ReCoRD.jsonl",), {}, ("query",)),
    "superglue_rte": Submission(("RTE.jsonl",), itself(*ENTAILMENT)),
    "wic": Submission(("WiC.jsonl",), SMALL),
    "wsc": Submission(("WSC.jsonl",), itself("False", "True")),
    "axb": Submission(("AX-b.jsonl",), itself(*ENTAILMENT)),
    "axg": Submission(("AX-g.jsonl",), itself(*ENTAILMENT)),
}


def submission_of(task: Task) -> Submission:
    """Return how the answers of a task are handed in.

    Raises:
        ConfigError: it is not a task of GLUE or SuperGLUE, or its classes have other names.
    """
    if task.name not in SUBMISSIONS:
        raise unknown("--format=glue: task.name", task.name, SUBMISSIONS)
    found = SUBMISSIONS[task.name]
    if set(task.classes) != set(found.words):
        raise invalid(
            "task.labels", list(task.classes), f"--format=glue of {task.name} needs the classes "
            f"{', '.join(found.words) or '(none: a number or a text)'}",
        )  # fmt: skip
    return found


def file_for(submission: Submission, output: Path, split: str | None) -> Path:
    """Return the file to write; `output`: it, or the folder in which it shall lie.

    Raises:
        AdaptError: the server knows no file of that name, or which one it is cannot be told.
    """
    names = submission.files
    if output.suffix:
        if output.name not in names:
            raise AdaptError(
                f"--output={output}: the server of {submission.server} reads "
                f"{' or '.join(names)}. Use that name, or give a folder."
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


def remark_on(submission: Submission, output: Path, rows: int) -> tuple[str, ...]:
    """Return a remark if the server expects another number of rows."""
    expected = ROWS[output.name]
    if rows == expected:
        return ()
    return (
        f"{output.name} has {rows:,} rows; the server of {submission.server} expects {expected:,}",
    )


def write_submission(
    output: Path, rows: Iterable[Mapping[str, Any]], submission: Submission
) -> None:
    """Write the file, atomically; an id is a row's index."""
    pairs = ((submission.index(row["id"]), submission.word(row["prediction"])) for row in rows)
    if output.suffix == ".tsv":
        lines: Iterable[str] = (f"{index}\t{word}" for (index,), word in pairs)
        lines = chain(["index\tprediction"], lines)
    elif len(submission.keys) > 1:
        lines = map(to_json, nested(pairs))
    else:
        lines = (to_json({"idx": index, "label": word}) for (index,), word in pairs)
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{line}\n" for line in lines)


def nested(pairs: Iterable[tuple[list[int], Any]]) -> Iterator[dict[str, Any]]:
    """Yield the passages of MultiRC from pairs of (passage, question, answer) and a label."""
    passages: dict[int, dict[int, list[dict[str, int]]]] = {}
    for (passage, question, answer), label in pairs:
        questions = passages.setdefault(passage, {})
        questions.setdefault(question, []).append({"idx": answer, "label": label})
    for passage, questions in passages.items():
        parts = [{"idx": number, "answers": answers} for number, answers in questions.items()]
        yield {"idx": passage, "passage": {"questions": parts}}
