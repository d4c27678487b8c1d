"""model.from_run: a parent's body and head go on, exactly; the run is bound to its parent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, read, tiny, write
from families import rows
from runs import shallow
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from adaptkit.models.anatomy import base_prefix
from adaptkit.runs.delta import load_run
from adaptkit.runs.prepare import load_base, restored

pytestmark = pytest.mark.filterwarnings("ignore")
LABELS = ("negative", "positive")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("bitfit", "pissa", "ia3")]
METHODS = ("full", "lora", "dora", *SLOW)
FAST = ["optimizer.lr=0.02", "optimizer.schedule=constant", "optimizer.warmup_ratio=0"]


@pytest.fixture(scope="module")
def place(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from_run")
    shallow(checkpoints["bert"], folder / "bert")
    for split, count, seed in (("train", 24, 1), ("validation", 16, 2)):
        table = [{"text": r["sentence"], "kind": LABELS[r["label"]]} for r in rows(count, seed)]
        write(folder / "data" / f"{split}.jsonl", table)
        other = [{**row, "kind": {"negative": "no_", "positive": "yes_"}[row["kind"]]}
                 for row in table]  # fmt: skip
        write(folder / "other" / f"{split}.jsonl", other)
    return folder


def task(place: Path, data: str = "data", labels: str = "negative,positive") -> list[str]:
    return ["task=classify", f"task.path={place / data}", "task.text=text", "task.label=kind",
            f"task.labels=[{labels}]"]  # fmt: skip


def train(place: Path, out: Path, *words: str, data: list[str] | None = None) -> Path:
    answer = call("train", *tiny(place / "bert"), *FAST, *(data or task(place)), *words,
                  f"output_dir={out}")  # fmt: skip
    assert answer.status == 0, answer.err
    return out


@pytest.fixture(scope="module")
def parents(place: Path) -> dict[str, Path]:
    """One run per method, trained when first asked for."""

    class Runs(dict):
        def __missing__(self, method: str) -> Path:
            options = [f"method={method}"]
            if method == "prefix":
                options += ["method.length=3", "method.projection=null"]
            self[method] = train(place, place / f"parent-{method}", *options)
            return self[method]

    return Runs()


def answers(run: Path) -> list[str]:
    return [row["prediction"] for row in read(run / "predictions.jsonl")]


@pytest.mark.parametrize("method", METHODS)
def test_the_body_is_the_parents_merged_model(
    method: str, place: Path, parents: dict[str, Path], tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    assert call("export", parents[method], "--format", "merged", "--out", plain).status == 0
    child = train(place, tmp_path / "child", f"model.from_run={parents[method]}", "method=lora",
                  "trainer.max_steps=0")  # fmt: skip
    assert answers(child) == answers(parents[method])  # the head as well
    body = AutoModelForSequenceClassification.from_pretrained(plain)
    base = load_base(load_run(child).settings, torch.device("cpu")).model
    mine, theirs = dict(base.named_parameters()), dict(body.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=0)


def test_training_goes_on_as_from_the_exported_model(
    place: Path, parents: dict[str, Path], tmp_path: Path
) -> None:
    """Other classes, hence a new head: the same run as on the parent's plain model."""
    plain = tmp_path / "plain"
    assert call("export", parents["lora"], "--format", "merged", "--out", plain).status == 0
    data = task(place, "other", "no_,yes_")
    child = train(place, tmp_path / "a", f"model.from_run={parents['lora']}", data=data)
    # Without a head of its own, so that a new one is drawn.
    tensors = load_file(plain / "model.safetensors")
    body = {n: t for n, t in tensors.items() if n.startswith("bert.")}
    save_file(body, plain / "model.safetensors", {"format": "pt"})
    same = train(place, tmp_path / "b", f"model.path={plain}", data=data)
    mine, theirs = (load_file(run / "delta.safetensors") for run in (child, same))
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_head_goes_by_names(place: Path, parents: dict[str, Path], tmp_path: Path) -> None:
    turned = task(place, labels="positive,negative")
    child = train(place, tmp_path / "turned", f"model.from_run={parents['full']}",
                  "trainer.max_steps=0", data=turned)  # fmt: skip
    assert answers(child) == answers(parents["full"])
    other = train(place, tmp_path / "other", f"model.from_run={parents['full']}",
                  "trainer.max_steps=0", data=task(place, "other", "no_,yes_"))  # fmt: skip
    assert "a new head" in (other / "train.log").read_text()
    head = load_base(load_run(other).settings, torch.device("cpu")).model.classifier.weight
    assert not torch.equal(
        head, load_file(parents["full"] / "delta.safetensors")["classifier.weight"]
    )


