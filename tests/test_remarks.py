"""What is said about a score: its interval, the trivial answer, one answer for all, divergence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commandline import call, data_root, read, tiny, write
from scipy import stats
from sklearn import metrics

from adaptkit.metrics.bootstrap import interval
from adaptkit.runs.record import RunResult
from adaptkit.runs.remarks import ended_worse, of_threshold
from adaptkit.tasks.span import METRICS
from adaptkit.terminal.console import baseline
from adaptkit.training.losses import Losses
from adaptkit.training.state import TrainingState

SCORES = {
    "accuracy": metrics.accuracy_score,
    "f1": lambda labels, answers: metrics.f1_score(labels, answers, pos_label="b"),
    "matthews_correlation": metrics.matthews_corrcoef,
    "pearson": lambda labels, answers: stats.pearsonr(labels, answers)[0],
    "spearmanr": lambda labels, answers: stats.spearmanr(labels, answers)[0],
}


def rows(name: str, count: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers and labels that agree by more than chance."""
    random = np.random.default_rng(seed)
    if name in ("pearson", "spearmanr"):
        labels = random.normal(size=count)
        return labels + random.normal(size=count), labels
    labels = random.choice(["a", "b"], count, p=[0.7, 0.3])
    return np.where(random.random(count) < 0.7, labels, "b"), labels


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in ("accuracy", "pearson"))) for n in SCORES],
)
def test_interval_is_that_of_a_plain_bootstrap(name):
    """Rows drawn one by one, each draw scored by scikit-learn or scipy."""
    answers, labels = rows(name)
    random = np.random.default_rng(7)
    draws = (random.integers(0, len(labels), len(labels)) for _ in range(1000))
    scores = [SCORES[name](labels[draw], answers[draw]) for draw in draws]
    found = interval(name, list(answers), list(labels), ("a", "b"))
    assert found == pytest.approx(np.quantile(scores, (0.025, 0.975)), abs=0.02)


def test_interval_of_an_accuracy_covers_the_truth():
    """95 of 100 intervals hold the true accuracy; fewer than 88 have a probability below 0.002."""
    held = 0
    for seed in range(100):
        right = np.random.default_rng(seed).random(200) < 0.7
        low, high = interval("accuracy", list(right), [True] * 200) or (1, 0)
        held += low <= 0.7 <= high
    assert held >= 88


def test_three_classes():
    labels = ["x", "y", "z"] * 20
    assert interval("matthews_correlation", labels, labels) == (1.0, 1.0)
    assert interval("accuracy", ["x"] * 60, labels)[0] < 1 / 3 < interval("accuracy", ["x"] * 60,
                                                                         labels)[1]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "answers", "labels"),
    [
        ("loss", [1.0, 2.0], [1.0, 2.0]),  # no function of answers
        ("accuracy", [["A"], ["B"]], [["A"], ["B"]]),  # words of a row depend on each other
        ("pearson", [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),  # undefined
        ("accuracy", ["a"], ["a"]),  # one row says nothing about others
    ],
)
def test_no_interval(name, answers, labels):
    assert interval(name, answers, labels) is None


@pytest.mark.parametrize(
    ("losses", "worse"),
    [
        ([0.7, 0.6], False),
        ([0.7, 0.8], False),
        ([0.7, 0.9], True),
        ([0.7, 5e6], True),
        ([0.7], False),
    ],
)
def test_rising_loss(losses, worse):
    assert bool(ended_worse([{"loss": loss} for loss in losses])) == worse


def test_a_short_run_is_judged_by_its_evaluation():
    assert ended_worse([{"loss": 0.7}, {"eval_loss": 3.0}])
    assert not ended_worse([{"loss": 0.7}, {"eval_loss": 0.7}])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
    data_root(tmp_path / "data", train=40, validation=40)
    return tmp_path


def test_a_run_that_learns_nothing_says_so(place, checkpoints):
    words = [*tiny(checkpoints["bert"]), "data.root=data", "optimizer.lr=1e-9", "output_dir=run"]
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    record = json.loads((place / "run" / "result.json").read_text())
    low, high = record["score_interval"]
    assert low <= record["baseline"]["value"] <= high
    assert "(not distinguishable from majority class" in answer.out
    answers = {row["prediction"] for row in read(place / "run" / "predictions.jsonl")}
    said = [remark for remark in record["remarks"] if "predictions are" in remark]
    assert bool(said) == (len(answers) == 1)
    assert all(f"WARNING: {remark}" in answer.err for remark in record["remarks"])


