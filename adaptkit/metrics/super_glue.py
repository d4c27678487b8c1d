"""SuperGLUE's own metrics as an `evaluate` module (Wang et al. 2019, arXiv:1905.00537).

    multirc          F1 of all answers (f1a), and the share of questions whose answers are all
                     right; `groups` says whose answers they are
    record           SQuAD's F1 and exact match of the entity, against the best answer
    gender_parity    of AX-g: accuracy, and the share of pairs (`groups`), which differ in gender
                     only, that get the same answer

Its other tasks have accuracy, the mean F1 of the classes (CB), or Matthews correlation (AX-b).
A score of groups is a sum over them divided by another: what `parts` returns.
"""

from collections.abc import Hashable, Sequence

import datasets
import evaluate
import numpy as np

from adaptkit.metrics.squad import best_of, exact, f1, mean

GROUPED = {
    "multirc": ("f1a", "exact_match"),
    "gender_parity": ("accuracy", "gender_parity"),
}
PARTS = ("f1a", "exact_match", "accuracy", "gender_parity")


class SuperGlue(evaluate.Metric):
    """SuperGLUE metrics; `config_name` says which."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in (*GROUPED, "record"):
            raise KeyError(f"no SuperGLUE metric is named {self.config_name!r}")
        number, text = datasets.Value("int64"), datasets.Value("string")
        record = self.config_name == "record"
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Wang et al. 2019, arXiv:1905.00537",
            inputs_description="class numbers, and groups; for record texts, and lists of texts",
            features=datasets.Features(
                {
                    "predictions": text if record else number,
                    "references": datasets.Sequence(text) if record else number,
                }
            ),
        )

    def _compute(
        self, predictions: list, references: list, groups: Sequence[Hashable] = ()
    ) -> dict[str, float]:
        if self.config_name == "record":
            pairs = list(zip(predictions, references, strict=True))
            kinds = {"f1": f1, "exact_match": exact}
            return {
                name: mean([best_of(kind, said, right, False) for said, right in pairs])
                for name, kind in kinds.items()
            }
        return {
            name: ratio(*parts(name, predictions, references, groups))
            for name in GROUPED[self.config_name]
        }


def parts(
    name: str,
    predictions: Sequence[int],
    references: Sequence[int],
    groups: Sequence[Hashable],
) -> tuple[list[float], list[float]]:
    """Return two numbers per group; the score `name` is the sum of the first by that of the others.

    f1a 2 right / (said + true) of class 1; exact_match and gender_parity share of groups; accuracy
    share of rows.
    """
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    of = np.asarray([places[group] for group in groups])
    said, true = np.asarray(predictions), np.asarray(references)

    def per_group(values: np.ndarray) -> np.ndarray:
        return np.bincount(of, values, len(places))

    sizes = per_group(np.ones(len(of)))
    if name == "f1a":
        above, below = per_group(2.0 * (said * true == 1)), per_group(1.0 * (said + true))
    elif name == "accuracy":
        above, below = per_group(said == true), sizes
    elif name == "exact_match":
        above, below = per_group(said == true) == sizes, np.ones(len(sizes))
    else:
        first = said[np.unique(of, return_index=True)[1]]
        above, below = per_group(said == first[of]) == sizes, np.ones(len(sizes))
    return above.astype(float).tolist(), below.astype(float).tolist()


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the quotient of two sums; of nothing 0."""
    return sum(above) / sum(below) if sum(below) else 0.0
