"""A run directory belongs to one run: what names it, and what must be the same to use it again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from commandline import call, data_root, tiny, write
from families import rows
from safetensors.torch import load_file, save_file

from adaptkit.config.names import model_name, variant
from adaptkit.runs.directory import FILES, clear, identity
from adaptkit.runs.identity import FILE, model_digest
from adaptkit.runs.record import RunResult
from adaptkit.storage.files import digest, write_text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
    return here


# ---- names ----

SAME = [
    ["method.roles=query", "method.roles=[query]", "method.roles='query'", "+method.roles=query"],
    ["optimizer.lr=1e-3", "optimizer.lr=0.001", "optimizer.lr=0.0010"],
    ["optimizer.lr=1", "optimizer.lr=1.0"],
    ["task.text=[a,b]", "task.text=[ a, b ]"],
    ["trainer.keep=last", "trainer.keep='last'"],
]


@pytest.mark.parametrize("spellings", SAME, ids=str)
def test_one_setting_has_one_name(spellings):
    assert len({variant([one]) for one in spellings}) == 1


def test_other_settings_have_other_names():
    words = [group[0] for group in SAME]
    words += ["method.roles=[query,value]", "method.roles=[value,query]", "optimizer.lr=2"]
    words += ["a=null", "a=''", "a=true", "~a", "regularizer=[l2_sp]"]
    assert len({variant([word]) for word in words}) == len(words)


def test_the_last_of_two_values_names_the_run():
    assert variant(["optimizer.lr=1", "optimizer.lr=2"]) == variant(["optimizer.lr=2"])


def test_the_data_folder_is_part_of_the_name(place):
    names = [variant([], None), variant([], "data"), variant(["data.root=other"], "other")]
    assert len(set(names)) == 3
    assert variant([], "data") == variant([], str(place / "data"))


def test_models_in_folders_of_one_name(place):
    for name in ("a/model", "b/model"):
        (place / name).mkdir(parents=True)
    assert [model_name("a/model"), model_name("b/model")] == ["a-model", "b-model"]
    assert model_name("Qwen/Qwen2.5-0.5B") == "Qwen-Qwen2.5-0.5B"
    os.chdir("a/model")
    assert model_name(".") == "a-model"


# ---- sample and real data ----


def done(*words: str) -> Path:
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    return Path(answer.out.strip().splitlines()[-1].strip())


def test_real_data_after_the_sample(place, checkpoints, monkeypatch):
    run = [*tiny(checkpoints["bert"]), "data.train_rows=8", "data.eval_rows=8"]
    folders = [done(*run)]
    folders.append(done(*run, f"data.root={data_root(place / 'one')}"))
    monkeypatch.setenv("ADAPTKIT_DATA", str(data_root(place / "two")))
    folders.append(done(*run))
    assert len(set(folders)) == 3
    sources = [json.loads((f / "result.json").read_text())["data"]["source"] for f in folders]
    assert sources == ["sample", "local", "local"]


@pytest.mark.slow
def test_a_sweep_over_data_folders(place, checkpoints):
    for name in ("one", "two"):
        data_root(place / name)
    answer = call("train", "-m", *tiny(checkpoints["bert"]), "data.root=one,two")
    assert answer.status == 0, answer.err
    assert len(list((place / "outputs").rglob("result.json"))) == 2


def test_a_run_on_the_sample_gives_way_to_real_data(place, checkpoints, monkeypatch):
    """In one folder, as where the hub was out of reach the first time."""
    run = [*tiny(checkpoints["bert"]), "data.train_rows=8", "data.eval_rows=8", "output_dir=run"]
    done(*run)
    record = place / "run" / "result.json"
    assert json.loads(record.read_text())["data"]["source"] == "sample"
    done(*run, f"data.root={data_root(place / 'data')}")
    assert json.loads(record.read_text())["data"]["source"] == "local"
    monkeypatch.setenv("ADAPTKIT_DATA", "")
    answer = call("train", *run)  # not the other way round
    assert answer.status == 2 and "data.root" in answer.err


@pytest.mark.parametrize("root", ["''", "'  '"])
def test_an_empty_data_folder_is_a_mistake(place, checkpoints, root):
    answer = call("train", *tiny(checkpoints["bert"]), f"data.root={root}")
    assert answer.status == 2
    assert "data.root=" in answer.err and "shell variable" in answer.err
    assert not (place / "outputs").exists()


def test_a_typed_data_folder_without_the_task_is_a_mistake(place, checkpoints):
    root = data_root(place / "data")
    answer = call("train", *tiny(checkpoints["bert"]), f"data.root={root}", "task=rte")
    assert answer.status == 2
    assert "'rte'" in answer.err and str(root / "rte") in answer.err


def test_data_folder_and_file_at_once(place, checkpoints):
    file = write(place / "rows.csv", rows(20, seed=1))
    answer = call("train", *tiny(checkpoints["bert"]), f"data.root={data_root(place / 'data')}",
                  "task=classify", f"task.path={file}", "task.text=sentence")  # fmt: skip
    assert answer.status == 2 and "task.path" in answer.err and "data.root" in answer.err


# ---- a finished run ----


@pytest.fixture
def run(place, checkpoints) -> list[str]:
    """The words of a finished run in `run`, on data in `data` and a body in `body`."""
    shutil.copytree(checkpoints["bert"], place / "body")
    data_root(place / "data")
    words = [*tiny(Path("body")), "data.root=data", "output_dir=run"]
    done(*words)
    return words


def change_data(place: Path) -> None:
    file = place / "data" / "sst2" / "validation.jsonl"
    file.write_text(file.read_text().replace("sentence", "sentence", 1).replace(" ", "  ", 1))


def change_body(place: Path) -> None:
    file = place / "body" / "model.safetensors"
    save_file({n: t * 1.05 if t.is_floating_point() else t for n, t in load_file(file).items()},
              file, metadata={"format": "pt"})  # fmt: skip


CHANGES = {"the data files": change_data, "the model's files": change_body}


def test_an_unchanged_finished_run_is_done(run, place):
    before = {p: p.stat().st_mtime_ns for p in (place / "run").iterdir()}
    answer = call("train", *run)
    assert answer.status == 0 and "done before" in answer.err
    assert {p: p.stat().st_mtime_ns for p in (place / "run").iterdir()} == before


def test_a_run_from_before_an_option_is_done(run, place):
    """optimizer.bias_correction came later, and is true if it is left out."""
    config = place / "run" / "config.yaml"
    older = config.read_text().replace("  bias_correction: true\n", "")
    assert older != config.read_text()
    config.write_text(older)
    answer = call("train", *run)
    assert answer.status == 0 and "done before" in answer.err
    other = call("train", *run, "optimizer.bias_correction=false")
    assert other.status == 2 and "other settings (optimizer.bias_correction)" in other.err
    now = {"optimizer": {"lr": 1.0, "bias_correction": True}}
    before, off = {"optimizer": {"lr": 1.0}}, {"optimizer": {"lr": 1.0, "bias_correction": False}}
    assert identity(now, "rows", "body") == identity(before, "rows", "body")
    assert identity(now, "rows", "body") != identity(off, "rows", "body")


@pytest.mark.parametrize("what", CHANGES)
def test_a_finished_run_of_something_else_is_not_done(run, place, what):
    kept = (place / "run" / "result.json").read_bytes()
    CHANGES[what](place)
    answer = call("train", *run)
    assert answer.status == 2, answer.err
    assert what in answer.err and "trainer.resume=never" in answer.err
    assert (place / "run" / "result.json").read_bytes() == kept
    done(*run, "trainer.resume=never")
    assert (place / "run" / "result.json").read_bytes() != kept


# ---- an interrupted run ----


def test_the_version_is_that_of_the_code_not_of_an_older_installation(run, place):
    record = json.loads((place / "run" / "result.json").read_text())
    assert record["made_of"]["versions"]["adaptkit"] == record["versions"]["adaptkit"]


@pytest.mark.parametrize("what", [*CHANGES, "processes", "torch"])
def test_an_interrupted_run_does_not_go_on_with_something_else(run, place, what):
    directory = place / "run"
    made_of = json.loads((directory / "result.json").read_text())["made_of"]
    (directory / "result.json").unlink()
    (directory / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    write_text(directory / "checkpoints" / FILE, json.dumps(made_of))
    if what in CHANGES:
        CHANGES[what](place)
    else:
        other = made_of | ({"processes": 2} if what == "processes" else
                           {"versions": made_of["versions"] | {"torch": "1.0"}})  # fmt: skip
        write_text(directory / "checkpoints" / FILE, json.dumps(other))
    answer = call("train", *run)
    assert answer.status == 2, answer.err
    assert what in answer.err and "trainer.resume=never" in answer.err
    assert (directory / "checkpoints" / "checkpoint-2").is_dir()


def test_digest_sees_names_sizes_and_content(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(b"x" * 100)
    seen = {digest(files), digest(files[:1])}
    files[1].write_bytes(b"x" * 99 + b"y")
    seen.add(digest(files))
    files[1].write_bytes(b"x" * 101)
    seen.add(digest(files))
    assert len(seen) == 4
    assert digest(files) == digest(reversed(files))


def test_digest_of_a_part_sees_scaled_weights_and_both_ends(tmp_path):
    file, size = tmp_path / "model.safetensors", 70 << 20
    content = bytearray(size)
    seen = set()
    for change in (None, 0, size - 1, slice(0, size)):
        made = bytearray(content)
        if isinstance(change, slice):
            made[:] = b"\x01" * size
        elif change is not None:
            made[change] = 1
        file.write_bytes(made)
        seen.add(model_digest(str(tmp_path), None))
    assert len(seen) == 4


def test_saved_files_are_readable_as_other_files_are(run, place):
    plain = place / "plain"
    plain.write_text("")
    modes = {p.name: p.stat().st_mode for p in (place / "run").iterdir() if p.is_file()}
    assert set(modes.values()) == {plain.stat().st_mode}, modes


# ---- the folder ----


@pytest.mark.parametrize("name", ["../../up", "/tmp/up", "..", "''", "a/b", "' a'"])
@pytest.mark.parametrize("option", ["task.name", "model.name"])
def test_names_stay_in_their_folder(place, checkpoints, option, name):
    answer = call("train", *tiny(checkpoints["bert"]), f"{option}={name}")
    assert answer.status == 2, answer.err
    assert option in answer.err and "folder" in answer.err
    assert not any(place.iterdir())


def test_a_folder_with_other_files_is_left_alone(place, checkpoints):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("mine")
    data_root(place / "data")
    words = [*tiny(checkpoints["bert"]), "data.root=data", "output_dir=mine"]
    answer = call("train", *words)
    assert answer.status == 2 and "thesis.tex" in answer.err and "output_dir" in answer.err
    assert [p.name for p in (place / "mine").iterdir()] == ["thesis.tex"]


def test_nothing_is_written_into_a_finished_run(run, place):
    directory = place / "run"
    before = {p: p.stat().st_mtime_ns for p in (directory, *directory.iterdir())}
    assert call("train", *run).status == 0
    assert call("verify", directory).status == 0
    assert call("export", directory, "--format", "merged", "--out", "plain").status == 0
    assert {p: p.stat().st_mtime_ns for p in (directory, *directory.iterdir())} == before


def test_what_a_kill_behind_the_record_left_goes(run, place):
    (place / "run" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    assert call("train", *run).status == 0
    assert not (place / "run" / "checkpoints").exists()


def test_all_runs_are_verified(run, place):
    shutil.copytree("run", "damaged")
    delta = bytearray((place / "damaged" / "delta.safetensors").read_bytes())
    delta[-1] ^= 1
    (place / "damaged" / "delta.safetensors").write_bytes(delta)
    answer = call("verify", "damaged", "run", "nowhere")
    assert answer.status == 2
    assert "run: the same predictions and scores" in answer.out
    assert "damaged" in answer.err and "nowhere" in answer.err


def test_an_evaluation_replaces_no_other(run, place):
    rows = (place / "data" / "sst2" / "validation.jsonl").read_text()
    for name in ("one", "two"):
        (place / f"{name}.jsonl").write_text(rows)
    words = [[], ["task.path=one.jsonl"], ["task.path=two.jsonl"], ["data.eval_rows=4"]]
    for more in words:
        assert call("eval", "run", *more).status == 0
    assert len(list((place / "run" / "eval").glob("*/result.json"))) == len(words)


def test_the_log_tells_the_story(run, place):
    log = (place / "run" / "train.log").read_text()
    for word in ("adaptkit", "torch", "cpu", "training rows", "parameters", "done: accuracy"):
        assert word in log, word


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_run_is_not_replaced_by_halves(run, place, monkeypatch, kept):
    """A kill while the old run is removed leaves none that looks done."""
    removed, unlink = [], Path.unlink

    def killed(path, *args, **options):
        if path.parent == place / "run" and path.name in FILES:
            if len(removed) == kept:
                raise KeyboardInterrupt
            removed.append(path.name)
        return unlink(path, *args, **options)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        clear(place / "run")
    assert RunResult.read(place / "run") is None


def test_verify_names_a_row_that_was_not_scored(place, checkpoints):
    """As many rows as before, but other ones: a file lost its first rows."""
    table = [
        {"sentence": row["sentence"], "label": ("no", "yes")[row["label"]]} for row in rows(60)
    ]
    write(place / "rows.csv", table)
    done(*tiny(checkpoints["bert"]), "task=classify", "task.path=rows.csv", "task.text=sentence",
         "output_dir=run")  # fmt: skip
    write(place / "rows.csv", table[2:])
    answer = call("verify", "run")
    assert answer.status == 1
    assert "was not scored: the data files changed" in answer.out
