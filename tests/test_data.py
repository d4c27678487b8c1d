"""`adaptkit data`: every finding on rows that were made for it, with counts known by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from commandline import call, tiny, write
from transformers import AutoTokenizer

from adaptkit.config.compose import compose, load_raw
from adaptkit.config.groups import CONF, options
from adaptkit.reports.data import texts
from adaptkit.reports.data.page import bars, histogram
from adaptkit.reports.data.tokens import padding
from adaptkit.storage import bundled, hub
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.tag import Tag

LABELS = ("negative", "positive")
SPLITS = ("train", "validation")
GOOD = [
    f"{word} film" for word in "good great funny fresh clever lovely fine moving superb".split()
]
BAD = [f"{word} plot" for word in "bad awful dull weak poor stale lazy flat messy".split()]


def clean() -> list[tuple[str, int]]:
    """Ten rows of each class, all of them different."""
    return [(text, 1) for text in [*GOOD, "a charming film"]] + [
        (text, 0) for text in [*BAD, "a boring plot"]
    ]


def shifted(rows: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(f"{text} .", label) for text, label in rows]


def sentences(folder: Path, train: list, validation: list) -> Path:
    """Write DIR/{train,validation}.jsonl of sentences with labels."""
    for name, rows in zip(SPLITS, (train, validation), strict=True):
        write(folder / f"{name}.jsonl", [{"sentence": t, "label": n} for t, n in rows])
    return folder


def diagnosed(model: Path, *words: str) -> dict[str, Any]:
    """Return the JSON object, its findings under (name, split)."""
    answer = call("data", *tiny(model), *words, "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    keys = [(one["name"], one["split"]) for one in found["findings"]]
    assert len(keys) == len({*keys})
    found["findings"] = dict(zip(keys, found["findings"], strict=True))
    return found


@pytest.fixture
def bert(checkpoints) -> Path:
    return checkpoints["bert"]


def test_clean_rows_have_no_finding(bert, tmp_path):
    folder = sentences(tmp_path / "rows", clean(), shifted(clean()))
    found = diagnosed(bert, "task=sst2", f"task.path={folder}")
    assert found["findings"] == {}
    assert found["splits"]["train"]["classes"] == {
        name: {"count": 10, "share": 0.5, "near_empty": False} for name in LABELS
    }
    assert (found["kind"], found["task"], found["source"]["kind"]) == ("classify", "sst2", "local")
    assert found["baselines"][0] == {"name": "majority class", "metric": "accuracy", "score": 0.5}
    # Every word of a class occurs in its rows alone.
    assert found["baselines"][1] == {"name": "bag of words", "metric": "accuracy", "score": 1.0}
    answer = call("data", *tiny(bert), "task=sst2", f"task.path={folder}", "--strict")
    assert answer.status == 0 and "no findings" in answer.out


def test_repeated_contradictory_and_shared_texts(bert, tmp_path):
    """Case and white space do not count; the numbers of rows stand for ids."""
    train = [*clean(), ("  GOOD   film", 1), ("Bad\tplot", 1), ("dull plot", 0)]  # rows 20 to 22
    validation = [*shifted(clean()), ("Great FILM", 0), ("nothing new", 0)]
    folder = sentences(tmp_path / "rows", train, validation)
    found = diagnosed(bert, "task=sst2", f"task.path={folder}")
    findings = found["findings"]
    assert findings["duplicates", "train"]["rows"] == ["20", "21", "22"]
    assert findings["contradictory_labels", "train"]["rows"] == ["10", "21"]  # bad plot
    assert findings["overlap", "validation"]["rows"] == ["20"]
    assert {name: one["count"] for name, one in findings.items()} == {
        ("duplicates", "train"): 3, ("contradictory_labels", "train"): 2,
        ("overlap", "validation"): 1,
    }  # fmt: skip
    split = found["splits"]["train"]
    assert (split["rows"], split["repeats"], split["contradictions"], split["seen"]) == (
        23,
        3,
        2,
        0,
    )


def test_empty_and_broken_texts(bert, tmp_path):
    odd = [(" \n", 1), ("caf\ufffd", 1), ("caf\u00c3\u00a9", 0), ("it\u00e2\u20ac\u2122s", 0),
           ("it\u0092s", 0), ("caf\u00e9 \u00c3 la", 1)]  # fmt: skip
    folder = sentences(tmp_path / "rows", [*clean(), *odd], shifted(clean()))
    findings = diagnosed(bert, "task=sst2", f"task.path={folder}")["findings"]
    assert findings["empty_text", "train"]["rows"] == ["20"]
    assert findings["broken_characters", "train"]["rows"] == ["21", "22", "23", "24"]
    assert len(findings) == 2


def test_five_rows_are_named(bert, tmp_path):
    folder = sentences(tmp_path / "rows", [*clean(), *[("good film", 1)] * 7], shifted(clean()))
    answer = call("data", *tiny(bert), "task=sst2", f"task.path={folder}", "--strict")
    assert answer.status == 3
    assert "1 finding\n- duplicates, train: 7 rows (id 20, 21, 22, 23, 24, ...). The" in answer.out


def test_a_class_with_few_rows(bert, tmp_path):
    few = [*clean()[:10], *clean()[10:19]]  # nine of the second class
    folder = sentences(tmp_path / "rows", few, shifted(clean()))
    found = diagnosed(bert, "task=sst2", f"task.path={folder}")
    assert [*found["findings"]] == [("near_empty_class", "train")]
    assert "'negative' 9" in found["findings"]["near_empty_class", "train"]["text"]
    assert found["splits"]["train"]["classes"]["negative"]["near_empty"]
    answer = call("data", *tiny(bert), "task=sst2", f"task.path={folder}")
    assert "9 (47.4%) !" in answer.out and answer.status == 0


def test_shares_that_are_nearly_nothing():
    """Under 1 %; of fifty classes under 0.2 %; tags count in words, and ten are enough."""
    two = Classify("t", text=("a",), labels=LABELS)
    assert texts.near_empty(two, {"negative": 989, "positive": 11}) == []
    assert texts.near_empty(two, {"negative": 1989, "positive": 19}) == ["positive"]
    names = tuple(map(str, range(50)))
    many = Classify("t", text=("a",), labels=names)
    assert texts.near_empty(many, dict.fromkeys(names, 200) | {"0": 20, "1": 18}) == ["1"]
    tags = Tag("t", labels=("O", "B-X", "B-Y"))
    assert texts.near_empty(tags, {"O": 9000, "B-X": 10, "B-Y": 9}) == ["B-Y"]


WORDS = "the film was not bad the plot was good the music good".split()  # known to the tokenizer


def test_lengths_and_what_is_cut(bert, tmp_path):
    """[CLS], n words, [SEP]: 10 rows of 3 to 12 words, read to 10 tokens: 9 to 12 words are cut."""
    rows = [(" ".join(WORDS[:n]), n % 2) for n in range(3, 13)]
    folder = sentences(tmp_path / "rows", rows, rows[:9])
    found = diagnosed(bert, "task=sst2", f"task.path={folder}", "task.max_length=10")
    assert found["splits"]["train"]["tokens"] == {
        "median": 9.5, "p95": 14, "longest": 14, "limit": 10, "cut": 4, "cut_share": 0.4,
        "lost_tokens": 10, "windows": None,
    }  # fmt: skip
    finding = found["findings"]["truncated_rows", "train"]
    assert (finding["count"], finding["rows"]) == (4, ["6", "7", "8", "9"])
    assert "11 % of all tokens" in finding["text"]  # 10 of 95
    tenth = diagnosed(bert, "task=sst2", f"task.path={folder}", "task.max_length=13")
    assert tenth["splits"]["train"]["tokens"]["cut"] == 1  # a tenth, not more
    assert ("truncated_rows", "train") not in tenth["findings"]


def test_one_row_that_is_far_too_long(bert, tmp_path):
    glued = [*clean(), (" ".join(GOOD * 9), 1)]  # 164 tokens; 95 % have up to 5
    folder = sentences(tmp_path / "rows", [*glued, *shifted(clean())], [("fine", 1)] * 10)
    found = diagnosed(bert, "task=sst2", f"task.path={folder}", "task.max_length=300")
    assert found["findings"]["outlier_length", "train"]["rows"] == ["20"]


def test_padding_of_batches():
    lengths = [2, 4, 2, 4] * 50
    assert padding(lengths, 200, 0, False) == pytest.approx(0.25)  # one batch: 600 of 800
    assert padding([3] * 40, 8, 0, False) == 0
    # One of each length per pair would waste a quarter; alike in length, hardly any pair differs.
    assert padding([2, 40] * 50, 2, 0, True) < 0.05 < padding([2, 40] * 50, 2, 0, False)


def spans(folder: Path, train: list, validation: list) -> list[str]:
    for name, rows in zip(SPLITS, (train, validation), strict=True):
        keys = ("question", "context", "answers")
        write(folder / f"{name}.jsonl", [dict(zip(keys, row, strict=True)) for row in rows])
    return ["task=span", f"task.path={folder}", "task.max_length=16", "task.stride=4"]


def test_answers_and_questions_of_spans(bert, tmp_path):
    """What a run would reject, found; and answers of which one is enough."""
    text = " ".join(WORDS)
    rows = [
        ("what", text, ["music"]),
        ("why", text, ["camera"]),  # not there
        (text, "the plot was good", ["plot"]),  # 12 + 3 of 16: no more room than the stride
        ("it", text, ["good", "plot"]),
        (" it", text, ["plot"]),
        ("he", text, ["film"]),
        ("he ", text, ["plot"]),
    ]
    found = diagnosed(bert, *spans(tmp_path / "rows", rows, [("is it", text, ["bad"])]))
    counts = {name: one["rows"] for name, one in found["findings"].items()}
    assert counts == {
        ("answer_not_in_context", "train"): ["1"],
        ("long_question", "train"): ["2"],
        ("duplicates", "train"): ["4", "6"],
        ("contradictory_labels", "train"): ["5", "6"],
    }
    tokens = found["splits"]["train"]["tokens"]
    # A question of one word: 3 + 1 + 12 tokens fit; two words do not, and make two windows.
    assert (tokens["longest"], tokens["windows"], tokens["cut"]) == (16, 6, 0)
    scored = found["splits"]["validation"]["tokens"]
    assert (scored["longest"], scored["windows"]) == (17, 2)
    assert found["baselines"][0]["name"] == "first sentence" and len(found["baselines"]) == 1


def test_rows_keep_their_numbers_next_to_those_without_room(bert, tmp_path):
    crowded, far = (" ".join(WORDS), "a film", ["film"]), ("it", " ".join(WORDS * 12), ["good"])
    rows = [crowded, *[("it", "a film", ["film"])] * 25, far]
    found = diagnosed(bert, *spans(tmp_path / "rows", rows, rows[1:2]))
    assert found["findings"]["long_question", "train"]["rows"] == ["0"]
    assert found["findings"]["outlier_length", "train"]["rows"] == ["26"]


def test_texts_to_write(checkpoints, tmp_path):
    rows = [{"text": f"{text} it is", "more": "", "target": "good"} for text in [*GOOD, *BAD]]
    long = {"text": "what a film", "more": "", "target": " ".join(WORDS)}
    empty = {"text": " ", "more": "", "target": "bad"}
    for name, table in (("train", [*rows[:8], long, long, empty]), ("validation", rows[9:])):
        write(tmp_path / "rows" / f"{name}.jsonl", table)
    source = 'task.source="sum: {text} {more}"'
    words = ["task=seq2seq", f"task.path={tmp_path / 'rows'}", source, "task.max_target_length=8"]
    found = diagnosed(checkpoints["t5"], *words)
    targets = found["splits"]["train"]["targets"]
    assert (targets["limit"], targets["cut"], targets["cut_share"]) == (8, 2, 2 / 11)
    assert targets["longest"] - 8 == targets["lost_tokens"] / 2 > 3  # twelve words and an end
    findings = found["findings"]
    assert findings["truncated_targets", "train"]["rows"] == ["8", "9"]
    assert findings["empty_text", "train"]["rows"] == ["10"]  # a template may have empty columns
    assert findings["duplicates", "train"]["rows"] == ["9"]
    assert found["baselines"][0]["name"] == "lead-1"
    again = diagnosed(checkpoints["gpt2"], *words)["splits"]["train"]
    # A decoder reads source and target after each other; they are measured apart.
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    sources = [len(tokenizer(f"sum: {row['text']} ").input_ids) for row in [*rows[:8], long]]
    assert again["tokens"]["longest"] == max(sources)
    assert again["targets"]["longest"] == len(tokenizer(f" {long['target']}").input_ids) + 1


def test_references_of_one_item_are_no_contradiction(checkpoints, tmp_path):
    rows = [{"text": "a film", "target": t} for t in ("good", "fine", "Good")]
    for name in SPLITS:
        write(tmp_path / "rows" / f"{name}.jsonl", rows)
    words = ["task=seq2seq", f"task.path={tmp_path / 'rows'}", "task.source=text"]
    grouped = diagnosed(checkpoints["t5"], *words, "task.grouped=true")["splits"]["train"]
    assert (grouped["repeats"], grouped["contradictions"]) == (1, 0)
    alone = diagnosed(checkpoints["t5"], *words)["splits"]["train"]
    assert (alone["repeats"], alone["contradictions"]) == (2, 3)


def test_tags_and_the_commonest_of_each_word(bert, tmp_path):
    train = [(["the", "plot"], ["D", "N"]), (["The", "film"], ["D", "N"]), (["plot"], ["V"]),
             (["plot", "plot"], ["N", "N"])]  # fmt: skip
    scored = [(["the", "plot", "was"], ["D", "V", "N"])]  # D, N, and N as the commonest of all
    for name, rows in zip(SPLITS, (train, scored), strict=True):
        write(tmp_path / "rows" / f"{name}.jsonl", [{"tokens": w, "tags": t} for w, t in rows])
    found = diagnosed(bert, "task=tag", f"task.path={tmp_path / 'rows'}")
    assert [one["name"] for one in found["baselines"]] == ["majority tag", "word's commonest tag"]
    assert [one["score"] for one in found["baselines"]] == pytest.approx([1 / 3, 2 / 3])
    counts = {name: one["count"] for name, one in found["splits"]["train"]["classes"].items()}
    assert counts == {"D": 2, "N": 4, "V": 1}


def test_choices_by_their_own_words_and_a_rejected_split(bert, tmp_path):
    rows = [
        {"premise": f"the {word}", "a": x, "b": y, "label": i % 2}
        for i, word in enumerate("film plot music cast".split() * 6)
        for x, y in [("so it was good", "not it") if i % 2 == 0 else ("not it", "so it was good")]
    ]
    long = [{**rows[0], "a": " ".join(WORDS * 2)}]
    for name, table in (("train", rows), ("validation", rows[:12]), ("long", long)):
        write(tmp_path / "rows" / f"{name}.jsonl", table)
    words = ["task=choice", f"task.path={tmp_path / 'rows'}", "task.text=premise",
             "task.choices=[a,b]", "task.max_length=16"]  # fmt: skip
    found = diagnosed(bert, *words, "+task.also.long=long")
    assert [one["score"] for one in found["baselines"]] == [0.5, 1.0]
    assert found["splits"]["validation (long)"]["tokens"] is None
    text = found["findings"]["rejected", "validation (long)"]["text"]
    assert "a choice has 24 tokens, and 16 leave room for 12" in text


def test_numbers(bert, tmp_path):
    table = [{"sentence": text, "label": 4.0 if label else 1.0} for text, label in clean()]
    for name in SPLITS:
        write(tmp_path / "rows" / f"{name}.jsonl", table)
    words = ["task=regress", f"task.path={tmp_path / 'rows'}", "task.text=sentence"]
    found = diagnosed(bert, *words)
    assert found["splits"]["train"]["numbers"] == {"least": 1.0, "mean": 2.5, "largest": 4.0}
    mean, bag = found["baselines"]
    assert (mean["name"], mean["score"]) == ("mean", None) and bag["score"] > 0.95


def test_a_template_with_a_column_of_numbers(bert, tmp_path):
    """The number alone tells the class, to the linear model as well."""
    rows = [{"age": 20 + i % 2, "review": "a film", "label": i % 2} for i in range(20)]
    for split in SPLITS:
        write(tmp_path / "rows" / f"{split}.jsonl", rows)
    found = diagnosed(bert, "task=classify", f"task.path={tmp_path / 'rows'}",
                      'task.text="{age}: {review}"')  # fmt: skip
    assert found["baselines"][1]["score"] == 1.0


@pytest.mark.parametrize("form", ["text", "cloze"])
def test_the_answer_is_no_part_of_a_causal_row(form, checkpoints, tmp_path):
    """Whether it is written behind the row or read off the next token, the row is as long."""
    folder = sentences(tmp_path / "rows", clean(), shifted(clean()))
    words = [
        "task=sst2",
        f"task.path={folder}",
        f"task.form={form}",
        "task.template={first} so {label}",
        "task.words={negative: bad, positive: good}",
    ]
    tokens = diagnosed(checkpoints["gpt2"], *words)["splits"]["train"]["tokens"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    sizes = [len(tokenizer(f"{text} so")["input_ids"]) for text, _ in clean()]
    assert tokens["longest"] == max(sizes) and tokens["median"] == sorted(sizes)[len(sizes) // 2]


def test_data_without_training_rows(bert, tmp_path):
    """None there: a note. There, but not to be read: a finding with the run's own message."""
    rows = [{"sentence": text, "label": label} for text, label in clean()]
    write(tmp_path / "rows" / "validation.jsonl", rows)
    words = ["task=sst2", f"task.path={tmp_path / 'rows'}"]
    found = diagnosed(bert, *words)
    assert found["notes"][-1] == "there are no training rows" and found["findings"] == {}
    assert found["padding"] is None and [*found["splits"]] == ["validation"]
    assert found["baselines"][0]["name"] == "majority class of these rows"
    write(tmp_path / "rows" / "train.jsonl", [{**rows[0], "label": 7}])
    text = diagnosed(bert, *words)["findings"]["no_training_rows", "train"]["text"]
    assert "split train" in text and "7" in text
    write(tmp_path / "rows" / "validation.jsonl", [{**rows[0], "label": 7}])
    answer = call("data", *tiny(bert), *words)
    assert answer.status == 2 and "validation" in answer.err


