"""The command line as a user types it: help, completion, suggestions, runs and what follows."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml
from commandline import LABELS, call, data_root, read, tiny, write
from families import rows
from safetensors.torch import load_file

from adaptkit import __version__
from adaptkit.cli import completion
from adaptkit.cli.main import COMMANDS, in_order
from adaptkit.config.groups import GROUPS, options
from adaptkit.config.names import variant
from adaptkit.storage import bundled
from adaptkit.train import Sweep

KINDS = ("methods", "models", "tasks", "regularizers", "optimizers", "suites",
         "protocols", "experiments")  # fmt: skip
METHODS = tuple(options("method"))
FILES = {"config.yaml", "delta.safetensors", "result.json", "history.jsonl", "predictions.jsonl",
         "train.log"}  # fmt: skip
KEYS = {  # of result.json
    "task", "task_version", "model", "method", "regularizers", "variant", "seed", "settings",
    "status", "error", "metric", "score", "scores", "baseline", "labels", "split", "data", "params",
    "lengths", "delta_bytes", "delta_sha256", "updates", "best_update", "epochs", "time", "memory",
    "precision", "device", "processes", "versions", "started_at", "finished_at",
}  # fmt: skip
BELOW = {
    "baseline": {"name", "value"},
    "data": {"source", "path", "rows", "fingerprint", "notes"},
    "params": {"total", "trainable", "body_trainable", "head_trainable", "stored",
               "trainable_percent"},
    "time": {"total_seconds", "train_seconds", "eval_seconds", "train_samples_per_second"},
    "memory": {"peak_rss_bytes", "peak_device_bytes", "planned_bytes", "measured_bytes"},
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory beside a folder `data` with the task sst2."""
    data_root(tmp_path / "data")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
    return here


def process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would."""
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


# ---- what needs no libraries ----


def test_help_names_every_command(place: Path) -> None:
    for words in (["--help"], ["-h"], ["help"]):
        answer = call(*words)
        assert answer.status == 0
        assert all(f"  {command} " in answer.out for command in COMMANDS)
    nothing = call()
    assert (nothing.status, nothing.out) == (2, call("--help").out)


def test_version() -> None:
    assert call("--version").out.strip() == __version__


def test_unknown_command() -> None:
    answer = call("trian", "method=lora")
    assert answer.status == 2
    assert "unknown command 'trian'" in answer.err
    assert "did you mean train?" in answer.err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "train"])
def test_help_of_commands(command: str) -> None:
    answer = call(command, "--help")
    assert answer.status == 0
    assert answer.out.startswith(f"usage: adaptkit {command}")


def test_help_of_train(place: Path) -> None:
    answer = call("train", "--help")
    assert answer.status == 0
    for group in GROUPS:
        assert f"{group}: " in answer.out
    for words in (
        *METHODS,
        "trainer.batch_size=32 ",
        "(number, at least 0 and below 1)",
        'eval "$(adaptkit -sc install=bash)"',
    ):
        assert words in answer.out
    assert "method.length=" not in answer.out
    assert "method.length=20 " in call("train", "method=prefix", "-h").out  # of what is chosen
    assert not any(place.iterdir())


def test_composed_configuration(place: Path) -> None:
    answer = call("train", "method=lora", "method.rank=3", "--cfg", "job")
    assert answer.status == 0
    assert "  rank: 3\n" in answer.out
    assert "hydra" not in answer.out.replace("${hydra", "")
    assert not any(place.iterdir())


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("method=lora -m seed=0,1", "-m method=lora seed=0,1"),
        ("-m method=lora seed=0,1", "-m method=lora seed=0,1"),
        ("method=lora seed=0,1 --multirun", "--multirun method=lora seed=0,1"),
        ("method=lora --cfg job", "--cfg job method=lora"),
        ("method=lora --cfg=job", "--cfg=job method=lora"),
        ("a=1 --cfg job --resolve b=2 -p method c=3", "--cfg job --resolve -p method a=1 b=2 c=3"),
        ("a=1 --info plugins", "--info plugins a=1"),
        ("a=1 --info b=2", "--info a=1 b=2"),
        ("+experiment=x a=1", "experiment=x a=1"),
        ("experiment=x a=-1 +b=--c ~d", "experiment=x a=-1 +b=--c ~d"),
    ],
)
def test_flags_may_stand_anywhere(typed: str, ordered: str) -> None:
    assert in_order(typed.split()) == ordered.split()


@pytest.mark.parametrize("plus", ["", "+"])
def test_experiment(place: Path, plus: str) -> None:
    words = [f"{plus}experiment=paper/lora_mrpc", "method.rank=2", "--cfg", "job"]
    out = call("train", *words).out
    assert "epochs: 30" in out
    assert "  rank: 2\n" in out  # what is typed wins
    assert "FacebookAI/roberta-base" in out


@pytest.mark.parametrize("kind", KINDS)
def test_list(kind: str) -> None:
    expected = options(kind.removesuffix("s"))
    found = json.loads(call("list", kind, "--json").out)
    assert list(found) == [kind]
    assert list(found[kind]) == expected
    assert all(found[kind].values()), "an entry says nothing about itself"
    out = call("list", kind).out
    assert all(f"  {name} " in out for name in expected)


def test_list_everything() -> None:
    assert set(json.loads(call("list", "--json").out)) == set(KINDS)


def test_variant_keeps_runs_apart() -> None:
    assert variant(["method=lora", "task=sst2", "seed=3"]) == "default"
    assert variant(["method=lora", "method.rank=4"]) == "method.rank=4"
    assert variant(["b=1", "a=2"]) == variant(["a=2", "b=1"])
    names = [
        ["a=b/c"],
        ["a=b_c"],
        ["a=b c"],
        ["a=" + "x" * 200],
        ["a=" + "x" * 201],
        ["~a"],
        ["a="],
    ]
    found = [variant(words) for words in names]
    assert len(set(found)) == len(found)
    assert all("/" not in name and len(name) < 120 for name in found)


WITHOUT_TORCH = """
import json, sys
from adaptkit.cli.main import main
for words, wanted in json.loads(sys.argv[1]):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code or 0
    heavy = {"torch", "transformers", "datasets", "numpy"} & set(sys.modules)
    assert not heavy and status == wanted, (words, status, heavy)
