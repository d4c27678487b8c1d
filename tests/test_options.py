"""Answers as texts: ranked, generated and parsed, by hand and by T5's rules; what is rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from commandline import call, read, tiny, write
from datasets import Dataset
from families import SENTENCES
from test_cloze import made, rows_of, some
from test_forms import GENERATING

from adaptkit.errors import AdaptError
from adaptkit.runs.predicting.submission import SUBMISSIONS
from adaptkit.runs.prepare import feed_of, scorer_of
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.forms import number, options
from adaptkit.tasks.forms.text import TextForm
from adaptkit.tasks.regress import Regress

TEXTS = [text for text in SENTENCES if len(text) < 90][:4]
LABELS = ("bad", "not good", "excellent")
TASK = Classify("t", text=("text",), labels=LABELS, form="text", max_length=48)
RATING = Regress("t", text=("text",), form="text", max_length=48)


def found(checkpoint: Any, task: Any, texts: list[str], details: bool = True) -> list[Any]:
    run_settings, prepared = made(checkpoint, task)
    scorer = scorer_of(run_settings, prepared)
    return scorer.answers(feed_of(run_settings, prepared, rows_of(texts)), details=details)


# ---- formats ----


def texts_of(task: Any, causal: bool, row: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the source of a row, and the words of the classes, without a model."""
    wording = task.wordings()[-1 if causal else 0]
    return wording.pattern.before().filled(row), [words[0] for words in wording.words]


@pytest.mark.parametrize(
    ("name", "texts", "row", "source"),
    [
        ("sst2", ("sentence",), {"sentence": "a fine film"}, "sst2 sentence: a fine film"),
        ("mnli", ("premise", "hypothesis"), {"premise": "P", "hypothesis": "H"},
         "mnli hypothesis: H premise: P"),
        ("qqp", ("question1", "question2"), {"question1": "A", "question2": "B"},
         "qqp question1: A question2: B"),
        ("qnli", ("question", "sentence"), {"question": "Q", "sentence": "S"},
         "qnli question: Q sentence: S"),
        ("boolq", ("question", "passage"), {"question": "Q", "passage": "P"},
         "boolq passage: P question: Q"),
    ],
)  # fmt: skip
def test_the_format_of_t5(name, texts, row, source):
    task = Classify(name, text=texts, labels=("no_way", "yes"), form="text")
    assert texts_of(task, False, row) == (source, ["no_way", "yes"])
    assert texts_of(task, True, row)[0] == f"{source}\nAnswer:"


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_source_and_target_of_a_row(family, checkpoints):
    """The template is never cut, and ends the source; the target is the word and its end."""
    _, prepared = made(checkpoints[family], TASK)
    rows = rows_of(["good", "good film " * 60], label=["excellent", "bad"])
    tokenizer = prepared.reader.tokenizer
    short, long = prepared.form.encode(rows, prepared.reader).to_list()
    ending = "" if family == "t5" else "answer:"
    for one in (short, long):
        text = tokenizer.decode(one["input_ids"], skip_special_tokens=True).lower()
        assert text.replace(" ", "").startswith("ttext:good") and text.strip().endswith(ending)
        assert one["target"][-1] == tokenizer.eos_token_id
    assert len(long["input_ids"]) <= 48 and long["cut"] > 0 == short["cut"]
    assert tokenizer.decode(short["target"][:-1]).strip() == "excellent"


def test_shown_rows_are_in_front(checkpoints):
    shown = ({"text": "so dull", "label": "bad"}, {"text": "so lovely", "label": "excellent"})
    for family, cue in (("t5", ""), ("gpt2", "\nAnswer:")):
        task = replace(TASK, shots=1, demonstrations=shown, max_length=128)
        _, prepared = made(checkpoints[family], task)
        source = prepared.form.inner(prepared.reader).source.filled({"text": "a film"})
        assert source == (
            f"t text: so dull{cue} bad\n\nt text: so lovely{cue} excellent\n\nt text: a film{cue}"
        )


# ---- ranking ----


