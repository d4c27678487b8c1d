"""Files of rows: every format gives the same rows, and a broken file is one clear sentence."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from adaptkit.config.compose import compose
from adaptkit.errors import AdaptError
from adaptkit.storage import hub
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.data import Data
from adaptkit.tasks.reading.files import EXTENSIONS, read_file
from adaptkit.tasks.reading.ids import row_name

TEXTS = ["a, b", 'say "no"', " blanks ", "l1\nl2", "tab\there", "naïve – 日本 🙂", "", "null", "NA"]
ROWS = [{"text": text, "label": f"c{i % 2}"} for i, text in enumerate(TEXTS)]
GOOD = '{"text": "a", "label": "x"}\n'


def encoded(rows: list[dict], kind: str) -> bytes:
    if kind == "parquet":
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
        return out.getvalue()
    name = kind.removesuffix(".gz")
    if name == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif name == "json":
        text = json.dumps(rows, indent=1)
    else:
        lines = io.StringIO()
        delimiter = {"csv": ",", "tsv": "\t"}[name]
        writer = csv.DictWriter(lines, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        text = lines.getvalue()
    return gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode()


def put(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("where", ["folder", "root", "file"])
def test_every_format_gives_the_same_rows(kind, where, tmp_path):
    for split in ("train", "validation"):
        put(tmp_path / "mine" / f"{split}.{kind}", encoded(ROWS, kind))
    path = {"folder": "mine", "file": f"mine/train.{kind}"}.get(where)
    task = Classify("mine", path=path and str(tmp_path / path), text=("text",))
    splits = task.load(Data(root=str(tmp_path) if where == "root" else None), 0)
    rows = list(splits.train) + (list(splits.validation[""]) if where == "file" else [])
    rows.sort(key=lambda row: int(row["id"]))
    assert [{"text": row["text"], "label": row["label"]} for row in rows] == ROWS


def test_byte_order_marks_and_line_ends(tmp_path):
    plain = encoded(ROWS[:3], "csv").replace(b"\r\n", b"\n")
    for number, content in enumerate((plain, plain.replace(b"\n", b"\r\n"))):
        for mark in (b"", b"\xef\xbb\xbf"):
            rows, _ = read_file(put(tmp_path / f"{number}.csv", mark + content))
            assert rows.to_list() == ROWS[:3]
    lines = encoded(ROWS, "jsonl").replace(b"\n", b"\r\n")
    assert read_file(put(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + lines)).rows.to_list() == ROWS


BROKEN = {
    "empty": ("a.csv", "", "has no rows"),
    "empty array": ("a.json", "[]", "has no rows"),
    "cp1252": ("a.csv", b"text,label\na,x\ncaf\xe9,y\n", r"line 3 .*0xe9.*iconv -f cp1252"),
    "UTF-16": ("a.csv", "text,label\na,x\n".encode("utf-16"), "line 1 is not UTF-8.*utf-16"),
    "NUL bytes": ("a.csv", b"text,label\na,x\nb\0,y\n", "line 3 is not UTF-8 text .byte 0x00"),
    "ragged": ("a.tsv", "text\tlabel\na\tx\nb\n", "row 2 has another number of cells"),
    "a column twice": ("a.csv", "text,text,label\na,b,x\n", "2 columns named 'text'"),
    "a key twice": ("a.jsonl", GOOD + '{"text": "a", "text": "b"}', "row 2 has 2 columns named"),
    "nested deeply": ("a.jsonl", GOOD + "[" * 100_000, "row 2 is nested too deeply"),
    "array of texts": ("a.json", '["a", "b"]', "row 1 is not an object with columns: 'a'"),
    "one object": ("a.json", '{"data": 1', "row 1 is not JSON"),
    "not gzip": ("a.csv.gz", "text,label\n", "is not a readable gzip file"),
    "cut gzip": ("a.csv.gz", gzip.compress(b"text,label\n" * 99)[:-9], "not a readable gzip file"),
    "semicolons": ("a.csv", "text;label\na;x\n", r"header 'text;label' is cut at ';'"),
    "tabs in CSV": ("a.csv", "text\tlabel\na\tx\n", r"is cut at '\\t'.*at tabs in \.tsv"),
    "digits": ("a.json", f'[{{"text": "a", "label": {"9" * 5000}}}]', "row 1 is not JSON.*digits"),
    "quotes over lines": ("a.tsv", 'text\tlabel\n"a\tx\nb"\ty\n', "has 2 rows if quotes are let"),
    "another format": ("a.txt", "a\n", r"must end in .parquet, .*, .tsv or .conll"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_sentence(name, content, message, tmp_path):
    with pytest.raises(AdaptError, match=message) as caught:
        read_file(put(tmp_path / name, content), ("text", "label"))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_other_columns_do_not_matter(tmp_path):
    """A map in Parquet, values of two types and holes in JSON: no task reads those columns."""
    strange = pyarrow.array(
        [[("a", 1)], [("b", 2)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())
    )
    table = pyarrow.table({"text": ["a", "b"], "label": ["x", "y"], "strange": strange})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    lines = [
        '{"text": "a", "label": "x", "m": 1}',
        '{"text": "b", "label": "y", "m": "no", "n": 2}',
    ]
    put(tmp_path / "validation.jsonl", "\n".join([*lines, '{"text": "c", "label": "y"}']))
    splits = Classify("mine", path=str(tmp_path), text=("text",)).load(Data(), 0)
    assert splits.train["text"][:] == ["a", "b"]
    assert splits.validation[""]["text"][:] == ["a", "b", "c"]


def test_broken_metadata_of_parquet(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "label": ["x", "y"]})
    for number, broken in enumerate((b"{", b'{"info": {"features": {"text": {"_type": "No"}}}}')):
        file = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": broken}), file)
        with pytest.raises(AdaptError, match="types of its columns cannot be read") as caught:
            read_file(file)
        assert "\n" not in str(caught.value)


def test_metadata_of_other_columns_of_parquet(tmp_path):
    """Types that this version of `datasets` does not know, or that are out of date."""
    table = pyarrow.table({"text": ["a"], "label": [1]})
    names = '{"names": ["x", "y"], "_type": "ClassLabel"}'
    for number, types in enumerate((
        f'"label": {names}, "odd": {{"_type": "OfTomorrow"}}', f'"label": {names}, "text": {names}'
    )):  # fmt: skip
        file = tmp_path / f"{number}.parquet"
        stored = f'{{"info": {{"features": {{{types}}}}}}}'.encode()
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": stored}), file)
        rows = read_file(file, ("text", "label")).rows
        assert rows.features["label"].names == ["x", "y"] and rows["text"][:] == ["a"]


TSV = ['"The shop closed', 'he said "no" twice', '"a" or "b"', '"', "plain", 'end"']


def test_quotes_in_tsv_may_be_letters(tmp_path):
    """As in the files of GLUE: a row is a line, and texts begin with quotes that never end."""
    lines = [f"{text}\tc{i % 2}" for i, text in enumerate(TSV)]
    for end in ("\n", "\r\n"):
        content = end.join(["text\tlabel", *lines]) + end
        assert read_file(put(tmp_path / "a.tsv", content)).rows["text"][:] == TSV
    rows = [{"text": 'say "no"', "label": "x"}, {"text": '"whole"', "label": "y"}]
    assert read_file(put(tmp_path / "b.tsv", encoded(rows, "tsv"))).rows.to_list() == rows


def test_a_label_of_many_digits_is_a_name(tmp_path):
    long = "9" * 5000
    for split in ("train", "validation"):
        put(tmp_path / f"{split}.csv", f"text,label\na,{long}\nb,1\n")
    assert Classify("mine", path=str(tmp_path), text=("text",)).load(Data(), 0).task.classes == (
        "1", long,
    )  # fmt: skip


def test_a_row_without_its_id(tmp_path):
    for split in ("train", "validation"):
        rows = [{"text": "a", "label": i, "key": [7, None][i]} for i in range(2)]
        put(tmp_path / f"{split}.jsonl", encoded(rows, "jsonl"))
    with pytest.raises(AdaptError, match=r"row 2: key \(task\.id\) is empty"):
        Classify("mine", path=str(tmp_path), text=("text",), id="key").load(Data(), 0)


def mine(folder: Path | str, **options: str) -> Classify:
    return Classify("mine", path=str(folder), text=("text",), validation="train", **options)


def test_an_empty_id_names_no_row(tmp_path):
    put(tmp_path / "train.csv", encoded([{"text": "a", "label": "x", "key": ""}], "csv"))
    with pytest.raises(AdaptError, match=r"row 1: key \(task.id\) is empty"):
        mine(tmp_path, id="key").load(Data(), 0)


def test_a_split_in_two_files(tmp_path):
    for kind in ("csv", "jsonl"):
        put(tmp_path / f"train.{kind}", encoded([{"text": "a", "label": "x"}] * 2, kind))
    with pytest.raises(AdaptError, match=r"train is in several files \(train.jsonl, train.csv\)"):
        mine(tmp_path).load(Data(), 0)


def test_a_file_that_is_not_there_is_not_asked_of_the_hub():
    with pytest.raises(AdaptError, match=r"task.path=mine.txt: no such file or folder"):
        mine("mine.txt").load(Data(), 0)


def test_a_hub_id_may_end_like_a_file(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda: True)
    for path, kind in (("owner/reviewscsv", "hub"), ("owner/reviews.csv.gz", None)):
        task = Classify("mine", path=path, text=("text",))
        if kind:
            assert task.origin(Data()).kind == kind
            continue
        with pytest.raises(AdaptError, match="no such file"):
            task.origin(Data())


def test_categories_of_pandas_are_texts(tmp_path):
    frame = pandas.DataFrame(ROWS).astype({"label": "category"})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", ("text", "label")).rows.to_list() == ROWS


def test_a_column_of_ids_that_is_not_there(tmp_path):
    """A name that is nearly there is a mistake; otherwise it is said that rows are numbered."""
    for split in ("train", "validation"):
        rows = [{**row, "review_id": f"r{i}"} for i, row in enumerate(ROWS)]
        put(tmp_path / f"{split}.csv", encoded(rows, "csv"))
    task = Classify("mine", path=str(tmp_path), text=("text",))
    with pytest.raises(AdaptError, match=r"task\.id=revew_id: .*did you mean review_id\? Set"):
        replace(task, id="revew_id").load(Data(), 0)
    with pytest.raises(AdaptError, match=r"task\.id=id: .*did you mean review_id\? Set"):
        replace(task, id="id").load(Data(), 0)
    empty = "1 of 9 training rows have no text"
    found = replace(task, id="review_id").load(Data(), 0)
    assert found.train["id"][:2] == ["r0", "r1"] and found.notes == (empty,)
    note = "task.id=number: there is no such column, so the ids are numbers from 0"
    assert replace(task, id="number").load(Data(), 0).notes == (note, empty)
    one = replace(task, id="number", path=str(tmp_path / "train.csv")).load(Data(), 0).notes
    assert "one file" in one[0] and one[1:] == (note, empty)


def test_a_message_counts_rows_as_the_file_does(tmp_path):
    """From 1, whichever rows are left; a row with an id of its own is named by that."""
    table = [{"key": f"k{i}", "text": f"t{i}", "label": f"c{i % 2}", "part": i % 3 and "a"}
             for i in range(60)]  # fmt: skip
    place = {f"t{i}": f"row {i + 1}" for i in range(60)}
    put(tmp_path / "a.csv", encoded(table, "csv"))
    for split in ("train", "validation"):
        put(tmp_path / f"{split}.jsonl", encoded(table, "jsonl"))
    one = Classify("mine", path=str(tmp_path / "a.csv"), text=("text",))
    for task in (one, replace(one, path=str(tmp_path)), replace(one, where={"part": "a"})):
        splits = task.load(Data(train_rows=9), 0)
        for rows in (splits.train, splits.validation[""]):
            names = [row_name(rows, i) for i in range(len(rows))]
            assert names == [place[text] for text in rows["text"][:]]
        rows = replace(task, id="key").load(Data(train_rows=9), 0).train
        assert row_name(rows, 4) == f"the row with id 'k{rows['text'][4][1:]}'"


@pytest.mark.parametrize("text", [["a", "b"], {"a": 1}, None, 5, True], ids=str)
def test_what_is_not_a_text(text, tmp_path):
    for split in ("train", "validation"):
        rows = [{"text": text, "label": name} for name in "xy"]
        put(tmp_path / f"{split}.jsonl", encoded(rows, "jsonl"))
    with pytest.raises(AdaptError, match=r"row 1: text is .*, not a text\.") as caught:
        Classify("mine", path=str(tmp_path), text=("text",)).load(Data(), 0)
    assert "\n" not in str(caught.value)


def test_half_a_character_is_named(tmp_path):
    lines = GOOD + json.dumps({"text": "\ud83d", "label": "x"})
    with pytest.raises(AdaptError, match="row 2: text holds half a character"):
        read_file(put(tmp_path / "a.jsonl", lines))


def test_a_task_is_named_after_its_file():
    for path in ("some/mine.csv", "some/mine.csv.gz", "some/mine"):
        plain = compose(["task=classify", f"task.path={path}", "task.text=a"])
        assert plain["task"]["name"] == "mine"


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter NNP B-NP B-PER
"""
CONLLU = """# sent_id = 1
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
2.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_tagged_words(compressed, tmp_path):
    """A line per word, an empty line between sentences; what is no word of the text is left out."""
    for name, content in (("ner.conll", CONLL), ("ud.conllu", CONLLU)):
        data = content.encode()
        put(tmp_path / f"{name}.gz" if compressed else tmp_path / name,
            gzip.compress(data) if compressed else data)  # fmt: skip
    end = ".gz" if compressed else ""
    assert read_file(tmp_path / f"ner.conll{end}").rows.to_list() == [
        {"tokens": ["EU", "rejects"], "column2": ["NNP", "VBZ"], "column3": ["B-NP", "B-VP"],
         "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "column2": ["NNP"], "column3": ["B-NP"], "tags": ["B-PER"]},
    ]  # fmt: skip
    (row,) = read_file(tmp_path / f"ud.conllu{end}", ["tokens", "upos"]).rows.to_list()
    assert row == {"tokens": ["do", "n't", "go"], "upos": ["AUX", "PART", "VERB"]}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("x.conll", "EU B-ORG\nrejects\n", "line 2: number of columns is 1, but must be 2"),
        ("x.conllu", CONLLU.replace("VBP\t_\t3", "VBP\t3"), "line 3: number of columns is 9, but"),
        ("x.conllu", CONLLU + "4 !\n", "line 7: number of columns is 1, but must be 10"),
    ],
)
def test_a_line_of_tagged_words_that_lacks_a_column(name, text, why, tmp_path):
    put(tmp_path / name, text.encode())
    with pytest.raises(AdaptError, match=why):
        read_file(tmp_path / name)


@pytest.mark.parametrize("blank", "\u00a0\u0085\u2028\u2029\x0c\x1c")
@pytest.mark.parametrize("mark", ["\t", " ", "  "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blanks_within_a_tagged_word(blank, mark, end, tmp_path):
    """Only blanks and tabs part columns, and only line feeds part lines."""
    lines = [f"10{blank}000{mark}B-N", f"km{mark}O", "", f"{blank}{mark}O", ""]
    put(tmp_path / "x.conll", end.join(lines).encode())
    assert read_file(tmp_path / "x.conll").rows.to_list() == [
        {"tokens": [f"10{blank}000", "km"], "tags": ["B-N", "O"]},
        {"tokens": [blank], "tags": ["O"]},
    ]  # fmt: skip
