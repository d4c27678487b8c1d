"""SQuAD's exact match and F1 as an `evaluate` module (Rajpurkar et al. 2016, arXiv:1606.05250).

    normalised     lower case, no ASCII punctuation, no a, an, the, single blanks
    exact_match    share of the rows whose answer equals a right one, both normalised
    f1             mean over the rows of the best F1 of the two bags of words

    squad_v2       rows may have no answer (Rajpurkar et al. 2018, arXiv:1806.03822): the same, also
                   apart for rows with and without one, and the best that any threshold on
                   `no_answer` gives: an upper bound, because it is chosen on the scored rows

Scores are shares between 0 and 1; the official scripts print 100 times as much.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import datasets
import evaluate

NAMES = ("squad", "squad_v2")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Squad(evaluate.Metric):
    """Exact match and F1 of answers in words."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in NAMES:
            raise KeyError(f"no metric of answers is named {self.config_name!r}")
        answer = {name: datasets.Value("string") for name in ("answer", "span")}
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Rajpurkar et al. 2016, arXiv:1606.05250; 2018, arXiv:1806.03822",
            inputs_description="predictions: {answer, span, no_answer}; references: lists of texts",
            features=datasets.Features(
                {
                    "predictions": {**answer, "no_answer": datasets.Value("float64")},
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(
        self, predictions: list[dict], references: list[list[str]]
    ) -> dict[str, float]:  # fmt: skip
        strict = self.config_name == "squad_v2"
        said = [prediction["answer"] for prediction in predictions]
        scores = {
            name: [
                best_of(kind, a, right, strict) for a, right in zip(said, references, strict=True)
            ]
            for name, kind in (("f1", f1), ("exact_match", exact))
        }
        result = {name: mean(values) for name, values in scores.items()}
        if not strict:
            return result
        answerable = [bool(right) for right in references]
        none = [not yes for yes in answerable]
        result["has_answer_f1"] = mean(scores["f1"], answerable)
        result["has_answer_exact_match"] = mean(scores["exact_match"], answerable)
        result["no_answer_accuracy"] = mean(scores["exact_match"], none)
        margins = [prediction["no_answer"] for prediction in predictions]
        for name, kind in (("f1", f1), ("exact_match", exact)):
            spans = [
                best_of(kind, prediction["span"], right, strict)
                for prediction, right in zip(predictions, references, strict=True)
            ]
            blank = [not prediction["span"] for prediction in predictions]
            best, threshold = best_threshold(margins, spans, answerable, blank)
            result |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
        return result


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and doubled blanks."""
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def best_of(
    kind: Callable[[str, str], float], answer: str, right: Sequence[str], strict: bool
) -> float:
    """Return the score against the right answer that suits best.

    `strict`, as in SQuAD 2.0: right answers of which nothing is left when normalised do not count,
    and if there are no others, an answer of which nothing is left is right.
    """
    kept = [text for text in right if not strict or normalised(text)]
    if strict and not kept:
        return float(not normalised(answer))
    return max(kind(answer, text) for text in kept or [""])


def exact(answer: str, right: str) -> float:
    """Return 1 if two answers are the same, normalised."""
    return float(normalised(answer) == normalised(right))


def f1(answer: str, right: str) -> float:
    """Return the F1 of two bags of words; of two empty ones 0."""
    words, wanted = normalised(answer).split(), normalised(right).split()
    same = sum((Counter(words) & Counter(wanted)).values())
    return 2 * same / (len(words) + len(wanted)) if same else 0.0


def mean(values: Sequence[float], chosen: Sequence[bool] | None = None) -> float:
    """Return the mean of the chosen values; of none nan."""
    kept = [v for v, yes in zip(values, chosen or [True] * len(values), strict=True) if yes]
    return sum(kept) / len(kept) if kept else float("nan")


def best_threshold(
    margins: Sequence[float], spans: Sequence[float], answerable: Sequence[bool],
    blank: Sequence[bool],
) -> tuple[float, float]:  # fmt: skip
    """Return the best mean score over all thresholds on `no_answer`, and that threshold.

    As in the official script: all rows start without an answer, and get theirs in the order of
    their margins.
    """
    score = best = float(sum(not yes for yes in answerable))
    threshold = 0.0
    for row in sorted(range(len(margins)), key=margins.__getitem__):
        score += spans[row] if answerable[row] else (0.0 if blank[row] else -1.0)
        if score > best:
            best, threshold = score, margins[row]
    return best / len(margins), threshold