@pytest.mark.parametrize(
    ("normalise", "scores", "best"),
    [("sum", (-9, -8, -10.5), 1), ("tokens", (-3, -4, -2.625), 2),
     ("characters", (-0.5, -8 / 7, -0.525), 0)],
)  # fmt: skip
def test_what_the_likelihood_is_divided_by(normalise, scores, best, monkeypatch):
    """log p = -9, -8, -10.5 of 3, 2, 4 tokens and 18, 7, 20 characters."""
    texts = ["a" * 18, "b" * 7, "c" * 20]
    sizes, totals = {"a": 3, "b": 2, "c": 4}, {"a": 9.0, "b": 8.0, "c": 10.5}

    class Inner:
        def targets(self, options: Any, reader: Any) -> list[list[str]]:
            return [[text[0]] * sizes[text[0]] for text in options]

        def collate(self, examples: Any, reader: Any) -> Any:
            targets = [example["target"] for example in examples]
            return SimpleNamespace(to=lambda device: SimpleNamespace(inputs={}, all=targets))

    monkeypatch.setattr(options, "losses_of", lambda outputs, part: torch.tensor(
        [totals[letter] / sizes[letter] for target in part.all for letter in target]))  # fmt: skip
    batch = SimpleNamespace(targets={"source": [[1]]}, inputs={"input_ids": torch.zeros(1, 1)})
    made = options.ranked(lambda **_: None, Inner(), batch, None, [texts], normalise)
    assert made.tolist() == [pytest.approx(scores)] and int(made.argmax()) == best


def likelihood(family: str, folder: Any, source: str, word: str) -> tuple[float, int]:
    """Return log p(word and its end | source), and its tokens, with transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if family in ("t5", "bart"):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
        target = tokenizer(word)["input_ids"]
        ahead = [model.config.decoder_start_token_id, *target[:-1]]
        line = torch.tensor([tokenizer(source)["input_ids"]])
        logits = model(input_ids=line, decoder_input_ids=torch.tensor([ahead])).logits[0]
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        line = tokenizer(source)["input_ids"]
        if family == "modernbert-decoder":  # closes its texts
            line = line[:-1]
        end = model.config.eos_token_id
        target = [*tokenizer(f" {word}", add_special_tokens=False)["input_ids"], end]
        logits = model(torch.tensor([[*line, *target]])).logits[0, len(line) - 1 : -1]
    logs = logits.double().log_softmax(-1)
    return sum(float(logs[i, token]) for i, token in enumerate(target)), len(target)


@pytest.mark.parametrize("family", some(GENERATING))
@torch.no_grad()
def test_ranked_scores_and_losses_equal_those_by_hand(family, checkpoints):
    cue = "" if family in ("t5", "bart") else "\nAnswer:"
    hands = [
        [likelihood(family, checkpoints[family], f"t text: {text}{cue}", word) for word in LABELS]
        for text in TEXTS[:2]
    ]
    for normalise in ("sum", "tokens", "characters"):
        task = replace(TASK, normalise=normalise)
        answers = found(checkpoints[family], task, TEXTS[:2])
        for answer, hand in zip(answers, hands, strict=True):
            size = {"sum": [1] * 3, "tokens": [n for _, n in hand],
                    "characters": list(map(len, LABELS))}[normalise]  # fmt: skip
            scores = torch.tensor([total / n for (total, _), n in zip(hand, size, strict=True)])
            shares = list(answer["probabilities"].values())
            assert shares == pytest.approx(scores.softmax(-1).tolist(), abs=3e-5)
            assert answer["answer"] == LABELS[int(scores.argmax())]
    run_settings, prepared = made(checkpoints[family], TASK)
    rows = rows_of(TEXTS[:2], label=["excellent", "not good"])
    batch = feed_of(run_settings, prepared, rows).batch([0, 1])
    loss = prepared.form.loss(prepared.adaptation.model.eval()(**batch.inputs), batch)
    assert float(loss) == pytest.approx(-hands[0][2][0] - hands[1][1][0], rel=1e-4)
    assert batch.weight == hands[0][2][1] + hands[1][1][1]


# ---- generated answers ----


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_generated_text_must_be_a_class(family, checkpoints, monkeypatch):
    """As the tokenizer writes it: an uncased one knows no capital letters."""
    classes = ("Bad", "excellent")
    task = replace(TASK, labels=classes, decode="generate")
    _, prepared = made(checkpoints[family], task)
    written = ["bad" if family == "t5" else "Bad", "excellent", "excellent film", "", "BAD"]
    monkeypatch.setattr(TextForm, "predict", lambda *_: written)
    batch = SimpleNamespace(rows=list(range(5)))
    form, model = prepared.form, prepared.adaptation.model
    predicted = form.predict(model, None, batch, prepared.reader)
    expected = ["Bad", "excellent", None, None, None]
    assert form.answers(predicted, range(5)) == expected
    assert form.detailed(predicted, range(5))[2] == {"answer": None, "text": "excellent film"}


def test_texts_that_are_no_class_are_wrong_and_counted():
    """T5's rules; the numbers are those of scikit-learn with labels=[0, 1, 2]."""
    two = replace(TASK, labels=("no", "yes"), decode="generate", metric="accuracy_and_f1")
    gold = Dataset.from_dict({"label": ["yes", "yes", "no", "no", "yes"]})
    scores = two.score(["yes", None, "no", None, "yes"], gold)
    assert scores["f1"] == pytest.approx(2 / 3) and scores["accuracy"] == 0.6
    assert scores["unparsed"] == 0.4
    three = replace(TASK, decode="generate", metric="macro_f1")
    gold = Dataset.from_dict({"label": list(LABELS)})
    scores = three.score([*LABELS[:2], None], gold)
    assert scores["macro_f1"] == pytest.approx(2 / 3) and scores["unparsed"] == 1 / 3
    assert "unparsed" not in replace(three, decode="rank").score(LABELS, gold)