"""


def test_torch_is_not_imported(place: Path) -> None:
    commands = [
        ("--help", 0),
        ("list", 0),
        ("train --help", 0),
        ("train --cfg job", 0),
        ("train method=lroa", 2),
        ("train method.rnk=3", 2),
        ("train method.rank=0", 2),
        ("train model=auto", 2),
        ("plan method.rank=0", 2),
        ("data --help", 0),
        ("data task=sst3", 2),
        ("data --html=page.pdf", 2),
        ("verify nowhere", 2),
        ("eval nowhere", 2),
    ]
    done = process(
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        json.dumps([(words.split(), status) for words, status in commands]),
    )
    assert done.returncode == 0, done.stderr
    assert not any(place.iterdir())


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train", "tune", "smoke"}))
def test_a_command_alone_says_what_it_needs(command: str, place: Path) -> None:
    answer = call(command)
    assert answer.status == 0 if answer.out else answer.status == 2
    assert "Traceback" not in answer.err


def test_train_alone_is_the_default_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    monkeypatch.setattr(Sweep, "__call__", lambda _, cfg: jobs.append(cfg))
    answer = call("train")
    assert answer.status == 0, answer.err
    assert [(cfg.method.name, cfg.task.name) for cfg in jobs] == [("lora", "sst2")]


# ---- completion ----


def completed(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is offered after `line` has been typed."""
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    answer = call("-sc", "query=bash")
    assert answer.status == 0
    assert answer.err == ""
    return answer.out.split()


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("adaptkit ", ["train", "plan", "eval", "verify", "list"], ["method="]),
        ("adaptkit tr", ["train"], ["list"]),
        ("adaptkit train ", ["method=", "task=", "model="], ["train"]),
        ("adaptkit train meth", ["method=", "method."], ["task="]),
        ("adaptkit train method=", ["method=lora", "method=bitfit"], []),
        ("adaptkit train method=l", ["method=lora"], ["method=bitfit"]),
        (
            "adaptkit train method=lora method.r",
            ["method.rank=", "method.rank_stabilised="],
            ["method.alpha="],
        ),
        ("adaptkit train method=probe method.", ["method.pooling="], ["method.rank="]),
        ("adaptkit train -m task=s", ["task=sst2", "task=stsb"], ["task=mrpc"]),
        ("adaptkit plan model=rob", ["model=roberta-base"], ["model=gpt2"]),
        ("adaptkit train optimizer.warm", ["optimizer.warmup_ratio="], []),
        ("adaptkit train method=lora,bit", ["method=lora,bitfit"], ["method=bitfit"]),
        ("adaptkit train trainer.keep=", ["trainer.keep=best", "trainer.keep=last"], []),
        ("adaptkit train dat", ["data."], ["data="]),
        ("adaptkit train tracker", ["tracker=", "tracker."], ["trainer="]),
        ("adaptkit export run --f", ["--format"], ["method="]),
        ("adaptkit export run --format ", ["peft", "merged"], []),
        ("adaptkit export nowhere m", [], ["method=", "model="]),
        ("adaptkit eval run task=im", ["task=imdb"], []),
        ("adaptkit eval nowhere", [], ["output_dir="]),
        ("adaptkit list me", ["methods"], ["method", "method="]),
        ("adaptkit list methods lo", ["lora"], []),
        ("adaptkit list templates im", ["imdb"], []),
        ("adaptkit train task=sst2 task.template=q", ["task.template=question"], []),
        ("adaptkit smoke lo", ["lora"], []),
        ("adaptkit train --mul", ["--multirun"], []),
        ("adaptkit trian ", [], ["method="]),
    ],
)
def test_completion(
    line: str, some: list[str], none: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = completed(line, monkeypatch)
    assert set(some) <= set(offered)
    assert not set(none) & set(offered)


def test_completion_offers_every_flag() -> None:
    for command, flags in completion.FLAGS.items():
        if command != "train":
            text = call(command, "--help").out
            assert set(re.findall(r"(--[a-z-]+)", text.partition("options:")[2])) >= set(flags)
            assert all(f"{flag}" in flags for flag in re.findall(r"\[(--[a-z-]+)", text))
    assert set(completion.FLAGS) == set(COMMANDS)


@pytest.mark.parametrize(
    ("breaks", "line", "answer"),
    [
        ("=:", "adaptkit train method=lor", "lora "),
        ("", "adaptkit train method=lor", "method=lora "),
        ("=:", "adaptkit eval outputs/a", "outputs/a\\ film/\noutputs/another/\n"),
        ("=:", "adaptkit eval outputs/a\\ f", "outputs/a\\ film/\n"),
        ("=:", "adaptkit train data.root=outputs/a\\ f", "outputs/a\\ film/\n"),
        ("=:", "adaptkit train task.path=o", "outputs/\n"),
        ("=:", "adaptkit train regularizer=[l2", "[l2_sp\n"),
    ],
)
def test_answers_as_bash_reads_them(
    place: Path, breaks: str, line: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "outputs" / "a film").mkdir(parents=True)
    (place / "outputs" / "another").mkdir()
    monkeypatch.setenv("COMP_WORDBREAKS", breaks)
    monkeypatch.setenv("COMP_LINE", line)
    assert call("-sc", "query=bash").out.rstrip("\n") == answer.rstrip("\n")


TYPED = {  # what is typed before and after the tabulator -> what the program then gets
    "adaptkit tr\tmethod=lor\ttask=ss\t": ["train", "method=lora", "task=sst2"],
    "adaptkit eval out\tru\t": ["eval", "outputs/run/"],
    "adaptkit export outputs/run --f\tme\t": ["export", "outputs/run", "--format", "merged"],
    "adaptkit list me\tia\t": ["list", "methods", "ia3"],
    "adaptkit train trainer.prec\tbf\t": ["train", "trainer.precision=bf16"],
    "adaptkit verify no\t": ["verify", "no"],
}


@pytest.mark.skipif(not shutil.which("bash") or os.name != "posix", reason="needs bash")
@pytest.mark.slow
def test_completion_works_in_bash(place: Path) -> None:
    """Type into an interactive bash, and look at what the command was given."""
    import pty

    (place / "outputs" / "run").mkdir(parents=True)
    command = place.parent / "bin" / "adaptkit"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\n[ "$1" = -sc ] && exec "{sys.executable}" -m adaptkit "$@"\n'
        f'printf "%s\\n" "$@" . >> "{place.parent}/given"\n'
    )
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    lines = ['eval "$(adaptkit -sc install=bash)"', *TYPED, "exit"]
    mine, terminal = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "PATH": path, "TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    os.write(mine, ("\n".join(lines) + "\n").encode())
    screen = b""
    with contextlib.suppress(OSError):  # the terminal closes with the shell
        while part := os.read(mine, 4096):
            screen += part
    os.close(mine)
    assert shell.wait(timeout=60) == 0
    given = (place.parent / "given").read_text().split("\n.\n")[:-1]
    assert [words.split("\n") for words in given] == list(TYPED.values()), screen.decode()
    assert b"usage" not in screen and b"adaptkit:" not in screen


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_of_the_shells(shell: str) -> None:
    installed = call("-sc", f"install={shell}")
    assert installed.status == 0
    assert f"-sc query={'fish' if shell == 'fish' else 'bash'}" in installed.out
    assert "adaptkit" in call("-sc", f"uninstall={shell}").out
    if shutil.which(shell):
        assert process(shell, "-n", "-c", installed.out).returncode == 0
    wrong = call("-sc", "install=tcsh")
    assert wrong.status == 2
    assert "bash" in wrong.err