@pytest.mark.slow
def test_a_chain_of_three(place: Path, parents: dict[str, Path], tmp_path: Path) -> None:
    first = parents["lora"]
    second = train(place, tmp_path / "second", f"model.from_run={first}", "method=ia3")
    third = train(place, tmp_path / "third", f"model.from_run={second}", "method=bitfit")
    record = json.loads((third / "result.json").read_text())
    assert [entry["directory"] for entry in record["from_runs"]] == [str(second), str(first)]
    assert [entry["method"] for entry in record["from_runs"]] == ["ia3", "lora"]
    assert json.loads((first / "result.json").read_text())["from_runs"] == []
    assert call("verify", third).status == 0
    again = call("eval", third, "--json")
    assert again.status == 0 and json.loads(again.out)["score"] == record["score"]
    plain = tmp_path / "plain"
    assert call("export", third, "--format", "merged", "--out", plain).status == 0
    model = AutoModelForSequenceClassification.from_pretrained(plain)
    whole = restored(load_run(third)).adaptation.model
    ids = torch.arange(8, 24).view(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, whole(ids).logits, rtol=1e-5, atol=1e-5)
    refused = call("export", third, "--format", "peft", "--out", tmp_path / "adapter")
    assert refused.status == 2 and "which PEFT cannot load by a name" in refused.err


@pytest.mark.parametrize("method", ("prefix", pytest.param("houlsby", marks=pytest.mark.slow)))
def test_what_cannot_be_folded_in_goes_on_by_itself(
    method: str, place: Path, parents: dict[str, Path], tmp_path: Path
) -> None:
    options = ["method.length=3", "method.projection=null"] if method == "prefix" else []
    words = [f"model.from_run={parents[method]}", f"method={method}", *options]
    child = train(place, tmp_path / "child", *words, "trainer.max_steps=0")
    mine, theirs = (load_file(run / "delta.safetensors") for run in (child, parents[method]))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert answers(child) == answers(parents[method])
    trained = train(place, tmp_path / "trained", *words)
    assert call("verify", trained).status == 0
    answer = call("train", *tiny(place / "bert"), *task(place), words[0], "method=lora",
                  f"output_dir={tmp_path / 'no'}")  # fmt: skip
    assert answer.status == 2 and "only the same method with the same options" in answer.err


def test_adapters_go_on_with_a_pooler_that_the_checkpoint_lacks(
    place: Path, checkpoints: Any, tmp_path: Path
) -> None:
    """And regularizers keep to the parent's tensors; at such a rate nothing else moves."""
    bert = shallow(checkpoints["bert"], tmp_path / "bert") / "model.safetensors"
    tensors = load_file(bert)
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, bert, {"format": "pt"})
    model = [
        f"model.path={bert.parent}",
        "model.pooling=null",
        "method=houlsby",
        "trainer.keep=last",
    ]
    parent = train(place, tmp_path / "parent", *model)
    theirs = load_file(parent / "delta.safetensors")
    assert any("pooler" in name for name in theirs)
    strong = "regularizer.weight_decay_to_pretrained.strength=9e8"
    for name, *options in (("weight_decay_to_pretrained", strong), ("child_tuning",)):
        child = train(place, tmp_path / name, *model, f"model.from_run={parent}",
                      f"regularizer={name}", *options, "optimizer.lr=1e-9",
                      "trainer.max_steps=2")  # fmt: skip
        mine = load_file(child / "delta.safetensors")
        for key, tensor in theirs.items():
            torch.testing.assert_close(mine[key], tensor, rtol=0, atol=1e-6, msg=key)


