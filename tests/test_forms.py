"""Laws over form x family: sums, padding, batches, updates, and what a delta may hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from families import EACH_FAMILY, FAMILIES, RARE, SENTENCES, _build, tiny_config
from runs import NO_DROPOUT, bits, shallow
from safetensors.torch import load_file, save_file

from adaptkit.adaptation import Adaptation, Context
from adaptkit.config.compose import compose
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError
from adaptkit.methods.lora import LoRA
from adaptkit.models import loading
from adaptkit.models.heads import HEADS
from adaptkit.models.model import Model
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.runs.run import Interface, run
from adaptkit.runs.verify import verify
from adaptkit.tasks.choice import Choice
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.dependency import Dependency
from adaptkit.tasks.gap import Gap
from adaptkit.tasks.mlm import MLM
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.seq2seq import Seq2Seq
from adaptkit.tasks.span import Span
from adaptkit.tasks.tag import Tag
from adaptkit.tasks.task import Task
from adaptkit.training.scorer import Prepared

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
TEXTS = [text for text in SENTENCES if len(text) < 90][:9]
WORDS = [text.split() for text in TEXTS]
TAGS = ("A", "B", "C")
OTHERS = ["good", "the plot was bad", "a dull film", "why not", "she loved it"]


def tag_of(word: str) -> str:
    return TAGS[len(word) % 3]


def heads_of(words: list[str]) -> list[int]:
    """Every word depends on the next one; the last is the root."""
    return [*range(2, len(words) + 1), 0]


def choices_of(row: int) -> list[str]:
    return [OTHERS[(row + k) % 5] for k in range(2 + row % 3)]  # rows differ in number


def answer_in(text: str) -> dict[str, list]:
    last = text.split()[-1]
    return {"text": [last], "answer_start": [text.rindex(last)]}


@dataclass(frozen=True)
class Kind:
    """A bound task, and rows as it loads them."""

    task: Task
    columns: dict[str, list]

    @property
    def rows(self) -> Dataset:
        return Dataset.from_dict({"id": [str(i) for i in range(len(TEXTS))], **self.columns})


KINDS = {
    "classify": Kind(
        Classify("t", text=("text",), labels=("bad", "good")),
        {"text": TEXTS, "label": [("bad", "good")[i % 2] for i in range(len(TEXTS))]},
    ),
    "regress": Kind(
        Regress("t", text=("text",)), {"text": TEXTS, "label": [i / 3 for i in range(len(TEXTS))]}
    ),
    "tag": Kind(
        Tag("t", labels=TAGS),
        {"tokens": WORDS, "label": [[tag_of(word) for word in words] for words in WORDS]},
    ),
    "dependency": Kind(
        Dependency("t", rank=5),
        {"tokens": WORDS, "label": [heads_of(words) for words in WORDS]},
    ),
    "choice": Kind(
        Choice("t", text="text", choices=("choices",)),
        {"text": TEXTS, "choices": [choices_of(i) for i in range(len(TEXTS))],
         "label": [i % 2 for i in range(len(TEXTS))]},
    ),
    "gap": Kind(
        Gap("t", text="text", query="query"),
        {"text": TEXTS, "query": [f"@placeholder and {text}" for text in OTHERS[:3] * 3],
         "candidates": [choices_of(i) for i in range(len(TEXTS))],
         "label": [choices_of(i)[: 1 + i % 2] for i in range(len(TEXTS))]},
    ),
    "span": Kind(
        Span("t", max_length=24, stride=4),
        {"question": [OTHERS[i % 5] for i in range(len(TEXTS))], "context": TEXTS,
         "label": [answer_in(text) for text in TEXTS]},
    ),
    "seq2seq": Kind(
        Seq2Seq("t", source="repeat: {text}", max_length=64, max_target_length=8),
        {"text": TEXTS, "label": [OTHERS[i % 5] for i in range(len(TEXTS))]},
    ),
    "mlm": Kind(MLM("t", max_length=12), {"text": TEXTS, "label": [None] * len(TEXTS)}),
}  # fmt: skip
WORDED = {  # the same rows in words
    "cloze": ("classify", {"form": "cloze", "template": "{first} It was {label}.",
                           "words": {"bad": "terrible", "good": ["great", "fine"]}}),
    "cloze_number": ("regress", {"form": "cloze", "template": "{first} It was {label}.",
                                 "words": {"0": "terrible", "5": "great"}}),
    "text": ("classify", {"form": "text"}),
    "text_generated": ("classify", {"form": "text", "decode": "generate"}),
    "text_number": ("regress", {"form": "text"}),
    "choice_continued": ("choice", {"form": "text", "normalise": "tokens"}),
    "choice_listed": ("choice", {"form": "text", "listed": True}),
    "gap_listed": ("gap", {"form": "text"}),
    "span_text": ("span", {"form": "text", "stride": 128, "max_target_length": 8}),
}  # fmt: skip
for name, (plain, options) in WORDED.items():
    KINDS[name] = Kind(replace(KINDS[plain].task, **options), KINDS[plain].columns)
WRITTEN = ("seq2seq", "text", "text_generated", "text_number", "choice_continued", "choice_listed",
           "gap_listed", "span_text")  # fmt: skip
ALIKE = ("text_number", "choice_listed", "span_text")  # what untrained models say to every row
GENERATING = ("gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gpt_neox",
              "modernbert-decoder", "gemma3_text", "t5", "bart")  # fmt: skip
OF_WORDS = ("tag", "dependency")  # token classifiers
LACKING = {("span", "eurobert")}  # no such class in transformers
LACKING |= {(kind, f) for kind in OF_WORDS for f in ("opt", "bart")}
NO_TOKENS = ("modernbert-decoder", "gemma3_text")
LACKING |= {(kind, family) for kind in (*OF_WORDS, "span") for family in NO_TOKENS}
LACKING |= {(kind, family) for kind in WRITTEN for family in FAMILIES if family not in GENERATING}
LACKING |= {(kind, f) for kind in ("cloze", "cloze_number", "mlm") for f in ("xlnet", "electra")}
LACKING |= {("mlm", family) for family in GENERATING}
SLOW = pytest.mark.slow
QUICKLY = {  # the rest is slow
    "classify": FAMILIES, "dependency": ("bert", "xlnet", "gpt2", "t5"),
    "span": ("bert", "xlnet", "gpt2", "t5"), "seq2seq": ("gpt2", "t5"),
    "cloze": ("bert", "roberta", "deberta-v2", "gpt2", "t5", "bart"), "cloze_number": ("bert",),
    "text": ("gpt2", "t5"), "text_generated": ("t5",), "text_number": ("gpt2",),
    "choice_continued": ("gpt2",), "choice_listed": ("t5",), "gap_listed": ("gpt2", "t5"),
    "span_text": ("t5",), "mlm": ("bert", "roberta", "deberta-v2"),
}  # fmt: skip
USUAL = [family for family in FAMILIES if family not in RARE]
PAIRS = [
    pytest.param(kind, family, marks=() if family in QUICKLY.get(kind, USUAL) else SLOW)
    for kind in KINDS
    for family in FAMILIES
    if (kind, family) not in LACKING
]
each = pytest.mark.parametrize(("kind", "family"), PAIRS)


@cache
def base_settings(*overrides: str) -> Settings:
    quick = ["trainer.device=cpu", "trainer.precision=fp32", "trainer.eval_batch_size=4"]
    return settings(compose(["model=auto", "model.path=unset", "method=full", *quick, *overrides]))


def configured(kind: str, checkpoint: Path, *overrides: str) -> Settings:
    made = base_settings(*overrides)
    return replace(made, model=Model("tiny", str(checkpoint)), task=KINDS[kind].task)


@pytest.fixture(scope="module")
def prepared(checkpoints: Any) -> Callable[..., tuple[Settings, Prepared]]:
    kept: dict[tuple[str, str], tuple[Settings, Prepared]] = {}

    def make(kind: str, family: str) -> tuple[Settings, Prepared]:
        if (kind, family) not in kept:
            kept.clear()
            run_settings = configured(kind, checkpoints[family])
            made = prepare(run_settings, 1, "train")
            widen(made.adaptation)
            kept[kind, family] = run_settings, made
        return kept[kind, family]

    return make


@torch.no_grad()
def widen(adaptation: Adaptation) -> None:
    """Draw the new parameters wide enough that answers differ."""
    generator = torch.Generator().manual_seed(0)
    for name in sorted(adaptation.head):
        tensor = adaptation.trainable[name]
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)


# ---- sums, order, padding ----


@pytest.mark.sampled
@each
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_sum_over_its_rows(kind, family, prepared):
    run_settings, made = prepared(kind, family)
    model, feed = made.adaptation.model.eval(), feed_of(run_settings, made, KINDS[kind].rows)
    whole = feed.batch(range(len(feed)))
    together = made.form.loss(model(**whole.inputs), whole)
    alone = [feed.batch([i]) for i in range(len(feed))]
    losses = [made.form.loss(model(**batch.inputs), batch) for batch in alone]
    torch.testing.assert_close(together, torch.stack(losses).sum(), **CLOSE)
    assert whole.weight == sum(batch.weight for batch in alone) > 0


@pytest.mark.sampled
@each
def test_answers_depend_on_nothing_but_the_row(kind, family, prepared):
    """Not on the batch's size or order, nor on labels being known."""
    run_settings, made = prepared(kind, family)
    rows = KINDS[kind].rows
    scorer = scorer_of(run_settings, made)
    scored = scorer.score(feed_of(run_settings, made, rows), rows)
    assert len(scored.answers) == len(rows)
    order = [5, 2, 8, 0, 1, 7, 3, 6, 4]
    mixed = rows.select(order)
    again = replace(scorer, rows=replace(scorer.rows, scoring=3)).answers(
        feed_of(run_settings, made, mixed)
    )
    bare = rows.remove_columns(["label"])
    blind = replace(scorer, rows=replace(scorer.rows, scoring=1)).answers(
        feed_of(run_settings, made, bare)
    )
    for row, answer in enumerate(scored.answers):
        for other in (again[order.index(row)], blind[row]):
            assert other == (pytest.approx(answer, rel=1e-3, abs=1e-4)
                             if isinstance(answer, float) or kind == "mlm" else answer)  # fmt: skip
    assert json.loads(json.dumps(scored.answers)) == scored.answers
    # Classes and what untrained models write may come out alike, numbers, tags, choices hardly.
    few = isinstance(run_settings.task, Classify) or kind in ALIKE
    assert few or len({json.dumps(answer) for answer in scored.answers}) > 1


