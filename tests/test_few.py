"""Few-shot draws: what they hold, that they can be repeated, and what is said of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from commandline import call, tiny, write
from datasets import Dataset

from adaptkit.errors import AdaptError, ConfigError
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.data import FOLDS, Data
from adaptkit.tasks.reading.few import digests, training_rows
from adaptkit.tasks.regress import Regress

TASK = Classify("mine", text=("text",), labels=("no", "yes"))
ROWS = Dataset.from_dict({
    "id": [str(i) for i in range(40)],
    "text": [f"text {i}" for i in range(39)] + ["text 0"],  # the last one repeats the first
    "label": ["no" if i % 3 else "yes" for i in range(39)] + ["yes"],
})  # fmt: skip


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("fold", range(5))
def test_a_draw_is_that_of_the_definition(fold: int) -> None:
    found = training_rows(TASK, ROWS, Data(per_class=4, fold=fold), seed=0)
    wanted = []
    for name in ("no", "yes"):
        lines = {json.dumps({"label": name, "text": row["text"]}) for row in ROWS
                 if row["label"] == name}  # fmt: skip
        wanted += sorted(sha(f"{FOLDS[fold]}:{sha(line)}") for line in lines)[:4]
    assert sorted(sha(f"{FOLDS[fold]}:{digest}") for digest in digests(found)) == sorted(wanted)
    assert len(found) == 8


def test_a_draw_depends_on_neither_order_ids_nor_seed() -> None:
    data = Data(per_class=5, fold=2)
    turned = ROWS.select(range(39, -1, -1)).remove_columns("id").add_column("id", ["x"] * 40)
    one, other = training_rows(TASK, ROWS, data, 0), training_rows(TASK, turned, data, 9)
    assert set(digests(one)) == set(digests(other))
    draws = [frozenset(digests(training_rows(TASK, ROWS, replace(data, fold=f), 0)))
             for f in range(5)]  # fmt: skip
    assert len(set(draws)) == 5


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(AdaptError, match=r"per_class=14: the class 'yes' has 13 different"):
        training_rows(TASK, ROWS, Data(per_class=14), 0)
    numbers = Dataset.from_dict({"id": ["0"], "text": ["a"], "label": [1.0]})
    with pytest.raises(ConfigError, match=r"needs a task whose rows have classes"):
        training_rows(Regress("n", text=("text",)), numbers, Data(per_class=1), 0)
    for wrong in ({"fold": 5}, {"fold": -1}, {"per_class": 0}, {"per_class": 2, "train_rows": 3}):
        with pytest.raises(ConfigError, match=r"data\."):
            Data(**wrong)


@pytest.mark.slow
def test_a_sweep_over_draws_says_mean_and_deviation(checkpoints, tmp_path: Path) -> None:
    rows = [{"text": f"{'good' if i % 2 else 'bad'} film {i}", "label": i % 2} for i in range(20)]
    for split in ("train", "validation"):
        write(tmp_path / "data" / f"{split}.jsonl", rows)
    answer = call(
        "train", "-m", "task=classify", f"task.path={tmp_path / 'data'}", "task.text=text",
        "task.name=mine", *tiny(checkpoints["bert"]), "method=bitfit", "trainer.max_steps=1",
        "data.per_class=2", "data.fold=0,1,2", f"output_dir={tmp_path}/runs/${{data.fold}}",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    records = [json.loads((tmp_path / f"runs/{f}/result.json").read_text()) for f in range(3)]
    kept = [set(record["data"]["train_sha256"]) for record in records]
    assert [len(one) for one in kept] == [4, 4, 4] and len({frozenset(one) for one in kept}) > 1
    assert all(record["data"]["rows"]["train"] == 4 for record in records)
    scores = [record["score"] for record in records]
    mean = sum(scores) / 3
    spread = (sum((s - mean) ** 2 for s in scores) / 2) ** 0.5
    assert f"accuracy {mean:.4f} (standard deviation {spread:.4f}, 3 runs)" in answer.out


def test_a_row_that_is_shown_is_not_trained_on(tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "label": ("no", "yes")[i % 2]} for i in range(12)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    task = replace(
        TASK, path=str(tmp_path), form="cloze", template="{text} It was {label}.", shots=2
    )
    found = task.load(Data(), seed=0)
    shown = {row["text"] for row in found.task.demonstrations}
    assert len(shown) == 4 and len(found.train) == 8 and not shown & set(found.train["text"])
    every = task.load(Data(per_class=2), seed=0)
    assert len(every.train) == 4 and "all training rows are shown" in every.notes[-1]
