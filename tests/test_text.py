"""Texts that are generated: targets, loss, batches, cuts, templates, and scores."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, read, tiny, write
from datasets import Dataset
from families import FAMILIES, SENTENCES
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)

from adaptkit.config.compose import compose
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.metrics.text import Text, in_lines
from adaptkit.models.checkpoint import head_of
from adaptkit.models.model import Model
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.tasks.data import Data
from adaptkit.tasks.reading.source import DataSource
from adaptkit.tasks.seq2seq import Seq2Seq
from adaptkit.tasks.task import Reader, Splits
from adaptkit.tasks.template import Template
from adaptkit.tasks.trivial import lead

GENERATING = ("gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gpt_neox",
              "modernbert-decoder", "gemma3_text", "t5", "bart")  # fmt: skip
CAUSAL = GENERATING[:-2]
ENDING = ("modernbert-decoder",)  # its tokenizer ends every text
TEXTS = [text for text in SENTENCES if len(text) < 90][:6]
TARGETS = ["good film", "the plot", "a dull story and a great cast", "not bad", "it is", "she"]
ROWS = Dataset.from_dict({"id": list("012345"), "text": TEXTS, "label": TARGETS})
TASK = Seq2Seq("t", source="repeat: {text}", max_length=64, max_target_length=12)


@cache
def composed(*words: str) -> Settings:
    return settings(compose(list(words)))


def prepared(checkpoint: Path, task: Seq2Seq = TASK, *overrides: str) -> Any:
    """Return the settings of a run, and the adapted model of a tiny checkpoint."""
    quick = ["method=full", "trainer.device=cpu", "trainer.precision=fp32", "model=auto",
             "trainer.eval_batch_size=6", "model.path=unset", *overrides]  # fmt: skip
    made = replace(composed(*quick), model=Model("tiny", str(checkpoint)), task=task)
    return made, prepare(made, 1, "train")


def examples_of(made: Any, task: Seq2Seq = TASK, rows: Dataset = ROWS) -> list[dict]:
    return task.posed.encode(rows, made.reader).to_list()


# ---- targets and loss ----


@pytest.mark.parametrize("family", GENERATING)
@torch.no_grad()
def test_a_target_ends_and_alone_has_a_loss(family, checkpoints):
    """The sum is that of transformers for `labels`, row by row and padded."""
    _, made = prepared(checkpoints[family])
    tokenizer, form = made.reader.tokenizer, made.form
    end, examples = tokenizer.eos_token_id, examples_of(made)
    assert all(example["target"][-1] == end for example in examples)
    assert all(end not in example["target"][:-1] for example in examples)
    said = [tokenizer.decode(e["target"], skip_special_tokens=True).strip() for e in examples]
    assert said == TARGETS
    reads = AutoModelForCausalLM if family in CAUSAL else AutoModelForSeq2SeqLM
    stock = reads.from_pretrained(checkpoints[family]).eval()
    total, tokens = 0.0, 0
    for example in examples:
        source, target = example["input_ids"], example["target"]
        if family in CAUSAL:
            ids, labels = [*source, *target], [*[-100] * len(source), *target]
        else:
            ids, labels = source, target
        loss = stock(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total += float(loss) * len(target)
        tokens += len(target)
    batch = form.collate(examples, made.reader)
    assert batch.weight == tokens
    outputs = made.adaptation.model.eval()(**batch.inputs)
    assert float(form.loss(outputs, batch)) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("family", GENERATING)
def test_the_source_is_what_the_tokenizer_makes_of_it(family, checkpoints):
    _, made = prepared(checkpoints[family])
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[family])
    for text, example in zip(TEXTS, examples_of(made), strict=True):
        whole = tokenizer(f"repeat: {text}")["input_ids"]
        assert example["input_ids"] == whole[: -1 if family in ENDING else None]
        assert example["cut"] == 0


@pytest.mark.parametrize("family", GENERATING)
def test_a_boundary_between_source_and_target_is_one_of_tokens(family, checkpoints):
    """What is trained on is what a text of both would be: the blank belongs to the target."""
    if family not in CAUSAL:
        pytest.skip("two texts")
    _, made = prepared(checkpoints[family])
    tokenizer = made.reader.tokenizer
    for text, target, example in zip(TEXTS, TARGETS, examples_of(made), strict=True):
        whole = tokenizer(f"repeat: {text} {target}")["input_ids"]
        made_one = [*example["input_ids"], *example["target"]]
        assert made_one == (whole if family in ENDING else [*whole, tokenizer.eos_token_id])


# ---- lengths ----


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_a_long_source_loses_the_document_and_nothing_else(family, checkpoints):
    _, made = prepared(checkpoints[family])
    task = replace(TASK, source="good : {text} film {title} :", max_length=30)
    words = "bad " * 80
    rows = Dataset.from_dict({"id": ["0", "1"], "text": [words, "bad"], "title": ["the plot"] * 2,
                              "label": ["good"] * 2})  # fmt: skip
    long, short = examples_of(made, task, rows)
    text = made.reader.tokenizer.decode(long["input_ids"], skip_special_tokens=True)
    assert 25 <= len(long["input_ids"]) <= 30 and short["cut"] == 0
    assert text.startswith("good : bad bad") and text.endswith("film the plot :")
    whole = made.reader.tokenizer(f"good : {words} film the plot :")["input_ids"]
    assert long["cut"] + len(long["input_ids"]) == len(whole)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_a_long_target_keeps_its_end(family, checkpoints):
    _, made = prepared(checkpoints[family])
    rows = ROWS.select([0]).remove_columns("label").add_column("label", ["film " * 40])
    (example,) = examples_of(made, replace(TASK, max_target_length=9), rows)
    assert len(example["target"]) == 9
    assert example["target"][-1] == made.reader.tokenizer.eos_token_id
    (uncut,) = examples_of(made, replace(TASK, max_target_length=90), rows)
    assert example["target"][:-1] == uncut["target"][:8]


def test_source_and_answer_share_the_positions_of_a_causal_model(checkpoints):
    """GPT-2 reads 128 here: what may be generated is kept free."""
    rows = Dataset.from_dict({"id": ["0"], "text": ["film " * 200], "label": ["good"]})
    task = replace(TASK, max_length=512, max_target_length=8, max_new_tokens=40)
    made_settings, made = prepared(checkpoints["gpt2"], task)
    (example,) = examples_of(made, task, rows)
    assert 84 <= len(example["input_ids"]) <= 88
    feed = feed_of(made_settings, made, rows)
    assert isinstance(scorer_of(made_settings, made).answers(feed)[0], str)


@pytest.mark.parametrize(
    ("family", "message"),
    [("gpt2", "room for 128 tokens, and a target may have 126, which leaves too few for its sou"),
     ("bart", "room for 128 tokens, and a target may have 130. Lower task.max_target_length")],
)  # fmt: skip
def test_no_room_for_source_and_target(family, message, checkpoints):
    length = 126 if family == "gpt2" else 130
    task = replace(TASK, max_target_length=length)
    _, made = prepared(checkpoints[family], task)
    with pytest.raises(AdaptError, match=message):
        examples_of(made, task)


def test_a_prompt_takes_no_room_of_the_decoder(checkpoints):
    task = replace(TASK, max_target_length=120, max_new_tokens=120)
    made_settings, made = prepared(checkpoints["bart"], task, "method=prompt")
    found = scorer_of(made_settings, made).answers(feed_of(made_settings, made, ROWS))
    assert len(found) == len(ROWS)


def test_a_template_that_is_too_long(checkpoints):
    task = replace(TASK, source="film " * 80 + "{text}", max_length=20)
    _, made = prepared(checkpoints["t5"], task)
    with pytest.raises(AdaptError, match=r"task\.source: the template leaves no room"):
        examples_of(made, task)


@pytest.mark.parametrize("family", GENERATING)
def test_empty_sources_and_special_tokens_in_texts(family, checkpoints):
    """They are plain text, in sources and in targets."""
    odd = ["", "good </s> <s> <pad> <|endoftext|> film", " "]
    rows = Dataset.from_dict({"id": list("012"), "text": odd,
                              "label": ["x", "</s> <|endoftext|> y", "z"]})  # fmt: skip
    task = replace(TASK, source="text")
    made_settings, made = prepared(checkpoints[family], task)
    tokenizer = made.reader.tokenizer
    end, examples = tokenizer.eos_token_id, examples_of(made, task, rows)
    framed = len(tokenizer("")["input_ids"])
    specials = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} | {end}
    for example in examples:
        assert example["target"].count(end) == 1 and example["input_ids"]
        assert sum(token in specials for token in example["input_ids"]) <= max(framed, 1)
    feed = feed_of(made_settings, made, rows)
    assert len(scorer_of(made_settings, made).answers(feed)) == 3


# ---- generation ----


def trained(made: Any, steps: int = 4) -> None:
    """Train for a few steps, as far as texts that differ from the base model's."""
    examples = examples_of(made)
    model, form = made.adaptation.model.train(), made.form
    optimizer = torch.optim.AdamW(list(made.adaptation.trainable.values()), lr=0.005)
    for _ in range(steps):
        batch = form.collate(examples, made.reader)
        (form.loss(model(**batch.inputs), batch) / batch.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    for finish in made.adaptation.finish:
        finish()
    model.eval()


METHODS = {"full": [], "lora": ["method.rank=4"], "prefix": ["method.length=3"],
           "prompt": ["method.length=3"], "ia3": []}  # fmt: skip
QUICK = {("gpt2", "prompt"), ("t5", "prefix"), ("llama", "lora")}
BOTH = [
    pytest.param(family, method, marks=() if (family, method) in QUICK else pytest.mark.slow)
    for family in GENERATING for method in METHODS
]  # fmt: skip


@pytest.mark.parametrize(("family", "method"), BOTH)
def test_a_batch_gives_the_texts_of_each_row_alone(family, method, checkpoints):
    """Greedily and with beams, after training; the decoder's cache is on."""
    made_settings, made = prepared(checkpoints[family], TASK, f"method={method}", *METHODS[method])
    trained(made)
    different = 0
    for beams in (1, 3):
        task = replace(TASK, num_beams=beams, min_new_tokens=3)
        run_settings = replace(made_settings, task=task)
        scorer = scorer_of(run_settings, replace(made, form=task.posed))
        feed = feed_of(run_settings, scorer.prepared, ROWS)
        together = scorer.answers(feed)
        alone = replace(scorer, rows=replace(scorer.rows, scoring=1)).answers(feed)
        mixed = feed_of(run_settings, scorer.prepared, ROWS.select([3, 0, 5, 1, 4, 2]))
        again = replace(scorer, rows=replace(scorer.rows, scoring=4)).answers(mixed)
        assert together == alone == [again[i] for i in (1, 3, 5, 0, 4, 2)]
        different = max(different, len(set(together)))
    assert different > 1


@pytest.mark.parametrize("family", ["gpt2", "t5", "llama"])
@torch.no_grad()
def test_greedy_is_the_likeliest_token_at_every_step(family, checkpoints):
    """Against one whole forward pass per token, without a cache."""
    made_settings, made = prepared(checkpoints[family])
    (said,) = scorer_of(made_settings, made).answers(feed_of(made_settings, made, ROWS.select([3])))
    model, tokenizer = made.adaptation.model.eval(), made.reader.tokenizer
    (example,) = examples_of(made, rows=ROWS.select([3]))
    source, found = torch.tensor([example["input_ids"]]), []
    for _ in range(12):
        if family in CAUSAL:
            logits = model(input_ids=torch.cat([source, torch.tensor([found]).long()], 1)).logits
        else:
            read = torch.tensor([[made.reader.decoder_start, *found]])
            logits = model(input_ids=source, decoder_input_ids=read).logits
        found.append(int(logits[0, -1].argmax()))
        if found[-1] == tokenizer.eos_token_id:
            break
    assert said == tokenizer.decode(found, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_checkpoints_own_settings_do_not_matter(family, checkpoints, tmp_path):
    plain, texts = checkpoints[family], []
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    GenerationConfig(
        num_beams=4, min_new_tokens=3, max_length=30, no_repeat_ngram_size=1, do_sample=True,
        length_penalty=3.0, repetition_penalty=5.0, forced_eos_token_id=5, num_return_sequences=2,
        suppress_tokens=[7, 8, 9], temperature=3.0, top_k=3,
    ).save_pretrained(tmp_path)  # fmt: skip
    for folder in (plain, tmp_path):
        made_settings, made = prepared(folder)
        before = made.adaptation.model.generation_config
        texts.append(scorer_of(made_settings, made).answers(feed_of(made_settings, made, ROWS)))
        assert made.adaptation.model.generation_config is before
    assert texts[0] == texts[1]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_keys_and_values_are_kept(family, checkpoints):
    """Every step after the first reads one token."""
    made_settings, made = prepared(checkpoints[family])
    model, read = made.adaptation.model, []
    part = model.get_decoder() if family == "t5" else model.base_model

    def note(module: Any, args: Any, kwargs: Any) -> None:
        read.append((args[0] if args else kwargs["input_ids"]).shape[1])

    part.register_forward_pre_hook(note, with_kwargs=True)
    bare = ROWS.remove_columns("label")
    scorer_of(made_settings, made).answers(feed_of(made_settings, made, bare))
    assert len(read) > 3 and set(read[1:]) == {1}


OPTIONS = {
    "max_new_tokens": 2, "min_new_tokens": 12, "num_beams": 4, "no_repeat_ngram_size": 1,
    "do_sample": True,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_generation_matters(name, checkpoints):
    assert said_with(checkpoints, {name: OPTIONS[name]}) != said_with(checkpoints, {})


@pytest.mark.parametrize(("name", "value", "with_"), [
    ("temperature", 3.0, {"do_sample": True}), ("top_p", 0.2, {"do_sample": True}),
    ("length_penalty", -10.0, {"num_beams": 4}),
])  # fmt: skip
def test_options_that_need_another(name, value, with_, checkpoints):
    assert said_with(checkpoints, {**with_, name: value}) != said_with(checkpoints, with_)


def said_with(checkpoints: Any, options: dict) -> list[str]:
    task = replace(TASK, **options)
    made_settings, made = prepared(checkpoints["gpt2"], task)
    trained(made, 8)
    return scorer_of(made_settings, made).answers(feed_of(made_settings, made, ROWS))


def test_draws_are_repeated_and_disturb_nothing(checkpoints):
    """A finished run can be verified, and training goes on as it would have."""
    state = torch.random.get_rng_state()
    one = said_with(checkpoints, {"do_sample": True})
    torch.manual_seed(5)
    made_settings, made = prepared(checkpoints["gpt2"], replace(TASK, do_sample=True))
    trained(made, 8)
    before = torch.random.get_rng_state()
    assert scorer_of(made_settings, made).answers(feed_of(made_settings, made, ROWS)) == one
    assert torch.equal(before, torch.random.get_rng_state())
    torch.random.set_rng_state(state)


# ---- templates and files ----


@pytest.mark.parametrize(
    ("text", "filled", "columns"),
    [
        ("document", "D", ("document",)),
        ("summarize: {document}", "summarize: D", ("document",)),
        ("{a}{a} {document}", "AA D", ("a", "document")),
        ("{{x}} {a} }}", "{x} A }", ("a",)),
        ("{my column}!", "M!", ("my column",)),
    ],
)
def test_templates(text, filled, columns):
    template = Template(text, "task.source")
    template.check()
    assert template.columns == columns
    assert template.filled({"document": "D", "a": "A", "my column": "M"}) == filled


def test_a_text_with_braces_is_not_a_template():
    row = {"a": "{document} {{", "document": "D"}
    assert Template("x {a}", "task.source").filled(row) == "x {document} {{"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summarize: {document", "has a brace too many or too few"),
        ("a } b", "has a brace too many or too few"),
        ("{}", "may hold names of columns only"),
        ("{a!r}", "may hold names of columns only"),
        ("{a:>8}", "may hold names of columns only"),
        ("{{a}}", "must name a column"),
        ("", "must name a column"),
    ],
)
def test_templates_that_are_none(text, message):
    with pytest.raises(ConfigError, match=f"task.source.*{message}"):
        Seq2Seq("t", source=text)


def files(folder: Path, table: list[dict], ending: str = "jsonl") -> Path:
    for split in ("train", "validation"):
        write(folder / f"{split}.{ending}", table)
    return folder


def table_of(label: Any = "good", count: int = 6) -> list[dict]:
    return [{"text": f"{text} {i}", "target": label} for i, text in enumerate(TEXTS[:count])]


def load(task: Seq2Seq) -> Splits:
    return task.load(Data(), 0)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("label", ["good", "1945", ["good", "fine"]])
def test_targets_of_files(label, ending, tmp_path):
    if ending == "csv" and isinstance(label, list):
        pytest.skip("a cell holds a text")
    folder = files(tmp_path, table_of(label), ending)
    splits = load(replace(TASK, path=str(folder), label="target"))
    assert splits.train["label"][:] == [label] * 6


@pytest.mark.parametrize(
    ("label", "message"),
    [(3, "target is 3, not a text or a list of texts"), ([3], "not a text or a list of texts"),
     ("", "target is empty. Drop the row"), (" ", "target is empty"), ([], "target is empty"),
     (None, "not a text or a list of texts")],
)  # fmt: skip
def test_targets_that_are_none(label, message, tmp_path):
    table = table_of(label)
    with pytest.raises(AdaptError, match=f"row 1: .*{message}"):
        load(replace(TASK, path=str(files(tmp_path, table)), label="target"))


def test_a_column_that_is_not_there(tmp_path):
    folder = files(tmp_path, table_of())
    with pytest.raises(AdaptError, match=r"no column 'txt'; .*text.*Set task\.source\."):
        load(replace(TASK, path=str(folder), label="target", source="say {txt}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_new_tokens": 13}, r"task\.min_new_tokens=13: must be at most 12"),
        ({"max_new_tokens": 5, "min_new_tokens": 6}, r"task\.min_new_tokens=6: must be at most 5"),
        ({"num_beams": 0}, r"task\.num_beams=0"),
        ({"max_new_tokens": 0}, r"task\.max_new_tokens=0"),
        ({"top_p": 0.0}, r"task\.top_p=0\.0: must be above 0 and at most 1"),
        ({"temperature": 0.0}, r"task\.temperature=0\.0"),
        ({"temperature": 0.5}, r"task\.temperature=0\.5: needs task\.do_sample=true"),
        ({"top_p": 0.5}, r"task\.top_p=0\.5: needs task\.do_sample=true"),
        ({"length_penalty": 2.0}, r"task\.length_penalty=2\.0: needs task\.num_beams=4"),
        ({"max_target_length": 1}, r"task\.max_target_length=1"),
        ({"metric": "blue"}, r"task\.metric=blue"),
        ({"best": "bleu"}, r"task\.best=bleu"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        replace(TASK, **options)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in GENERATING])
def test_generation_asked_of_an_encoder(family, checkpoints):
    with pytest.raises(AdaptError, match=r"models cannot generate texts, which this task n"):
        head_of(Model(family, str(checkpoints[family])), "text")


def test_a_decoder_that_was_made_an_encoder(checkpoints, tmp_path):
    """EmbeddingGemma: with the whole text in sight, the next word is known."""
    folder = shutil.copytree(checkpoints["gemma3_text"], tmp_path / "body")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_bidirectional_attention": True}))
    with pytest.raises(AdaptError, match=r"lets every word see the whole text .*Choose a model"):
        prepared(folder)


def test_a_decoder_whose_tokenizer_names_no_end(checkpoints):
    """Its config does: ModernBERT's tokenizer knows [CLS] and [SEP], and neither begin nor end."""
    assert AutoTokenizer.from_pretrained(checkpoints["modernbert-decoder"]).eos_token is None
    tokenizer = prepared(checkpoints["modernbert-decoder"])[1].reader.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]")