# ---- numbers ----


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.4"), (1.1, "1.2"), (1.5, "1.6"), (2.5, "2.4"), (3.5, "3.6"), (4.5, "4.4"),
     (4.75, "4.8"), (0.1, "0.0"), (2.917, "3.0"), (-0.05, "0.0"), (5, "5.0")],
)  # fmt: skip
def test_stsb_is_written_in_steps(value, text):
    assert number.written(value, 0.2) == text


def test_every_step_is_that_of_t5():
    """np.round(5 y) / 5, of all numbers with two decimals; .3 and .7 lie between two steps."""
    values = [k / 100 for k in range(501)]
    assert [number.written(y, 0.2) for y in values] == [
        f"{np.round(y * 5) / 5:.1f}" for y in values
    ]
    assert (number.written(3.26, 0.25), number.written(12.0, 5)) == ("3.25", "10")
    assert number.written(0.00004, 1e-5) == "0.00004"


@pytest.mark.parametrize(
    ("text", "value"),
    [("3.8", 3.8), (" 3 ", 3.0), ("-1", -1.0), ("33", 33.0), ("", None), ("good", None),
     ("3.8 or so", None), ("nan", None), ("inf", None)],
)  # fmt: skip
def test_a_number_is_read_or_not(text, value):
    assert number.read(text) == value


def test_what_is_not_a_number_counts_as_minus_one():
    rows = Dataset.from_dict({"label": [0.0, 1.0, 2.0, 5.0]})
    scores = RATING.score([0.2, 1.0, None, 4.8], rows)
    expected = np.corrcoef([0.2, 1.0, -1.0, 4.8], [0.0, 1.0, 2.0, 5.0])[0, 1]
    assert scores["pearson"] == pytest.approx(expected) and scores["unparsed"] == 0.25


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_number_is_learnt_as_a_text(family, checkpoints):
    _, prepared = made(checkpoints[family], RATING)
    rows = rows_of(TEXTS[:2], label=[3.3, 2.5])
    examples = prepared.form.encode(rows, prepared.reader).to_list()
    texts = [prepared.reader.tokenizer.decode(one["target"][:-1]) for one in examples]
    assert [text.replace(" ", "") for text in texts] == ["3.2", "2.4"]


def test_a_template_with_words_serves_numbers_as_well():
    templates = {"a": {"text": "{first} Stars: {label}", "words": {"0": "no", "5": "yes"}}}
    task = replace(RATING, templates=templates, template="a")
    assert task.wordings()[0].pattern.before().filled({"text": "good"}) == "good Stars:"


def test_a_text_that_is_no_answer_is_not_handed_in():
    for name in ("sst2", "stsb"):
        with pytest.raises(AdaptError, match=r"not an answer to the task.*task\.decode=rank"):
            SUBMISSIONS[name].word(None)


# ---- bad input ----