# ---- runs ----


def record(directory: Path) -> dict:
    """Return result.json."""
    return json.loads((directory / "result.json").read_text())


def only_run(place: Path) -> Path:
    """Return the one run directory below `outputs`."""
    found = list(place.glob("outputs/*/*/*/*/seed*"))
    assert len(found) == 1
    return found[0]


def check_record(found: dict) -> None:
    """Check that the record has all its keys, with values that make sense."""
    assert KEYS <= found.keys()
    for key, below in BELOW.items():
        assert found[key].keys() == below
    assert found["data"]["rows"].keys() == {"train", "validation"}
    assert re.fullmatch("[0-9a-f]{64}", found["data"]["fingerprint"])
    assert (found["split"], found["task_version"], found["processes"]) == ("validation", 1, 1)
    assert found["settings"]["trainer.max_steps"] == found["updates"]
    assert not {"output_dir", "tracker.name"} & found["settings"].keys()
    assert not any(isinstance(value, dict) and value for value in found["settings"].values())
    params = found["params"]
    assert params["trainable"] == params["body_trainable"] + params["head_trainable"]
    updates = 0 if found["method"] == "hard_prompt" else 4
    assert min(updates, 1) <= params["trainable"] <= params["total"]
    assert found["score"] == found["scores"][found["metric"]]
    assert min(updates, 1) <= found["best_update"] <= found["updates"] == updates
    assert {"torch", "transformers", "adaptkit"} <= found["versions"].keys()
    assert found["time"]["total_seconds"] >= found["time"]["eval_seconds"]