def test_a_tokenizer_without_an_end(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    tokenizer.eos_token = None
    with pytest.raises(AdaptError, match="has no token that ends a text"):
        TASK.posed.encode(ROWS, Reader(tokenizer, causal=True))


# ---- scores ----


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("the cat was found under the bed", "the cat was under the bed",
         (0.9231, 0.7273, 0.9231, 0.9231)),
        ("the cat sat on the mat\nthe dog lay on the rug",
         "the dog lay on the rug\nthe cat sat on the mat", (1, 0.9091, 0.5, 1)),
        ("a a b", "a a a", (0.6667, 0.5, 0.6667, 0.6667)),
        ("anything", "", (0, 0, 0, 0)),
        ("the runners were running", "a runner runs", (0.5714, 0, 0.5714, 0.5714)),
    ],
)  # fmt: skip
def test_rouge_of_the_reference(reference, text, expected):
    found = Text(config_name="rouge").compute(predictions=[text], references=[[reference]])
    assert tuple(found.values()) == pytest.approx(expected, abs=1e-4)


def test_rouge_without_stems_and_of_several_references():
    rouge = Text(config_name="rouge")
    pair = {"predictions": ["a runner runs"], "references": [["the runners were running"]]}
    assert rouge.compute(**pair, stemmer=False)["rouge1"] == 0
    found = rouge.compute(predictions=["a dog"], references=[["the cat", "a dog ran"]])
    assert found["rouge1"] == found["rougeL"] == pytest.approx(0.8)


