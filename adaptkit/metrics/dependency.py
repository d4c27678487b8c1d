"""The score of dependency heads as an `evaluate` module.

    uas    unlabelled attachment score: share of the words whose head is right, punctuation and the
           root included

A word without a prediction (-1) counts as wrong.
"""

import datasets
import evaluate


class Dependency(evaluate.Metric):
    """The score of lists of heads, one list per row."""

    def _info(self) -> evaluate.MetricInfo:
        heads = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Buchholz & Marsi 2006, CoNLL-X shared task",
            inputs_description="predictions and references: lists of numbers of words, 0: the root",
            features=datasets.Features({"predictions": heads, "references": heads}),
        )

    def _compute(
        self, predictions: list[list[int]], references: list[list[int]]
    ) -> dict[str, float]:
        right = sum(right_in(*pair) for pair in zip(predictions, references, strict=True))
        words = sum(map(len, references))
        return {"uas": right / words if words else float("nan")}


def right_in(made: list[int], wanted: list[int]) -> int:
    """Return how many words of a row have the right head.

    Raises:
        ValueError: there are more or fewer predictions than words.
    """
    return sum(one == other for one, other in zip(made, wanted, strict=True))
