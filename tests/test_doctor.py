"""`adaptkit doctor`: facts of this machine, and advice only where something is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from commandline import call

from adaptkit.terminal import doctor


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    monkeypatch.setattr(doctor, "SIZE", 64)
    monkeypatch.setattr(doctor, "reachable", lambda: False)
    monkeypatch.setattr(doctor, "busy", lambda cores: 0.0)


def advice(findings: list[doctor.Finding]) -> dict[str, str]:
    return {one.what: one.advice for one in findings if one.advice}


def test_the_peak_counts_operations(monkeypatch):
    """2 n^3 of them, over the least time: with a clock that goes a second per look."""
    clock = iter(range(1000))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: float(next(clock)))
    assert doctor.peak(torch.device("cpu"), torch.float32, 10) == 2 * 10**3


def test_what_is_found_is_what_is_there(monkeypatch):
    found = {one.what: one.found for one in doctor.examine("", "")}
    assert found["torch"] == torch.__version__
    assert found["hub"].startswith("not reachable")
    assert "GFLOP/s" in found["matrix products on the CPU"]
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert advice(doctor.software())["rich"] == "pip install rich"
    assert "no peft (tests and benchmarks)" in doctor.software()[-1].found


def test_pages_of_memory(tmp_path):
    setting = tmp_path / "enabled"
    assert doctor.pages(setting, False) == []  # another system
    setting.write_text("always [madvise] never\n")
    assert advice(doctor.pages(setting, False)) == {}
    assert [doctor.pages(setting, lends)[0].found for lends in (False, True)] == ["large", "small"]
    setting.write_text("always madvise [never]\n")
    assert str(setting) in advice(doctor.pages(setting, False))["pages of memory"]
    assert advice(doctor.pages(setting, True)) == {}


@pytest.mark.parametrize(
    ("cores", "quota", "running", "typed", "used", "what", "says"),
    [
        (4, None, 8, ("8", ""), 0.0, "threads", "set OMP_NUM_THREADS=4"),
        (4, 2.0, 4, ("", ""), 0.0, "threads", "set OMP_NUM_THREADS=2"),
        (4, None, 1, ("1", ""), 0.0, "threads", "leaves cores unused"),
        (4, None, 4, ("", "PASSIVE"), 0.0, "threads", "unset it"),
        (4, None, 4, ("", "PASSIVE"), 2.0, "cores", "slow training down"),
        (4, None, 4, ("", ""), 0.0, None, ""),
    ],
)
def test_advice_on_threads(cores, quota, running, typed, used, what, says, monkeypatch):
    monkeypatch.setattr(doctor, "affinity", lambda: {*range(cores)})
    monkeypatch.setattr(doctor, "cpu_quota", lambda: quota)
    monkeypatch.setattr(doctor, "busy", lambda cores: used)
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: running)
    monkeypatch.setattr(doctor, "peak", lambda *_: 1e9)
    monkeypatch.setattr(doctor, "works", lambda: True)
    found = advice(doctor.processor(*typed))
    assert set(found) == ({what} if what else set())
    assert says in found.get(what, "")


def test_slow_bf16_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "peak", lambda device, kind, *_: 1e9 if kind == torch.bfloat16
                        else 2e9)  # fmt: skip
    assert "slower than fp32" in advice(doctor.processor("", ""))["matrix products on the CPU"]


def test_the_command():
    answer = call("doctor")
    assert answer.status == 0
    assert "hub: models and data sets must lie in its cache" in answer.out
    plain = json.loads(call("doctor", "--json").out)
    assert {"what", "found", "advice"} == set(plain[0])
