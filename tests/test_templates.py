"""Templates of the bundled tasks and of one's own: texts, words, T5's formats, the first row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import call, data_root, tiny, write
from datasets import Dataset
from families import tiny_tokenizer

from adaptkit.config.compose import compose, compose_job, load_plain
from adaptkit.config.groups import CONF, options
from adaptkit.config.overrides import composed
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.runs.delta import load_run
from adaptkit.runs.directory import relevant
from adaptkit.runs.evaluating.evaluate import as_recorded, changed
from adaptkit.runs.evaluating.mapped import in_classes_of
from adaptkit.tasks.choice import Choice
from adaptkit.tasks.forms.verbalizer import pieces_of
from adaptkit.tasks.gap import Gap
from adaptkit.tasks.pattern import wordings
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.task import Reader
from adaptkit.tasks.template import Template
from adaptkit.tasks.worded import T5

STYLES = ("cloze", "question", "descriptive")
BASES = ("classify", "regress")  # kinds of task: of their own texts
HEADS_OF = {"mini-bert": "mlm", "mini-gpt2": "lm", "mini-t5": "seq2seq"}


@pytest.fixture(scope="module")
def tasks() -> dict[str, dict[str, Any]]:
    """The options of every bundled task that asks for a class or a number."""
    found = {name: composed([f"task={name}"])["task"] for name in options("task")}
    return {name: node for name, node in found.items()
            if node["kind"] in BASES and name not in BASES}  # fmt: skip


def worded(task: dict[str, Any], style: str) -> Any:
    classes = tuple(task["labels"]) if task["kind"] == "classify" else ("0", "5")
    (found,) = wordings(task["templates"], style, {}, classes, tuple(task["text"]))
    return found


def test_every_task_has_three_styles(tasks) -> None:
    """Each can be read, names columns of its task, and has words of its own for every class."""
    assert {"sst2", "stsb", "wsc", "hans_style", "anli_r3", "yelp_review_full"} <= set(tasks)
    for name, task in tasks.items():
        assert tuple(s for s in task["templates"] if s != T5) == STYLES, name
        found = [worded(task, style) for style in STYLES]  # reads and checks them
        assert any(one.pattern.at_end for one in found), f"{name}: none for a decoder"
        assert len({one.pattern.text for one in found}) == len(STYLES), name
        for style, one in zip(STYLES, found, strict=True):
            given = task["templates"][style]["words"]
            expected = task["labels"] if task["kind"] == "classify" else ["0", "5"]
            assert sorted(given) == sorted(expected), (name, style)
            assert [list(words) for words in one.words] == [[given[c]] for c in expected]
            assert all(f"{{{key}}}" in one.pattern.text for key in ("label",))
            # every text of the task is read
            assert {column for _, column in one.pattern.parts} >= {
                key.strip("{}") for text in task["text"] for key in columns(text)
            }, (name, style)


def columns(text: str) -> list[str]:
    return [part.partition("}")[0] for part in text.split("{")[1:]] if "{" in text else [text]


@pytest.mark.parametrize("mini", HEADS_OF)
def test_words_are_one_piece(mini: str, tasks) -> None:
    """Without exceptions, and no two classes share one."""
    model = Model(mini, f"adaptkit:{mini}")
    tokenizer = loading.load_tokenizer(model, loading.load_config(model, HEADS_OF[mini], None))
    seen: dict[Any, Any] = {}
    for name, task in tasks.items():
        for style in STYLES:
            one = worded(task, style)
            key = (one.words, one.pattern.left)
            if key not in seen:
                seen[key] = pieces_of(tokenizer, *key)
            ids = [tuple(i) for every in seen[key] for i in every]
            assert {len(i) for i in ids} == {1}, (name, style, one.words)
            assert len(set(ids)) == len(ids), (name, style, one.words)
            assert (tokenizer.unk_token_id,) not in ids or tokenizer.unk_token_id is None


A, B = "the first text", "the second"
FORMATS = {  # T5's, from the table of its mixture: row, source, words in the order of the numbers
    "cola": ({"sentence": A}, f"cola sentence: {A}", "unacceptable acceptable"),
    "sst2": ({"sentence": A}, f"sst2 sentence: {A}", "negative positive"),
    "mrpc": ({"sentence1": A, "sentence2": B}, f"mrpc sentence1: {A} sentence2: {B}",
             "not_equivalent equivalent"),
    "qqp": ({"question1": A, "question2": B}, f"qqp question1: {A} question2: {B}",
            "not_duplicate duplicate"),
    "stsb": ({"sentence1": A, "sentence2": B}, f"stsb sentence1: {A} sentence2: {B}", ""),
    "mnli": ({"premise": A, "hypothesis": B}, f"mnli hypothesis: {B} premise: {A}",
             "entailment neutral contradiction"),
    "qnli": ({"question": A, "sentence": B}, f"qnli question: {A} sentence: {B}",
             "entailment not_entailment"),
    "rte": ({"sentence1": A, "sentence2": B}, f"rte sentence1: {A} sentence2: {B}",
            "entailment not_entailment"),
    "superglue_rte": ({"premise": A, "hypothesis": B}, f"rte hypothesis: {B} premise: {A}",
                      "entailment not_entailment"),
    "axb": ({"sentence1": A, "sentence2": B}, f"rte hypothesis: {B} premise: {A}",
            "entailment not_entailment"),
    "axg": ({"premise": A, "hypothesis": B}, f"rte hypothesis: {B} premise: {A}",
            "entailment not_entailment"),
    "boolq": ({"question": A, "passage": B}, f"boolq passage: {B} question: {A}", "False True"),
    "cb": ({"premise": A, "hypothesis": B}, f"cb hypothesis: {B} premise: {A}",
           "entailment contradiction neutral"),
    "multirc": ({"paragraph": A, "question": "q", "answer": "a"},
                f"multirc question: q answer: a paragraph: {A}", "False True"),
    "wic": ({"word": "w", "sentence1": A, "sentence2": B},
            f"wic sentence1: {A} sentence2: {B} word: w", "False True"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_text_without_a_template_is_t5s(name: str) -> None:
    row, source, words = FORMATS[name]
    task = settings(compose([f"task={name}", "task.form=text", "model=mini-t5"])).task
    two_stacks, causal = task.wordings()
    assert two_stacks.pattern.before().filled(row) == source
    assert causal.pattern.before().filled(row) == f"{source}\nAnswer:"
    assert [list(every) for every in two_stacks.words] == [[word] for word in words.split()]


ASKED = {  # the same of kinds whose answers are the row's own: source, answers
    "copa": (
        {"premise": A, "choice1": "it rained", "choice2": "it snowed", "question": "cause"},
        f"copa choice1: it rained choice2: it snowed premise: {A} question: cause",
        ["choice1", "choice2"],
    ),
    "record": (
        {"query": "@placeholder won", "entities": ["Ann", "Bo", "Ann"],
         "passage": 'Ann met Bo.\n@highlight\nBo lost\n@highlight\nAnn "left"\n@highlight\nEnd'},
        "record query: @placeholder won entities: Ann, Bo passage: "
        'Ann met Bo. Bo lost. Ann "left" End',
        ["Ann", "Bo"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_choices_and_entities_are_listed_as_in_t5(name: str) -> None:
    row, source, answers = ASKED[name]
    listed = ["task.listed=true"] * (name == "copa")
    asked = settings(compose([f"task={name}", "task.form=text", *listed])).task.posed.asked
    assert Template(asked.source, "task.text").filled(asked.texts(row)) == source
    assert asked.options(row) == answers


def test_choices_of_one_column_are_numbered() -> None:
    asked = Choice("swag", text="ctx", choices=("endings",), form="text", listed=True).posed.asked
    row = {"ctx": "He ran.", "endings": ["away", "home", "up"]}
    source = Template(asked.source, "task.text").filled(asked.texts(row))
    assert source == "swag ctx: He ran. choice1: away choice2: home choice3: up"
    assert asked.options(row) == ["choice1", "choice2", "choice3"]


def test_of_several_right_entities_the_first_candidate_is_learnt() -> None:
    form = Gap("record", text="passage", candidates="entities", form="text").posed
    rows = Dataset.from_list([{**ASKED["record"][0], "label": ["Cy", "Bo", "Ann"]}])
    assert form.targets(rows, None) == ["Bo"]


def test_an_alternative_that_is_no_target() -> None:
    form = Choice("t", text="ctx", choices=("a", "b"), form="text").posed
    tokenizer = tiny_tokenizer("gpt2")
    rows = Dataset.from_list([{"ctx": "He", "a": "x", "b": "y"},
                              {"ctx": "He", "a": "ran " * 600, "b": "y"}])  # fmt: skip
    with pytest.raises(AdaptError, match="row 2: an alternative has more tokens than the 124"):
        form.encode(rows, Reader(tokenizer, 128, causal=True))


def test_a_number_is_written_in_any_style() -> None:
    for style in STYLES:
        words = ["task=stsb", "task.form=text", f"task.template={style}"]
        assert settings(compose(words)).task.wordings()[0].words == ()
    with pytest.raises(
        ConfigError, match=r"task\.words.*is not read with task\.form=text. Set task\.form=cloze"
    ):
        Regress("t", text=("a",), form="text", words={"0": "no", "5": "yes"})


@pytest.mark.parametrize(("form", "style"), [("cloze", ""), ("cloze", "question"), ("text", "")])
def test_examples_and_row_have_one_wording(form: str, style: str, tmp_path: Path) -> None:
    words = ["task=mnli", f"task.form={form}", "task.shots=1", f"task.template={style}"]
    run = settings(compose([*words, f"data.root={pairs(tmp_path)}"]))
    task = run.task.load(run.data, 0).task
    assert len(task.demonstrations) == 3
    for wording in task.wordings():
        for row in task.demonstrations:
            number = int(row["premise"].removeprefix("premise-"))
            assert row["label"] == ("entailment", "neutral", "contradiction")[number % 3]
            word = dict(zip(task.classes, wording.words, strict=True))[row["label"]][0]
            assert wording.pattern.filled(row, word) + "\n\n" in wording.pattern.shown


def pairs(folder: Path) -> Path:
    rows = [
        {"premise": f"premise-{i}", "hypothesis": f"hypothesis-{i}", "label": i % 3, "idx": i}
        for i in range(9)
    ]
    for split in ("train", "validation_matched", "validation_mismatched"):
        write(folder / "mnli" / f"{split}.jsonl", rows)
    return folder


# ---- list templates ----


@pytest.mark.slow
def test_list_templates_of_all_tasks(tasks) -> None:
    found = json.loads(call("list", "templates", "--json").out)["templates"]
    assert set(found) == set(tasks)
    written = yaml.safe_load((CONF / "template" / "sentiment.yaml").read_text(encoding="utf-8"))
    assert found["imdb"] == [{"style": style, **entry} for style, entry in written.items()]


def test_list_templates_of_a_task() -> None:
    out = call("list", "templates", "imdb").out
    assert out.startswith("imdb\n  cloze        {first} It was {label}.\n")
    assert "negative: terrible, positive: great\n" in out and "sst2" not in out
    assert call("list", "template", "imdb").out == out
    axb = call("list", "templates", "axb").out
    assert "t5           rte hypothesis: {second}" in axb and "the names of the classes" in axb


@pytest.mark.parametrize(
    ("words", "said"),
    [(["imbd"], "did you mean imdb?"), (["squad"], "list templates"), (["classify"], "sst2")],
)
def test_list_templates_of_what_has_none(words: list[str], said: str) -> None:
    answer = call("list", "templates", *words)
    assert (answer.status, answer.out) == (2, "") and said in answer.err


# ---- the first row, shown ----


def shown(*words: str | Path) -> dict[str, str]:
    answer = call("train", *words, "--show-example")
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    return {name.strip(): text for name, _, text in (line.partition("  ") for line in lines)}


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(loading, "load_model", load)


def test_the_first_row_is_shown(no_weights, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"sentence": "it is a film", "label": i % 2, "idx": f"r{i}"} for i in range(4)]
    for split in ("train", "validation"):
        write(tmp_path / "d" / "sst2" / f"{split}.jsonl", rows)
    data = ["task=sst2", f"data.root={tmp_path / 'd'}"]
    found = shown(*data, "task.form=cloze", "model=mini-bert", "method=lora")
    assert found["row"].strip() == "r0" and found["answer"].strip() == "negative"
    assert found["input"].strip() == "[CLS] it is a film it was [MASK]. [SEP]"
    assert found["word for positive"].strip() == "great (great)"
    found = shown(*data, "task.form=cloze", "model=mini-gpt2", "task.template=question")
    assert found["input"].strip() == "it is a film question: is this good or bad? answer:"
    assert found["word for negative"].strip() == "bad (Ġbad)"
    found = shown(*data, "task.form=text", "model=mini-t5")
    assert found["input"].strip() == "sst2 sentence: it is a film</s>"
    assert found["target"].strip() == "negative</s>"
    assert found["word for positive"].strip().startswith("positive (▁positive")
    found = shown(*data, "model=mini-bert", "method=prompt")
    assert found["input"].strip() == "[CLS] it is a film [SEP]" and "target" not in found
    assert {path.name for path in tmp_path.iterdir()} == {"d"}  # no run
    plan = call("plan", *data, "--show-example")
    assert "[CLS] it is a film [SEP]" in plan.out and "trainable" not in plan.out


@pytest.mark.parametrize("task", ["copa", "squad", "ud_ewt", "xsum", "stsb", "mnli"])
def test_every_kind_is_shown(task: str, no_weights) -> None:
    found = shown(f"task={task}", "data.source=sample")
    assert len(found["answer"]) and any(name.startswith("input") for name in found)


def test_what_cannot_be_shown(tmp_path: Path, checkpoints) -> None:
    words = tiny(checkpoints["bert"], "task=sst2", f"data.root={data_root(tmp_path)}")
    answer = call("train", *words, "-m", "seed=0,1", "--show-example")
    assert answer.status == 2 and "-m: does not go with --show-example" in answer.err
    answer = call("train", *words, "task.form=text", "--show-example")
    assert answer.status == 2 and "BERT models cannot generate texts" in answer.err


# ---- templates of one's own ----

OWN = "text: '{first} All in all: {label}'\nwords: {negative: bad, positive: [good, great]}\n"


def test_a_template_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as if its text and words had been typed, wherever it lies."""
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "elsewhere" / "b.yml"
    other.parent.mkdir()
    for file in (tmp_path / "mine.yaml", other):
        file.write_text(OWN, encoding="utf-8")
    words = ["task=sst2", "task.form=cloze"]
    found = [compose_job([*words, f"task.template={path}"]) for path in ("mine.yaml", str(other))]
    typed = compose_job([*words, "task.template='{first} All in all: {label}'",
                         "task.words={negative:bad,positive:[good,great]}"])  # fmt: skip
    assert relevant(found[0]) == relevant(found[1]) == relevant(typed)
    assert settings(found[0]).task.wordings()[0].words == (("bad",), ("good", "great"))
    own = compose([*words, "task.template=mine.yaml", "task.words={negative:no,positive:yes}"])
    assert own["task"]["words"] == {"negative": "no", "positive": "yes"}  # typed words count
    same = compose_job([*words, "task.template=./mine.yaml"])["output_dir"]
    assert found[0]["output_dir"] == same
    (tmp_path / "mine.yaml").write_text(OWN.replace("All", "Over"), encoding="utf-8")
    assert compose_job([*words, "task.template=mine.yaml"])["output_dir"] != same