# One of each kind of delta; the others have them in common.
QUICKLY = ("lora", "adalora", "prefix", "prompt", "diff_pruning", "hard_prompt", "chain")


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] * (m not in QUICKLY)) for m in METHODS],
)
def test_run_from_start_to_verification(place: Path, checkpoints, method: str) -> None:
    words = [f"method={method}", *tiny(checkpoints["bert"]), "data.root=../data"]
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    assert answer.out.startswith(f"sst2/bert/{method} seed 0: accuracy ")
    run = only_run(place)
    assert run.relative_to(place / "outputs").parts[:3] == ("sst2", "bert", method)
    assert {p.name for p in run.iterdir()} == FILES
    found = record(run)
    check_record(found)
    assert (found["status"], found["error"], found["method"]) == ("done", None, method)
    assert found["data"]["source"] == "local"
    assert found["data"]["rows"] == {"train": 32, "validation": 12}
    assert found["delta_bytes"] == (run / "delta.safetensors").stat().st_size
    assert found["labels"] == list(LABELS)
    half = {"name": "majority class", "value": 0.5}  # there are as many of each class
    assert found["baseline"] == half
    predictions = read(run / "predictions.jsonl")
    names = [LABELS[row["label"]] for row in read(place.parent / "data/sst2/validation.jsonl")]
    assert [row["label"] for row in predictions] == names
    assert {row["prediction"] for row in predictions} <= set(LABELS)
    right = sum(row["prediction"] == row["label"] for row in predictions) / len(predictions)
    assert [row["id"] for row in predictions] == [str(i) for i in range(12)]
    assert right == pytest.approx(found["score"])
    planned = json.loads(call("plan", *words, "--json").out)
    assert planned["params"] == found["params"]
    verified = call("verify", run)
    assert (verified.status, verified.err) == (0, "")
    assert "the same predictions" in verified.out


def test_run_of_a_regression(place: Path, checkpoints) -> None:
    scores = [{"sentence1": r["sentence"], "sentence2": "a film", "label": r["label"] * 2.5 + i / 9}
              for i, r in enumerate(rows(12))]  # fmt: skip
    for split in ("train", "validation"):
        write(place / "data" / "stsb" / f"{split}.parquet", scores)
    answer = call("train", "task=stsb", *tiny(checkpoints["bert"]), "data.root=data")
    assert answer.status == 0, answer.err
    found = record(only_run(place))
    check_record(found)
    assert found["metric"] == "pearson"
    assert found["baseline"] == {"name": "mean", "value": None}  # it has no correlation
    assert found["labels"] == []
    assert set(found["scores"]) == {"pearson", "spearmanr", "loss"}
    assert call("verify", only_run(place)).status == 0


def test_file_of_any_format_is_a_data_set(place: Path, checkpoints) -> None:
    """One file is cut into two splits; classes may be words, and numbers in CSV are text."""
    named = [{"text": r["sentence"], "mood": ("bad", "good")[r["label"]]} for r in rows(40)]
    for file in ("films.csv", "films.jsonl", "films.parquet"):
        write(place / file, named)
        task = ["task=classify", f"task.path={file}", "task.text=text", "task.label=mood"]
        answer = call("train", *task, *tiny(checkpoints["bert"]), f"output_dir=of_{file}")
        assert answer.status == 0, answer.err
        assert record(place / f"of_{file}")["task"] == "films"
        assert record(place / f"of_{file}")["data"]["rows"] == {"train": 36, "validation": 4}
        assert record(place / f"of_{file}")["labels"] == ["bad", "good"]
    assert len({record(place / f"of_films.{e}")["score"] for e in ("csv", "jsonl", "parquet")}) == 1


def test_the_three_formats_are_the_same_data(place: Path, checkpoints) -> None:
    found, fingerprints = {}, set()
    for extension in ("jsonl", "csv", "parquet"):
        for split, seed in (("train", 1), ("validation", 2)):
            write(place / extension / "sst2" / f"{split}.{extension}", rows(16, seed=seed))
        answer = call("train", *tiny(checkpoints["bert"]), f"data.root={extension}",
                      f"output_dir=run_{extension}")  # fmt: skip
        assert answer.status == 0, answer.err
        found[extension] = (place / f"run_{extension}" / "predictions.jsonl").read_text()
        fingerprints.add(record(place / f"run_{extension}")["data"]["fingerprint"])
    assert len(set(found.values())) == 1
    assert len(fingerprints) == 1


def test_fingerprint_tells_changed_rows(place: Path, checkpoints) -> None:
    found = {}
    for change in ("none", "text", "label"):
        root = data_root(place / change)
        table = read(root / "sst2" / "train.jsonl")
        if change == "text":
            table[3]["sentence"] += " ."
        if change == "label":
            table[3]["label"] = 1 - table[3]["label"]
        write(root / "sst2" / "train.jsonl", table)
        words = ["trainer.max_steps=0", f"data.root={root}", f"output_dir=run_{change}"]
        answer = call("train", *tiny(checkpoints["bert"]), *words)
        assert answer.status == 0, answer.err
        found[change] = record(place / f"run_{change}")["data"]["fingerprint"]
    assert len(set(found.values())) == 3


def test_rows_keep_their_own_ids(place: Path, checkpoints) -> None:
    for split in ("train", "validation"):
        table = [{**row, "idx": 700 - 3 * i} for i, row in enumerate(rows(8))]
        write(place / "data" / "sst2" / f"{split}.jsonl", table)
    words = ["train", *tiny(checkpoints["bert"]), "data.root=data"]
    assert call(*words, "output_dir=own").status == 0
    own = read(place / "own" / "predictions.jsonl")
    assert [row["id"] for row in own] == [str(700 - 3 * i) for i in range(8)]
    assert call(*words, "task.id=null", "output_dir=numbered").status == 0
    numbered = read(place / "numbered" / "predictions.jsonl")
    assert [row["id"] for row in numbered] == [str(i) for i in range(8)]
    assert call("verify", "own", "numbered").status == 0


