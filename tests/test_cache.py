"""What is kept in the cache folder is what would be computed; what may differ has another key."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from runs import bits, carry_out, configure, outcome, sentiment
from test_forms import KINDS, LACKING, configured

from adaptkit.models.loading import load_config, load_tokenizer
from adaptkit.runs import plan
from adaptkit.runs.prepare import reader_of
from adaptkit.storage import cache
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.task import Reader
from adaptkit.training import encoding

FAMILIES = {"mlm": "bert", "classify": "bert", "cloze": "roberta"}  # else a T5 or a GPT-2


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "SMALLEST", 0)
    return tmp_path / "cache" / "adaptkit"


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the head form tokenised, call by call."""
    seen, encode = [], HeadForm.encode

    def counted(self: HeadForm, rows: Dataset, reader: Reader) -> Dataset:
        seen.append(len(rows))
        return encode(self, rows, reader)

    monkeypatch.setattr(HeadForm, "encode", counted)
    return seen


def reader_for(kind: str, checkpoints: Any) -> Reader:
    known = [f for f in (FAMILIES.get(kind, "t5"), "gpt2") if (kind, f) not in LACKING]
    made = configured(kind, checkpoints[known[0]])
    config = load_config(made.model, made.head, made.task.posed.outputs)
    return reader_of(config, load_tokenizer(made.model, config), 0)


# ---- entries ----


def test_an_entry_is_read_as_it_was_written(folder: Path) -> None:
    assert cache.read("a") is None
    for content in (b"", b"x" * 100_000, memoryview(b"other")):
        cache.write("a", content)
        assert bytes(cache.read("a") or b"") == bytes(content)
    assert [file.name for file in folder.iterdir()] == ["a"]
    assert folder.stat().st_mode & 0o077 == 0  # nobody else's


def damage(file: Path, content: bytes) -> None:
    file.unlink()  # another file: the first may be mapped
    file.write_bytes(content)


@pytest.mark.parametrize(
    "broken",
    [
        lambda whole: b"",
        lambda whole: whole[:40],
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: bytes([whole[0] ^ 1]) + whole[1:],
    ],
)
def test_a_damaged_entry_is_none(folder: Path, broken: Callable[[bytes], bytes]) -> None:
    cache.write("a", b"some content")
    damage(folder / "a", broken((folder / "a").read_bytes()))
    assert cache.read("a") is None
    cache.write("a", b"some content")
    assert bytes(cache.read("a") or b"") == b"some content"