def test_a_score_above_the_trivial_one_does_not(place, checkpoints):
    data = place / "data" / "sst2"
    shutil.copy(data / "train.jsonl", data / "validation.jsonl")  # rows that can be learnt by heart
    words = [*tiny(checkpoints["bert"]), "method=full", "data.root=data", "optimizer.lr=5e-3",
             "trainer.max_steps=120", "trainer.batch_size=16", "trainer.eval_every=60"]  # fmt: skip
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    assert "distinguishable" not in answer.out and "WARNING" not in answer.err


def test_one_class_for_all_rows_is_said(place, checkpoints):
    """Nine of ten training rows have one class, so that is what is learnt first."""
    texts = [{"text": f"word{i % 7}", "label": "no" if i % 10 else "yes"} for i in range(40)]
    write(place / "rows" / "train.jsonl", texts)
    write(place / "rows" / "validation.jsonl", texts)
    answer = call("train", *tiny(checkpoints["bert"]), "task=classify", "task.path=rows",
                  "task.text=text", "task.labels=['no','yes']", "method=full", "optimizer.lr=1e-2",
                  "output_dir=run")  # fmt: skip
    assert answer.status == 0, answer.err
    assert 'all 40 predictions are "no"' in answer.err


def test_a_run_that_diverges_says_so(place, checkpoints):
    answer = call("train", *tiny(checkpoints["bert"]), "method=full", "data.root=data",
                  "optimizer.lr=1e3", "optimizer.warmup_ratio=0", "trainer.keep=best",
                  "trainer.select_on=validation", "output_dir=run")  # fmt: skip
    assert answer.status == 0, answer.err
    assert "ended worse than it started" in answer.err
    assert "best at update " in answer.out
    assert "; the epoch was chosen by these rows: optimistic)" in answer.out
    remarks = json.loads((place / "run" / "result.json").read_text())["remarks"]
    assert any("ended worse" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("between", "trivial", "said"),
    [
        ([0.4, 0.6], 0.5, "(not distinguishable from majority class 0.5000)"),
        ([0.2, 0.4], 0.5, "(below majority class 0.5000)"),
        ([0.6, 0.8], 0.5, "(majority class 0.5000)"),
        ([-0.4, -0.1], None, "(below majority class)"),
        ([0.1, 0.4], None, ""),
        (None, 0.5, "(majority class 0.5000)"),
    ],
)
def test_the_line_says_how_the_trivial_answer_compares(between, trivial, said):
    record = SimpleNamespace(
        baseline={"name": "majority class", "value": trivial}, score_interval=between
    )
    for name in ("indistinct", "below_trivial"):
        setattr(record, name, getattr(RunResult, name).fget(record))
    assert baseline(record).strip() == said


def test_the_last_weights_are_not_called_the_best(place, checkpoints):
    answer = call("train", *tiny(checkpoints["bert"]), "method=full", "data.root=data",
                  "trainer.keep=last", "trainer.max_steps=4", "output_dir=run")  # fmt: skip
    assert answer.status == 0, answer.err
    assert ", after update 4)" in answer.out


def test_the_latest_weights_count_as_long_as_no_score_is_defined():
    state, nan = TrainingState(Losses(1.0)), float("nan")
    assert [state.improves(score, update, None) for update, score in enumerate([nan, nan])] == [
        True, True,
    ]  # fmt: skip
    assert state.best_update == 1
    assert state.improves(-0.5, 2, None)
    assert not state.improves(nan, 3, None) and state.best_update == 2


def test_a_threshold_that_suits_the_scored_rows_is_named() -> None:
    found = {name: of_threshold(name) for name in METRICS["squad_v2"]}
    assert {name for name, said in found.items() if said} == {
        "best_f1", "best_f1_threshold", "best_exact_match", "best_exact_match_threshold",
    }  # fmt: skip
