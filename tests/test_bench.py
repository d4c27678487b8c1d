"""The benchmark suite: its list of works, the FLOPs it counts, and what its peers read."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from adaptkit.metrics import squad
from adaptkit.tasks.forms import lm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from bench import flops, recipes, run, works  # noqa: E402

WIDTH, INNER, LAYERS = 16, 24, 3


def test_every_work_names_what_there_is():
    names = [work.name for work in works.WORKS]
    assert len(set(names)) == len(names)
    minis = {place.name for place in run.MINIS.iterdir()}
    for work in works.WORKS + works.QUICK:
        assert work.method in works.METHODS
        assert works.SHAPES[work.shape].kind in recipes.RECIPES
        assert work.body in {"minilm", *works.BODIES, *minis}
        assert (ROOT / "conf" / "task" / f"{works.SHAPES[work.shape].task}.yaml").exists()
    for kind, words in works.BODIES.values():
        assert kind in works.TARGETS and words in {"minilm", *minis}


def bert() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=2, attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config)


def texts(*lengths: int) -> list[dict]:
    return [{"input_ids": [7] * n, "attention_mask": [1] * n, "labels": 1} for n in lengths]


@pytest.mark.parametrize("frozen", [0, 1, LAYERS])
def test_flops_are_those_counted_by_hand(frozen):
    """With the first layers and the embeddings frozen, these are read forward, and once."""
    model, lengths, epochs = bert(), (5, 11, 30), 4
    below = [model.bert.embeddings, *model.bert.encoder.layer[:frozen]] if frozen else []
    for module in below:
        module.requires_grad_(False)
    matrices = 4 * WIDTH**2 + 2 * WIDTH * INNER
    forward = sum(2 * matrices * t + 4 * t * t * WIDTH for t in lengths)  # of one layer
    head = 2 * (WIDTH**2 + WIDTH * 2) * len(lengths)  # pooler and classifier, of one token each
    expected = frozen * forward + epochs * 3 * ((LAYERS - frozen) * forward + head)
    if frozen:  # the lowest trained maps pass no gradient on to what they read
        lowest = WIDTH**2 * 3 * sum(lengths) if frozen < LAYERS else WIDTH**2 * len(lengths)
        expected -= epochs * 2 * lowest
    assert flops.of_work(model, texts(*lengths), epochs) == expected


def test_a_frozen_body_with_trained_biases_has_no_products_for_weights():
    model, length = bert(), 9
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".bias"))
    matrices = 4 * WIDTH**2 + 2 * WIDTH * INNER
    layers = LAYERS * (4 * matrices * length + 12 * length**2 * WIDTH)
    assert flops.of_work(model, texts(length)) == layers + 4 * (WIDTH**2 + WIDTH * 2)


def test_flops_of_source_and_target_are_those_of_the_real_lengths():
    """The polynomial, fitted at short lengths, is the count of torch at any other ones."""
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=50, d_model=WIDTH, d_kv=8, d_ff=INNER, num_layers=1, num_decoder_layers=2,
        num_heads=2, decoder_start_token_id=0, attn_implementation="eager",
    ))  # fmt: skip
    made = [{"input_ids": [7] * s, "labels": [5] * t} for s, t in ((40, 3), (13, 21))]
    expected = sum(sum(flops.of_step(model, one)) for one in made)
    assert flops.of_work(model, made, two=True) == expected


@pytest.mark.parametrize(("scores", "wanted"), [
    ({"f1": 0.757, "accuracy": 0.609}, 0.609), ({"accuracy": 0.5, "perplexity": 9.0}, 9.0),
    ({"exact_match": 0.4, "f1": 0.757}, 0.757),
])  # fmt: skip
def test_ours_is_scored_as_the_peers_are(scores, wanted, tmp_path):
    record = {"score": 0.757, "scores": scores, "memory": {"peak_rss_bytes": 1},
              "time": {"train_seconds": 1.0, "eval_seconds": 1.0}}  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(record))
    (tmp_path / "history.jsonl").write_text("")
    assert run.ours(tmp_path, works.QUICK[0])["score"] == wanted


def test_peers_read_the_texts_of_language_modelling():
    tokenizer = AutoTokenizer.from_pretrained(run.MINIS / "mini-gpt2")
    rows = pd.DataFrame({"text": ["one", "a longer text, but within the window " * 3]})
    features, _ = recipes.whole(tokenizer, works.SHAPES["lm"], rows)
    for ids, feature in zip(tokenizer(rows["text"].tolist())["input_ids"], features, strict=True):
        ((read, target),) = lm.windows(ids, tokenizer.bos_token_id, 768, 1)
        assert feature["input_ids"] == [*read, ids[-1]]  # the last one, to predict nothing
        assert feature["labels"][1:] == target  # transformers shifts by one


def test_peers_find_the_answer_in_windows():
    """Certain logits at the marked tokens give the right answers back, also across windows."""
    tokenizer = AutoTokenizer.from_pretrained(run.MINIS / "mini-bert")
    shape = works.Shape("squad", ("question", "context"), 160, 1, 1, "span")
    context = "word " * 200 + "The answer is forty two here. " + "more " * 50
    answer = {"text": ["forty two"], "answer_start": [context.index("forty")]}
    rows = pd.DataFrame({"question": ["What is it?"], "context": [context], "answers": [answer]})
    features, notes = recipes.windows(tokenizer, shape, rows)
    marks = [(f["start_positions"], f["end_positions"]) for f in features]
    assert len(features) > 2 and any(mark != (0, 0) for mark in marks)
    logits = [torch.zeros(2, len(f["input_ids"])) for f in features]
    for one, mark in zip(logits, marks, strict=True):
        one[0, mark[0]] = one[1, mark[1]] = 10
    assert recipes.f1([one.numpy() for one in logits], notes, rows) == 1


@pytest.mark.parametrize("one, other", [("the Cat, sat", "a cat sat down"), ("x", "y"), ("", "z")])
def test_the_peers_f1_is_that_of_squad(one, other):
    assert recipes.overlap(one, other) == pytest.approx(squad.f1(one, other))


def test_the_table_shows_peak_and_loss_where_they_were_measured():
    def side(seconds: float, loss: float) -> list[dict]:
        return [{"seconds": seconds, "wall": 2 * seconds, "examples_per_second": 8.0,
                 "peak_mb": 100.0, "peak_share": 0.5, "losses": [1.0, loss]}]  # fmt: skip

    runs = {"adaptkit": side(1.0, 0.25), "tuned": side(2.0, 0.5)}
    new = run.table([{"work": "w", "flops": 1, "log_every": 1, "runs": runs}])
    assert "| of matrix peak | last loss: adaptkit, tuned |" in new
    assert "| w | 8 | 100 | 50% | 0.25, 0.50 | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) | 1.00 |" in new
    assert "peak |" not in run.table([{"work": "w", "runs": runs}])