def test_a_run_holds_what_the_file_held(checkpoints, tmp_path: Path) -> None:
    """The file may go afterwards."""
    file, run = tmp_path / "mine.yaml", tmp_path / "run"
    file.write_text("text: |\n  {first} All in all:\n  {label}\n", encoding="utf-8")
    words = tiny(checkpoints["gpt2"], f"data.root={data_root(tmp_path / 'd')}", "task=sst2")
    words += ["task.form=text", f"task.template={file}", f"output_dir={run}", "method=lora"]
    assert call("train", *words).status == 0
    assert load_plain(run / "config.yaml")["task"]["template"] == "{first} All in all:\n{label}"
    file.unlink()
    assert call("verify", run).status == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        ("- a\n", "is not a mapping"),
        ("text: 'a {label}'\nwrods: {}\n", "has the key 'wrods'; it may have text and words"),
        ("words: {a: b}\n", "must have a text with {label}"),
        ("text: none\n", "must have a text with {label}"),
        ("text: '{first} {label}'\nwords: [a, b]\n", "must be a mapping"),
        ("text: '{first} {label}'\nwords: {negative: bad}\n", "no word for the class 'positive'"),
        ("text: '{first} {label}'\nwords: {negative: no, positive: yes}\n", "Put quotes around"),
        ("text: '{frist} {label}'\n", "did you mean first?"),
        ("text: '{first} {text}'\n", "must hold {label} once"),
        ("text: [\n", "is damaged"),
    ],
)
def test_a_file_that_is_no_template(content: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(AdaptError) as error:
        settings(compose(["task=sst2", "task.form=cloze", f"task.template={file}"]))
    assert said in str(error.value)


def test_a_template_as_it_is_typed() -> None:
    """Without quotes of Hydra where it can be meant in one way only."""
    for text in ("{first} It was {label}.", "So {label}: {first}", "{label}"):
        node = compose(["task=sst2", "task.form=cloze", f"task.template={text}"])["task"]
        assert node["template"] == text
    quoted = compose(["task=mrpc", "task.template='{first}, {label}, {second}'"])["task"]
    assert quoted["template"] == "{first}, {label}, {second}"
    answer = call("plan", "task=mrpc", "task.form=cloze", "task.template={first}, {label} {second}")
    assert answer.status == 2
    assert "task.template={first}, {label} {second}: cannot be read." in answer.err
    assert "quotes inside those of the shell: \"KEY='some, (text)'\"" in answer.err
    assert "++" not in answer.err


def test_another_task_is_asked_as_the_run_was(tmp_path: Path) -> None:
    """Form and style carry over to a task of other rows, and to one with fewer classes."""
    data, run = pairs(tmp_path / "d"), tmp_path / "run"
    for task in ("snli", "hans"):
        rows = [{"premise": f"p {i}", "hypothesis": "h", "label": i % 2, "heuristic": "x"}
                for i in range(6)]  # fmt: skip
        write(data / task / "validation.jsonl", rows)
    words = ["task=mnli", f"data.root={data}", "method=hard_prompt", "model=mini-bert"]
    style = "task.template=question"
    assert call("train", *words, style, f"output_dir={run}").status == 0
    for task in ("snli", "hans"):
        answer = call("eval", run, f"task={task}", f"data.root={data}", "--output", tmp_path / task)
        assert answer.status == 0, answer.err
    saved = as_recorded(load_run(run))
    hans = changed(saved, ["task=hans", f"data.root={data}"]).task
    assert (hans.form, hans.template) == ("cloze", "question")
    own = saved.settings.task
    assert in_classes_of(own, hans).wordings() == own.wordings()
    typed = changed(saved, ["task=snli", "task.form=head", "task.template=''"]).task
    assert (typed.form, typed.template) == ("head", "")


def test_examples_keep_their_wording(tmp_path: Path) -> None:
    data, run = data_root(tmp_path / "d"), tmp_path / "run"
    words = ["task=sst2", f"data.root={data}", "method=hard_prompt", "task.shots=1"]
    assert call("train", *words, f"output_dir={run}").status == 0
    answer = call("eval", run, "task.template=question")
    assert answer.status == 2
    assert "task.template: cannot change here, because the run shows examples" in answer.err