@pytest.mark.parametrize("none", ["trainer.max_steps=0", "trainer.epochs=0"])
def test_run_without_updates_is_scored(place: Path, checkpoints, none: str) -> None:
    words = [*tiny(checkpoints["bert"]), "data.root=../data", "output_dir=run", none]
    if "epochs" in none:
        words.append("trainer.max_steps=null")
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    found = record(place / "run")
    assert (found["status"], found["updates"], found["epochs"]) == ("done", 0, 0)
    assert found["best_update"] == 0
    predictions = read(place / "run" / "predictions.jsonl")
    right = sum(row["prediction"] == row["label"] for row in predictions) / 12
    assert found["score"] == pytest.approx(right)
    assert math.isfinite(found["scores"]["loss"])
    assert f"accuracy {right:.4f}" in answer.out
    assert call("verify", "run").status == 0


# ---- tags and choices ----


def sample_run(place: Path, checkpoint: Path, task: str) -> tuple[Path, dict]:
    """Train on a task's bundled sample, check and verify the run; return it and its record."""
    words = [f"task={task}", "data.source=sample", "data.train_rows=32", "data.eval_rows=24"]
    answer = call("train", *tiny(checkpoint), *words, "output_dir=run")
    assert answer.status == 0, answer.err
    run = place / "run"
    found = record(run)
    check_record(found)
    assert (found["status"], found["task"], found["metric"]) == ("done", task, "accuracy")
    assert found["data"]["source"] == "sample"
    assert found["data"]["rows"] == {"train": 32, "validation": 24}
    assert "ON SAMPLE DATA" in answer.out
    verified = call("verify", run)
    assert (verified.status, verified.err) == (0, "")
    return run, found


def sample_rows(task: str, split: str) -> dict[str, dict]:
    """Return the rows of a bundled sample by their ids."""
    return {str(row["idx"]): row for row in read(bundled.SAMPLES / task / f"{split}.jsonl")}


def check_eval(run: Path, found: dict) -> None:
    """Check that `eval` gives the run's own score, and another split its own number of rows."""
    same = evaluated(run)
    assert same["score"] == found["score"]
    assert same["data"]["rows"] == {"train": 0, "validation": 24}
    train = evaluated(run, "task.validation=train")
    assert (train["split"], train["data"]["rows"]["validation"]) == ("train", 24)
    assert 0 <= train["score"] <= 1
    assert record(run) == found


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gpt2", "t5"))]
)
def test_run_of_tags(place: Path, checkpoints, family: str) -> None:
    run, found = sample_run(place, checkpoints[family], "ud_ewt")
    tags, there = found["labels"], sample_rows("ud_ewt", "validation")
    right = total = 0
    for row in read(run / "predictions.jsonl"):
        raw = there[row["id"]]
        assert row["label"] == [tags[number] for number in raw["upos"]]
        assert len(row["prediction"]) == len(raw["tokens"])
        assert set(row["prediction"]) <= {*tags, None}  # none where a word has no token
        right += sum(a == b for a, b in zip(row["prediction"], row["label"], strict=True))
        total += len(row["label"])
    assert found["score"] == pytest.approx(right / total)
    check_eval(run, found)


def test_baseline_of_tags(place: Path, checkpoints) -> None:
    """The commonest tag of all training rows, for every word of all validation rows."""
    words = ["task=ud_ewt", "data.source=sample", "trainer.max_steps=0", "output_dir=run"]
    answer = call("train", *tiny(checkpoints["bert"]), *words)
    assert answer.status == 0, answer.err
    found = record(place / "run")
    seen, asked = (
        [number for row in sample_rows("ud_ewt", split).values() for number in row["upos"]]
        for split in ("train", "validation")
    )
    commonest, _ = Counter(seen).most_common(1)[0]
    assert found["baseline"]["name"] == "majority tag"
    assert found["baseline"]["value"] == pytest.approx(asked.count(commonest) / len(asked))


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gpt2", "t5"))]
)
def test_run_of_choices(place: Path, checkpoints, family: str) -> None:
    run, found = sample_run(place, checkpoints[family], "copa")
    assert found["labels"] == []
    there, right = sample_rows("copa", "validation"), 0
    for row in read(run / "predictions.jsonl"):
        assert row["label"] == there[row["id"]]["label"]
        assert row["prediction"] in (0, 1)
        right += row["prediction"] == row["label"]
    assert found["score"] == pytest.approx(right / 24)
    check_eval(run, found)


def test_choices_in_one_column_of_lists(place: Path, checkpoints) -> None:
    """Rows may have different numbers of choices; equal lists are the same task as columns."""
    for split in ("train", "validation"):
        pairs = [
            {"context": r["sentence"], "a": "a good film", "b": "a bad film", "label": r["label"]}
            for r in rows(12)
        ]
        write(place / "columns" / "films" / f"{split}.jsonl", pairs)
        lists = [{"context": r["context"], "ends": [r["a"], r["b"]], "label": r["label"]}
                 for r in pairs]  # fmt: skip
        write(place / "lists" / "films" / f"{split}.jsonl", lists)
        more = [{**r, "ends": [*r["ends"], *["the plot", "great music"][: i % 3]]}
                for i, r in enumerate(lists)]  # fmt: skip
        more[2]["label"] = 3
        write(place / "more" / "films" / f"{split}.jsonl", more)
    found = {}
    for kind, choices in {"columns": "[a,b]", "lists": "[ends]", "more": "[ends]"}.items():
        task = ["task=choice", f"task.path={kind}/films", "task.text=context",
                f"task.choices={choices}"]  # fmt: skip
        answer = call("train", *task, *tiny(checkpoints["bert"]), f"output_dir=of_{kind}")
        assert answer.status == 0, answer.err
        assert call("verify", f"of_{kind}").status == 0
        found[kind] = read(place / f"of_{kind}" / "predictions.jsonl")
    assert found["columns"] == found["lists"]
    assert found["more"][2]["label"] == 3
    assert all(r["prediction"] < 2 + i % 3 for i, r in enumerate(found["more"]))


