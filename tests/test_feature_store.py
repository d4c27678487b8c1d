"""Features on disk: exact but for bf16, computed in one pass, apart if they may differ."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, tiny
from runs import carry_out, configure, sentiment
from test_processes import SCRIPT
from test_processes import carry_out as in_processes

from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, ConfigError, MachineError
from adaptkit.layers.probing import Probing
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.runs.verify import verify
from adaptkit.training import feature_store
from adaptkit.training.feature_store import INDEX, stored

TAGS = ["VERB", "DET", "NOUN", "ADJ"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentiment(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of different numbers, tagged by their lengths."""
    folder = tmp_path_factory.mktemp("tagged")
    words = ["the", "film", "is", "good", "bad"]
    for split, count in (("train", 12), ("validation", 6)):
        lines = []
        for number in range(count):
            some = [words[(number * k) % 5] for k in range(1, 2 + number % 4)]
            tags = [TAGS[len(word) - 2] for word in some]
            lines.append({"idx": f"{split}{number}", "tokens": some, "upos": tags})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each pass through a base model read, outside plans and proofs."""
    seen, states = [], Probing.states

    def counted(self: Any, inputs: Any, layers: Any) -> list[torch.Tensor]:
        if type(inputs["input_ids"]) is torch.Tensor:
            seen.append(len(inputs["input_ids"]))
        return states(self, inputs, layers)

    monkeypatch.setattr(Probing, "states", counted)
    monkeypatch.setattr("adaptkit.runs.run.verify_saved", lambda *_: None)
    monkeypatch.setattr("adaptkit.training.scorer.Scorer.proof", lambda *_: {})
    return seen


def folders(store: Path) -> list[Path]:
    return sorted(file.parent for file in store.glob(f"*/{INDEX}"))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("kind", ["pooled", "tokens"])
def test_what_is_read_is_what_is_computed_in_bf16(
    family, kind, checkpoints, rows, tagged, tmp_path
):
    task = ("task=sst2", rows) if kind == "pooled" else ("task=ud_ewt", tagged)
    for options in ({"method.layer": 0}, {"method.layer": -1}, {"method.mix": True}):
        made = configure(tmp_path / "run", checkpoints[family], task[1], task[0], "method=probe",
                         **options)  # fmt: skip
        splits = made.task.load(made.data, 0)
        made = made.bind(splits.task)
        prepared = prepare(made, 1, "train", splits.train)
        scorer = scorer_of(made, prepared)
        feed = feed_of(made, prepared, splits.train)
        computed = scorer.cached(feed).features
        found, new = stored(scorer, feed, tmp_path / "store", lambda done, total: None)
        assert new == (options == {"method.layer": 0})
        for one, other in zip(computed, found.features, strict=True):
            assert torch.equal(one.bfloat16().float(), other)
    assert len(folders(tmp_path / "store")) == 1


def test_one_pass_serves_every_layer_and_control_task(checkpoints, tagged, tmp_path, passes):
    store = {"trainer.features": str(tmp_path / "store")}
    every = (
        {"method.layer": 0},
        {"method.layer": 2},
        {"method.mix": True},
        {"method.layer": 1, "task.control": 3},
    )
    for number, options in enumerate(every):
        record, said = carry_out(
            configure(tmp_path / str(number), checkpoints["bert"], tagged, "task=ud_ewt",
                      "method=probe", **store, **options)
        )  # fmt: skip
        assert record["updates"] == 6
        assert sum(passes) == 12 + 6
        assert sum("kept in" in line for line in said) == (0 if number else 2)
        assert sum("read from" in line for line in said) == (2 if number else 0)


def test_other_tasks_read_the_same_texts(checkpoints, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    line = {"idx": "a", "tokens": ["the", "film"], "upos": ["DET", "NOUN"], "head": [2, 0]}
    for split in ("train", "validation"):
        lines = [{**line, "tokens": [split, "film"]}] * 2
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for task in ("ud_ewt", "ud_ewt_heads"):
        made = configure(tmp_path / task, checkpoints["bert"], data, f"task={task}", "method=probe",
                         **{"trainer.features": str(tmp_path / "store"), "task.id": None,
                            "trainer.max_steps": 1})  # fmt: skip
        carry_out(made)
        assert len(folders(tmp_path / "store")) == 2


@pytest.mark.slow
def test_what_the_states_follow_from_has_its_own_place(checkpoints, rows, tmp_path):
    def count(*words: str, model: str = "bert", **changes: Any) -> int:
        number = len(list(tmp_path.glob("run*")))
        made = configure(tmp_path / f"run{number}", checkpoints[model], rows, "task=sst2",
                         "method=probe", *words, **{"trainer.features": str(tmp_path / "store"),
                         "trainer.max_steps": 1, **changes})  # fmt: skip
        carry_out(made)
        return len(folders(tmp_path / "store"))

    assert count() == 2  # training and validation
    assert count(seed=1, **{"optimizer.lr": 0.1, "method.hidden": 3}) == 2
    assert count(**{"method.pooling": "max"}) == 4
    assert count(**{"trainer.precision": "bf16"}) == 6
    assert count(**{"task.max_length": 4}) == 8  # other texts
    assert count(**{"data.train_rows": 20}) == 9
    assert count(**{"model.random_weights": True}) == 11
    assert count(**{"model.random_weights": True, "seed": 1}) == 13
    assert count(model="gpt2") == 15
    with pytest.raises(AdaptError, match="a probe leaves the base model as it was"):
        count(**{"model.from_run": str(tmp_path / "run0")})
    tuned = configure(tmp_path / "run_tuned", checkpoints["bert"], rows, "task=sst2", "method=full",
                      **{"trainer.max_steps": 2})  # fmt: skip
    carry_out(tuned)
    assert count(**{"model.from_run": str(tmp_path / "run_tuned")}) == 17


def test_the_head_can_be_solved_for_from_the_store(checkpoints, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    lines = [{"sentence1": "a", "sentence2": "good " * n, "label": n / 2} for n in range(1, 9)]
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scores = []
    for changes in ({}, {"trainer.features": str(tmp_path / "store")}):
        record, said = carry_out(
            configure(tmp_path / f"run{len(scores)}", checkpoints["bert"], data, "task=stsb",
                      "method=probe", **changes)
        )  # fmt: skip
        assert any("solved by ridge regression" in line for line in said)
        scores.append(record["score"])
        assert verify(tmp_path / f"run{len(scores) - 1}") == ""  # a rebuilt run rounds as well
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_damage_and_kills(checkpoints, rows, tmp_path, monkeypatch):
    store = tmp_path / "store"

    def run(name: str) -> list[str]:
        made = configure(tmp_path / name, checkpoints["bert"], rows, "task=sst2", "method=probe",
                         **{"trainer.features": str(store), "trainer.max_steps": 1})  # fmt: skip
        return carry_out(made)[1]

    with monkeypatch.context() as patch:
        # The third file has the name of its folder, which cannot be opened.
        patch.setattr(feature_store, "name_of", lambda layer: f"{layer}.bin" if layer < 2 else "")
        with pytest.raises(MachineError, match="cannot be written"):
            run("full")
    assert folders(store) == []
    assert [path.name for path in store.iterdir()] == [".lock"]
    left, other = store / f".{'0a' * 16}.7.tmp", store / ".model.7.tmp"
    left.mkdir()  # of a process that was killed
    other.mkdir()  # of a process that does something else
    run("first")
    assert len(folders(store)) == 2
    assert not left.exists() and other.exists()
    file = folders(store)[0] / "layer-03.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(AdaptError, match=r"is damaged\. Remove its folder"):
        run("second")
    for text in ("", '{"lines": [', "{}", "[]"):
        (file.parent / INDEX).write_text(text)
        with pytest.raises(AdaptError, match=r"index\.json: is damaged\. Remove its folder"):
            run("second")
    shutil.rmtree(file.parent)
    assert sum("kept in" in line for line in run("third")) == 1


def test_places_that_are_not_folders(checkpoints, rows, tmp_path, monkeypatch):
    def configured(place: str) -> Settings:
        return configure(tmp_path / "run", checkpoints["bert"], rows, "task=sst2", "method=probe",
                         **{"trainer.features": place, "trainer.max_steps": 1})  # fmt: skip

    for place, why in (("", "names nothing"), ("x" * 300, "too long"), ("a\0b", "zero byte")):
        with pytest.raises(ConfigError, match=rf"trainer\.features=.*{why}"):
            configured(place)
    (tmp_path / "file").touch()
    with pytest.raises(AdaptError, match=r"trainer\.features=.*is a file\. Name a folder"):
        carry_out(configured(str(tmp_path / "file")))
    monkeypatch.setenv("HOME", str(tmp_path))
    carry_out(configured("~/store"))
    assert len(folders(tmp_path / "store")) == 2


def test_what_is_there_is_read_without_a_lock_and_its_place_does_not_matter(
    checkpoints, rows, tmp_path, monkeypatch
):
    def run(name: str, store: str) -> list[str]:
        place = {"trainer.features": str(tmp_path / store), "trainer.max_steps": 1}
        made = configure(
            tmp_path / name, checkpoints["bert"], rows, "task=sst2", "method=probe", **place
        )
        return carry_out(made)[1]

    run("first", "store")
    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "held", None)  # a folder that cannot be written has no lock
        assert sum("read from" in line for line in run("second", "store")) == 2
    shutil.copytree(tmp_path / "store", tmp_path / "moved")
    assert any("done before" in line for line in run("first", "moved"))
    made = configure(tmp_path / "first", checkpoints["bert"], rows, "task=sst2", "method=probe",
                     **{"trainer.max_steps": 1})  # fmt: skip
    with pytest.raises(AdaptError, match=r"other settings.*trainer\.features"):
        carry_out(made)  # in memory it does not round


def test_too_little_room_is_found_before_writing(checkpoints, rows, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda _: usage(1, 1, 1 << 20))
    made = configure(tmp_path / "run", checkpoints["bert"], rows, "task=sst2", "method=probe",
                     **{"trainer.features": str(tmp_path / "store")})  # fmt: skip
    with pytest.raises(MachineError, match=r"features take 0\.0 GB, and the disk has"):
        carry_out(made)
    assert folders(tmp_path / "store") == []


def test_where_nothing_is_frozen(checkpoints, rows, tmp_path):
    store = {"trainer.features": str(tmp_path / "store")}
    with pytest.raises(ConfigError, match="frozen base model, and method=lora is not a probe"):
        configure(tmp_path / "run", checkpoints["bert"], rows, "task=sst2", "method=lora", **store)
    answer = call("train", *tiny(checkpoints["bert"]), "task=copa", "data.source=sample",
                  "method=probe", f"trainer.features={tmp_path}/store",
                  f"output_dir={tmp_path}/c")  # fmt: skip
    assert answer.status == 2
    assert "this task puts several per row to it. Leave it out" in answer.err
    with pytest.raises(ConfigError, match=r"keeps what trainer\.cache_frozen=never"):
        configure(tmp_path / "run", checkpoints["bert"], rows, "task=sst2", "method=probe",
                  **store, **{"trainer.cache_frozen": "never"})  # fmt: skip
    assert not (tmp_path / "store").exists()


@pytest.mark.reliability
def test_two_processes_fill_the_store_of_one(checkpoints, tagged, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for processes in (1, 2):
        words = [
            "task=ud_ewt", f"task.path={tagged}", "method=probe", "model=auto", "trainer.epochs=2",
            f"model.path={checkpoints['bert']}", f"trainer.batch_size={8 // processes}",
            "trainer.device=cpu", "trainer.precision=fp32", "trainer.eval_batch_size=2",
            f"trainer.features={tmp_path}/store{processes}", f"output_dir={tmp_path}/{processes}",
        ]  # fmt: skip
        in_processes(processes, script, words, LATE="0")  # the other one must wait
    one, two = (folders(tmp_path / f"store{processes}") for processes in (1, 2))
    assert [folder.name for folder in one] == [folder.name for folder in two]
    assert len(one) == 2
    for first, second in zip(one, two, strict=True):
        for file in first.glob("*.bin"):
            size = file.stat().st_size // 2
            left, right = (torch.from_file(str(f), size=size, dtype=torch.bfloat16).float()
                           for f in (file, second / file.name))  # fmt: skip
            torch.testing.assert_close(left, right, rtol=0.01, atol=1e-6)
