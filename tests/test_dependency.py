"""Dependency heads: scores of pairs of words, the share of right heads, rows that are wrong."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, tiny
from commandline import write as write_rows
from datasets import Dataset
from test_predict import predictor_of
from test_tasks import Given

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.metrics.dependency import Dependency as Metric
from adaptkit.runs.predicting.predictor import Predictor
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.tasks.dependency import Dependency

ROWS = [
    {"tokens": ["she", "loved", "the", "film"], "head": [2, 0, 4, 2]},
    {"tokens": ["good"], "head": [0]},
    {"tokens": ["the", "unbelievably", "dull", "plot", "was", "not", "bad"],
     "head": [4, 3, 4, 7, 7, 7, 0]},
]  # fmt: skip
QUIET = ["task=dependency", "task.rank=3", "trainer.device=cpu", "trainer.precision=fp32"]


def logits_alone(predictor: Predictor, words: list[str]) -> list[list[float]]:
    """Return the outputs at each word of a row that is read by itself."""
    made, prepared = predictor.settings, predictor.prepared
    feed = feed_of(made, prepared, Dataset.from_dict({"tokens": [words]}))
    logits = scorer_of(made, prepared).outputs(feed.batch([0])).logits[0]
    return [logits[place].tolist() for place in feed.examples[0]["places"]]


def score(outputs: list[list[float]], i: int, j: int, rank: int = 3) -> float:
    """Return s(i, j) by the definition."""
    return sum(outputs[i][k] * outputs[j][rank + k] for k in range(rank)) / math.sqrt(rank)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_loss_and_answers_are_those_of_the_definition(family, checkpoints):
    """Also of a causal model, in a batch of rows of different lengths."""
    predictor = predictor_of(checkpoints[family], *QUIET)
    loss, expected = 0.0, []
    for row in ROWS:
        outputs, answers = logits_alone(predictor, row["tokens"]), []
        count = len(row["tokens"])
        for i, head in enumerate(row["head"]):
            exps = [math.exp(score(outputs, i, j)) for j in range(count)]
            loss -= math.log(exps[i if head == 0 else head - 1] / sum(exps))
            best = exps.index(max(exps))
            answers.append((0 if best == i else best + 1, max(exps) / sum(exps)))
        expected.append(answers)
    made, prepared = predictor.settings, predictor.prepared
    columns = {"tokens": [r["tokens"] for r in ROWS], "label": [r["head"] for r in ROWS]}
    batch = feed_of(made, prepared, Dataset.from_dict(columns)).batch([0, 1, 2])
    with torch.no_grad():
        found = prepared.form.loss(prepared.adaptation.model.eval()(**batch.inputs), batch)
    assert float(found) == pytest.approx(loss, rel=1e-4) and batch.weight == 12
    for made_, wanted in zip(predictor.predict(ROWS, details=True), expected, strict=True):
        assert made_["answer"] == [head for head, _ in wanted]
        assert made_["probabilities"] == pytest.approx([p for _, p in wanted], rel=1e-4)
    assert any(head for answers in expected for head, _ in answers)


@torch.no_grad()
def test_a_linear_probe_is_a_bilinear_form(checkpoints):
    """s(i, j) = x_i^T A x_j of the hidden states with a 1 at their end, A = L^T R / sqrt(r)."""
    words = ["method=probe", "method.layer=1", "task.path=none"]
    made = settings(compose([*tiny(checkpoints["bert"]), *QUIET, *words]))
    prepared = prepare(made, 1, "train")
    model, form = prepared.adaptation.model.eval(), prepared.form
    feed = feed_of(made, prepared, Dataset.from_dict({"tokens": [ROWS[2]["tokens"]]}))
    batch, places = feed.batch([0]), feed.examples[0]["places"]
    states = model.features(batch.inputs)[0, places].double()
    x = torch.cat([states, torch.ones(len(places), 1)], 1)
    whole = torch.cat([model.head.weight, model.head.bias[:, None]], 1).double()
    bilinear = whole[:3].T @ whole[3:] / math.sqrt(3)
    scores = form.scores(model(**batch.inputs), batch)[0]
    for i in range(7):
        for j in range(7):
            assert float(scores[i, j]) == pytest.approx(float(x[i] @ bilinear @ x[j]), abs=1e-5)
    assert torch.linalg.matrix_rank(bilinear) <= 3


# ---- words without tokens ----


def test_a_word_without_a_piece_is_no_head_and_has_none(checkpoints):
    predictor = predictor_of(checkpoints["bert"], *QUIET)
    tokens = ["good", "", "film", "\u200b"]
    (answer,) = predictor.predict([{"tokens": tokens}])
    assert [head is None for head in answer] == [False, True, False, True]
    assert {answer[0], answer[2]} <= {0, 1, 3}
    rows = Dataset.from_dict({"tokens": [tokens], "label": [[3, 1, 0, 3]]})
    batch = feed_of(predictor.settings, predictor.prepared, rows).batch([0])
    assert batch.weight == 2  # 1 -> 3 and the root
    nothing, one = predictor.predict([{"tokens": ["", "\u200b"]}, {"tokens": []}])
    assert nothing == [None, None] and one == []


def test_a_row_of_nothing_has_no_gradient_that_is_not_a_number(checkpoints):
    predictor = predictor_of(checkpoints["bert"], *QUIET)
    rows = Dataset.from_dict({"tokens": [["good", "film"], [""]], "label": [[2, 0], [0]]})
    batch = feed_of(predictor.settings, predictor.prepared, rows).batch([0, 1])
    model = predictor.prepared.adaptation.model
    predictor.prepared.form.loss(model(**batch.inputs), batch).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads) and batch.weight == 2


def test_a_cut_sentence(checkpoints, tmp_path):
    """[CLS], six words, [SEP] are read of nine; what depends on a lost word has no loss."""
    words = "the film was not bad the plot was good".split()
    heads = [2, 5, 5, 5, 9, 7, 9, 9, 0]
    predictor = predictor_of(checkpoints["bert"], *QUIET, "task.max_length=8")
    rows = Dataset.from_dict({"tokens": [words], "label": [heads]})
    feed = feed_of(predictor.settings, predictor.prepared, rows)
    assert feed.batch([0]).weight == 4 and feed.examples[0]["cut"] == 3
    (answer,) = predictor.predict([{"tokens": words}])
    assert len(answer) == 9 and answer[6:] == [None] * 3
    assert all(0 <= head <= 6 for head in answer[:6])
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", [{"tokens": words, "head": heads}] * 3)
    done = call("train", *tiny(checkpoints["bert"]), "task=dependency", "task.max_length=8",
                f"task.path={tmp_path / 'data'}", f"output_dir={tmp_path / 'run'}")  # fmt: skip
    assert done.status == 0, done.err
    assert "9 of 27 training words have no tokens left and are not learnt from" in done.err
    assert "9 of 27 validation words have no tokens left and count as wrong" in done.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["lengths"]["splits"]["validation"] == {
        "rows": 3, "cut": 3, "tokens": 33, "lost_tokens": 9, "words": 27, "lost_words": 9,
    }  # fmt: skip
    assert record["score"] <= 6 / 9


# ---- scores, baseline, control ----


def test_the_score_counts_words():
    """By hand: two of three and none of one, so two of four."""
    metric = Metric(keep_in_memory=True)
    assert metric.compute(predictions=[[2, 0, 1], [-1]], references=[[2, 0, 2], [0]])["uas"] == 0.5
    task = Dependency("t")
    rows = Dataset.from_dict({"tokens": [["a"] * 3, ["b"]], "label": [[2, 0, 2], [0]]})
    answers = [[2, 0, 1], [None]]
    assert task.score(answers, rows) == {"uas": 0.5}
    assert task.parts(answers, rows) == ([2.0, 0.0], [3.0, 1.0])


def test_the_baseline_is_the_commonest_distance(tmp_path):
    """-1 three times, 0 (a root) twice, +1 once; the first word has none before it: the root."""
    train = [{"tokens": list("abcd"), "head": [0, 1, 2, 3]}, {"tokens": list("ab"), "head": [2, 0]}]
    write_rows(tmp_path / "train.jsonl", train)
    write_rows(tmp_path / "validation.jsonl", [{"tokens": list("abc"), "head": [0, 3, 1]},
                                               {"tokens": list("ab"), "head": [2, 0]}])  # fmt: skip
    splits = Dependency("t", path=str(tmp_path)).load(Given(), 0)
    name, (answers,) = splits.task.trivial_answers(splits, splits.validation[""])
    assert name == "commonest distance to the head (-1)" and answers == [[0, 1, 2], [0, 1]]
    assert splits.task.baseline(splits)[1] == pytest.approx(1 / 5)
    roots = Dataset.from_dict({"tokens": [["a"]], "label": [[0]]})
    name, (answers,) = splits.task.trivial_answers(replace(splits, train=roots), roots)
    assert name == "commonest distance to the head (the root)" and answers == [[0]]


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    for split in ("train", "validation"):
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def test_a_control_task_has_one_answer_per_word(tmp_path):
    """Itself, the first or the last word, wherever it stands, in any order of the rows."""
    generator = random.Random(0)
    table = [
        {"tokens": [f"w{generator.randrange(600)}" for _ in range(6)], "head": [0, 1, 1, 1, 1, 1]}
        for _ in range(400)
    ]
    plain = written(tmp_path / "a", table)
    mixed = written(tmp_path / "b", table[::-1])
    found = []
    for folder, seed in ((plain, 0), (mixed, 0), (plain, 1)):
        splits = Dependency("t", path=str(folder), control=seed).load(Given(), 0)
        assert f"task.control={seed}" in splits.notes[-1]
        kinds = defaultdict(set)
        for row in splits.train:
            for place, (word, head) in enumerate(zip(row["tokens"], row["label"], strict=True), 1):
                if place not in (1, 6):  # there two answers are one
                    kinds[word].add({0: "itself", 1: "first", 6: "last"}[head])
                assert head != place
        assert all(len(kind) == 1 for kind in kinds.values())
        found.append({word: kind.pop() for word, kind in kinds.items()})
    one, again, other = found
    assert one == again and one != other
    counts = [list(one.values()).count(kind) for kind in ("itself", "first", "last")]
    assert min(counts) > 0.27 * len(one)
    assert sum(one[w] == other[w] for w in one) == pytest.approx(len(one) / 3, rel=0.2)


# ---- rows ----


def test_heads_may_be_texts(tmp_path):
    """As the hub has them."""
    written(tmp_path, [{"tokens": ["a", "b"], "head": ["2", "0"]}])
    splits = Dependency("t", path=str(tmp_path)).load(Given(), 0)
    assert splits.train["label"][:] == [[2, 0]]


@pytest.mark.parametrize(
    ("heads", "why"),
    [
        ([2, 3], "the head of word 2 is 3, not a whole number from 0 .the root. to 2"),
        ([2, -1], "the head of word 2 is -1, not a whole number"),
        (["2", "x"], "the head of word 2 is 'x', not a whole number"),
        (["1.5", "0"], "the head of word 1 is '1.5', not a whole number"),
        ([2], "2 words, but head is .2.. Every word needs one head"),
        ([2, 0, 1], "2 words, but head is .2, 0, 1.. Every word needs one head"),
        ([1, 0], "word 1 is its own head. The root has the head 0"),
        (["_", "0"], "word 1 has no head .'_'.. Leave out what stands for several words"),
        (["None", "0"], "word 1 has no head .'None'."),
        ([None, 0], "word 1 has no head .None."),
    ],
)
def test_a_wrong_head_names_its_row(heads, why, tmp_path):
    good = {"tokens": ["a", "b"], "head": ["0", "1"] if isinstance(heads[0], str) else [0, 1]}
    written(tmp_path, [good, {"tokens": ["a", "b"], "head": heads}])
    with pytest.raises(AdaptError, match=f"task t, split validation, row 2: {why}"):
        Dependency("t", path=str(tmp_path)).load(Given(), 0)


def test_what_is_not_a_list(tmp_path):
    written(tmp_path / "a", [{"tokens": "a b", "head": [2, 0]}])
    with pytest.raises(AdaptError, match="row 1: tokens is a b, not a list of words"):
        Dependency("t", path=str(tmp_path / "a")).load(Given(), 0)
    written(tmp_path / "b", [{"tokens": ["a", "b"], "head": "2 0"}])
    with pytest.raises(AdaptError, match=r"row 1: 2 words, but head is 2 0\. Every word needs"):
        Dependency("t", path=str(tmp_path / "b")).load(Given(), 0)


def test_a_conllu_file(tmp_path):
    lines = ["1-2\tdon't", "1\tdo", "2\tn't", "2.1\tgo", "3\tgo"]
    heads = iter(["_", "3", "3", "_", "0"])
    text = "\n".join(f"{line}\t_\t_\t_\t_\t{next(heads)}\t_\t_\t_" for line in lines)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.conllu").write_text(f"# a comment\n{text}\n", encoding="utf-8")
    splits = Dependency("t", path=str(tmp_path)).load(Given(), 0)
    assert splits.train["label"][:] == [[3, 3, 0]]


@pytest.mark.parametrize(
    ("typed", "why"),
    [("task.rank=0", "task.rank=0: must be 1 or more"), ("task.control=-1", "0 or more"),
     ("task.metric=las", "task.metric=las"), ("task.folder=a/b", "must be the name of a folder")],
)  # fmt: skip
def test_options_out_of_range(typed, why):
    with pytest.raises(ConfigError, match=why):
        settings(compose(["task=ud_ewt_heads", typed]))


# ---- whole runs ----


def grammar(count: int, seed: int) -> list[dict[str, Any]]:
    """`film` is the root, `the` depends on the next word, all others depend on `film`."""
    generator, others = random.Random(seed), "was not bad plot good music she".split()
    rows = []
    for _ in range(count):
        tokens = generator.sample(others, generator.randint(1, 4))
        tokens.insert(generator.randint(0, len(tokens)), "film")
        tokens.insert(generator.randint(0, len(tokens) - 1), "the")
        root = tokens.index("film") + 1
        heads = [place + 1 if word == "the" else root for place, word in enumerate(tokens, 1)]
        rows.append({"tokens": tokens, "head": [0 if n == root else h for n, h in
                                                enumerate(heads, 1)]})  # fmt: skip
    return rows


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    for split, count, seed in (("train", 240, 1), ("validation", 60, 2)):
        write_rows(tmp_path / "data" / f"{split}.jsonl", grammar(count, seed))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("bert", "method=full optimizer.lr=3e-3 trainer.epochs=8"),
        pytest.param(
            "bert", "method=probe method.layer=1 trainer.epochs=10", marks=pytest.mark.slow
        ),
        pytest.param(
            "gpt2", "method=full optimizer.lr=3e-3 trainer.epochs=8", marks=pytest.mark.slow
        ),
    ],
)
def test_a_planted_grammar_is_learnt(family, words, planted, checkpoints, tmp_path):
    done = call(
        "train", "model=auto", f"model.path={checkpoints[family]}", *QUIET[2:], "task=dependency",
        "task.rank=32", f"task.path={planted}", *words.split(), f"output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["score"] > record["baseline"]["value"] + 0.1
    assert record["score_interval"][0] > record["baseline"]["value"]


def test_a_run_is_evaluated_with_its_own_rank_and_control_task(planted, checkpoints, tmp_path):
    """And in batches of one."""
    words = [*tiny(checkpoints["bert"]), "task=dependency", f"task.path={planted}", "method=probe"]
    done = call("train", *words, "task.rank=7", "task.control=3", f"output_dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    again = call("eval", tmp_path / "run", "task=dependency", f"task.path={planted}",
                 "trainer.eval_batch_size=1", f"--output={tmp_path / 'again'}")  # fmt: skip
    assert again.status == 0, again.err
    scores = [json.loads((tmp_path / name / "result.json").read_text())["scores"]
              for name in ("run", "again")]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1])


def test_rows_of_another_task_are_read_from_its_folder(tmp_path):
    """task=ud_ewt_heads has the sample of ud_ewt, and its folder under data.root."""
    sample = settings(compose(["task=ud_ewt_heads", "data.source=sample"]))
    assert sample.task.origin(sample.data).path.endswith("samples/ud_ewt")
    splits = sample.task.load(sample.data, 0)
    for rows in splits.validation.values():
        assert all(heads.count(0) == 1 for heads in rows["label"])  # one root
    written(tmp_path / "ud_ewt", ROWS)
    local = settings(compose(["task=ud_ewt_heads", f"data.root={tmp_path}", "task.id=null"]))
    assert len(local.task.load(local.data, 0).train) == 3


def test_heads_of_one_text_that_differ_are_reported(checkpoints, tmp_path):
    """A list of heads is one answer: [2, 0] and [0, 1] have nothing in common."""
    rows = [{"tokens": ["a", "b"], "head": [2, 0]}, {"tokens": ["a", "b"], "head": [0, 1]}]
    written(tmp_path / "data", [*rows, {"tokens": ["c"], "head": [0]}])
    answer = call("data", "task=dependency", f"task.path={tmp_path / 'data'}", "--json",
                  "model=auto", f"model.path={checkpoints['bert']}")  # fmt: skip
    assert answer.status == 0, answer.err
    assert {"contradictory_labels", "duplicates"} <= {
        one["name"] for one in json.loads(answer.out)["findings"]
    }