@pytest.mark.parametrize("family", [f for f in FAMILIES if ("tag", f) not in LACKING])
@torch.no_grad()
def test_padding_on_either_side_leaves_tokens_where_they_were(family, prepared):
    """XLNet moves its padding to the left; its outputs have to come back."""
    _, made = prepared("tag", family)
    tokenizer, model = made.reader.tokenizer, made.adaptation.model.eval()
    texts = ["good", "the film was not bad at all", "a dull story"]
    alone = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        logits = model(**batch).logits
        for row, expected in enumerate(alone):
            real = batch["attention_mask"][row].bool()
            torch.testing.assert_close(logits[row][real], expected, **CLOSE)
    tokenizer.padding_side = "right"


@pytest.mark.sampled
@each
def test_the_written_answers_give_the_score_again(kind, family, prepared):
    run_settings, made = prepared(kind, family)
    rows = KINDS[kind].rows
    scored = scorer_of(run_settings, made).score(feed_of(run_settings, made, rows), rows)
    written = json.loads(json.dumps(scored.answers))
    again = run_settings.task.score(written, rows)
    assert again == {name: pytest.approx(scored.scores[name], nan_ok=True) for name in again}


# ---- words and their pieces ----


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5", "xlnet", "qwen2"])
def test_every_word_is_labelled_at_one_piece_of_its_own(family, prepared):
    _, made = prepared("tag", family)
    words = ["The", "cinematography", ",", "naïve", "日本", "don't", "[SEP]", "good-bye"]
    rows = Dataset.from_dict({"tokens": [words], "label": [["A"] * len(words)]})
    (example,) = made.form.encode(rows, made.reader).to_list()
    tokenizer = made.reader.tokenizer
    pieces = tokenizer.convert_ids_to_tokens(example["input_ids"])
    assert example["words"] == list(range(len(words)))
    assert len(set(example["places"])) == len(words) and example["places"] == sorted(
        example["places"]
    )
    assert len(pieces) == example["length"]
    ends = [*example["places"][1:], len(pieces)]
    for word, place, end in zip(words, example["places"], ends, strict=True):
        text = tokenizer.decode(example["input_ids"][place:end]).strip().lower()
        if made.reader.causal:
            text = tokenizer.decode(example["input_ids"][: place + 1]).strip().lower()
            assert text.endswith(word[-1].lower()) or "\ufffd" in text or word == "日本"
        elif word.isascii() and word.isalpha():
            assert text.startswith(word[0].lower())


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_a_causal_model_labels_a_word_at_a_piece_of_its_own(family, prepared):
    """Not at the blank that begins the next word: the place would depend on that word."""
    _, made = prepared("tag", family)
    words = ["good", "film", "good", "x9z", "good"]
    rows = Dataset.from_dict({"tokens": [words], "label": [["A"] * len(words)]})
    (example,) = made.form.encode(rows, made.reader).to_list()
    tokenizer = made.reader.tokenizer
    for word, place in zip(words, example["places"], strict=True):
        piece = tokenizer.decode([example["input_ids"][place]]).strip()
        assert piece and word.endswith(piece), (word, piece)