def test_the_page(bert, tmp_path):
    """Names are data: they are text on the page. Pictures are XML, and red where hardly any is."""
    table = [{"sentence": t, "label": "<b>good" if n else "bad"} for t, n in clean()[:19]]
    for name in SPLITS:
        write(tmp_path / "rows" / f"{name}.jsonl", table)
    file = tmp_path / "page.html"
    words = ["task=classify", f"task.path={tmp_path / 'rows'}", "task.text=sentence"]
    assert call("data", *tiny(bert), *words, "--html", file).status == 0
    text = file.read_text(encoding="utf-8")
    assert "&lt;b&gt;good" in text and "<b>" not in text
    assert not re.search(r"https?://|src=|<script", text)
    drawn = [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text)]
    assert len(drawn) == 4  # classes and lengths of two splits
    red = [one.get("class") for one in drawn[0].iter("rect")]
    assert red == [None, "few"]  # ten good, nine bad
    for place, why in (("page.pdf", "must end in .html"), ("none/page.html", "no folder")):
        answer = call("data", *words, "--html", tmp_path / place)
        assert answer.status == 2 and why in answer.err


def test_pictures_show_what_is_counted():
    drawn = ElementTree.fromstring(re.search("<svg.*", histogram([1] * 30 + [10], 10, "x"))[0][:-9])
    heights = [float(rect.get("height")) for rect in drawn.iter("rect")]
    assert sorted(heights)[-2:] == [6.0, 180.0] and sum(heights) == 186  # 30 to 1
    line = next(drawn.iter("line"))
    assert float(line.get("x1")) == pytest.approx(640 / 1.05, abs=0.1)
    drawn = ElementTree.fromstring(re.search("<svg.*", bars({"a": 30, "b": 10}, []))[0][:-9])
    widths = [float(rect.get("width")) for rect in drawn.iter("rect")]
    assert widths == [390.0, 130.0]


