"""docs/results.md, docs/results/comparison.md and README.md's table say what the records say."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULT = {
    "task": "sst2", "model": "mini-bert", "method": "lora", "variant": "default", "seed": 0,
    "settings": {"optimizer.lr": 2e-3}, "status": "done", "metric": "accuracy", "score": 0.75,
    "output_dir": "/somewhere/outputs", "data": {"source": "local", "path": "/somewhere/sst2"},
    "params": {"body_trainable": 28_672, "head_trainable": 450}, "delta_bytes": 320_520,
    "time": {"train_seconds": 12.34}, "memory": {"peak_rss_bytes": 681_324_544},
}  # fmt: skip


def write_results(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "write_results.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with the records, the page and a commit."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    return tmp_path


def run_dir(folder: Path, **changed: Any) -> Path:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(RESULT | changed))
    return folder


def line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_the_pages_are_up_to_date() -> None:
    done = write_results("--check")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_check_finds_a_stale_page_and_leaves_it(copy: Path) -> None:
    page = copy / "docs" / "results.md"
    page.write_text("old")
    assert write_results("--root", copy, "--check").returncode == 1
    assert page.read_text() == "old"
    assert write_results("--root", copy).returncode == 0
    assert write_results("--root", copy, "--check").returncode == 0


def test_seeds_are_averaged_and_listed(copy: Path, tmp_path: Path) -> None:
    runs = [run_dir(tmp_path / f"{k}", seed=k, score=0.75 + k / 100) for k in range(3)]
    done = write_results("--root", copy, "--add", "minis", *runs, "--note", "adaptkit train ...")
    assert done.returncode == 0, done.stderr
    page = (copy / "docs" / "results.md").read_text().partition("## minis")[2]
    assert "    adaptkit train ...\n" in page
    costs = "28,672 | 450 | 12.3 | 681.3 | 320.5"
    assert line(page, "| `lora`") == f"| `lora` | 2e-3 | 0.760 (0.750, 0.760, 0.770) | {costs} |"


def test_of_five_seeds_the_deviation_is_shown_and_how_many_failed(
    copy: Path, tmp_path: Path
) -> None:
    """Scores .5 to .9: mean .7, deviation sqrt(.1 / 4); two of them do not beat .6."""
    trivial = {"name": "majority class", "value": 0.6}
    runs = [
        run_dir(tmp_path / f"r{n}", seed=n, score=0.5 + n / 10, baseline=trivial) for n in range(5)
    ]
    done = write_results("--root", copy, "--add", "sst2_8000_v2", *runs, "--row", "five seeds")
    assert done.returncode == 0, done.stderr
    shown = line((copy / "docs" / "results.md").read_text(), "| five seeds")
    assert "| 0.700 ± 0.158, 2 of 5 failed |" in shown


def test_draws_of_a_few_shot_run_are_repetitions_too(copy: Path, tmp_path: Path) -> None:
    settings = RESULT["settings"]
    runs = [run_dir(tmp_path / f"{k}", settings={**settings, "data.fold": k}, score=0.5 + k / 10)
            for k in range(3)]  # fmt: skip
    assert write_results("--root", copy, "--add", "minis", *runs).returncode == 0
    page = (copy / "docs" / "results.md").read_text().partition("## minis")[2]
    assert " 0.600 (0.500, 0.600, 0.700) |" in line(page, "| `lora`")


def test_a_measured_record_replaces_the_transcribed_one(copy: Path, tmp_path: Path) -> None:
    run = run_dir(tmp_path / "run", score=0.9)
    options = ["--column", "accuracy, mean", "--row", "lora"]
    assert write_results("--root", copy, "--add", "minilm_sst2_8000", run, *options).returncode == 0
    page = (copy / "docs" / "results.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| `lora` |")]
    assert any("| 0.900 |" in row for row in rows)
    assert not any("0.849 (0.854, 0.839, 0.853)" in row for row in rows)  # the transcribed one


def test_the_same_run_again_takes_its_old_place(copy: Path, tmp_path: Path) -> None:
    for k in range(2):
        run = run_dir(tmp_path / f"{k}", score=0.5 + k / 4)
        assert write_results("--root", copy, "--add", "minis", run).returncode == 0
    records = json.loads((copy / "docs" / "records" / "minis.json").read_text())
    assert [record["score"] for record in records] == [0.75]


def test_two_variants_in_one_row_are_rejected(copy: Path, tmp_path: Path) -> None:
    runs = [run_dir(tmp_path / name, variant=name) for name in "ab"]
    done = write_results("--root", copy, "--add", "minis", *runs)
    assert done.returncode == 1 and "--row or --column" in done.stderr


def test_no_record_holds_a_path_of_a_computer(copy: Path, tmp_path: Path) -> None:
    run = run_dir(tmp_path / "run")
    assert write_results("--root", copy, "--add", "minis", run).returncode == 0
    (record,) = json.loads((copy / "docs" / "records" / "minis.json").read_text())
    assert record["data"]["path"] == "sst2" and "output_dir" not in record
    done = write_results(
        "--root", copy, "--add", "minis", run, "--note", "train data.root=/home/me"
    )
    assert done.returncode == 1 and "absolute path" in done.stderr


def test_a_sample_is_marked(copy: Path, tmp_path: Path) -> None:
    run = run_dir(tmp_path / "run", data={"source": "sample"})
    assert write_results("--root", copy, "--add", "minis", run).returncode == 0
    assert "0.750 (sample)" in (copy / "docs" / "results.md").read_text()


def test_a_run_that_failed_is_rejected(copy: Path, tmp_path: Path) -> None:
    run = run_dir(tmp_path / "run", status="failed", error="out of memory")
    done = write_results("--root", copy, "--add", "minis", run)
    assert done.returncode == 1 and "not done: out of memory" in done.stderr


def test_a_comparison_says_what_cannot_be_told_apart(monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    comparison = importlib.import_module("comparison")
    means = {"a": (0.9, 5, 0), "b": (0.88, 5, 1), "c": (0.7, 4, 0)}
    cells = [
        {"row": name, "task": "t", "metric": "accuracy", "mean": mean, "low": mean - 0.01,
         "high": mean + 0.01, "collapsed": trivial, "died": 5 - seeds, "seeds": seeds,
         "baseline": 0.5, "optimizer.lr": 5e-3, "trained": 1234.0, "saved kB": 2.0}
        for name, (mean, seeds, trivial) in means.items()
    ]  # fmt: skip
    tests = [{"task": "t", "one": one, "two": two, "differs": "c" in (one, two)}
             for one, two in (("b", "a"), ("a", "c"), ("b", "c"))]  # fmt: skip
    races = [{"task": "t", "row": name, "updates": 500, "grid": 2000, "seconds": 1200}
             for name in means]  # fmt: skip
    record = {"cells": cells[::-1], "tests": tests, "races": races, "seconds": 3600,
              "command": "adaptkit compare", "commit": "abc", "date": "2026-01-01",
              "device": "a processor", "cores": 2,
              "versions": {"torch": "2", "transformers": "5"}}  # fmt: skip
    text = comparison.section(record)
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    assert rows == [
        "| `a` | 0.900 ± 0.010 | 0.005 | 500 of 2,000 | 1,234 | 2 |",
        "| `b` | 0.880 ± 0.010, 1 of 5 trivial | 0.005 | 500 of 2,000 | 1,234 | 2 |",
        "| `c` | 0.700 ± 0.010, 1 of 5 died | 0.005 | 500 of 2,000 | 1,234 | 2 |",
    ]
    assert "Not distinguishable from `a`: `b`. 2 of 3 pairs differ." in text
    assert "2.0 hours" in text and "1,500 updates" in text and "4.0 times as many" in text
    record["cells"] = [{**cell, "metric": "loss"} for cell in cells]
    assert "| `c`" in comparison.section(record).splitlines()[6]  # less is better