def test_a_dropped_word_has_no_answer(prepared):
    run_settings, made = prepared("tag", "bert")
    rows = Dataset.from_dict(
        {"id": ["0"], "tokens": [["good", "", "\u200b", "film"]], "label": [["A"] * 4]}
    )
    feed = feed_of(run_settings, made, rows)
    (answer,) = scorer_of(run_settings, made).answers(feed)
    assert [tag is None for tag in answer] == [False, True, True, False]
    assert feed.batch([0]).weight == 2
    scores = run_settings.task.score([answer], rows)
    assert scores["accuracy"] <= 0.5  # two of four words at most


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_long_row_is_cut_between_words(family, prepared):
    run_settings, made = prepared("tag", family)
    words = [word for words in WORDS for word in words]
    labels = [tag_of(word) for word in words]
    rows = Dataset.from_dict({"id": ["0"], "tokens": [words], "label": [labels]})
    short = replace(run_settings.task.posed, max_length=16)
    examples = short.encode(rows, made.reader).to_list()
    assert len(examples) > 3 and max(example["length"] for example in examples) <= 16
    assert [w for example in examples for w in example["words"]] == list(range(len(words)))
    task = replace(run_settings.task, max_length=16)
    cut = replace(run_settings, task=task)
    feed = feed_of(cut, replace(made, form=task.posed), rows)
    (answer,) = scorer_of(cut, replace(made, form=task.posed)).answers(feed)
    assert len(answer) == len(words)


