"""Runs of other people: their files are data, and broken ones end in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import call, data_root, tiny
from families import rows
from runs import shallow

import adaptkit
from adaptkit.config.compose import load_plain, to_yaml
from adaptkit.errors import AdaptError

NAMES = ("${oc.env:SECRET}", "${", "???", "no", "1e-3", "é\x1b[31m\x85", "*a", "a: b # c")


@pytest.fixture(scope="module")
def place(checkpoints, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    shallow(checkpoints["bert"], folder / "bert")
    data_root(folder / "data")
    answer = call("train", *words(folder, "method=lora"), f"output_dir={folder / 'run'}")
    assert answer.status == 0, answer.err
    return folder


def words(place: Path, *more: str) -> list[str]:
    return tiny(place / "bert", "task=sst2", f"data.root={place / 'data'}", *more)


@pytest.fixture
def copy(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECRET", "hunter2")
    return shutil.copytree(place / "run", tmp_path / "run")


def uses(place: Path, run: Path) -> list[tuple[str, ...]]:
    """Return every command that reads a run, the quick ones first."""
    again = ("train", *words(place, "method=lora"), f"output_dir={run}")
    child = ("train", *words(place, f"model.from_run={run}"), f"output_dir={run.parent / 'child'}")
    out = f"--out={run.parent / 'out'}"
    return [again, child, ("eval", str(run)), ("verify", str(run)),
            ("export", str(run), "--format", "peft", out)]  # fmt: skip


def refused_by_all(place: Path, run: Path, *but: str) -> str:
    """Check that every command refuses a run in one line; return all that was said."""
    said = ""
    for use in uses(place, run):
        if use[0] in but:
            continue
        answer = call(*use)
        assert answer.status == 2, (use, answer.err)
        message = answer.err[answer.err.index("adaptkit: ") :]
        assert message.count("\n") == 1 and "Traceback" not in answer.err, answer.err
        said += answer.err + answer.out
    with pytest.raises(AdaptError):
        adaptkit.load(run)
    return said


def test_nothing_in_a_configuration_is_resolved(place: Path, copy: Path) -> None:
    file = copy / "config.yaml"
    text = file.read_text()
    for before, after in {
        f"path: {place / 'bert'}": "path: ${oc.env:SECRET}",
        "name: sst2": "name: ${oc.env:SECRET}",
        "device: cpu": "device: ${oc.env:SECRET}",
    }.items():
        assert before in text
        file.write_text(text.replace(before, after))
        said = "".join(a.err + a.out for a in (call(*use) for use in uses(place, copy)))
        assert "hunter2" not in said
        assert "hunter2" not in "".join(p.read_text() for p in copy.rglob("*.json"))


def test_class_names_are_text(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    names, run = ("${oc.env:SECRET}", "\x1b[31m${"), tmp_path / "run"
    table = [{"text": r["sentence"], "label": names[r["label"]]} for r in rows(60, seed=1)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    task = ("task=classify", f"task.path={tmp_path / 'rows.jsonl'}", "task.text=text")
    train = ("train", *tiny(place / "bert"), *task, "method=lora", f"output_dir={run}")
    answers = [call(*train), call(*train), call("eval", run), call("verify", run)]
    assert [answer.status for answer in answers] == [0, 0, 0, 0], answers
    assert "done before" in answers[1].err
    assert sorted(load_plain(run / "config.yaml")["task"]["labels"]) == sorted(names)
    assert set(adaptkit.load(run).predict([{"text": "a film"}])) <= {*names, 0, 1}


def test_text_survives_config_yaml(tmp_path: Path) -> None:
    shared = ["a"]
    plain = {"names": list(NAMES), "map": dict.fromkeys(NAMES, 1), "one": shared, "two": shared,
             "numbers": [1, 1e-4, 1e22, True, None, float("inf")]}  # fmt: skip
    (tmp_path / "config.yaml").write_text(to_yaml(plain), encoding="utf-8")
    assert load_plain(tmp_path / "config.yaml") == plain


BROKEN_YAML: dict[str, bytes] = {
    "list that holds itself": b"model: &a [*a]\n",
    "mapping that holds itself": b"&a model: *a\n",
    "references that multiply": b"a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "deep": b"model: " + b"[" * 5000 + b"]" * 5000,
    "binary": bytes(range(256)),
    "UTF-16": "model: x\n".encode("utf-16"),
    "list": b"- a\n",
    "empty": b"",
    "text": b"abc",
    "set": b"model: !!set {a, b}\n",
    "object": b"model: !!python/object/apply:os.getcwd []\n",
    "date of Python": b"model: !!timestamp 2001-01-01\n",
    "keys": b"model: {[a]: 1}\n",
    "groups of other kinds": b"model: 1\nmethod: [1]\ntask: null\noptimizer: x\ntrainer: 5\n"
                             b"tracker: []\ndata: 1\nseed: {}\noutput_dir: 3\n",
}  # fmt: skip


@pytest.mark.parametrize(
    "content", [pytest.param(one, id=name, marks=[pytest.mark.slow] * (place % 3 > 0))
                for place, (name, one) in enumerate(BROKEN_YAML.items())])  # fmt: skip
def test_broken_configuration(place: Path, copy: Path, content: bytes) -> None:
    (copy / "config.yaml").write_bytes(content)
    assert "config.yaml" in refused_by_all(place, copy) or content.startswith(b"model: 1")


def test_folder_instead_of_a_file(place: Path, copy: Path) -> None:
    (copy / "result.json").unlink()
    (copy / "result.json").mkdir()
    refused_by_all(place, copy)


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda plain: {k: v for k, v in plain.items() if k != key}


def with_(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plain: {**plain, **changes}


BROKEN_RECORD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda plain: {},
    "a list": lambda plain: [plain],
    "text": lambda plain: "done",
    "no task": without("task"),
    "no data": without("data"),
    "no rows": with_(data={"source": "local", "rows": 3}),
    "no parameters": with_(params={"trainable": "many"}),
    "no time": with_(time={}),
    "scores of text": with_(scores={"accuracy": "high"}),
    "score of text": with_(score="high"),
    "a baseline": with_(baseline={"value": [1]}),
    "an interval": with_(score_interval=[1.0]),
    "a precision": with_(precision="fp99"),
    "parents": with_(from_runs=[{"x": 1}]),
    "a digest": with_(delta_sha256=5),
}


@pytest.mark.parametrize(
    "change", [pytest.param(one, id=name, marks=[pytest.mark.slow] * (place % 3 > 0))
               for place, (name, one) in enumerate(BROKEN_RECORD.items())])  # fmt: skip
def test_broken_record(place: Path, copy: Path, change) -> None:
    file = copy / "result.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    assert "result.json is damaged: " in refused_by_all(place, copy)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, bytes(range(256)), "{}".encode("utf-16"), b"", b"9" * 5000]
)
def test_unreadable_record(place: Path, copy: Path, content: bytes) -> None:
    (copy / "result.json").write_bytes(content)
    assert "result.json is damaged: " in refused_by_all(place, copy)


ESCAPES = "\x1b[31mred\x1b[0m\x07\x9b2J\u202e\r"


def test_terminal_sees_no_control_characters(place: Path, copy: Path, tmp_path: Path) -> None:
    """From result.json, config.yaml, names of files and classes, in results, remarks and errors."""
    file = copy / "result.json"
    plain = json.loads(file.read_text())
    plain["baseline"]["name"] = plain["task"] = plain["metric"] = ESCAPES
    plain["scores"][ESCAPES] = 0.5
    file.write_text(json.dumps(plain))
    odd = copy.rename(tmp_path / ESCAPES)
    answers = [call(*use) for use in uses(place, odd)]
    answers += [call("train", f"method={ESCAPES}"), call("eval", odd, f"data.root={ESCAPES}"),
                call("plan", "method=lora", f"task.name={ESCAPES}"), call(ESCAPES)]  # fmt: skip
    for answer in answers:
        assert not set("\x1b\x07\x9b\u202e\r") & set(answer.out + answer.err)
    assert any("\\x1b[31mred" in answer.out for answer in answers)
    assert any("\\x1b[31mred" in answer.err for answer in answers)


def test_table_of_a_sweep_sees_no_control_characters(capsys: pytest.CaptureFixture) -> None:
    from adaptkit.terminal.sweep import table
    from adaptkit.train import Outcome

    table([Outcome(f"a{ESCAPES}[bold]", 1, None, ESCAPES), Outcome("b", 2, None, "c")])
    printed = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e\r") & set(printed) and "[bold]" in printed
