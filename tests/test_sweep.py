"""Sweeps: what is said while they run, their table, duplicates, Ctrl-C, and the exit status."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import call, data_root, tiny
from safetensors.torch import load_file
from test_cli import WITHOUT_TORCH, process

from adaptkit.config.overrides import sweep_lengths
from adaptkit.errors import ConfigError, Interrupted
from adaptkit.reports import curves
from adaptkit.terminal import children, libraries, sweep
from adaptkit.terminal.children import Children
from adaptkit.train import Outcome, Sweep


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory beside a folder `data` with the task sst2."""
    data_root(tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def stored(place: Path) -> list[dict[str, str]]:
    """Return the rows of the one table below `outputs`."""
    (file,) = place.glob("outputs/**/sweep-*.csv")
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_jobs_are_counted_and_the_table_is_stored(place: Path, checkpoints) -> None:
    """Three of five jobs differ: a word repeated, and one list spelt in two ways."""
    roles = "method.roles=query,[query],value,query"
    words = ["-m", "method=lora", roles, *tiny(checkpoints["bert"]), "data.root=../data"]
    done = process(sys.executable, "-m", "adaptkit", "train", *words, "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^job (\d) of 4(, about \d+ s left)?: ", done.stderr, re.M)
    assert [number for number, _ in told] == ["1", "2", "3", "4"]
    assert [bool(left) for _, left in told] == [False, True, True, True]
    assert done.stderr.count("the same settings as a job before it") == 2
    assert "2 of 2 runs done, 0 failed" in done.stdout
    rows = stored(place)
    assert [row["status"] for row in rows] == ["done", "done"]
    assert {row["method"] for row in rows} == {"lora"}
    assert all((place / row["run"] / "result.json").is_file() for row in rows)
    assert all(0 <= float(row["score"]) <= 1 and float(row["baseline"]) == 0.5 for row in rows)
    assert "sweep-" in done.stdout
    assert "Traceback" not in done.stderr


def test_runs_in_folders_of_one_s_own_and_of_adaptkit_s_share_a_table(place: Path) -> None:
    """A comma in output_dir makes a sweep over folders, some of them relative."""
    folders = [place / "own" / "a", Path("outputs/b")]
    outcomes = [Outcome("x", 1, None, "it failed", str(folder)) for folder in folders]
    file = sweep.store(outcomes, datetime(2026, 1, 2))
    assert file is not None
    assert file.parent == place
    assert file.read_text().count("it failed") == 2


@pytest.mark.slow
def test_jobs_side_by_side_are_those_one_after_the_other(place: Path, checkpoints) -> None:
    """Bit for bit; what each says stays together; one that fails harms no other."""
    words = ["-m", "method=lora", *tiny(checkpoints["bert"]), "data.root=../data"]
    words += ["trainer.max_steps=2", "seed=0,1,2", "trainer.precision=bf16"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = []
    for folder, at_a_time in (("alone", 1), ("beside", 3)):
        (place / folder / "1").mkdir(parents=True)
        (place / folder / "1" / "notes.txt").write_text("mine")  # no run's folder
        placed = [f"output_dir={folder}/${{seed}}", f"trainer.jobs={at_a_time}"]
        command = [sys.executable, "-m", "adaptkit", "train", *words, *placed]
        ended.append(
            subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        )
    assert [done.returncode for done in ended] == [2, 2], ended[1].stderr
    for seed in (0, 2):
        one, other = (
            load_file(place / folder / str(seed) / "delta.safetensors")
            for folder in ("alone", "beside")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    for done in ended:
        assert "2 of 3 runs done, 1 failed" in done.stdout
        assert "Traceback" not in done.stderr
        lines = done.stdout.splitlines()
        ends = [i for i, line in enumerate(lines) if re.search(r" seed [02]: accuracy ", line)]
        for i in ends:  # its folder follows it
            assert re.search(r" seed (\d)", lines[i])[1] == lines[i + 1].strip()[-1]
        assert len(ends) == 2
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.stderr.count("done before") == 2


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.reliability
def test_jobs_side_by_side_save_when_the_sweep_is_asked_to_end(place: Path, checkpoints) -> None:
    words = ["-m", "method=lora", *tiny(checkpoints["bert"]), "data.root=../data", "seed=0,1,2,3"]
    words += ["trainer.max_steps=100000", "trainer.checkpoint_every=5", "trainer.jobs=2"]
    words += ["output_dir=run/${seed}"]
    command = [sys.executable, "-m", "adaptkit", "train", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for seed in (0, 1):
        limit = time.monotonic() + 120
        while not list((place / f"run/{seed}").glob("checkpoints/*/complete")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.count("the same command resumes from update") == 2
    assert "Traceback" not in err
    assert not (place / "run" / "3").exists()
    assert "0 of 4 runs done" in out


def test_no_child_is_started_after_all_were_asked_to_end() -> None:
    family, started = Children(), []
    family.end()
    with pytest.raises(Interrupted):
        family.start(SimpleNamespace(start=lambda: started.append(1)))
    assert not started


def test_threads_are_shared_among_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "affinity", lambda: set(range(8)))
    monkeypatch.setattr(children, "cpu_quota", lambda: 6.5)
    monkeypatch.setattr(libraries, "affinity", lambda: set(range(8)))
    monkeypatch.setattr(libraries, "cpu_quota", lambda: 6.5)
    monkeypatch.setattr(libraries, "busy", lambda cores, since: 0.0)
    for own, threads, policy in (("", "2", None), ("3", "3", "PASSIVE")):
        with monkeypatch.context() as once:
            environment = {"OMP_NUM_THREADS": own} if own else {}
            once.setattr(os, "environ", environment)
            children.share_cores(3)
            assert environment.get("OMP_NUM_THREADS") == threads
            assert environment.get("OMP_WAIT_POLICY") == policy


SWEEP = """
import sys
from adaptkit.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("ends", "status"), [(EOFError(), None), (SimpleNamespace(status=0), None),
                         (SimpleNamespace(status=143), 143)]
)  # fmt: skip
def test_a_request_to_end_is_not_lost_with_the_child(ends: Any, status: int | None) -> None:
    """The child may die of the signal before it has begun, or be done: the command ends as well."""
    said = iter([KeyboardInterrupt(), ends])

    def recv() -> Any:
        answer = next(said)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    asked = []
    child = SimpleNamespace(terminate=lambda: asked.append(True))
    if status is None:
        with pytest.raises(KeyboardInterrupt):
            children._answer(SimpleNamespace(recv=recv), child)
    else:
        assert children._answer(SimpleNamespace(recv=recv), child).status == status
    assert asked == [True]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.reliability
def test_interrupted_sweep_shows_its_table(place: Path, checkpoints) -> None:
    """Ctrl-C reaches parent and child, as from a terminal: no traceback, the table, status 130."""
    script = place.parent / "sweep.py"
    script.write_text(SWEEP)
    words = ["train", "-m", *tiny(checkpoints["bert"]), "data.root=../data", "seed=0,1",
             "trainer.max_steps=1,100000", "trainer.eval_every=1", "method=bitfit"]  # fmt: skip
    run = subprocess.Popen(
        [sys.executable, script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    said = []
    for line in run.stderr:
        said.append(line)
        if "/100000" in line:  # the second job trains
            os.killpg(run.pid, signal.SIGINT)
            break
    out, err = run.communicate(timeout=60)
    err = "".join(said) + err
    assert run.returncode == 130, err
    assert "Traceback" not in err and "BrokenPipe" not in err
    assert "the same command resumes" in err
    assert "job 2 of 4" in err and "job 3 of 4" not in err
    assert "1 of 4 runs done, 0 failed" in out
    assert "interrupted" in out
    assert [row["status"] for row in stored(place)] == ["done", "interrupted"]


@pytest.mark.parametrize("word", ["seed=range(0,0)", "seed=range(3,1)", "method=glob(zzz*)"])
def test_empty_sweep_says_so(place: Path, word: str) -> None:
    for flag in (["-m"], []):
        answer = call("train", *flag, word)
        assert answer.status == 2
        assert answer.err == f"adaptkit: {word}: has no values, so there is nothing to run.\n"
    assert not any(place.iterdir())


def test_how_many_values_a_sweep_has() -> None:
    words = ["method=lora,bitfit", "seed=range(0,5)", "task=sst2", "method.rank=choice(1,2,3)",
             "experiment=glob(*lora_mrpc*)", "task.text=[a,b]", "broken=[", "job"]  # fmt: skip
    assert sweep_lengths(words) == {"method": 2, "seed": 5, "method.rank": 3, "experiment": 1}
    with pytest.raises(ConfigError, match="nothing to run"):
        sweep_lengths(["seed=range(1,1)"])


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [([0, 0], 0), ([2, 2], 2), ([0, 2], 2), ([2, 1, 0], 1), ([0, 130], 130), ([], 0)],
)
def test_status_of_a_sweep_is_its_worst(statuses: list[int], worst: int, place: Path) -> None:
    outcomes = [Outcome("run", status, None, "why") for status in statuses]
    assert Sweep([], outcomes=outcomes).end() == worst


@pytest.mark.parametrize(
    "status, word",
    [(130, "interrupted"), (143, "interrupted"), (129, "interrupted"), (1, "failed")],
)
def test_a_job_that_a_signal_ended_is_interrupted(status: int, word: str) -> None:
    assert sweep.ended(Outcome("x", status, None, "")) == word


def test_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.announce(1, 5, "seed=0", [])
    sweep.announce(3, 5, "seed=2", [10, 30])  # 20 s each, three are left
    sweep.announce(3, 30, "seed=2", [100])
    sweep.announce(1001, 5000, "seed=2", [9.0])
    assert capsys.readouterr().err.splitlines() == [
        "job 1 of 5: seed=0",
        "job 3 of 5, about 60 s left: seed=2",
        "job 3 of 30, about 47 min left: seed=2",
        "job 1001 of 5000, about 10.0 h left: seed=2",
    ]


def test_repeated_sweep_loads_no_torch(place: Path, checkpoints) -> None:
    words = ["train", *tiny(checkpoints["bert"]), "data.root=../data", "trainer.max_steps=1"]
    assert call(*words).status == 0
    again = process(
        sys.executable, "-c", WITHOUT_TORCH, json.dumps([[[*words, "-m", "seed=0,0"], 0]])
    )
    assert again.returncode == 0, again.stderr
    assert "done before" in again.stderr


def outcome_of(seed: int, score: float, drop: float | None, sets: tuple[str, ...] = ("a",)) -> Any:
    macro = {} if drop is None else {"drop": drop, "score": score - drop, "sets": list(sets)}
    return SimpleNamespace(
        settings={"seed": seed, "method.name": "lora"}, score=score, task="t", model="m",
        method="lora", variant="v", metric="accuracy", ood={"macro": macro}, after={},
        select_on="none",
    )  # fmt: skip


def probed(layer: int, control: int | None, score: float) -> Any:
    settings = {"method.layer": layer, "task.control": control, "seed": 0}
    return SimpleNamespace(settings=settings, score=score, metric="accuracy", task="t")


def test_selectivity_is_the_difference_from_the_control_tasks() -> None:
    runs = [probed(0, None, 0.8), probed(0, 0, 0.5), probed(0, 1, 0.6), probed(1, None, 0.9)]
    assert sweep.selectivities(runs) == [
        "method.layer=0: accuracy 0.8000, of the control task 0.5500, selectivity 0.2500"
    ]
    assert sweep.selectivities([runs[0], runs[3]]) == sweep.selectivities([]) == []
    failed = probed(0, 2, 0.1)
    failed.score = None  # not a finite number
    other = [probed(0, None, 0.6), probed(0, 0, 0.4)]
    for run in other:
        run.settings["regularizer.l2_sp.alpha"], run.metric = 0.1, "f1"
    assert sweep.selectivities([*runs[:2], failed, *other]) == [
        "selectivity: accuracy 0.8000, of the control task 0.5000, selectivity 0.3000",
        "regularizer.l2_sp.alpha=0.1: f1 0.6000, of the control task 0.4000, selectivity 0.2000",
    ]


def test_what_some_runs_lack_and_other_tasks_are_not_mixed_in() -> None:
    """A regularizer has options that the first run does not have."""
    runs = [probed(0, None, 0.8), probed(0, 0, 0.5), probed(1, None, 0.7)]
    pulled = [probed(0, None, 0.6), probed(0, 0, 0.5), probed(1, None, 0.4)]
    for run in pulled:
        run.settings["regularizer.l2_sp.alpha"] = 0.1
    assert sweep.selectivities([*runs[:2], *pulled[:2]]) == [
        "selectivity: accuracy 0.8000, of the control task 0.5000, selectivity 0.3000",
        "regularizer.l2_sp.alpha=0.1: accuracy 0.6000, of the control task 0.5000, selectivity "
        "0.1000",
    ]
    drawn = curves.curves([*runs, *pulled], sweep.CONTROLLED)
    assert [curve.own for curve in drawn] == [{0: [0.8], 1: [0.7]}, {0: [0.6], 1: [0.4]}]
    other = [probed(0, None, 0.4), probed(0, 0, 0.3)]
    for run in other:
        run.task, run.metric = "heads", "uas"
    assert sweep.selectivities([*runs[:2], *other]) == [
        "t selectivity: accuracy 0.8000, of the control task 0.5000, selectivity 0.3000",
        "heads selectivity: uas 0.4000, of the control task 0.3000, selectivity 0.1000",
    ]


def test_curves_of_layers_and_their_selectivity(tmp_path: Path, monkeypatch: Any) -> None:
    draw = curves.draw
    runs = [probed(0, None, 0.8), probed(0, 0, 0.5), probed(0, 1, 0.6), probed(2, None, 0.9)]
    for run in runs:
        run.settings["method.hidden"] = None
    wide = [probed(layer, None, 0.1) for layer in (0, 1)]
    for run in wide:
        run.settings["method.hidden"] = 9
    last = probed(-1, None, 0.3)  # from above: nobody here knows its number
    small, large = curves.curves([*runs, *wide, last], sweep.CONTROLLED)
    assert (small.name, large.name) == ("hidden=None", "hidden=9")
    assert small.own == {0: [0.8], 2: [0.9]}
    assert small.control == {0: [0.5, 0.6]}
    assert small.selectivity() == {0: pytest.approx(0.25)}
    assert large.selectivity() == {}
    assert curves.curves([runs[0], last], sweep.CONTROLLED) == []  # one layer is no curve
    facts = {"model": "m", "method": "probe", "data": {"source": "sample"},
             "baseline": {"name": "majority tag", "value": 0.2}}  # fmt: skip
    every = [SimpleNamespace(result=SimpleNamespace(**vars(run), **facts)) for run in runs]
    every[1].result.baseline = {"name": "of the control task", "value": 0.4}
    shown = []
    monkeypatch.setattr(curves, "draw", lambda *words: shown.append(words[1]) or draw(*words))
    drawn = sweep.picture([every[1], *every], tmp_path / "sweep.png")
    assert drawn is not None
    assert shown == [every[0].result]
    assert drawn.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(curves, "can_draw", lambda: False)
    assert sweep.picture(every, tmp_path / "other.png") is None
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.png"]


def test_repeated_runs_have_a_mean_drop_with_an_interval_over_the_seeds() -> None:
    """Drops .1, .2, .3: deviation .1, t(.975, 2) = 4.302653, half width .248414."""
    runs = [outcome_of(seed, 0.8, drop) for seed, drop in enumerate((0.1, 0.2, 0.3))]
    (line,) = sweep.repeats(runs)
    assert line.endswith(
        "accuracy 0.8000 (standard deviation 0.0000, 3 runs); out of domain 0.6000, drop +0.2000 "
        "(95 % over the runs: -0.0484 to +0.4484)"
    )
    for other in (outcome_of(3, 0.8, None), outcome_of(3, 0.8, 0.2, ("a", "b"))):
        (line,) = sweep.repeats([*runs, other])
        assert "out of domain" not in line


SWEEP_FILE = """# @package _global_
hydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1"}}}
"""


@pytest.mark.parametrize(
    ("words", "modes", "compositions"),
    [
        ([], ["RUN"], 1),
        (["hydra.mode=RUN"], ["RUN"], 1),
        (["-m"], ["MULTIRUN"], 3),  # for the mode, for the sweep, and the job
        (["-m", "seed=0,1"], ["MULTIRUN"] * 2, 4),
        (["experiment=sweep"], ["MULTIRUN"] * 2, 4),
        (["experiment=sweep", "method=lora,full"], ["MULTIRUN"] * 4, 6),
        (["experiment=sweep", "hydra.mode=RUN"], ["RUN"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_plain_job_is_composed_once(
    words: list[str], modes: list[str], compositions: int, tmp_path: Path, monkeypatch: Any
) -> None:
    """Whether there are several jobs may be said by a file, so it is known after composition."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.hydra_config import HydraConfig

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sweep.yaml").write_text(SWEEP_FILE)
    composed, seen = [], []
    real = ConfigLoaderImpl._load_configuration_impl

    def counted(self: Any, **arguments: Any) -> Any:
        composed.append(real(self, **arguments))  # a failed one is not counted
        return composed[-1]

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    monkeypatch.setattr(Sweep, "__call__", lambda _, cfg: seen.append(
        (HydraConfig.get().mode.name, cfg.seed, cfg.method.name)))  # fmt: skip
    call("train", f"hydra.searchpath=[file://{tmp_path}]", *words)
    assert [mode for mode, *_ in seen] == modes
    assert len(set(seen)) == len(seen)
    assert len(composed) == compositions