def test_a_word_longer_than_the_model_reads(prepared):
    run_settings, made = prepared("tag", "bert")
    rows = Dataset.from_dict({"tokens": [["good"], ["x" * 30]], "label": [["A"], ["A"]]})
    short = replace(run_settings.task.posed, max_length=16)
    with pytest.raises(AdaptError, match=r"row 2: the word 'x+' alone has 32 tokens, the model r"):
        short.encode(rows, made.reader)


# ---- choices ----


def test_the_context_is_cut_and_never_a_choice(prepared):
    run_settings, made = prepared("choice", "bert")
    long = " ".join(["film"] * 200)
    rows = Dataset.from_dict({"text": [long], "choices": [["good", "the plot was bad"]],
                              "label": [1]})  # fmt: skip
    (example,) = replace(run_settings.task.posed, max_length=20).encode(rows, made.reader).to_list()
    decoded = [made.reader.tokenizer.decode(ids) for ids in example["input_ids"]]
    assert [len(ids) for ids in example["input_ids"]] == [20, 20]
    assert decoded[0].endswith("[SEP] good [SEP]")
    assert decoded[1].endswith("[SEP] the plot was bad [SEP]")
    with pytest.raises(AdaptError, match="row 1: a choice has 4 tokens, and 6 leave room for 2"):
        replace(run_settings.task.posed, max_length=6).encode(rows, made.reader)


