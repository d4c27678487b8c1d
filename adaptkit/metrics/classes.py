"""Precision, recall and F1 of each of C classes, and their averages, as an `evaluate` module.

    precision_c = right_c / said_c,  recall_c = right_c / true_c,
    F1_c = 2 right_c / (said_c + true_c)

    macro_f1      mean of F1_c over all C classes, also those that no row has: they count 0
    weighted_f1   mean of F1_c over the rows, each with the F1 of its true class
    macro_auroc   mean over the classes of the area under the ROC curve of their probability
    micro_f1      F1 of all classes' counts together: with one class per row that is the accuracy

Scikit-learn averages over the classes that occur; its `labels=range(C)` gives these numbers.
A share of nothing counts 0.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

NAMES = ("macro_f1", "weighted_f1")
NO_CLASS = "(none)"  # how a generated text that is not a class is shown
Array = NDArray[Any]


class Classes(evaluate.Metric):
    """An average F1, and the accuracy; `classes` says how many there are."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in NAMES:
            raise KeyError(f"no average of classes is named {self.config_name!r}")
        value = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Lewis et al. 1996 (micro and macro averages)",
            inputs_description="predictions and references: class numbers; classes: how many",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(
        self, predictions: list[int], references: list[int], classes: int
    ) -> dict[str, float]:
        averages = averages_of(*counts(predictions, references, classes))
        return {name: averages[name] for name in (self.config_name, "accuracy")}


def counts(
    predictions: Sequence[int], references: Sequence[int], classes: int
) -> tuple[Array, Array, Array]:
    """Return per class [C] the rows that are rightly of it, that are said to be, and that are."""
    said, true = np.asarray(predictions, int), np.asarray(references, int)
    right = true[said == true]
    said = said[said >= 0]  # below 0: no class was answered
    right, said, true = (np.bincount(one, minlength=classes) for one in (right, said, true))
    return right, said, true


def share(part: Array, whole: Array) -> Array:
    """Return part / whole, and 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def averages_of(right: Array, said: Array, true: Array) -> dict[str, float]:
    """Return accuracy and the averages of F1 from the counts [C]."""
    f1, rows = share(2 * right, said + true), true.sum()
    accuracy = float(right.sum() / rows)
    return {
        "accuracy": accuracy,
        "macro_f1": float(f1.mean()),
        "micro_f1": accuracy,
        "weighted_f1": float((f1 * true).sum() / rows),
    }


def auroc_of(probabilities: Array, references: Sequence[int]) -> list[float | None]:
    """Return per class [C] how well its probability [N, C] tells its rows from all others.

    That is the chance that a row of the class has more of it than another row, a tie counting half.
    None if no row, or every row, is of the class.
    """
    from sklearn.metrics import roc_auc_score

    belongs = np.asarray(references)[:, None] == np.arange(probabilities.shape[1])
    return [
        float(roc_auc_score(inside, column)) if 0 < inside.sum() < len(inside) else None
        for inside, column in zip(belongs.T, probabilities.T, strict=True)
    ]


def report(
    predictions: Sequence[int],
    references: Sequence[int],
    names: Sequence[str],
    probabilities: Sequence[Sequence[float]] | None,
) -> dict[str, Any]:
    """Return averages, each class's scores, and how often which class (outer) was called which.

    `probabilities`: of the classes, [N, C], if they are known. `macro_auroc` is the mean over the
    classes that have an AUROC.
    """
    aurocs: list[float | None] = [None] * len(names)
    if probabilities is not None:
        aurocs = auroc_of(np.asarray(probabilities), references)
    known = [one for one in aurocs if one is not None]
    right, said, true = counts(predictions, references, len(names))
    scores = {
        "precision": share(right, said),
        "recall": share(right, true),
        "f1": share(2 * right, said + true),
    }
    confusion: dict[str, dict[str, int]] = {name: {} for name in names}
    for made, label in zip(predictions, references, strict=True):
        row = confusion[names[label]]
        said_name = names[made] if made >= 0 else NO_CLASS
        row[said_name] = row.get(said_name, 0) + 1
    return {
        **averages_of(right, said, true),
        "macro_auroc": float(np.mean(known)) if known else None,
        "classes": {
            name: {
                "rows": int(true[i]),
                **{kind: float(s[i]) for kind, s in scores.items()},
                "auroc": aurocs[i],
            }
            for i, name in enumerate(names)
        },
        "confusion": confusion,
    }
