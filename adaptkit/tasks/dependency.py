"""Dependency heads: for every word the number of the word that it depends on.

Words are numbered from 1, and the root of a sentence has the head 0, as in Universal Dependencies.

A control task (`control.py`) has the same words, but every word has the same one of three answers
wherever it stands, each as likely as the others: itself (which is read as the root), the first word
or the last word of its sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, at_least, folder_name, one_of
from adaptkit.tasks.control import controlled, drawn
from adaptkit.tasks.data import Data
from adaptkit.tasks.forms.dependency import DependencyForm
from adaptkit.tasks.forms.words import check_words
from adaptkit.tasks.labels import whole
from adaptkit.tasks.reading.source import DatasetSpec, with_column
from adaptkit.tasks.table import TableTask
from adaptkit.tasks.task import LABEL, Answer, Splits

if TYPE_CHECKING:
    from datasets import Dataset

ROOT = 0


@dataclass(frozen=True)
class Dependency(TableTask):
    """The head of every word: the number of a word of the sentence, from 1; 0: the root."""

    words: str = "tokens"  # column of lists of words
    label: str = "head"  # column of lists of heads: numbers of words from 1, 0 for the root
    rank: int = 256  # of the bilinear map that scores a pair of words; Hewitt & Liang 2019: 1000
    folder: str | None = None  # of the rows, in data.root and in the samples; null: the name
    control: int | None = None  # seed of a control task: a word has one random answer; null: none
    metric: str = "uas"  # share of the words with the right head

    answer = "the number of the head per word"

    def __post_init__(self) -> None:
        one_of("task.metric", self.metric, ("uas",))
        super().__post_init__()
        at_least("task.rank", self.rank, 1)
        if self.folder is not None:
            folder_name("task.folder", self.folder)
        if self.control is not None:
            at_least("task.control", self.control, 0)

    def scores(self) -> tuple[str, ...]:
        """Return the name of the score."""
        return ("uas",)

    def spec(self, data: Data) -> DatasetSpec:
        """Return the data set that this task reads, which another task may have named."""
        return replace(super().spec(data), name=self.folder or self.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of words."""
        return (self.words,)

    @property
    def posed(self) -> DependencyForm:
        """A token classifier whose outputs score pairs of words."""
        return DependencyForm(self.words, self.rank, self.max_length)

    def check(self, rows: Dataset, split: str) -> None:
        """Check that every row holds a list of words."""
        check_words(rows, self.words, f"task {self.name}, split {split}")

    def load(self, data: Data, seed: int, train: bool = True, every_row: bool = False) -> Splits:
        """Read the splits; the heads of a control task take the place of those that were read."""
        splits = super().load(data, seed, train, every_row)
        if self.control is None:
            return splits
        note = (
            f"control task (task.control={self.control}): the head of every word is itself, the "
            "first or the last word, at random"
        )
        return controlled(splits, self.controlled, note)

    def controlled(self, rows: Dataset) -> Dataset:
        """Return rows with the heads of the control task: equal words have equal answers."""

        def head(word: str, number: int, last: int) -> int:
            wanted = (number, 1, last)[int(3 * drawn(self.control or 0, word))]
            return ROOT if wanted == number else wanted

        every = rows[self.words][:]
        heads = [[head(w, n, len(words)) for n, w in enumerate(words, 1)] for words in every]
        return with_column(rows, LABEL, heads)

    def read_labels(self, rows: Dataset, split: str) -> list[list[int]]:
        """Return the heads of every row as numbers.

        Raises:
            AdaptError: a row has more or fewer heads than words, or a head that is not the number
                of another word; no row has a word.
        """
        where = f"task {self.name}, split {split}"
        labels = []
        columns = zip(rows[self.words][:], rows[self.label][:], strict=True)
        for number, (words, heads) in enumerate(columns, 1):
            if not isinstance(heads, list) or len(heads) != len(words):
                raise AdaptError(
                    f"{where}, row {number}: {len(words)} words, but {self.label} is "
                    f"{str(heads)[:60]}. Every word needs one head."
                )
            labels.append(
                [
                    head_of(value, place, len(words), f"{where}, row {number}")
                    for place, value in enumerate(heads, 1)
                ]
            )
        if not any(labels):
            raise AdaptError(f"{where}: no row has a word.")
        return labels

    def score(self, answers: Sequence[Answer], rows: Dataset) -> dict[str, float]:
        """Return the share of words with the right head."""
        from adaptkit.metrics.dependency import Dependency as Metric

        return Metric(keep_in_memory=True).compute(
            predictions=[known(heads) for heads in answers], references=rows[LABEL][:]
        )

    def parts(
        self, answers: Sequence[Answer], rows: Dataset
    ) -> tuple[list[float], list[float]] | None:
        """Return the number of right heads and of words of every row."""
        from adaptkit.metrics.dependency import right_in

        if self.headline != "uas":
            return None
        labels = rows[LABEL][:]
        right = [right_in(known(a), b) for a, b in zip(answers, labels, strict=True)]
        return list(map(float, right)), [float(len(heads)) for heads in labels]

    def trivial_answers(self, splits: Splits, rows: Dataset) -> tuple[str, list[list[Answer]]]:
        """Return the head at the commonest distance in training; the root where there is no word.

        The root itself is the distance 0.
        """
        seen, where = splits.seen()
        counts = Counter(
            head and head - place for heads in seen[LABEL][:] for place, head in enumerate(heads, 1)
        )
        ((step, _),) = counts.most_common(1)
        lists: list[Answer] = []
        for count in map(len, rows[LABEL][:]):
            heads = [place + step if step else ROOT for place in range(1, count + 1)]
            lists.append([head if 1 <= head <= count else ROOT for head in heads])
        shown = f"{step:+d}" if step else "the root"
        return f"commonest distance to the head ({shown}){where}", [lists]


def known(heads: Sequence[int | None]) -> list[int]:
    """Return heads with -1 for a word without an answer."""
    return [-1 if head is None else head for head in heads]


def head_of(value: Any, place: int, words: int, where: str) -> int:
    """Return the head of the word at `place`, counted from 1, as a number.

    Raises:
        AdaptError: it is not the number of another word of the sentence, nor 0.
    """
    if value in (None, "None", "_"):
        raise AdaptError(
            f"{where}: word {place} has no head ({value!r}). Leave out what stands for several "
            "words (1-2) or for a word that is not in the text (1.1). .conllu files are read so."
        )
    head = whole(value)
    if not isinstance(head, int) or not 0 <= head <= words:
        raise AdaptError(
            f"{where}: the head of word {place} is {value!r}, not a whole number from 0 (the root) "
            f"to {words}, the number of words."
        )
    if head == place:
        raise AdaptError(f"{where}: word {place} is its own head. The root has the head 0.")
    return head
