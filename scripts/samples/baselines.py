"""Two baselines to read a score against: the majority class and a bag of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from .grammar import Row, Splits

TEXTS = ("sentence", "text", "sentence1", "sentence2", "question1", "question2", "premise",
         "hypothesis", "question", "choice1", "choice2")  # fmt: skip
Scorer = Callable[[Sequence[Row], Sequence[Row]], tuple[float, float]]
HEAD = "| task | rows | majority | bag of words |\n| --- | --- | --- | --- |"


def table(tasks: dict[str, Splits]) -> str:
    """Return a table of both baselines for every task with a label, in Markdown."""
    lines = [HEAD]
    for task, splits in tasks.items():
        train = splits["train"]
        score = _scorer(train[0])
        if score is None:
            continue
        for split, rows in splits.items():
            if split != "train":
                majority, bag = score(train, rows)
                size = f"{len(train)} / {len(rows)}"
                lines.append(f"| {task} {split} | {size} | {majority:.3f} | {bag:.3f} |")
    return "\n".join(lines)


def _scorer(row: Row) -> Scorer | None:
    """Tell from its columns how a task is scored; texts to be written are not."""
    if "upos" in row:
        return _tagging
    if "chosen" in row:
        return _preference
    if "label" in row:
        return _pearson if isinstance(row["label"], float) else _accuracy
    return None


def _vectors(train: Sequence[Row], rows: Sequence[Row]) -> tuple[Any, ...]:
    """Count the words of each text column apart."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer

    parts = []
    for column in (c for c in TEXTS if c in train[0]):
        counter = CountVectorizer(token_pattern=r"[\w'-]+|[?.,;]")
        known = counter.fit_transform([row[column] for row in train])
        parts.append((known, counter.transform([row[column] for row in rows])))
    return tuple(hstack(side).tocsr() for side in zip(*parts, strict=True))


def _accuracy(train: Sequence[Row], rows: Sequence[Row]) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    common = Counter(row["label"] for row in train).most_common(1)[0][0]
    known, new = _vectors(train, rows)
    model = LogisticRegression(max_iter=2000).fit(known, [row["label"] for row in train])
    labels = [row["label"] for row in rows]
    return sum(label == common for label in labels) / len(labels), model.score(new, labels)


def _pearson(train: Sequence[Row], rows: Sequence[Row]) -> tuple[float, float]:
    from scipy.stats import pearsonr
    from sklearn.linear_model import Ridge

    known, new = _vectors(train, rows)
    guess = Ridge(alpha=1.0).fit(known, [row["label"] for row in train]).predict(new)
    return 0.0, float(pearsonr(guess, [row["label"] for row in rows])[0])


def _tagging(train: Sequence[Row], rows: Sequence[Row]) -> tuple[float, float]:
    """Give every word the commonest tag; then the commonest tag of that word."""
    tags: dict[str, Counter[int]] = {}
    for row in train:
        for token, tag in zip(row["tokens"], row["upos"], strict=True):
            tags.setdefault(token.lower(), Counter())[tag] += 1
    common = sum(tags.values(), Counter()).most_common(1)[0][0]
    pairs = [p for row in rows for p in zip(row["tokens"], row["upos"], strict=True)]
    known = (tags.get(token.lower(), {common: 1}) for token, _ in pairs)
    guesses = [max(counts, key=counts.__getitem__) for counts in known]
    right = sum(guess == tag for guess, (_, tag) in zip(guesses, pairs, strict=True))
    return sum(tag == common for _, tag in pairs) / len(pairs), right / len(pairs)


def _preference(train: Sequence[Row], rows: Sequence[Row]) -> tuple[float, float]:
    """Choose the longer dialogue; then the one whose words were chosen more often."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer().fit([row["chosen"] + row["rejected"] for row in train])
    known, new = (
        counter.transform([r["chosen"] for r in part])
        - counter.transform([r["rejected"] for r in part])
        for part in (train, rows)
    )
    signs = [1 if number % 2 else -1 for number in range(len(train))]
    turned = known.multiply([[sign] for sign in signs]).tocsr()
    model = LogisticRegression(max_iter=2000, fit_intercept=False).fit(turned, signs)
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows)
    return longer, float((model.predict(new) == 1).mean())
