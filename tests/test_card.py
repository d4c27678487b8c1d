"""The card of an export: the hub reads its head, its code runs, its command repeats the run."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import call, read, tiny, write
from families import rows
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from adaptkit.config.compose import compose
from adaptkit.runs.delta import SavedRun, load_run
from adaptkit.runs.directory import IRRELEVANT, flat
from adaptkit.runs.exchange.base import Base
from adaptkit.runs.exchange.card import Card, card
from adaptkit.runs.exchange.limits import chosen, limits
from adaptkit.runs.exchange.markdown import block, code, text
from adaptkit.runs.exchange.reproduce import words_of
from adaptkit.runs.exchange.usage import note

NASTY = ("yes|no `so` | # *x*", "--- [a](b) \\ <b>&amp; ```")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any, checkpoints: Any) -> Path:
    """A run whose classes have names that mean something in Markdown and in YAML."""
    place = tmp_path_factory.mktemp("card")
    table = [{"text": row["sentence"], "label": NASTY[row["label"]]} for row in rows(24)]
    for split in ("train", "validation"):
        write(place / "reviews" / f"{split}.jsonl", table)
    words = ["task=classify", f"task.path={place / 'reviews'}", "task.text=text", "seed=3"]
    done = call("train", *tiny(checkpoints["bert"]), *words, "method=lora", "method.rank=3",
                f"output_dir={place / 'run'}", "optimizer.lr=0.01")  # fmt: skip
    assert done.status == 0, done.err
    return place / "run"


def exported(run: Path, kind: str, out: Path) -> str:
    done = call("export", run, "--format", kind, "--out", out)
    assert done.status == 0, done.err
    return (out / "README.md").read_text()


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, as a reader of Markdown sees them."""
    found: list[list[str]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2]):
        if token.type == "tr_open":
            found.append([])
        inside = token.type == "tr_open" or (inside and token.type != "tr_close")
        if token.type == "inline" and inside:
            found[-1].append("".join(part.content for part in token.children or []))
    return found