@pytest.mark.parametrize(("trained", "other"), [("sst2", "ud_ewt"), ("ud_ewt", "sst2")])
def test_eval_rejects_another_kind_of_answer(
    place: Path, checkpoints, trained: str, other: str
) -> None:
    words = [f"task={trained}", "data.source=sample", "trainer.max_steps=0", "output_dir=run"]
    assert call("train", *tiny(checkpoints["bert"]), *words, "data.eval_rows=8").status == 0
    answer = call("eval", "run", f"task={other}")
    assert answer.status == 2
    for word in (trained, other, "a tag per word", "a class"):
        assert word in answer.err
    assert not (place / "run" / "eval").exists()


def test_checkpoint_with_a_head_for_other_classes(place: Path, checkpoints) -> None:
    """A classifier of three classes serves as the body of a task with two."""
    from transformers import AutoModelForSequenceClassification

    folder = Path(shutil.copytree(checkpoints["bert"], place / "three"))
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).save_pretrained(folder)
    answer = call("train", "method=bitfit", *tiny(folder), "data.root=../data", "output_dir=run")
    assert answer.status == 0, answer.err
    assert record(place / "run")["params"]["head_trainable"] == 32 * 2 + 2
    assert call("verify", "run").status == 0


def test_finished_run_is_not_repeated(place: Path, checkpoints) -> None:
    words = ["train", "method=bitfit", *tiny(checkpoints["bert"]), "data.root=../data"]
    assert call(*words).status == 0
    run = only_run(place)
    first = record(run)
    (run / "mine.txt").write_text("a note")

    again = call(*words)
    assert again.status == 0
    assert "done before" in again.err
    assert "trainer.resume=never" in again.err
    assert again.out.startswith("sst2/bert/bitfit seed 0")
    assert record(run) == first

    never = call(*words, "trainer.resume=never")
    assert never.status == 0
    assert "done before" not in never.err
    assert only_run(place) == run
    repeated = record(run)
    assert repeated["finished_at"] >= first["finished_at"]
    assert repeated["time"] != first["time"]
    assert repeated["scores"] == first["scores"]
    assert (run / "mine.txt").read_text() == "a note"


def test_other_settings_in_the_same_folder_are_refused(place: Path, checkpoints) -> None:
    words = ["train", "method=bitfit", *tiny(checkpoints["bert"]), "data.root=../data"]
    words.append("output_dir=run")
    assert call(*words).status == 0
    first = record(place / "run")
    other = call(*words, "optimizer.lr=0.1", "seed=1")
    assert other.status == 2
    for word in ("run", "optimizer.lr", "seed", "output_dir", "trainer.resume=never"):
        assert word in other.err
    assert record(place / "run") == first
    assert call(*words, "optimizer.lr=0.1", "trainer.resume=never").status == 0