@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        (TASK, {"class_weights": (1.0, 2.0, 1.0)}, "task.class_weights=(1.0, 2.0, 1.0): is not"),
        (TASK, {"label_smoothing": 0.1}, "task.label_smoothing=0.1: is not read with"),
        (TASK, {"aggregate": "sum"}, "task.aggregate='sum': is not read with task.form=text. Set"),
        (TASK, {"pieces": "parallel"}, "Set task.form=cloze"),
        (TASK, {"calibration": "pmi"}, "Set task.form=cloze"),
        (TASK, {"decode": "generate", "normalise": "tokens"}, "is not read with task.decode=gener"),
        (TASK, {"words": {"bad": "x"}}, "has no word for the class 'not good'"),
        (RATING, {"words": {"0": "no", "5": "yes"}}, "is not read with task.form=text"),
        (RATING, {"normalise": "tokens"}, "Leave it out"),
        (RATING, {"shots": 2}, "task.shots"),
        (RATING, {"step": 0.0}, "task.step"),
    ],
)  # fmt: skip
def test_a_wrong_option(task, options, sentence):
    with pytest.raises(AdaptError) as error:
        replace(task, **options)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (replace(TASK, template="{label} {first}"), "has words after {label}, and an answer"),
        (replace(RATING, template="{label} {first}"), "has words after {label}, and an answer"),
        (replace(TASK, labels=("Good", "good")), "'Good' and 'good' are the same to this tokenize"),
        (replace(TASK, labels=("日本", "good")), "the tokenizer does not know '日本'"),
        (replace(TASK, template="{first}" + " x" * 60 + " {label}"), "leaves no room for a text"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_take(task, sentence, checkpoints):
    _, prepared = made(checkpoints["t5"], task)
    with pytest.raises(AdaptError) as error:
        prepared.form.encode(rows_of(["film " * 40]), prepared.reader)
    assert sentence in str(error.value)


@pytest.mark.parametrize("task", [TASK, RATING], ids=["classes", "numbers"])
def test_a_family_that_writes_no_texts(task, checkpoints):
    with pytest.raises(AdaptError, match="BERT models cannot generate texts, which this task"):
        made(checkpoints["bert"], task)


# ---- every option matters ----

CHANGES = {
    "template": "{first} It was {label}", "normalise": "characters", "max_length": 18,
    "words": {"bad": "dull", "not good": "good", "excellent": "lovely"},
    "demonstrations": ({"text": "a dull film", "label": "bad"},),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_of_ranking_matters(name, checkpoints):
    before, after = (
        torch.tensor([list(one["probabilities"].values())
                      for one in found(checkpoints["gpt2"], task, TEXTS)]).log()
        for task in (TASK, replace(TASK, **{name: CHANGES[name]}))
    )  # fmt: skip
    assert (before - after).abs().max() > 1e-2


def test_step_and_decode_matter(checkpoints):
    assert number.written(3.3, 0.5) == "3.5" != number.written(3.3, 0.2)
    generated = found(checkpoints["gpt2"], replace(TASK, decode="generate"), TEXTS)
    assert all(set(one) == {"answer", "text"} for one in generated)


# ---- commands ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Any:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 10), ("validation", 5)):
        rows = [
            {"text": TEXTS[i % 4], "label": LABELS[i % 3], "stars": i % 5} for i in range(count)
        ]
        write(root / f"{split}.jsonl", rows)
    return root


@pytest.mark.parametrize(
    "kind", ["rank", *(pytest.param(k, marks=pytest.mark.slow) for k in ("generate", "number"))]
)
def test_a_run_is_whole(kind, data, checkpoints, tmp_path):
    """Trained, verified, evaluated, asked, also row by row; answers that are none are null."""
    run, out = tmp_path / "run", tmp_path / "answers.jsonl"
    family = {"rank": "t5", "generate": "gpt2", "number": "gpt2"}[kind]
    what = {"number": ["task=regress", "task.label=stars"]}.get(
        kind, ["task=classify", f"task.decode={kind}"])  # fmt: skip
    done = call("train", *what, f"task.path={data}", "task.text=text", "task.form=text",
                *tiny(checkpoints[family]), "method=lora", "trainer.max_steps=2",
                f"output_dir={run}")  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((run / "result.json").read_text())
    assert ("unparsed" in record["scores"]) == (kind != "rank")
    assert call("verify", run).status == 0
    assert call("eval", run).status == 0
    asked = call("predict", run, "--input", data / "validation.jsonl", "--output", out)
    assert asked.status == 0, asked.err
    written = [row["prediction"] for row in read(run / "predictions.jsonl")]
    assert [row["prediction"] for row in read(out)] == written
