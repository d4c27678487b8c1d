"""Text on the command line: file names and classes as they are typed, without quotes of Hydra."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import call, tiny
from families import rows

from adaptkit.config.compose import compose, compose_job
from adaptkit.config.overrides import parsed
from adaptkit.config.settings import settings

TEXTS = (
    "my (v2).csv", "a=b.csv", "x==y", "naïve.csv", "数据.csv", "~/rows.csv", "a#b&c.csv",
    "it's.csv", "it's (1).csv", "back\\slash's(.csv", "ends(\\", "a;b|c.csv", "x'(", 'say "(".csv',
    "50% (x).csv", "f(x).csv", "a b.csv", "!x.csv", "a[1].csv", "x{1}.csv", "a~b", "a\u00a0b",
    "<x>", "q?",
)  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("text", TEXTS)
def test_text_is_what_was_typed(text: str) -> None:
    for key in ("task.path", "task.label"):
        node = compose(["task=classify", "task.path=x", "task.text=a", f"{key}={text}"])["task"]
        assert str(node[key.partition(".")[2]]) == text
        assert str(parsed(f"{key}={text}")[1]) == text


@pytest.mark.slow
def test_files_of_any_name(checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, the same command again, a sweep and an evaluation; runs never share a folder."""
    monkeypatch.chdir(tmp_path)
    names = ("my (v2).csv", "a=b & größe.csv")
    for name in names:
        lines = [
            f"{row['sentence']},{('nein', 'größer')[row['label']]}" for row in rows(40, seed=1)
        ]
        Path(name).write_text("\n".join(["text,größe", *lines]), encoding="utf-8")
    task = ["task=classify", "task.text=text", "task.label=größe", "method=lora"]
    words = ["train", *tiny(checkpoints["bert"]), *task]
    for name in names:
        assert call(*words, f"task.path={name}").status == 0
    again = call(*words, f"task.path={names[0]}")
    assert "done before" in again.err
    found = sorted(tmp_path.glob("outputs/**/config.yaml"))
    assert len(found) == 2
    answer = call("eval", found[0].parent, f"task.path={names[1]}")
    assert answer.status == 0, answer.err


def test_a_home_folder_within_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave ~ as it is there."""
    monkeypatch.setenv("HOME", "/home/one")
    assert compose(["output_dir=~/run"])["output_dir"] == "/home/one/run"


def test_entries_of_a_mapping() -> None:
    plain = compose(["method=lora", "method.ranks={query:4}", "task=sst2",
                     "task.also={test:validation}"])  # fmt: skip
    assert plain["method"]["ranks"] == {"query": 4}
    assert settings(plain).task.also == {"test": "validation"}
    job = [compose_job(["method.ranks={query:4}"]), compose_job(["+method.ranks.query=4"])]
    assert job[0]["method"] == job[1]["method"]
    answer = call("plan", "method.rnks={query:4}")
    assert answer.status == 2 and "did you mean rank" in answer.err


def test_numbers_are_names_of_classes_and_columns() -> None:
    task = ["task=classify", "task.path=x", "task.text=1", "task.label=2024"]
    bound = settings(compose([*task, "task.labels=[no,yes]"])).task
    assert (bound.text, bound.label, bound.labels) == (("1",), "2024", ("no", "yes"))
    assert settings(compose([*task, "task.labels=[0,5]"])).task.labels == (0, 5)


@pytest.mark.parametrize("typed", ["owner/name", "./folder", "../a (b)", "/tmp/größe", "~/x"])
def test_model_without_a_yaml(typed: str) -> None:
    plain = compose([f"model={typed}"])["model"]
    assert plain["path"] == typed
    assert compose(["model=auto", f"model.path={typed}"])["model"] == plain


def test_known_models_keep_their_advice() -> None:
    for typed, advice in {"robreta-base": "roberta-base", "roberta_base": "roberta-base",
                          "google-bert/bert-base-uncased": "bert-base"}.items():  # fmt: skip
        answer = call("train", f"model={typed}")
        assert answer.status == 2 and f"did you mean {advice}?" in answer.err


@pytest.mark.parametrize(
    ("name", "count", "mps", "processes", "expected"),
    [("cuda:1", 2, False, 1, "cuda:1"), ("cuda", 2, False, 1, "cuda:0"), 
     ("auto", 0, True, 1, "cpu"),
     ("auto", 1, False, 1, "cuda:0"), ("cpu", 2, False, 1, "cpu"), ("mps", 0, True, 1, "mps"),
     ("cuda:0", 1, False, 1, "cuda:0"), ("mps", 0, False, 1, "no Apple GPU"),
     ("cuda:1", 0, False, 1, "no CUDA device"), ("cuda:2", 2, False, 1, "2 CUDA devices"),
     ("cuda:1", 1, False, 1, "1 CUDA device,"), ("cuda:1", 2, False, 2, "Use cuda.")],
)  # fmt: skip
def test_device(monkeypatch, name: str, count: int, mps: bool, processes: int, expected: str):
    import torch

    from adaptkit.errors import ConfigError
    from adaptkit.training.precision import device_of

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if " " in expected:
        with pytest.raises(ConfigError, match=expected):
            device_of(name)
    else:
        assert device_of(name) == torch.device(expected)
