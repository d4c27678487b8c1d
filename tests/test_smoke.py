"""`adaptkit smoke` tries everything there is, tells rejections from failures, needs no network."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commandline import call

from adaptkit.config.groups import options
from adaptkit.errors import AdaptError
from adaptkit.methods import METHODS
from adaptkit.methods.full import Full
from adaptkit.runs import smoke

MINIS = ["mini-bert", "mini-gpt2", "mini-t5"]


def test_it_covers_every_option_on_every_mini() -> None:
    there = {(row, column) for row, column, _ in smoke.pairs()}
    for group in ("method", "regularizer"):
        assert {(f"{group}={n}", m) for n in options(group) for m in MINIS} <= there
    tasks = {row for row, _ in there if row.startswith("task=")}
    assert {"task=cola", "task=mnli", "task=stsb", "task=ud_ewt", "task=copa"} <= tasks


def test_a_real_pair_is_trained_saved_and_verified(tmp_path: Path) -> None:
    answer = call("smoke", "method=lora", "mini-bert", "--output", tmp_path)
    assert answer.status == 0
    assert "1 ok, 0 rejected, 0 failed" in answer.out
    run = tmp_path / "mini-bert" / "method-lora"
    assert {"delta.safetensors", "result.json", "predictions.jsonl"} <= {
        p.name for p in run.iterdir()
    }
    assert call("verify", run).status == 0


def test_what_verify_finds_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "verify", lambda directory: "3 of 16 predictions differ")
    answer = call("smoke", "method=probe", "mini-bert")
    assert answer.status == 1
    assert "failed: 3 of 16 predictions differ" in answer.out
    assert "0 ok, 0 rejected, 1 failed" in answer.out


@dataclass(frozen=True)
class Picky(Full):
    """Refuses decoders, breaks on encoder-decoders, works elsewhere."""

    def adapt(self, start: Any, context: Any) -> Any:
        if start.model.config.model_type == "gpt2":
            raise AdaptError("needs an encoder; choose another model.")
        if start.model.config.model_type == "t5" and context.tokenizer is not None:
            raise AdaptError("only found out with the weights at hand.")
        return start


@pytest.mark.slow
def test_rejected_is_what_plan_rejects_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "full", Picky)
    answer = call("smoke", "method=full")
    assert answer.status == 1
    assert "method=full mini-gpt2: rejected: needs an encoder" in answer.out
    assert "method=full mini-t5: failed: train: only found out" in answer.out
    assert "1 ok, 1 rejected, 1 failed" in answer.out


def test_an_unknown_name_is_a_mistake() -> None:
    answer = call("smoke", "lroa")
    assert answer.status == 2 and "lroa" in answer.err


def test_the_network_is_blocked_and_given_back() -> None:
    before = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)
    with smoke.no_network(), socket.socket() as plug:
        for ask in (
            lambda: plug.connect(("127.0.0.1", 9)),
            lambda: plug.connect_ex(("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("localhost", 80),
            lambda: socket.create_connection(("localhost", 80), timeout=1),
        ):
            with pytest.raises(OSError, match="without a network"):
                ask()
    assert (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo) == before