def test_paths_are_kept_whatever_the_working_directory(
    place: Path, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = shutil.copytree(checkpoints["bert"], place / "body")
    words = ["method=bitfit", "trainer=debug", "output_dir=run"]
    relative = call("train", *words, "model=auto", "model.path=./body", "data.root=../data")
    assert relative.status == 0, relative.err
    same = call("train", *words, "model=auto", f"model.path={body}",
                f"data.root={place.parent / 'data'}")  # fmt: skip
    assert "done before" in same.err, same.err

    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert call("verify", "../here/run").status == 0
    moved = shutil.move(place / "run", elsewhere / "moved")
    assert call("verify", moved).status == 0
    assert {p.name for p in elsewhere.iterdir()} == {"moved"}


def test_data_root_from_the_environment(
    place: Path, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTKIT_DATA", str(place.parent / "data"))
    assert call("train", "method=bitfit", *tiny(checkpoints["bert"])).status == 0
    assert record(only_run(place))["data"]["path"] == str(place.parent / "data" / "sst2")
    monkeypatch.delenv("ADAPTKIT_DATA")
    assert call("verify", only_run(place)).status == 0


def test_data_root_of_the_environment_beside_a_path(
    place: Path, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no effect, so that it is not recorded: the run is whole without it."""
    data = place.parent / "data"
    monkeypatch.setenv("ADAPTKIT_DATA", str(data))
    own = ["task=sst2", f"task.path={data / 'sst2'}"]
    assert call("train", "method=bitfit", *own, *tiny(checkpoints["bert"])).status == 0
    run = only_run(place)
    for root in (None, str(data), str(place)):
        monkeypatch.delenv("ADAPTKIT_DATA", raising=False)
        if root:
            monkeypatch.setenv("ADAPTKIT_DATA", root)
        assert call("verify", run).status == 0
        answer = call("eval", run)
        assert answer.status == 0, answer.err
        shutil.rmtree(run / "eval")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["root"] is None


# ---- eval ----


@pytest.fixture(scope="module")
def learnt(checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on sst2 that has learnt something."""
    folder = tmp_path_factory.mktemp("learnt")
    words = ["train", "method=full", *tiny(checkpoints["bert"]), "trainer.batch_size=16",
             "trainer.max_steps=24", "trainer.eval_every=12", "optimizer.lr=3e-3",
             f"data.root={data_root(folder, train=200, validation=40)}"]  # fmt: skip
    answer = call(*words, f"output_dir={folder / 'run'}")
    assert answer.status == 0, answer.err
    return folder / "run"


@pytest.fixture
def finished(place: Path, learnt: Path) -> Path:
    """A copy of that run, in the working directory."""
    return Path(shutil.copytree(learnt, place / "run"))


def evaluated(*words: str | Path) -> dict:
    """Return the record of `adaptkit eval WORDS`."""
    answer = call("eval", *words, "--json")
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def test_eval_on_the_same_and_another_split(finished: Path) -> None:
    own = record(finished)
    same = evaluated(finished)
    assert same["score"] == own["score"]
    assert same["data"]["rows"] == {"train": 0, "validation": 40}  # none was read for training
    assert same["evaluated_run"] == str(finished)
    again = evaluated(finished, "task.validation=train")
    assert (again["split"], again["data"]["rows"]["validation"]) == ("train", 200)
    assert again["data"]["fingerprint"] != same["data"]["fingerprint"]
    assert Path(again["directory"]) == finished / "eval" / "sst2-train"
    assert len((finished / "eval" / "sst2-train" / "predictions.jsonl").open().readlines()) == 200
    assert record(finished) == own
    text = call("eval", finished, "task.validation=train").out
    assert f"accuracy {again['score']:.4f}" in text
    assert "SAMPLE" not in text
    assert "ON SAMPLE DATA" in call("eval", finished, "data.source=sample").out


def test_eval_maps_labels_by_name(finished: Path) -> None:
    """imdb's rows with its classes in another order: the same score as in the run's order."""
    root = finished.parent / "other"
    flipped = [{"text": r["sentence"], "label": 1 - r["label"]} for r in rows(40, seed=2)]
    write(root / "imdb" / "test.jsonl", flipped)
    words = ["task=imdb", "data.root=other", "task.labels=[positive,negative]"]
    found = evaluated(finished, *words, "--output", "out")
    assert found["score"] == evaluated(finished)["score"]
    assert (finished.parent / "out" / "predictions.jsonl").is_file()
    wrong = evaluated(finished, "task=imdb", "data.root=other")
    assert wrong["score"] == pytest.approx(1 - found["score"])


def test_eval_matches_classes_that_a_file_names(finished: Path) -> None:
    """A file's own names count, whatever the order of its numbers."""
    flipped = [{"text": r["sentence"], "label": 1 - r["label"]} for r in rows(40, seed=2)]
    names = {"label": ["positive", "negative"]}
    write(finished.parent / "other" / "imdb" / "test.parquet", flipped, names)
    named = evaluated(finished, "task=imdb", "data.root=other")
    assert named["score"] == evaluated(finished)["score"]
    assert named["labels"] == list(LABELS)


def test_eval_rejects_other_classes(finished: Path) -> None:
    pairs = [{"sentence1": "a", "sentence2": "b", "label": i % 2} for i in range(4)]
    write(finished.parent / "other" / "rte" / "validation.jsonl", pairs)
    answer = call("eval", finished, "task=rte", "data.root=other")
    assert answer.status == 2
    for word in ("rte", "not_entailment", "positive", "task.labels="):
        assert word in answer.err
    assert not (finished / "eval").exists()


# ---- plan and sweeps ----


def test_plan_needs_no_weights_and_no_network(place: Path) -> None:
    words = ["plan", "method=lora", "model=roberta-base", "task=sst2", "trainer.precision=fp32"]
    found = json.loads(call(*words, "--json").out)
    body, head = 4 * 768 * 8 * 12, 768 * 768 + 768 + 768 * 2 + 2
    assert found["params"]["body_trainable"] == body
    assert found["params"]["head_trainable"] == head
    assert found["params"]["total"] == 124_647_170 + body  # published classifier + pairs
    assert found["delta_bytes"] == 4 * (body + head)
    text = call(*words).out
    for word in ("lora on roberta-base for sst2", f"{body:,}", f"{head:,}", "query", "memory"):
        assert word in text
    assert not any(place.iterdir())


def test_sweep_goes_on_after_a_failure(place: Path, checkpoints, capfd) -> None:
    forkserver._forkserver._stop()  # one that an earlier sweep started prints to that one's files
    words = ["method=lora", "method.rank=2,99", "seed=0,1", *tiny(checkpoints["bert"])]
    answer = call("train", *words, "data.root=../data", "-m")
    assert answer.status == 2  # the worst of its jobs
    done = sorted(p.parent for p in place.glob("outputs/**/result.json"))
    states = [record(run)["status"] for run in done]
    assert states.count("done") == 2
    assert {run.name for run in done if record(run)["status"] == "done"} == {"seed0", "seed1"}
    assert "2 of 4 runs done, 2 failed" in answer.out
    cells = "".join(line.split("│")[1].strip() for line in answer.out.splitlines() if "│" in line)
    assert all(f"method.rank={rank}" in cells for rank in (2, 99))  # names are not cut
    assert "method.rank=99: exceeds" in " ".join(answer.out.split())
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert errors.count("adaptkit: method.rank=99: exceeds the rank 32") == 2

    again = call("train", *words, "data.root=../data", "-m")
    assert again.status == 2  # what is done is not repeated
    assert again.err.count("done before") == 2


def test_sweep_in_which_nothing_runs(place: Path) -> None:
    wrong = call("train", "-m", "method.rank=0,-1", "model=bert-base")
    assert wrong.status == 2
    assert wrong.err.count("must be 1 or more") == 2
    assert "0 of 2 runs done, 2 failed" in wrong.out
    assert "method.rank=-1" in wrong.out


# ---- simple words ----


@pytest.mark.parametrize("word", ["output_dir=2024", "task.path=2024", "model.path=2024"])
def test_a_place_may_be_named_by_a_number(
    word: str, place: Path, checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(tmp_path / "data" / "sst2" if "task" in word else checkpoints["bert"], "2024")
    words = [*tiny(checkpoints["bert"]), word, "trainer.max_steps=1"]
    if "task" in word:
        words += ["task=classify", "task.text=sentence"]
    else:
        words += ["data.root=../data"]
    if "output_dir" in word:
        os.unlink("2024")
    answer = call("train", *words)
    assert answer.status == 0, answer.err
    if "output_dir" in word:
        assert record(place / "2024")["status"] == "done"
        assert call("train", "-m", *words[:-2], "data.root=../data", "trainer.max_steps=1",
                    "output_dir=2024,2025").status == 0  # fmt: skip
        assert record(place / "2025")["status"] == "done"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([""], "'': is no override. An unset shell variable gives an empty text."),
        ([" "], "' ': is no override."),
        (["+"], "'+': is no override."),
        (["task="], "task=: names nothing. An unset shell variable"),
        (["model="], "model=: names nothing. An unset shell variable"),
        (["output_dir="], "output_dir='': names nothing. An unset shell variable"),
        (["model.path="], "model.path='': names nothing. An unset shell variable"),
        (["method=lora task=sst2"], "holds several overrides. Leave out the quotes"),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan"])
def test_words_that_say_nothing(command: str, words: list[str], said: str, place: Path) -> None:
    if command == "plan" and words == ["output_dir="]:
        words = ["data.root="]
        said = "data.root='': names nothing"
    answer = call(command, *words)
    assert answer.status == 2
    assert said in answer.err
    assert not any(place.iterdir())


@pytest.mark.slow
def test_closed_streams_do_not_matter(place: Path, checkpoints) -> None:
    run = [*tiny(checkpoints["bert"]), "data.root=../data", "trainer.max_steps=1", "output_dir=run"]
    rows = "../data/sst2/validation.jsonl"
    commands = [
        ("train", *run),
        ("predict", "run", "--input", rows, "--output", "a.jsonl"),
        ("report", "run"),
        ("data", "task=sst2", "data.root=../data"),
    ]
    script = "import json, sys\nfrom adaptkit.cli.main import main\n" \
             "sys.stdin = sys.stdout = sys.stderr = None  # as after <&- >&- 2>&-\n" \
             "sys.exit(max(main(words) for words in json.loads(sys.argv[1])))"  # fmt: skip
    assert process(sys.executable, "-c", script, json.dumps(commands)).returncode == 0
    assert len((place / "a.jsonl").read_text().splitlines()) == 12
    stream = "import sys\nfrom adaptkit.cli.main import main\nsys.stdin = None\n" \
             "sys.exit(main('predict run --input - --output b.jsonl'.split()))"  # fmt: skip
    done = process(sys.executable, "-c", stream)
    assert done.returncode == 2 and "-: this standard stream is closed" in done.stderr


@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_finished_run_without_its_tensors_is_not_done(harm, place: Path, checkpoints) -> None:
    words = [*tiny(checkpoints["bert"]), "data.root=../data", "trainer.max_steps=1", "output_dir=r"]
    assert call("train", *words).status == 0
    delta = place / "r" / "delta.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(delta).items()}
    delta.unlink() if harm == "missing" else delta.write_bytes(delta.read_bytes()[:-1])
    for answer in (call("train", *words), call("verify", "r")):
        assert answer.status == 2
        assert "delta.safetensors is missing or damaged" in answer.err
        assert "trainer.resume=never" in answer.err
    assert call("train", *words, "trainer.resume=never").status == 0
    again = load_file(delta)
    assert again.keys() == whole.keys() and all(again[k].equal(whole[k]) for k in whole)


def test_places_within_a_file(place: Path, checkpoints) -> None:
    words = [*tiny(checkpoints["bert"]), "data.root=../data", "trainer.max_steps=1", "output_dir=r"]
    assert call("train", *words).status == 0
    (place / "file").write_text("x")
    rows = "../data/sst2/validation.jsonl"
    for command in (
        ("eval", "r", "--output", "file"), ("eval", "r", "--output", "file/x"),
        ("predict", "r", "--input", rows, "--output", "file/x.csv"),
        ("export", "r", "--format", "card", "--out", "file/x"), ("smoke", "--output", "file"),
    ):  # fmt: skip
        answer = call(*command)
        assert answer.status == 2, command
        assert "file" in answer.err and ("is a file" in answer.err), answer.err
    answer = call("export", "r", "--format", "card", "--out", "x", "--push", "")
    assert answer.status == 2 and not (place / "x").exists()
    assert (place / "file").read_text() == "x"