def test_fine_tuned_bodies_below_a_prefix(
    place: Path, parents: dict[str, Path], tmp_path: Path
) -> None:
    """full -> prefix -> prefix: the last one has the first one's body."""
    words = ["method=prefix", "method.length=3", "method.projection=null"]
    second = train(place, tmp_path / "second", f"model.from_run={parents['full']}", *words)
    third = train(place, tmp_path / "third", f"model.from_run={second}", *words,
                  "trainer.max_steps=0")  # fmt: skip
    assert answers(third) == answers(second)
    body = load_base(load_run(third).settings, torch.device("cpu")).model
    trained = load_file(parents["full"] / "delta.safetensors")
    for name, tensor in body.named_parameters():
        if name.startswith(base_prefix(body)):
            assert torch.equal(tensor, trained[name]), name


def test_a_parent_that_keeps_less_than_it_trains(place: Path, tmp_path: Path) -> None:
    parent = train(place, tmp_path / "parent", "method=ptuning")
    answer = call("train", *tiny(place / "bert"), *task(place), f"model.from_run={parent}",
                  "method=ptuning", f"output_dir={tmp_path / 'no'}")  # fmt: skip
    assert answer.status == 2 and "keeps less than it trains" in answer.err


def test_a_changed_parent_is_noticed(place: Path, parents: dict[str, Path], tmp_path: Path) -> None:
    parent = shutil.copytree(parents["lora"], tmp_path / "parent")
    child = train(place, tmp_path / "child", f"model.from_run={parent}", "method=bitfit")
    assert call("verify", child).status == 0
    train(place, parent, "method=lora", "seed=5", "trainer.resume=never")
    again = call("train", *tiny(place / "bert"), *FAST, *task(place), "method=bitfit",
                 f"model.from_run={parent}", f"output_dir={child}")  # fmt: skip
    assert again.status == 2 and "this has changed since: the run it starts from" in again.err
    for command in ("verify", "eval"):
        answer = call(command, child)
        assert answer.status == 2 and "(model.from_run) was repeated" in answer.err
    shutil.rmtree(parent)
    answer = call("verify", child)
    assert answer.status == 2 and f"model.from_run={parent}: " in answer.err
    assert "is not a run directory" in answer.err


def test_what_is_no_parent(
    place: Path, parents: dict[str, Path], checkpoints: Any, tmp_path: Path
) -> None:
    def refused(*words: str) -> str:
        answer = call("train", *tiny(place / "bert"), *task(place), *words)
        assert answer.status == 2 and answer.err.count("adaptkit: ") == 1, answer.err
        return answer.err

    lora, out = parents["lora"], f"output_dir={tmp_path / 'out'}"
    before = (lora / "delta.safetensors").read_bytes()
    assert "and would replace it" in refused(
        f"model.from_run={lora}", f"output_dir={lora}", "trainer.resume=never"
    )
    assert (lora / "delta.safetensors").read_bytes() == before
    assert "is not a run directory" in refused(f"model.from_run={tmp_path}", out)
    other = ["model=auto", f"model.path={checkpoints['gpt2']}", f"model.from_run={lora}", out]
    answer = call("train", "trainer=debug", *task(place), *other)
    assert answer.status == 2 and "Name the same base model" in answer.err
    damaged = shutil.copytree(lora, tmp_path / "damaged")
    content = bytearray((damaged / "delta.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "delta.safetensors").write_bytes(content)
    assert "is not the file that the run wrote" in refused(f"model.from_run={damaged}", out)
    assert not (tmp_path / "out").exists()


def test_numbers_drawn_do_not_depend_on_the_parent(
    place: Path, parents: dict[str, Path], tmp_path: Path
) -> None:
    """A run from a parent that was not trained at all is the run without a parent."""
    still = train(place, tmp_path / "still", "method=full", "trainer.max_steps=0",
                  data=task(place, "other", "no_,yes_"))  # fmt: skip
    words = ["method=lora", "method.dropout=0.3", "seed=4"]
    plain = train(place, tmp_path / "plain", *words)
    child = train(place, tmp_path / "child", *words, f"model.from_run={still}")
    mine, theirs = (load_file(run / "delta.safetensors") for run in (child, plain))
    pooler = "bert.pooler"  # new in both, drawn by either seed
    for name, tensor in theirs.items():
        assert name.startswith(pooler) or torch.equal(mine[name], tensor), name
