"""What a method may look at: training batches, the loss, other runs; runs without updates."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Killed, at, bits, carry_out, configure, sentiment, shallow
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from adaptkit.adaptation import Adaptation, Batch, Context
from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError
from adaptkit.runs.verify import verify


@dataclass(frozen=True)
class Looking:
    """Notes what `adapt` can see at each stage."""

    seen: dict[str, Any]
    other: Path | None = None

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        self.seen.setdefault("stages", []).append(context.stage)
        self.seen["updates", context.stage] = context.total_updates
        if context.stage == "train":
            model = start.model.eval()
            with torch.no_grad():
                batches = list(context.batches())
                self.seen["losses"] = [context.loss(model, batch) for batch in batches]
                self.seen["logits"] = [model(**batch.inputs).logits for batch in batches]
            self.seen["batches"], self.seen["labels"] = batches, context.labels
            if self.other:
                self.seen["run"] = context.load_run(self.other)
        return start.only(lambda name: False)


@pytest.fixture
def place(checkpoints: Any, tmp_path: Path) -> Any:
    model = shallow(checkpoints["bert"], tmp_path / "bert")
    data = sentiment(tmp_path / "data")

    def make(name: str, method: Any = None, **changes: Any) -> Any:
        made = configure(tmp_path / name, model, data, **changes)
        return replace(made, method=method, method_name="test") if method else made

    return make


def test_a_method_sees_every_training_row_once(place):
    seen: dict[Any, Any] = {}
    carry_out(place("run", Looking(seen), **{"trainer.max_steps": 2}))
    assert seen["stages"] == ["plan", "train", "restore"]  # planned, trained, proved
    assert seen["updates", "train"] == 2 and seen["labels"] == ("negative", "positive")
    batches: list[Batch] = seen["batches"]
    assert sorted(row for batch in batches for row in batch.rows) == list(range(44))
    assert [len(batch.rows) for batch in batches] == [8] * 5 + [4]
    for batch, loss, logits in zip(batches, seen["losses"], seen["logits"], strict=True):
        torch.testing.assert_close(loss, cross_entropy(logits, batch.targets["target"]))


def test_a_method_can_load_a_finished_run(place, tmp_path):
    carry_out(place("first", **{"trainer.max_steps": 2}))
    seen: dict[Any, Any] = {}
    carry_out(place("second", Looking(seen, tmp_path / "first"), **{"trainer.max_steps": 1}))
    assert seen["run"].result.score is not None
    assert seen["run"].tensors and seen["run"].settings.task.classes == ("negative", "positive")


def test_looking_at_the_data_does_not_change_the_run(place, tmp_path):
    """Nothing random is drawn by `batches`: the head starts the same and rows come the same."""

    class Blind:
        def adapt(self, start: Adaptation, context: Context) -> Adaptation:
            return start.only(lambda name: False)

    for name, method in (("looking", Looking({})), ("blind", Blind())):
        carry_out(place(name, method, **{"trainer.max_steps": 3}))
    one, other = (load_file(tmp_path / n / "delta.safetensors") for n in ("looking", "blind"))
    assert one and bits(one) == bits(other)


def test_without_data_a_method_that_looks_says_so():
    context = Context(None, torch.Generator(), 1)
    with pytest.raises(AdaptError, match="looks at a tokenizer, a task, its rows"):
        context.batches()


# ---- no updates ----


@pytest.mark.parametrize("change", [{"trainer.max_steps": 0}, {"trainer.epochs": 0}], ids=str)
@pytest.mark.parametrize(
    "method",
    ["lora", "probe", *(pytest.param(one, marks=pytest.mark.slow)
                        for one in ("full", "adalora", "ptuning", "prefix"))],
)  # fmt: skip
def test_a_run_without_updates_only_scores(method, change, checkpoints, tmp_path):
    data = sentiment(tmp_path / "data")
    made = configure(tmp_path / "run", checkpoints["bert"], data, f"method={method}", **change)
    record, _ = carry_out(made)
    assert (record["status"], record["updates"], record["best_update"]) == ("done", 0, 0)
    assert 0 <= record["score"] <= 1
    assert verify(tmp_path / "run") == ""


class Nothing:
    """Trains nothing at all, not even the head."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        for parameter in start.model.parameters():
            parameter.requires_grad_(False)
        return replace(start, trainable={}, narrowed=True)


def test_training_nothing_takes_no_updates(place):
    record, _ = carry_out(place("zero", Nothing(), **{"trainer.max_steps": 0}))
    assert record["updates"] == 0 and record["params"]["trainable"] == 0
    with pytest.raises(AdaptError, match=r"trains nothing, .* trainer\.max_steps=0"):
        carry_out(place("some", Nothing()))


def test_methods_are_told_the_updates_that_are_made(checkpoints, tmp_path):
    """A row of tags may give several examples, so that rows are not enough to count."""
    words = ["good", "film", "bad", "plot"] * 6
    lines = [json.dumps({"tokens": words[:n], "tags": ["A"] * n}) for n in range(1, 14)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    made = settings(compose([
        "task=tag", f"task.path={tmp_path}", "task.labels=[A,B]", "task.max_length=6",
        "model=auto", f"model.path={shallow(checkpoints['bert'], tmp_path / 'bert')}",
        "trainer=debug", "trainer.max_steps=null", "trainer.epochs=3", "trainer.batch_size=2",
        "method=lora", f"output_dir={tmp_path / 'run'}",
    ]))  # fmt: skip
    seen: dict[Any, Any] = {}
    record, _ = carry_out(replace(made, method=Looking(seen), method_name="test"))
    windows = sum(-(-n // 4) for n in range(1, 14))  # four words fit between [CLS] and [SEP]
    assert sum(len(batch.rows) for batch in seen["batches"]) == windows
    assert seen["updates", "train"] == record["updates"] == 3 * -(-windows // 2)


def test_a_run_is_not_resumed_on_other_classes(place, tmp_path):
    """The classes were read off the data; the data changed between kill and resume."""
    made = place("run", **{"task.labels": [], "trainer.max_steps": 4, "trainer.eval_every": 2})

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        carry_out(made, at("on_step_begin", 3, kill))
    for split in ("train", "validation"):
        file = tmp_path / "data" / f"{split}.jsonl"
        file.write_text(file.read_text().replace('"label": 1', '"label": 2'))
    with pytest.raises(AdaptError, match=r"run on other data \(task\.labels changed\)"):
        carry_out(made)
