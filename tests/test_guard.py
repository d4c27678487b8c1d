"""A configuration is data: no way in runs code, and text of foreign files is not resolved."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from commandline import call


class Evil:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return Path.touch, (Path("touched"),)


TOUCH = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [touched]}}"
FILES = {
    "callback": f"hydra: {{callbacks: {{x: {TOUCH}}}}}",
    "interpolated callback": "a: '{x: {_target_: os.getcwd}}'\n"
                             "hydra: {callbacks: {x: '${oc.create:${a}}'}}",
    "launcher": f"hydra: {{launcher: {TOUCH}}}",
    "part of a sweeper": f"hydra: {{sweeper: {{max_batch_size: {TOUCH}}}}}",
    "added part of a sweeper": f"hydra: {{sweeper: {{more: {TOUCH}}}}}",
    "created sweeper": "hydra: {sweeper: {params: '${oc.create:1}'}}",
    "factory of a handler":
        "hydra: {job_logging: {handlers: {x: {(): pathlib.Path.touch, self: touched}}}}",
    "class of a handler": "hydra: {hydra_logging: {handlers: {x: {class: antigravity.X}}}}",
    "class of a formatter": "hydra: {job_logging: {formatters: {x: {class: antigravity.X}}}}",
    "external object": "hydra: {job_logging: {handlers: {x: {class: logging.StreamHandler, "
                       "stream: 'ext://antigravity.x'}}}}",
    "variables of the environment": "hydra: {job: {env_set: {PYTHONPATH: /evil}}}",
    "outside of Hydra": f"task: {TOUCH}",
    "Python object": "seed: !!python/object/apply:os.system ['touch touched']",
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: list[str], *named: str) -> None:
    answer = call(*words)
    assert answer.status == 2, answer.err
    assert answer.err.startswith("adaptkit: ")
    assert "Traceback" not in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    for name in named:
        assert name in answer.err
    assert not Path("touched").exists()


@pytest.mark.sampled
@pytest.mark.parametrize("way", ["hydra.searchpath=[conf]", "--config-dir=conf", "-m"])
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_file_of_options_runs_nothing(place: Path, text: str, way: str) -> None:
    file = place / "conf" / "experiment" / "evil.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{text}\n")
    ways = ["-m", "hydra.searchpath=[conf]"] if way == "-m" else [way]
    refused(["train", *ways, "experiment=evil"])
    assert {p.name for p in place.iterdir()} == {"conf"}


def test_whole_configuration_of_others_runs_nothing(place: Path) -> None:
    (place / "conf").mkdir()
    (place / "conf" / "config.yaml").write_text(f"hydra: {{callbacks: {{x: {TOUCH}}}}}\n")
    refused(["train", f"--config-path={place / 'conf'}"], "hydra.callbacks.x._target_")


TYPED = [
    "+hydra.callbacks.x._target_=os.getcwd",
    "+hydra.callbacks={x:{_target_:os.getcwd}}",
    "hydra.launcher._target_=os.getcwd",
    "hydra.launcher._target_=hydra._internal.utils._locate",
    "+hydra.sweeper.x._target_=os.getcwd",
    "+hydra.job_logging.handlers.x.class=antigravity.X",
    "+hydra.job.env_set.A=b",
    "+task.x._target_=os.getcwd",
]


@pytest.mark.sampled
@pytest.mark.parametrize("word", TYPED)
@pytest.mark.parametrize("start", [["train"], ["train", "-m"], ["plan"]], ids=" ".join)
def test_typed_option_runs_nothing(place: Path, word: str, start: list[str]) -> None:
    refused([*start, word])


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--experimental", "--e"])
def test_rerun_unpickles_nothing(place: Path, flag: str) -> None:
    from adaptkit.terminal.console import guarded
    from adaptkit.train import main

    (place / "run.pickle").write_bytes(pickle.dumps(Evil()))
    refused(["train", flag, "run.pickle"])
    assert guarded(main, [flag, "run.pickle"]) == 2  # python -m adaptkit.train
    assert not Path("touched").exists()


def test_own_sweeps_and_help_still_work(place: Path) -> None:
    assert call("train", "--cfg", "hydra").status == 0
    assert call("train", "-m", "seed=x,y").err.count("must be a whole number") == 2
