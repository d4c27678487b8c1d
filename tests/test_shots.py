"""Runs that show rows with their answers: repeated, resumed, swept, and scored on other tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commandline import call, tiny, write
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.tasks.choice import Choice
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.data import Data
from adaptkit.tasks.pattern import verbalizer
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.span import Span
from adaptkit.tasks.task import Reader

SHOWN = ["task=sst2", "data.source=sample", "data.train_rows=16", "data.eval_rows=8",
         "method=hard_prompt", "task.shots=1"]  # fmt: skip


def test_a_run_with_shots_is_repeated_and_scored_elsewhere(tmp_path: Path) -> None:
    words = [*SHOWN, "model=mini-gpt2", f"output_dir={tmp_path / 'run'}"]
    assert call("train", *words).status == 0
    again = call("train", *words)
    assert again.status == 0 and "done before" in again.err, again.err
    other = call("eval", tmp_path / "run", "task=imdb", "data.source=sample", "data.eval_rows=8")
    assert other.status == 0, other.err  # whose column is `text`, not `sentence`


@pytest.mark.slow
def test_a_hard_prompt_is_a_plain_model_and_a_start(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*SHOWN[:-1], "model=mini-bert", f"output_dir={run}"]
    assert call("train", *words).status == 0
    made = call("export", run, "--format", "merged", "--out", tmp_path / "plain")
    assert made.status == 0, made.err
    more = call("train", *SHOWN[:4], "model=mini-bert", "method=lora", "task.form=cloze",
                "trainer.max_steps=1", f"model.from_run={run}",
                f"output_dir={tmp_path / 'on'}")  # fmt: skip
    assert more.status == 0, more.err


def test_rows_of_another_task_stand_in_its_columns() -> None:
    pair = Classify("p", text=("premise", "claim"), labels=("no", "yes"), form="cloze",
                    template="{first} ? {label} {second}")  # fmt: skip
    row = {"a": "one", "b": "two", "label": "yes"}
    (shown,) = replace(pair, demonstrations=(row,)).wordings()
    assert shown.pattern.shown == "one ? yes two\n\n"
    with pytest.raises(AdaptError, match=r"reads 2 columns .*have 1 texts"):
        replace(pair, demonstrations=({"a": "one", "label": "yes"},)).wordings()


@pytest.mark.slow
def test_shots_of_a_run_whose_answers_are_mapped(tmp_path: Path) -> None:
    """Rows of three classes are shown, the task has two; without a map it is rejected."""
    words = ["task=mnli", *SHOWN[1:], "model=mini-bert", f"output_dir={tmp_path / 'run'}"]
    assert call("train", *words).status == 0
    other = call("eval", tmp_path / "run", "task=rte", "data.source=sample", "data.eval_rows=8")
    assert other.status == 0, other.err
    made = call("eval", tmp_path / "run", "suite=ood", "data.source=sample", "data.eval_rows=8")
    assert made.status == 0 and "mapped in the same way" in made.out, made.err
    foreign = call("eval", tmp_path / "run", "task=qqp", "data.source=sample")
    assert foreign.status == 2 and "has the class" in foreign.err, foreign.err


def test_special_tokens_in_shots_are_plain_text() -> None:
    """A unigram model has them among its words, as T5's has </s>."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", *"<>/sgodba{}l", "\u2581good", "\u2581bad"]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    reader = Reader(PreTrainedTokenizerFast(tokenizer_object=backend, **names), decoder_start=0)
    task = Classify("t", text=("text",), labels=("n", "p"), form="text", template="{text} {label}",
                    words={"n": "bad", "p": "good"},
                    demonstrations=({"text": "a</s>", "label": "n"},))  # fmt: skip
    rows = Dataset.from_dict({"id": ["0"], "text": ["b"]})
    assert 1 in backend.encode("a</s>").ids
    assert 1 not in task.posed.encode(rows, reader)[0]["input_ids"]


@pytest.mark.slow
def test_draws_with_shots_are_repetitions(checkpoints, tmp_path: Path) -> None:
    rows = [{"text": f"{'good' if i % 2 else 'bad'} film {i}", "label": i % 2} for i in range(16)]
    for split in ("train", "validation"):
        write(tmp_path / "data" / f"{split}.jsonl", rows)
    answer = call(
        "train", "-m", "task=classify", f"task.path={tmp_path / 'data'}", "task.text=text",
        "task.form=cloze", "task.template={text} {label}", "task.words={0: bad, 1: good}",
        "task.shots=1", *tiny(checkpoints["gpt2"]), "method=hard_prompt",
        "data.per_class=2", "data.fold=0,1", f"output_dir={tmp_path}/runs/${{data.fold}}",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "2 runs)" in answer.out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Data(fold=1), r"data\.fold=1: chooses a few-shot draw.*data\.per_class"),
        (lambda: Regress("r", text=("a",), step=0.5), r"task\.step=0\.5: is not read"),
        (lambda: Choice("c", text="a", choices=("b", "c"), normalise="tokens"), r"not read"),
        (lambda: Span("s", max_target_length=16), r"max_target_length=16: is not read"),
        (lambda: Span("s", form="text", stride=16), r"stride=16: is not read"),
        (lambda: verbalizer({"no": {"a": "b"}, "yes": "good"}, ("no", "yes")), "must be a word"),
        (lambda: Classify("t", text=("a",), labels=("n", "p"), form="text",
                          words={"n": "bad", "p": ["good", "great"]}), r"one text"),
        (lambda: settings(compose(["task=sst2", "method=hard_prompt", "trainer.max_steps=3"])),
         r"trainer\.max_steps=3: method=hard_prompt trains nothing"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_rejected(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("names", [("no", "yes"), ("False", "True"), ("false", "true")])
def test_truth_values_of_yaml_are_names_of_classes(names: tuple[str, str]) -> None:
    assert verbalizer({False: "bad", True: ["good", "good"]}, names) == (("bad",), ("good",))
    words = ["task=boolq", "task.form=cloze", "task.words={True: sure, False: never}"]
    typed = settings(compose(words))
    assert typed.task.wordings()[0].words == (("never",), ("sure",))


def test_typed_rows_are_never_swallowed_by_the_sample(tmp_path: Path) -> None:
    """Other rows than the sample's were typed: they are scored, or the two are rejected."""
    run, rows = tmp_path / "run", [{"sentence": "a", "label": "negative"}] * 3
    write(tmp_path / "own.jsonl", rows)
    write(tmp_path / "root" / "sst2" / "validation.jsonl", rows)
    assert call("train", *SHOWN[:-1], "model=mini-bert", f"output_dir={run}").status == 0
    for typed in (f"task.path={tmp_path / 'own.jsonl'}", f"data.root={tmp_path / 'root'}"):
        made = call("eval", run, typed, "task.id=null")
        assert made.status == 0 and "3 rows" in made.out and "SAMPLE" not in made.out, made.err
        both = call("train", *SHOWN, typed, f"output_dir={tmp_path / 'x'}")
        assert both.status == 2 and "is not read with data.source=sample" in both.err