def test_what_cannot_be_kept_is_not(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    cache.write("a", b"content")
    assert cache.read("a") is None


def test_entries_that_were_not_read_for_longest_go_first(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cache, "LARGEST", 3 * (cache.CHECKSUM + 10))
    for age, name in enumerate(("c", "b", "a")):
        cache.write(name, bytes(10))
        os.utime(folder / name, (1000 + age, 1000 + age))
    assert cache.read("c") is not None  # the oldest, until now
    cache.write("d", bytes(10))
    assert sorted(file.name for file in folder.iterdir()) == ["a", "c", "d"]


# ---- keys ----


@dataclass(frozen=True)
class Foreign:
    """A class that is none of ours: what it does is not in our source."""

    number: int = 1


def test_a_key_says_all_or_nothing() -> None:
    form = KINDS["classify"].task.posed
    keys = [cache.key_of(one) for one in (
        1, 1.0, True, "1", None, [1], {"1": 1}, form, replace(form, max_length=5),
        KINDS["regress"].task.posed,
    )]  # fmt: skip
    assert len(set(keys)) == len(keys) and None not in keys
    assert cache.key_of(replace(form)) == cache.key_of(form)
    for unknown in (Foreign(), object(), print, [Foreign()], replace(form, text=(Foreign(),))):
        assert cache.key_of(unknown) is None


def test_other_code_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.key_of(1)
    monkeypatch.setattr(cache, "code", lambda: "another version")
    assert cache.key_of(1) != before


# ---- examples ----


@pytest.mark.parametrize("kind", KINDS)
def test_kept_examples_are_those_of_the_form(kind: str, checkpoints: Any, folder: Path) -> None:
    form, rows, reader = KINDS[kind].task.posed, KINDS[kind].rows, reader_for(kind, checkpoints)
    plain = form.encode(rows, reader)
    for _ in range(2):  # computed, then read
        found = encoding.encoded(form, rows, reader)
        assert len(list(folder.iterdir())) == 1
        assert found.features == plain.features
        assert found.to_list() == plain.to_list()
        ours, theirs = (form.collate(all_of(one), reader) for one in (found, plain))
        assert bits(ours.inputs) == bits(theirs.inputs)
        assert bits(ours.targets) == bits(theirs.targets)
        assert ours[2:] == theirs[2:]


def all_of(examples: Dataset) -> list[dict[str, Any]]:
    return examples.__getitems__(list(range(len(examples))))


def test_tokens_are_kept_for_the_same_rows_form_and_model_alone(
    checkpoints: Any, encodings: list[int]
) -> None:
    form, rows = KINDS["classify"].task.posed, KINDS["classify"].rows
    reader = reader_for("classify", checkpoints)
    other = Dataset.from_dict({**rows[:], "label": [*rows["label"][1:], "bad"]})
    longer = Dataset.from_dict({**rows[:], "text": [*rows["text"][1:], "x"]})
    tokenizer = reader_for("cloze", checkpoints).tokenizer
    changed = [
        (form, rows, reader), (form, other, reader), (form, longer, reader),
        (form, rows.select([1, 0, 2]), reader), (form, rows.remove_columns("label"), reader),
        (replace(form, max_length=7), rows, reader),
        (replace(form, classes=("good", "bad")), rows, reader),
        (form, rows, replace(reader, limit=7)), (form, rows, replace(reader, tokenizer=tokenizer)),
    ]  # fmt: skip
    for _ in range(2):
        for one in changed:
            made = encoding.encoded(*one)
            assert made.to_list() == one[0].encode(*one[1:]).to_list()
        encodings.append(0)
    first = encodings.index(0)
    assert first == 2 * len(changed)  # each computed, and once more to compare
    assert len(encodings) - first - 2 == len(changed)


def test_a_tokenizer_that_was_changed_is_another(checkpoints: Any) -> None:
    reader = reader_for("classify", checkpoints)
    before = cache.key_of(encoding.described(reader.tokenizer))
    reader.tokenizer(["some text"], truncation=True, max_length=3, padding=True)
    assert cache.key_of(encoding.described(reader.tokenizer)) == before  # of one call alone
    reader.tokenizer.add_tokens(["film"])
    assert cache.key_of(encoding.described(reader.tokenizer)) != before
    slow = namedtuple("Slow", "name")("a tokenizer in pure Python")
    assert cache.key_of(encoding.described(slow)) is None


def test_rows_of_a_selection_are_their_own(checkpoints: Any, encodings: list[int]) -> None:
    """The same rows in another file: how a table is cut into pieces does not matter."""
    form, rows = KINDS["classify"].task.posed, KINDS["classify"].rows
    reader = reader_for("classify", checkpoints)
    one = encoding.encoded(form, rows.select([2, 3, 4]), reader)
    same = encoding.encoded(form, Dataset.from_list(rows.to_list()[2:5]), reader)
    assert one.to_list() == same.to_list()
    assert encodings == [3]


def test_few_rows_are_not_kept(checkpoints: Any, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(encoding, "SMALLEST", 1 << 18)
    encoding.encoded(
        KINDS["classify"].task.posed, KINDS["classify"].rows, reader_for("classify", checkpoints)
    )
    assert not folder.exists()


# ---- runs ----


def test_a_run_from_the_cache_is_the_same_to_the_bit(
    checkpoints: Any, tmp_path: Path, folder: Path, encodings: list[int], monkeypatch: Any
) -> None:
    data, short = sentiment(tmp_path / "data"), {"trainer.max_steps": 3}
    carry_out(configure(tmp_path / "first", checkpoints["bert"], data, **short))
    kept, count = sorted(folder.iterdir()), len(encodings)
    carry_out(configure(tmp_path / "again", checkpoints["bert"], data, **short))
    assert kept == sorted(folder.iterdir())
    assert encodings[count:] == [1]  # of one row: can it be put to the model?
    monkeypatch.setattr(cache, "key_of", lambda *_: None)
    carry_out(configure(tmp_path / "plain", checkpoints["bert"], data, **short))
    expected = outcome(tmp_path / "plain")
    assert outcome(tmp_path / "first") == outcome(tmp_path / "again") == expected


def test_an_estimate_of_memory_is_made_once(
    checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(**changes: Any) -> Any:
        settings = configure(tmp_path, checkpoints["bert"], tmp_path, "method=lora", **changes)
        settings = settings.bind(settings.task.with_classes(("negative", "positive")))
        return plan.plan(settings, "fp32").memory

    steps, step = [], plan.step
    monkeypatch.setattr(plan, "step", lambda *a, **k: steps.append(1) or step(*a, **k))
    first = made()
    assert made(seed=3) == first and len(steps) == 2
    other = made(**{"trainer.batch_size": 16})
    assert other != first and len(steps) == 4
