"""The official GLUE metrics as an `evaluate` module (Wang et al. 2018, arXiv:1804.07461).

    cola             Matthews correlation
    mrpc, qqp        accuracy and F1 of the positive class
    stsb             Pearson and Spearman correlation
    all others       accuracy

`evaluate.load(path_to_this_file, "mrpc")` works as well; neither way needs a network.
"""

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

ACCURACY = ("sst2", "mnli", "qnli", "rte", "wnli", "accuracy")
ACCURACY_AND_F1 = ("mrpc", "qqp", "accuracy_and_f1")
CORRELATIONS = ("stsb", "correlations")
MATTHEWS = ("cola", "matthews")


class Glue(evaluate.Metric):
    """GLUE metrics; `config_name` is the task's name or that of the kind of metric."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ACCURACY + ACCURACY_AND_F1 + CORRELATIONS + MATTHEWS:
            raise KeyError(f"no GLUE metric is named {self.config_name!r}")
        kind = "float64" if self.config_name in CORRELATIONS else "int64"
        value = datasets.Value(kind)
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Wang et al. 2018, arXiv:1804.07461",
            inputs_description="predictions and references: class numbers, or scores for stsb",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        # The format "numpy" would turn them into 32 bits.
        return self._scores(np.asarray(predictions), np.asarray(references))

    def _scores(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        if self.config_name in MATTHEWS:
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
        if self.config_name in CORRELATIONS:
            # One point has no correlation, and a constant has none with anything.
            if len(predictions) < 2 or not (np.ptp(predictions) and np.ptp(references)):
                return {"pearson": float("nan"), "spearmanr": float("nan")}
            return {
                "pearson": float(pearsonr(predictions, references)[0]),
                "spearmanr": float(spearmanr(predictions, references)[0]),
            }
        scores = {"accuracy": float((predictions == references).mean())}
        if self.config_name in ACCURACY_AND_F1:
            scores["f1"] = float(f1_score(y_true=references, y_pred=predictions))
        return scores