def test_bleu_of_the_reference():
    """Of the corpus, and not the mean of the rows."""
    texts = ["the cat is on the mat", "there is a cat"]
    right = [["the cat sat on the mat"], ["there is a cat on the mat"]]
    found = Text(config_name="bleu").compute(predictions=texts, references=right)
    assert found["bleu"] == pytest.approx(39.9269, abs=1e-4)
    assert found["chrf"] == pytest.approx(59.1717, abs=1e-4)
    short = Text(config_name="bleu").compute(predictions=["a cat"], references=[["a cat"]])
    assert short["bleu"] == 0


WORDS = ["the", "cat", "cats", "Running", "ran", "U.S.", "1,000", "naïve", "mat.", "Is", "it?",
         "so!", "東京", "don't", "\n"]  # fmt: skip


def drawn(count: int, seed: int) -> tuple[list[str], list[list[str]]]:
    generator = random.Random(seed)

    def text() -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(1, 14)))

    right = [[text() for _ in range(generator.choice([1, 1, 2, 3]))] for _ in range(count)]
    said = [generator.choice([text(), one[0], one[0][: len(one[0]) // 2], ""]) for one in right]
    return said, [[one if one.strip() else "x" for one in texts] for texts in right]


@pytest.mark.parametrize("stemmer", [True, False])
def test_a_thousand_texts_by_rouge_score(stemmer):
    said, right = drawn(1000, 3)
    found = Text(config_name="rouge").compute(predictions=said, references=right, stemmer=stemmer)
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        scorer = RougeScorer([kind], use_stemmer=stemmer)
        prepare_text = in_lines if kind == "rougeLsum" else str
        best = [
            max(scorer.score(prepare_text(one), prepare_text(text))[kind].fmeasure for one in texts)
            for text, texts in zip(said, right, strict=True)
        ]
        assert found[kind] == pytest.approx(sum(best) / 1000, abs=1e-12)


def test_sentences_stand_on_lines():
    assert in_lines("One. Two! Three? four") == "One.\nTwo!\nThree?\nfour"
    assert in_lines("1.5 million. U.S.") == "1.5 million.\nU.S."
    assert in_lines("One. Two\nThree.") == "One. Two\nThree."


def test_a_thousand_texts_by_sacrebleu():
    said, right = drawn(1000, 4)
    found = Text(config_name="bleu").compute(predictions=said, references=right)
    most = max(map(len, right))
    table = [[texts[i] if i < len(texts) else None for texts in right] for i in range(most)]
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(said, table).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(said, table).score, abs=1e-9)


def test_exact_match():
    found = Text(config_name="exact_match").compute(
        predictions=["yes", " no ", "Yes", "maybe", ""],
        references=[["yes"], ["no"], ["yes"], ["x", "maybe\n"], ["x"]],
    )
    assert found["exact_match"] == pytest.approx(3 / 5)


def rows_of(sources: list[str], labels: list[Any]) -> Dataset:
    return Dataset.from_dict({"id": [str(i) for i in range(len(sources))], "text": sources,
                              "label": labels})  # fmt: skip


def test_a_source_of_numbers(checkpoints, tmp_path):
    """They are read like the texts of CSV, by the model and as a trivial answer."""
    table = [{"n": 12345 + i, "ok": True, "target": "12345"} for i in range(2)]
    task = replace(TASK, path=str(files(tmp_path, table)), source="{n} {ok}", trivial="source")
    splits = task.load(Data(), 0)
    assert task.trivial_answers(splits, splits.train) == ("source", [["12345", "12346"]])
    assert splits.task.baseline(splits)[1] == 0.5
    reader = prepared(checkpoints["bart"], task)[1].reader
    words = rows_of(["12345 true", "12346 true"], ["12345"] * 2)
    plain = replace(TASK, source="text").posed.encode(words, reader)
    found = task.posed.encode(splits.train, reader)
    assert found["input_ids"][:] == plain["input_ids"][:]


def test_rows_with_one_source_are_one_item():
    """Each item is scored once, with the references of all its rows."""
    task = replace(TASK, metric="exact_match", grouped=True)
    rows = rows_of(["a", "b", "a", "b", "c"], ["one", "two", "three", "four", "five"])
    answers = ["three", "x", "never looked at", "four", "five"]
    assert task.score(answers, rows)["exact_match"] == pytest.approx(2 / 3)
    plain = replace(task, grouped=False)
    assert plain.score(answers, rows)["exact_match"] == pytest.approx(2 / 5)
    assert task.references(rows)[2] == ["one", "three"]


@pytest.mark.parametrize(("metric", "best"), [("rouge", ""), ("rouge", "rouge2"),
                                              ("exact_match", "")])  # fmt: skip
def test_the_mean_of_the_rows_is_the_score(metric, best):
    task = replace(TASK, metric=metric, best=best)
    rows = rows_of(list("abc"), ["the film was good", "so it is", "yes"])
    answers = ["the film was bad", "it is so", "yes"]
    single, scores = task.row_scores(answers, rows), task.score(answers, rows)
    assert sum(single) / 3 == pytest.approx(scores[task.headline])
    assert replace(TASK, metric="bleu").row_scores(answers, rows) is None


def test_answers_of_several_texts_are_trained_on_the_first(checkpoints):
    _, made = prepared(checkpoints["t5"])
    several = rows_of(["a", "b"], [["good film", "x"], ["bad", "y"]])
    single = rows_of(["a", "b"], ["good film", "bad"])
    assert examples_of(made, TASK, several) == examples_of(made, TASK, single)


STORY = "Oslo is in Norway. It is cold! Is it far? Yes"


@pytest.mark.parametrize(("count", "expected"), [(1, "Oslo is in Norway."), (2, "Oslo is in Norway."
                         " It is cold!"), (3, "Oslo is in Norway. It is cold! Is it far?"),
                         (9, STORY)])  # fmt: skip
def test_lead(count, expected):
    assert lead(STORY, count) == expected
    assert lead("1.5 million people", 1) == "1.5 million people"
    assert lead("Is it? Yes. No", 1) == "Is it?"


@pytest.mark.parametrize(
    ("trivial", "name", "answer"),
    [("lead-1", "lead-1", "Oslo is in Norway."), ("source", "source", STORY),
     ("commonest", "commonest", "cold")],
)  # fmt: skip
def test_baselines(trivial, name, answer):
    task = replace(TASK, trivial=trivial)
    train = rows_of([STORY] * 3, ["cold", "warm", "cold"])
    validation = rows_of([STORY] * 2, ["Norway is cold.", "Oslo is in Norway."])
    splits = Splits(task, train, {"": validation}, DataSource("local", "x"))
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = [scorer.score(one, answer)["rougeL"].fmeasure for one in validation["label"]]
    assert task.baseline(splits) == (name, pytest.approx(sum(expected) / 2))


# ---- whole runs ----


@pytest.mark.parametrize("family", ["gpt2", pytest.param("bart", marks=pytest.mark.slow)])
def test_a_run_from_training_to_predictions(family, checkpoints, tmp_path):
    folder = files(tmp_path / "data", table_of(count=6))
    run = tmp_path / "run"
    done = call("train", "task=seq2seq", "task.source='repeat: {text}'", "task.max_length=64",
                "task.max_target_length=8", "task.do_sample=true", f"task.path={folder}",
                f"output_dir={run}", "method=lora", *tiny(checkpoints[family]))  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((run / "result.json").read_text())
    assert record["baseline"]["name"] == "lead-1"
    assert {"rougeL", "rouge1", "rouge2", "rougeLsum", "loss"} == set(record["scores"])
    lines = read(run / "predictions.jsonl")
    assert len(lines) == 6 and all(isinstance(line["prediction"], str) for line in lines)
    assert call("verify", run).status == 0


def test_a_run_compared_by_its_loss_generates_at_the_end(checkpoints, tmp_path):
    folder, run = files(tmp_path / "data", table_of(count=6)), tmp_path / "run"
    done = call("train", "task=seq2seq", "task.source=text", "task.max_length=64", "task.best=loss",
                "task.max_target_length=8", f"task.path={folder}", f"output_dir={run}",
                "method=lora", *tiny(checkpoints["gpt2"]))  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((run / "result.json").read_text())
    assert record["metric"] == "loss" and "rougeL" in record["scores"]
    assert len(read(run / "predictions.jsonl")) == 6