def test_connectives_join_context_and_choice(prepared):
    _, made = prepared("choice", "bert")
    task = Choice("t", text="premise", choices=("a", "b"), connect="question",
                  connectives={"cause": "because", "effect": "so"})  # fmt: skip
    rows = Dataset.from_dict({
        "premise": ["The film was bad.", "She loved it"], "a": ["good"] * 2, "b": ["bad"] * 2,
        "question": ["effect", "cause"],
    })  # fmt: skip
    texts = [
        made.reader.tokenizer.decode(example["input_ids"][0])
        for example in task.posed.encode(rows, made.reader).to_list()
    ]
    assert texts[0].startswith("[CLS] the film was bad so [SEP] good")
    assert texts[1].startswith("[CLS] she loved it b")  # because


# ---- the same update, however it is cut ----


OPTIONS = {
    "classify": ["task=classify", "task.text=[text]", "task.labels=[bad,good]"],
    "regress": ["task=regress", "task.text=[text]"],
    "tag": ["task=tag", "task.label=label", "task.labels=[A,B,C]"],
    "dependency": ["task=dependency", "task.label=label", "task.rank=5"],
    "choice": ["task=choice", "task.text=text", "task.choices=[choices]"],
    "gap": ["task=gap", "task.text=text", "task.label=label"],
    "span": ["task=span", "task.label=label", "task.max_length=24", "task.stride=4"],
    "seq2seq": ["task=seq2seq", "task.source='repeat: {text}'", "task.label=label",
                "task.max_length=64", "task.max_target_length=8"],
    "mlm": ["task=mlm", "task.max_length=12"],
}  # fmt: skip
for name, (plain, options) in WORDED.items():
    words = [f"+task.words.{key}={value}" for key, value in options.get("words", {}).items()]
    rest = [
        f"task.{key}={'true' if value is True else repr(value)}"
        for key, value in options.items()
        if key != "words"
    ]
    OPTIONS[name] = [*OPTIONS[plain], *rest, *words]
QUICK = ["trainer.device=cpu", "trainer.precision=fp32", "trainer.epochs=2", "trainer.keep=last",
         "optimizer=sgd", "optimizer.lr=0.01", "method=full"]  # fmt: skip


def write_rows(folder: Path, kind: str) -> Path:
    """Write 13 rows as train and validation split."""
    columns = KINDS[kind].columns
    values = list(zip(*columns.values(), strict=True)) * 2
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in values[:13]]
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def overrides_of(directory: Path, kind: str, checkpoint: Path, *more: str) -> list[str]:
    data = write_rows(directory.parent / f"rows-{kind}", kind)
    places = [f"task.path={data}", f"model.path={checkpoint}", f"output_dir={directory}"]
    return [*OPTIONS[kind], "model=auto", *QUICK, *places, *more]


def trained(directory: Path, kind: str, checkpoint: Path, *more: str) -> dict[str, Any]:
    """Train on 13 rows and return the delta."""
    made = settings(compose(overrides_of(directory, kind, checkpoint, *more)))
    run(made, Interface(lambda _: None, lambda _: ()))
    return load_file(directory / "delta.safetensors")


@pytest.fixture(scope="module")
def quiet_bert(checkpoints: Any, tmp_path_factory: Any) -> Path:
    """A checkpoint without dropout."""
    folder = tmp_path_factory.mktemp("quiet") / "bert"
    return shallow(checkpoints["bert"], folder, **NO_DROPOUT)