@pytest.mark.parametrize("task", [t for t in options("task") if t in bundled.sampled_tasks()])
def test_every_sample(task):
    answer = call("data", f"task={task}", "data.source=sample", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert "uses the bundled SAMPLE" in answer.err and found["source"]["kind"] == "sample"
    assert all(split["tokens"]["longest"] > 3 for split in found["splits"].values())
    assert not {"overlap", "rejected", "duplicates"} & {one["name"] for one in found["findings"]}


def test_label_words_that_split() -> None:
    words = ["task.form=cloze", "task.pieces=parallel",
             "task.words={negative: awfulness, positive: good}"]  # fmt: skip
    answer = call("data", "task=sst2", "data.source=sample", "model=mini-bert", *words, "--json")
    found = [f for f in json.loads(answer.out)["findings"] if f["name"] == "label_word_splits"]
    assert len(found) == 1 and found[0]["count"] == 1
    assert "'awfulness' (awful ##ness)" in found[0]["text"] and "good" not in found[0]["text"]
    plain = call("data", "task=sst2", "data.source=sample", "model=mini-bert", "--json")
    assert not [f for f in json.loads(plain.out)["findings"] if f["name"] == "label_word_splits"]


@pytest.mark.parametrize(("words", "why"), [
    (["task=sst2", "task.path=TYPO"], "data set TYPO (sst2): there is no such file or folder"),
    (["task=sst2", "task.path=owner/other"], "owner/other (sst2): there is no such file or folder"),
    (["task=sst2", "task.path=owner/other", "data.source=hub"], "owner/other (sst2): the hub"),
    (["task=sst2", "task.subset=mrpc"], "data set nyu-mll/glue (mrpc)"),
    (["task=sst2", "task.subset=null"], "data set nyu-mll/glue: there is no such file"),
    (["task=sst2", "task.revision=abc"], "data set nyu-mll/glue (sst2)"),
    (["task=ud_ewt", "task.subset=en_gum"], "(en_gum)"),
    (["task=ud_ewt_heads", "task.subset=en_gum"], "(en_gum)"),
    (["task=sst2", "task.path=TYPO", "data.source=sample"], "is not read with data.source=sample"),
    (["task=sst2", "task.subset=cola", "data.source=sample"], "task.subset='cola'"),
    (["task=sst2", "task.path=TYPO", "data.source=local"], "TYPO: is not on this machine"),
    (["task=sst2", "task.subset=x", "data.source=local"], "task.subset=x: is not on this machine"),
    (["task=sst2", "task.path=a/b", "data.root={root}"], "task.path=a/b names another data set"),
    (["task=sst2", "task.subset=b", "data.root={root}"], "task.subset=b names another data set"),
])  # fmt: skip
@pytest.mark.parametrize("default", [False, True], ids=["no folder", "a folder by default"])
def test_other_rows_than_those_asked_for_are_never_read(words, why, default, tmp_path, monkeypatch):
    """Neither the sample nor the usual folder stands in for a path or subset that was typed."""
    sentences(tmp_path / "sst2", clean(), shifted(clean()))
    (tmp_path / "elsewhere" / "sst2").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if default:
        monkeypatch.setenv("ADAPTKIT_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
    place = tmp_path / "elsewhere" if default else tmp_path
    answer = call("data", *(word.format(root=place) for word in words), "model=mini-bert")
    assert answer.status == 2 and why in answer.err and not answer.out


@pytest.mark.sampled
@pytest.mark.parametrize("task", options("task"))
def test_what_is_published_is_what_the_task_reads(task):
    if "${" in load_raw(CONF / "task" / f"{task}.yaml")["name"]:  # for rows of one's own
        assert bundled.published(task) == {}
    else:
        plain = compose([f"task={task}"])["task"]
        assert bundled.of_another_set(plain["name"], plain) == {}
        assert bool(bundled.published(task)) == bool(plain["path"])
        other = bundled.of_another_set(task, plain | {"subset": "another"})
        assert other == ({"task.subset": "another"} if plain["path"] else {})


@pytest.mark.parametrize(("lines", "path", "subset", "other"), [
    ("path: a/b\nsubset: 2020", "a/b", 2020, False),
    ("path: a/b\nsubset: 2020", "a/b", "2021", True),
    ("path: '${oc.env:X,a/b}'", "a/b", None, False),
    ("path: '${oc.env:X,a/b}'", "c/d", None, False),  # not known
    ("path: null", "a/b", None, False),
    ("path: a/b", None, "x", False),  # no hub: it is in data.root
])  # fmt: skip
def test_yaml_of_ones_own(lines, path, subset, other, tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(f"name: mine\n{lines}\n")
    monkeypatch.setattr(bundled, "CONF", tmp_path)
    bundled.published.cache_clear()
    place = {"path": path, "subset": subset, "revision": None}
    assert bool(bundled.of_another_set("mine", place)) == other
    assert bundled.of_another_set("../task/mine", place) == {}
    bundled.published.cache_clear()


def test_a_run_is_scored_wherever_the_environment_leads(bert, tmp_path, monkeypatch):
    """Its rows are those it names; data.root=DIR says that they are in DIR/NAME by now."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ADAPTKIT_DATA", str(tmp_path / "usual"))
    sentences(tmp_path / "usual" / "sst2", clean(), shifted(clean()))
    own = sentences(tmp_path / "own", clean(), shifted(clean())[:8])
    run = tmp_path / "run"
    done = call("train", *tiny(bert), "task=sst2", f"task.path={own}", "trainer.max_steps=1",
                f"output_dir={run}")  # fmt: skip
    assert done.status == 0, done.err
    for root in (None, str(tmp_path / "usual"), str(tmp_path)):
        if root:
            monkeypatch.setenv("ADAPTKIT_DATA", root)
        else:
            monkeypatch.delenv("ADAPTKIT_DATA")
        assert "8 rows" in call("eval", run).out
    own.rename(tmp_path / "elsewhere")
    gone = call("eval", run)
    assert gone.status == 2 and "no such file or folder" in gone.err
    assert "20 rows" in call("eval", run, f"data.root={tmp_path / 'usual'}").out
    assert "8 rows" in call("eval", run, f"task.path={tmp_path / 'elsewhere'}").out


def test_a_cache_that_cannot_be_read_holds_nothing(tmp_path, monkeypatch):
    from huggingface_hub import constants

    def refuse(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    assert not hub.may_have_cached("Owner/name") and hub.may_have_cached("name")
    (tmp_path / "hub" / "datasets--owner--other").mkdir(parents=True)
    assert hub.may_have_cached("Owner/name") and not hub.may_have_cached("own/name")
    (tmp_path / "datasets" / "own___name").mkdir(parents=True)
    assert hub.may_have_cached("own/name")
    monkeypatch.setattr(hub.os, "listdir", refuse)
    assert not hub.may_have_cached("own/name")
