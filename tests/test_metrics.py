"""The metrics against scikit-learn, scipy, published rules and their definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
from runs import carry_out, configure
from scipy import stats
from sklearn import metrics

import adaptkit.metrics.glue as glue
from adaptkit.metrics.glue import Glue
from adaptkit.metrics.tagging import Tagging
from adaptkit.runs.verify import verify
from adaptkit.tasks.forms.head import HeadForm

CONFIGS = {
    "accuracy": ("sst2", "mnli", "qnli", "rte", "wnli", "accuracy"),
    "f1": ("mrpc", "qqp", "accuracy_and_f1"),
    "matthews_correlation": ("cola", "matthews"),
    "pearson": ("stsb", "correlations"),
}
NAMES = [name for names in CONFIGS.values() for name in names]
CASES = {
    "random": lambda g: (g.integers(0, 2, 501), g.integers(0, 2, 501)),
    "good": lambda g: ((y := g.integers(0, 2, 300)), np.where(g.random(300) < 0.9, y, 1 - y)),
    "rare": lambda g: ((g.random(400) < 0.03).astype(int), (g.random(400) < 0.05).astype(int)),
    "all right": lambda g: ((y := g.integers(0, 2, 50)), y),
    "all wrong": lambda g: ((y := g.integers(0, 2, 50)), 1 - y),
    "only negatives predicted": lambda g: (g.integers(0, 2, 60), np.zeros(60, int)),
    "only positives predicted": lambda g: (g.integers(0, 2, 60), np.ones(60, int)),
    "one row": lambda g: (np.array([1]), np.array([1])),
}


def compute(name: str, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    return Glue(config_name=name).compute(predictions=predictions, references=labels)


def counts(labels: np.ndarray, predictions: np.ndarray) -> tuple[int, int, int, int]:
    """True and false positives, false and true negatives."""
    pairs = list(zip(labels.tolist(), predictions.tolist(), strict=True))
    return tuple(pairs.count(pair) for pair in ((1, 1), (0, 1), (1, 0), (0, 0)))


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param](np.random.default_rng(7))


@pytest.mark.parametrize("name", CONFIGS["accuracy"] + CONFIGS["f1"])
def test_accuracy(name, case):
    labels, predictions = case
    tp, fp, fn, tn = counts(*case)
    found = compute(name, *case)["accuracy"]
    assert found == metrics.accuracy_score(labels, predictions)
    assert found == (tp + tn) / (tp + fp + fn + tn)


@pytest.mark.parametrize("name", CONFIGS["f1"])
def test_f1(name, case):
    tp, fp, fn, _ = counts(*case)
    found = compute(name, *case)["f1"]
    assert found == metrics.f1_score(*case, zero_division=0)
    assert found == (2 * tp / (2 * tp + fp + fn) if tp else 0.0)


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("name", CONFIGS["matthews_correlation"])
def test_matthews(name, case):
    tp, fp, fn, tn = counts(*case)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
    found = compute(name, *case)["matthews_correlation"]
    assert found == metrics.matthews_corrcoef(*case)
    assert found == pytest.approx(expected, abs=1e-15)


def test_three_classes():
    labels, predictions = np.random.default_rng(0).integers(0, 3, (2, 400))
    assert compute("mnli", labels, predictions) == {
        "accuracy": metrics.accuracy_score(labels, predictions)
    }
    matthews = compute("matthews", labels, predictions)["matthews_correlation"]
    assert matthews == metrics.matthews_corrcoef(labels, predictions)


@pytest.mark.parametrize("name", CONFIGS["pearson"])
@pytest.mark.parametrize("ties", [False, True])
def test_correlations(name, ties):
    random = np.random.default_rng(3)
    labels = random.uniform(0, 5, 200)
    labels = labels.round() if ties else labels
    predictions = labels + random.normal(0, 1, 200)
    found = compute(name, labels, predictions)
    assert found == {
        "pearson": pytest.approx(float(stats.pearsonr(predictions, labels)[0]), abs=1e-15),
        "spearmanr": pytest.approx(float(stats.spearmanr(predictions, labels)[0]), abs=1e-15),
    }
    wide = [labels, predictions]
    ranks = [stats.rankdata(v) for v in wide]
    assert found["pearson"] == pytest.approx(np.corrcoef(*wide)[0, 1], abs=1e-12)
    assert found["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize("name", CONFIGS["pearson"])
def test_correlations_in_64_bits(name):
    """Years in seconds, a minute apart: in 32 bits many of them are equal."""
    labels = 1.6e9 + 60.0 * np.arange(9)
    found = compute(name, labels, np.roll(labels, 1))
    expected = np.corrcoef(np.arange(9), np.roll(np.arange(9), 1))[0, 1]
    assert found == {name: pytest.approx(expected, abs=1e-9) for name in ("pearson", "spearmanr")}


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_constant_prediction_has_no_correlation():
    found = compute("stsb", np.linspace(0, 5, 9), np.full(9, 2.5))
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_values_are_plain_numbers(name):
    found = compute(name, np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize("name", ["mrpc", "stsb", "cola", "sst2"])
def test_loads_offline_by_path(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    metric = evaluate.load(str(Path(glue.__file__)), name, cache_dir=str(tmp_path))
    labels, predictions = [0, 1, 1, 0, 1], [0, 1, 0, 1, 1]
    found = metric.compute(references=labels, predictions=predictions)
    assert found == compute(name, np.array(labels), np.array(predictions))


def test_unknown_name():
    with pytest.raises(KeyError, match="sst5"):
        Glue(config_name="sst5")


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_run_without_correlation(checkpoints, tmp_path, monkeypatch):
    """Predictions that are all alike have no correlation: the run goes on and says so."""
    monkeypatch.setattr(
        HeadForm, "predict", lambda self, model, outputs, *_: [1.0] * len(outputs.logits)
    )
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        lines = [
            json.dumps({"sentence1": "the film", "sentence2": "was good", "label": i / 2})
            for i in range(10)
        ]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    settings = configure(
        tmp_path / "run", checkpoints["bert"], tmp_path / "data", "task=stsb", **{
            "trainer.epochs": 2, "trainer.early_stopping_patience": 5,
            "trainer.select_on": "validation",
        },
    )  # fmt: skip
    record, _ = carry_out(settings)
    assert record["status"] == "done"
    assert record["updates"] == 4
    assert record["score"] is None
    again, said = carry_out(settings)
    assert "done before" in said[0]
    assert again["score"] is None
    assert verify(tmp_path / "run") == ""


# ---- tags ----

# conlleval's rules: gold, prediction, F1 of the entities, that of IOB2, accuracy of the words.
ENTITIES = [
    ("B-PER I-PER O B-LOC", "I-PER I-PER O B-LOC", 1.0, 2 / 3, 0.75),
    ("B-PER B-PER", "B-PER I-PER", 0.0, 0.0, 0.5),
    ("B-PER I-PER O", "B-PER I-LOC O", 0.0, 0.0, 2 / 3),
    ("B-PER I-PER O", "B-PER O O", 0.0, 0.0, 2 / 3),
    ("O O", "O O", 0.0, 0.0, 1.0),
    ("O O B-MISC I-MISC I-MISC I-MISC O|B-PER I-PER O",
     "O O O B-MISC I-MISC I-MISC O|B-PER I-PER O", 0.5, 0.5, 0.8),
    ("I-PER I-PER O I-LOC B-LOC", "B-PER I-PER O B-LOC B-LOC", 1.0, 0.5, 0.6),
]  # fmt: skip


def tags(text: str) -> list[list[str]]:
    return [row.split() for row in text.split("|")]


@pytest.mark.parametrize(("gold", "made", "f1", "strict", "accuracy"), ENTITIES)
def test_entities(gold, made, f1, strict, accuracy):
    metric = Tagging(config_name="entities")
    found = metric.compute(predictions=tags(made), references=tags(gold))
    assert found["f1"] == pytest.approx(f1) and found["accuracy"] == pytest.approx(accuracy)
    assert found["strict_f1"] == pytest.approx(strict)


def test_precision_and_recall_of_entities():
    gold, made = tags("B-A O B-B O|O B-A"), tags("B-A O O O|B-A B-A")
    found = Tagging(config_name="entities").compute(predictions=made, references=gold)
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_tags_are_not_entities():
    """seqeval would read NOUN as an entity of type OUN and give 0.571."""
    gold, made = tags("NOUN VERB ADJ NOUN"), tags("NOUN NOUN ADJ NOUN")
    found = Tagging(config_name="accuracy").compute(predictions=made, references=gold)
    assert found == {"accuracy": 0.75}


@pytest.mark.parametrize("name", ["accuracy", "entities"])
def test_a_word_without_a_prediction_is_wrong(name):
    found = Tagging(config_name=name).compute(predictions=[["B-A", ""]], references=[["B-A", "O"]])
    assert found["accuracy"] == 0.5
    assert found.get("f1", 1.0) == 1.0  # it stands outside of every entity


def test_rows_of_unequal_length():
    with pytest.raises(ValueError, match="row 2: 1 predictions for 2 words"):
        Tagging(config_name="accuracy").compute(
            predictions=[["A"], ["A"]], references=[["A"], ["A", "B"]]
        )