def test_names_of_data_are_text(run: Path, tmp_path: Path) -> None:
    page = exported(run, "card", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    table = cells(page)
    assert all(len(row) in (2, 4) for row in table)
    said = dict(row for row in table if len(row) == 2)
    shown = [name.replace("`", "'") for name in NASTY]  # within code
    assert sorted(said["classes, in the order of the logits"].split(", ")) == sorted(shown)
    record = json.loads((run / "result.json").read_text())
    assert said["fingerprint of the rows"] == record["data"]["fingerprint"]
    assert said["data"] == "local files reviews; 24 rows for training, 24 scored"
    assert said["method.rank"] == "3" and said["optimizer.lr"] == "0.01" and said["seed"] == "3"
    assert said["stored"] == f"{record['delta_bytes']:,} bytes"
    low, high = record["score_interval"]
    value, base = record["score"], record["baseline"]["value"]
    deciding = ["accuracy (decides)", *(f"{one:.4f}" for one in (value,)),
                f"{low:.4f} to {high:.4f}", f"{base:.4f}"]  # fmt: skip
    assert deciding in table
    assert f"after the last of {record['updates']} updates" in page
    assert str(run.parent) not in page and str(Path.home()) not in page


def test_the_hub_reads_its_head(run: Path, tmp_path: Path) -> None:
    head = ModelCard(exported(run, "merged", tmp_path / "out")).data
    record = json.loads((run / "result.json").read_text())
    assert (head.library_name, head.pipeline_tag) == ("transformers", "text-classification")
    assert head.tags == ["adaptkit", "lora"]
    assert head.base_model is head.license is head.language is head.datasets is None
    results = {one.metric_type: one for one in head.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == record["scores"]
    assert results["accuracy"].dataset_name == "reviews (local files)"
    assert results["accuracy"].dataset_split == "validation"


def test_the_code_of_a_plain_model(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    page = exported(run, "merged", tmp_path / "this folder")
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    texts = [row["sentence"] for row in rows(24)]
    batch = names["tokenizer"](texts, padding=True, truncation=True, return_tensors="pt")
    numbers = names["model"](**batch).logits.argmax(-1).tolist()
    said = [row["prediction"] for row in read(run / "predictions.jsonl")]
    assert [names["model"].config.id2label[number] for number in numbers] == said


def test_the_code_of_a_card_alone(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    page = exported(run, "card", tmp_path / "out")
    (tmp_path / "this run").symlink_to(run)
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    found = names["predictor"].predict([{"text": row["sentence"]} for row in rows(24)])
    assert found == [row["prediction"] for row in read(run / "predictions.jsonl")]


def test_the_command_repeats_the_run(
    run: Path, tmp_path: Path, monkeypatch: Any, checkpoints: Any
) -> None:
    page = exported(run, "card", tmp_path / "out")
    line = re.search(r"^adaptkit train .*$", page, re.MULTILINE)
    words = shlex.split(line[0])[1:] if line else []
    (tmp_path / "reviews").symlink_to(run.parent / "reviews")
    (tmp_path / "bert").symlink_to(checkpoints["bert"])
    monkeypatch.chdir(tmp_path)
    # What a command of a few updates on the CPU was typed with, and changes nothing.
    done = call(*words, "output_dir=again", "trainer.device=cpu")
    assert done.status == 0, done.err
    assert read(tmp_path / "again" / "predictions.jsonl") == read(run / "predictions.jsonl")


SETTINGS = (
    ["task=sst2"],
    ["task=squad", "model=mini-t5", "method=prefix", "trainer.epochs=2"],
    ["task=rte", "regularizer=[r3f,mixout]", "regularizer.mixout.p=0.3", "optimizer=adafactor"],
    ["task=sst2", "task.form=cloze", "task.template='{first} It was {label} , \\' so'"],
    ["task=classify", "task.path='my data,=.csv'", "task.text=[a b,c]", "task.label='null'",
     "+task.where.kind=x", "model=auto", "model.path=owner/name", "trainer.keep=best",
     "trainer.select_on=validation"],
    ["task=seq2seq", "task.path=rows.jsonl", "task.source='{a}: {b}'", "method.roles=[query,key]"],
    ["task=choice", "task.path=a.csv", "task.text=premise", "task.choices=[a,b]", "seed=7"],
    ["task=rte", "data.train_rows=50", "trainer.keep=last", "model.random_weights=true"],
)  # fmt: skip


@pytest.mark.parametrize(
    "typed",
    [pytest.param(one, marks=[pytest.mark.slow] * (place != 4)) for place, one in
     enumerate(SETTINGS)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_command_composes_the_same_settings(typed: list[str]) -> None:
    plain = compose([*typed, "output_dir=x"])
    words = words_of(plain)
    assert words is not None
    again = flat(compose([*words, "output_dir=x"]))
    different = {k for k, v in flat(plain).items() if again.get(k) != v}
    assert different <= {*IRRELEVANT, "trainer.device"}


def test_a_name_cannot_leave_its_line() -> None:
    name = "a\n\n# b <i> &lt; *c* `d` [e](f) | g"
    found = MarkdownIt().parse(f"x {text(name)} y")
    assert [token.type for token in found] == ["paragraph_open", "inline", "paragraph_close"]
    parts = found[1].children or []
    assert {part.type for part in parts} <= {"text", "text_special"}
    assert "".join(part.content for part in parts) == "x a # b <i> &lt; *c* `d` [e](f) | g y"
    assert code("a\n`b`|\ud800") == "`a 'b'\\|`"
    assert block("", "```\nx").startswith("````\n")


def test_settings_without_a_command_are_printed(run: Path) -> None:
    saved = load_run(run)
    plain = {**saved.settings.plain, "un known": 1}
    page = card(Card(replace(saved, settings=replace(saved.settings, plain=plain)), "card", "x"))
    assert "No single command" in page and "  rank: 3\n" in page and str(run.parent) not in page


def changed(run: Path, model: dict[str, Any] | None = None, **facts: Any) -> SavedRun:
    """The saved run as another record would describe it."""
    saved = load_run(run)
    named = replace(saved.settings.model, **(model or {}))
    result = replace(saved.result, **facts)
    return replace(saved, settings=replace(saved.settings, model=named), result=result)


def test_a_hub_model_on_hub_data(run: Path) -> None:
    saved = load_run(run)
    data = {**saved.result.data, "source": "hub", "path": "nyu-mll/glue"}
    there = changed(run, {"path": "owner/name"}, data=data, made_of={"model": COMMIT})
    base = Base.of(there)
    assert (base.name, base.revision, base.on_hub) == ("owner/name", COMMIT, True)
    head = ModelCard(card(Card(there, "merged", "me/model"))).data
    assert head.base_model == "owner/name" and head.datasets == ["nyu-mll/glue"]
    assert head.eval_results[0].dataset_type == "nyu-mll/glue"
    assert COMMIT in card(Card(there, "card", "x"))


def test_sample_data_and_other_limits_are_said(run: Path) -> None:
    data = {**load_run(run).result.data, "source": "sample"}
    sample = changed(run, data=data)
    page = card(Card(sample, "card", "x"))
    assert "> **SAMPLE DATA.**" in page and "data.source=sample" in page
    assert "(bundled SAMPLE)" in page and "sample-data" in page and "nyu-mll" not in page
    assert any("SAMPLE DATA" in line for line in limits(sample))
    assert "> **RANDOM WEIGHTS.**" in card(
        Card(changed(run, {"random_weights": True}), "card", "x")
    )
    assert "after the last of" in chosen(load_run(run).result)
    assert "is not known" in chosen(changed(run, imported_from="/a").result)
    options = load_run(run).result.settings
    by = {"best_update": 2, "metric": "accuracy", "settings": {**options, "trainer.keep": "best"}}
    held = chosen(changed(run, select_on="holdout", selection_rows=12, **by).result)
    assert "after update 2 of" in held
    assert "on 12 training rows that were not trained on. The scores above are of other" in held
    scored = chosen(changed(run, select_on="validation", split="holdout", **by).result)
    assert "`accuracy` on the held-out training rows, so that scores of these rows are" in scored
    stopped = chosen(changed(run, select_on="validation", **by | {"settings": options}).result)
    assert options["trainer.keep"] == "last" and "after the last of" in stopped
    assert "update 2" not in stopped and "When to stop was decided by `accuracy`" in stopped
    place = run.parent / "reviews"
    noted = changed(run, remarks=[f"rows of {place} | # x"])
    assert "rows of reviews \\| \\# x." in limits(noted)


def test_scores_of_several_splits_stand_apart(run: Path) -> None:
    """The rows of MNLI's two splits are others, whichever of them decides."""
    saved = load_run(run)
    facts = {"accuracy": 0.5, "loss": 1.0, "accuracy_mismatched": 0.25, "loss_mismatched": 2.0}
    there = {**saved.result.settings, "task.also.mismatched": "validation_mm"}
    two = changed(run, scores=facts, settings=there, split="validation_m")
    page = card(Card(two, "card", "x"))
    of = {one.metric_type: one.dataset_split for one in ModelCard(page).data.eval_results}
    assert of == {name: f"validation_m{'m' * ('_' in name)}" for name in facts}
    firsts = [row[0] for row in cells(page) if len(row) == 4]
    assert "accuracy (decides)" in firsts and "accuracy_mismatched, on validation_mm" in firsts
    by = {"metric": "accuracy_mismatched", "select_on": "validation"}
    text = chosen(replace(two.result, **by))
    assert "`accuracy_mismatched` on the validation\\_mm rows" in text


def test_an_imported_adapter_has_no_training_of_ours(run: Path) -> None:
    """Its record holds defaults of options that never ran."""
    data = {"source": "sample", "path": "x", "rows": {"train": 0, "validation": 24}}
    there = changed(run, imported_from="/a", data=data, updates=0, epochs=0.0)
    page = card(Card(there, "card", "x"))
    said = {row[0]: row[1] for row in cells(page)}
    assert said["method.rank"] == "3" and "task.max_length" in said
    trained = {"seed", "optimizer", "optimizer.lr", "trainer.batch_size", "updates", "time"}
    assert not trained & said.keys() and "24 rows scored" in said["data"]
    assert "It was scored on rows" in page and "for training" not in page and "seed 3" not in page


@pytest.mark.parametrize(
    ("task", "words"),
    (
        ({"text": ["{a}: {b}", "c"]}, "The texts of a row: `{a}: {b}`, then `c`."),
        ({"form": "cloze"}, "in the form `cloze`"),
        ({"kind": "choice", "text": "p"}, "by itself: `p`, then the choice; the greatest logit"),
    ),
)
def test_a_card_says_what_is_read(run: Path, task: dict[str, Any], words: str) -> None:
    saved = load_run(run)
    plain = {**saved.settings.plain, "task": {**saved.settings.plain["task"], **task}}
    there = replace(saved, settings=replace(saved.settings, plain=plain))
    assert words in note("onnx", there) and words in note("merged", there)
