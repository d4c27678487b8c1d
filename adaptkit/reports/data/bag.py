"""What words alone tell: a linear model of TF-IDF weights, or the commonest tag of each word.

classes   logistic regression on the words and pairs of words of each text column
a number  ridge regression on the same
choices   logistic regression of right and wrong choices on their own words; the surest one wins
tags      the commonest tag of the word in training, of an unknown word the commonest of all

The model is fitted on training rows, on 100,000 of them at most, and scored like any other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adaptkit.tasks.choice import Choice
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.forms.choice import alternatives_of, regrouped
from adaptkit.tasks.reading import source
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.tag import Tag
from adaptkit.tasks.task import LABEL, Answer, Splits, Task
from adaptkit.tasks.template import written

if TYPE_CHECKING:
    from datasets import Dataset

MOST_ROWS = 100_000  # that are fitted: more take minutes and change the score little
MOST_WORDS = 200_000  # words and pairs of words of a column, the commonest
WORD = r"(?u)\b\w+\b|[?!]"


def bag_of_words(splits: Splits, seed: int) -> tuple[str, float] | None:
    """Return the name of the model and its headline score, or None if the kind of task has none."""
    train, task, rows = splits.train, splits.task, splits.validation[""]
    answer = next((found for kind, found in ANSWERS.items() if isinstance(task, kind)), None)
    if train is None or answer is None:
        return None
    fitted = source.subset(train, MOST_ROWS, seed)
    where = "" if fitted is train else f" of {MOST_ROWS:,} rows"
    scores = task.score(answer(task, fitted, rows), rows)
    name = "word's commonest tag" if isinstance(task, Tag) else "bag of words"
    return f"{name}{where}", scores.get(task.headline, float("nan"))


def _weights(train: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """Return TF-IDF matrices [rows, words] of columns of texts to fit on, and of new ones."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    # A column of nothing, so that texts without any word give a matrix too.
    parts = [tuple(csr_matrix((len(texts[0]), 1)) for texts in (train, new))]
    for known, other in zip(train, new, strict=True):
        counter = TfidfVectorizer(
            ngram_range=(1, 2), token_pattern=WORD, sublinear_tf=True, max_features=MOST_WORDS
        )
        if any(map(counter.build_analyzer(), known)):
            parts.append((counter.fit_transform(known), counter.transform(other)))
    first, second = zip(*parts, strict=True)
    return hstack(first).tocsr(), hstack(second).tocsr()


def _columns(task: Task, rows: Dataset) -> list[list[str]]:
    return [[*map(written, rows[name][:])] for name in task.columns]  # a template may have numbers


def _classes(task: Task, train: Dataset, rows: Dataset) -> list[Answer]:
    from sklearn.linear_model import LogisticRegression

    labels = train[LABEL][:]
    if len({*labels}) == 1:  # nothing to fit
        return labels[:1] * len(rows)
    known, new = _weights(_columns(task, train), _columns(task, rows))
    model = LogisticRegression(max_iter=500).fit(known, labels)
    return model.predict(new).tolist()


def _numbers(task: Task, train: Dataset, rows: Dataset) -> list[Answer]:
    from sklearn.linear_model import Ridge

    known, new = _weights(_columns(task, train), _columns(task, rows))
    return Ridge().fit(known, train[LABEL][:]).predict(new).tolist()


def _choices(task: Choice, train: Dataset, rows: Dataset) -> list[Answer]:
    from sklearn.linear_model import LogisticRegression

    every, other = ([alternatives_of(row, task.choices) for row in part] for part in (train, rows))
    flat = ([[text for texts in part for text in texts]] for part in (every, other))
    known, new = _weights(*flat)
    right = [
        number == label
        for texts, label in zip(every, train[LABEL][:], strict=True)
        for number in range(len(texts))
    ]
    sure = LogisticRegression(max_iter=500).fit(known, right).decision_function(new).tolist()
    grouped = regrouped(sure, [len(texts) for texts in other])
    return [max(range(len(one)), key=one.__getitem__) for one in grouped]


def _tags(task: Tag, train: Dataset, rows: Dataset) -> list[Answer]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in zip(train[task.words][:], train[LABEL][:], strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts[word.casefold()][tag] += 1
    best = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    ((common, _),) = sum(counts.values(), Counter[str]()).most_common(1)
    return [[best.get(word.casefold(), common) for word in words] for words in rows[task.words][:]]


ANSWERS: dict[type, Callable[[Any, Dataset, Dataset], list[Answer]]] = {
    Classify: _classes,
    Regress: _numbers,
    Choice: _choices,
    Tag: _tags,
}