@pytest.fixture(scope="module")
def quiet(quiet_bert: Path, checkpoints: Any, tmp_path_factory: Any) -> Callable[[str], Path]:
    """Return what gives a checkpoint without dropout that has a kind's head."""
    folder = tmp_path_factory.mktemp("quiet") / "gpt2"
    still = {"n_layer": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    gpt2 = shallow(checkpoints["gpt2"], folder, **still)
    return lambda kind: gpt2 if kind in WRITTEN else quiet_bert


WEIGHTED = ("task.class_weights=[1,5]", "task.label_smoothing=0.1")


CUT = [
    pytest.param(
        kind,
        size,
        steps,
        marks=[SLOW] * (kind in WORDED if size == 4 else kind not in ("classify", "tag", "text")),
    )
    for kind in [*KINDS, "weighted"]
    for size, steps in ((4, 2), (2, 4))
]


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "size", "steps"), CUT)
def test_accumulation_equals_one_big_batch(kind, size, steps, quiet, tmp_path):
    """13 rows in updates of 8: the second of an epoch has 5, cut into 4 + 1 or 2 + 2 + 1."""
    kind, more = ("classify", WEIGHTED) if kind == "weighted" else (kind, ())
    whole = trained(tmp_path / "whole", kind, quiet(kind), "trainer.batch_size=8", *more)
    cut = trained(
        tmp_path / "cut", kind, quiet(kind), f"trainer.batch_size={size}",
        f"trainer.gradient_accumulation={steps}", *more,
    )  # fmt: skip
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, cut[name], rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[SLOW] * (kind not in ("tag", "choice"))) for kind in KINDS],
)
def test_a_budget_of_tokens_changes_no_result(kind, quiet, tmp_path):
    """40 tokens: most steps of 8 rows, and batches of scoring, are cut."""
    whole, cut = (
        trained(tmp_path / name, kind, quiet(kind), "trainer.batch_size=8", *more)
        for name, more in (("whole", ()), ("cut", ("trainer.max_tokens=40",)))
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, cut[name], rtol=0, atol=2e-6, msg=name)
    assert bits(whole) != bits(cut)  # summed in another order
    one, two = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "cut"))
    assert one["updates"] == two["updates"] == 4
    scores = [{k: v for k, v in r["scores"].items() if v is not None} for r in (one, two)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    assert verify(tmp_path / "cut") == ""


def test_balanced_weights_are_recorded_in_numbers(quiet_bert, tmp_path):
    """So that the run is rebuilt with no training rows; the same command finds it done."""
    made = settings(compose(overrides_of(
        tmp_path / "run", "classify", quiet_bert, "task.class_weights=balanced",
        "task.label_smoothing=0.1")))  # fmt: skip
    said: list[str] = []
    record = run(made, Interface(said.append, lambda _: ())).as_dict()
    lines = (tmp_path / "rows-classify" / "train.jsonl").read_text().splitlines()
    counts = Counter(json.loads(line)["label"] for line in lines)
    expected = [13 / (2 * counts[name]) for name in ("bad", "good")]
    assert record["settings"]["task.class_weights"] == pytest.approx(expected)
    assert verify(tmp_path / "run") == ""
    again = run(made, Interface(said.append, lambda _: ()))
    assert "done before" in said[-1] and again.score == record["score"]
    plain = trained(tmp_path / "plain" / "run", "classify", quiet_bert)
    assert bits(plain) != bits(load_file(tmp_path / "run" / "delta.safetensors"))


# ---- heads ----


def with_head(family: str, head: str, folder: Path) -> loading.Loaded | None:
    """Save a pretrained model with this head, and load it again; None if there is no such class."""
    config = tiny_config(family)
    auto = getattr(transformers, HEADS[head].auto)
    if type(config) not in auto._model_mapping:
        return None
    model = _build(auto.from_config, config, 0)
    model.save_pretrained(folder)
    spec = Model(family, str(folder))
    return loading.load_model(spec, loading.load_config(spec, head, None), head)


@pytest.mark.parametrize("head", ["mlm", "lm", "seq2seq"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_pretrained_head_is_neither_trained_nor_saved(head, family, tmp_path):
    loaded = with_head(family, head, tmp_path)
    if loaded is None:
        pytest.skip(f"{family} has no {head} head")
    assert not loaded.head
    start = Adaptation.of(loaded.model, loaded.head)
    context = Context(None, torch.Generator().manual_seed(0), 3, head=head)
    delta = LoRA(2, roles=("query", "value")).adapt(start, context).delta()
    vocabulary = loaded.model.config.vocab_size
    assert delta and all(vocabulary not in tensor.shape for tensor in delta.values())
    assert all(".lora." in name for name in delta)


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_a_classifier_is_new(head, checkpoints):
    model = Model("bert", str(checkpoints["bert"]))
    loaded = loading.load_model(model, loading.load_config(model, head, 2), head)
    outside = {n for n, _ in loaded.model.named_parameters() if not n.startswith("bert.")}
    assert loaded.head >= outside > set()


def test_a_pretrained_head_that_the_checkpoint_lacks_is_not_drawn(checkpoints, tmp_path):
    """BERT without a part of its masked-word head: a drawn one would know no words."""
    for file in checkpoints["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if not n.startswith("cls.predictions.transform")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    model = Model("bert", str(tmp_path))
    config = loading.load_config(model, "mlm", None)
    with pytest.raises(AdaptError, match=r"has no masked-word head \(it lacks cls\.predictions"):
        loading.load_model(model, config, "mlm")


@pytest.mark.parametrize(
    ("kind", "family"),
    sorted({pair for pair in LACKING if pair[0] not in WORDED} - {("mlm", "electra")}),
)  # of words: test_cloze.py, test_options.py
def test_a_head_that_the_family_lacks_is_rejected(kind, family, checkpoints):
    wanted = {"seq2seq": "cannot generate texts", "tag": "have no token classifier",
              "dependency": "have no token classifier",
              "span": "have no span classifier", "mlm": "have no masked-word head"}  # fmt: skip
    lacking = f"models {wanted[kind]}"
    with pytest.raises(AdaptError, match=rf"{lacking}.*which this task needs. Choose a "):
        prepare(configured(kind, checkpoints[family]), 1, "train")


def test_pooling_under_single_tokens_is_rejected(checkpoints):
    made = configured("tag", checkpoints["bert"])
    made = replace(made, model=replace(made.model, pooling="mean"))
    with pytest.raises(AdaptError, match=r"model\.pooling=mean: this task reads single tokens"):
        prepare(made, 1, "train")


# ---- whole runs ----


SENSELESS = {("seq2seq", "probe"), ("seq2seq", "ensemble"), ("span", "ensemble"),
             ("dependency", "ensemble"), ("mlm", "probe"), ("mlm", "ensemble")}  # fmt: skip
SENSELESS |= {(kind, method) for kind in WORDED for method in ("probe", "ensemble")}
RUNS = [
    pytest.param(kind, method, marks=[SLOW] * ((kind in WORDED and (kind, method) not in (
        ("cloze", "prompt"), ("text", "prefix"), ("cloze_number", "ensemble")))
        or (method in ("bitfit", "prompt") and kind not in ("classify", "tag", "cloze"))))
    for method in ("lora", "probe", "prompt", "prefix", "bitfit", "ensemble")
    for kind in KINDS
]  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "method"), RUNS)
def test_a_run_of_every_kind_is_whole(kind, method, quiet, tmp_path):
    several = ["method=prompt", "method.prompts=3", "method.length=4", "trainer.batch_size=4"]
    options = several if method == "ensemble" else [f"method={method}"]
    options.append("trainer.max_steps=3")
    if (kind, method) in SENSELESS:
        with pytest.raises(AdaptError, match=r"method=probe: |method\.prompts=3: "):
            trained(tmp_path / "run", kind, quiet(kind), *options)
        assert not (tmp_path / "run").exists()
        return
    delta = trained(tmp_path / "run", kind, quiet(kind), *options)
    assert delta
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    solved = (method, kind) == ("probe", "regress")  # in closed form
    assert result["status"] == "done" and result["updates"] == (0 if solved else 3)
    assert verify(tmp_path / "run") == ""


def test_the_same_run_twice(quiet_bert, tmp_path):
    one, two = (trained(tmp_path / name / "run", "tag", quiet_bert) for name in "ab")
    assert bits(one) == bits(two)
