"""Scores of tagged words as an `evaluate` module.

    accuracy    share of the words with the right tag, punctuation included
    entities    F1, precision and recall of whole entities in BIO tags, and accuracy of the words:
                conlleval's rules, as in seqeval (Tjong Kim Sang & De Meulder 2003); `strict_`: an
                entity must begin with B- (IOB2)

A word without a prediction (the empty text) counts as wrong; for entities it stands outside. Tags
are repaired as conlleval does, of references as well: an I- tag after O, or after another type,
begins an entity. The strict scores leave out such entities.
"""

import warnings

import datasets
import evaluate
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

NAMES = ("accuracy", "entities")


class Tagging(evaluate.Metric):
    """Scores of lists of tags, one list per row."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in NAMES:
            raise KeyError(f"no tagging metric is named {self.config_name!r}")
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Tjong Kim Sang & De Meulder 2003, arXiv:cs/0306050",
            inputs_description="predictions and references: lists of tags",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]]
    ) -> dict[str, float]:
        for row, (made, wanted) in enumerate(zip(predictions, references, strict=True), 1):
            if len(made) != len(wanted):
                raise ValueError(f"row {row}: {len(made)} predictions for {len(wanted)} words")
        words = sum(map(len, references))
        right = sum(
            one == other
            for made, wanted in zip(predictions, references, strict=True)
            for one, other in zip(made, wanted, strict=True)
        )
        scores = {"accuracy": right / words if words else float("nan")}
        if self.config_name == "accuracy":
            return scores
        outside = [[tag or "O" for tag in made] for made in predictions]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no entity predicted, or none there: 0
            kinds = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
            entities = {
                name: float(score(references, outside, zero_division=0))
                for name, score in kinds.items()
            }
            strict = {
                f"strict_{name}": float(
                    score(references, outside, zero_division=0, mode="strict", scheme=IOB2)
                )
                for name, score in kinds.items()
            }
        return {**entities, **scores, **strict}
