"""Runs on spans and on generated texts leave as plain models and PEFT adapters, and come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from commandline import call, tiny, write
from transformers import AutoTokenizer, pipeline

from adaptkit.models.heads import HEADS
from adaptkit.runs.predicting.predictor import load
from adaptkit.runs.predictions import read_predictions, same
from adaptkit.runs.prepare import feed_of, scorer_of

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = "the film was not bad , and the music was great"
KINDS = {
    "span": ("bert", "gpt2", "t5", "bart", "llama"),
    "seq2seq": ("gpt2", "t5", "bart", "llama"),
    "lm": ("gpt2", "opt"),
}
TABLE = [(kind, family) for kind, families in KINDS.items() for family in families]
QUICK = (("span", "bert"), ("span", "t5"), ("seq2seq", "gpt2"), ("seq2seq", "bart"))
ROWS = {
    "span": [{"question": "what was great ?", "context": f"{TEXT} {i}", "answers": "the music"}
             for i in range(6)],
    "seq2seq": [{"text": f"{TEXT} {i}", "target": "good film"} for i in range(6)],
    "lm": [{"text": f"{TEXT} {i}"} for i in range(6)],
}  # fmt: skip
OPTIONS = {
    "span": ["task.max_length=64", "task.stride=4"],
    "seq2seq": ["task.source=text", "task.max_length=40", "task.max_target_length=6"],
    "lm": ["task.max_length=32"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: Any, checkpoints: Any) -> Any:
    """Return what gives the run of a kind and a family, trained once."""
    root, made = tmp_path_factory.mktemp("heads"), {}

    def run(kind: str, family: str) -> tuple[Path, list[str]]:
        if (kind, family) not in made:
            data = root / kind / "data"
            for split in ("train", "validation"):
                write(data / f"{split}.jsonl", ROWS[kind])
            words = [f"task={kind}", f"task.path={data}", *OPTIONS[kind]]
            out = root / kind / family
            fast = ["method=lora", "optimizer.lr=3e-2", "trainer.max_steps=3"]
            done = call("train", *words, *tiny(checkpoints[family]), *fast, f"output_dir={out}")
            assert done.status == 0, done.err
            made[kind, family] = out, words
        return made[kind, family]

    return run


def table() -> list[Any]:
    return [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in TABLE]


@torch.no_grad()
def outputs_of(run: Path, kind: str, model: Any = None) -> list[torch.Tensor]:
    """Return the outputs of a run's first rows, by its own model or by another one."""
    predictor = load(run)
    made, prepared = predictor.settings, predictor.prepared
    rows = made.task.load(made.data, 0, train=False).validation[""]
    batch = feed_of(made, prepared, rows).batch([0, 3])
    outputs = scorer_of(made, prepared).outputs(batch) if model is None else model(**batch.inputs)
    return [outputs[name].float() for name in HEADS[made.head].proof]


def auto(run: Path) -> Any:
    return getattr(transformers, HEADS[load(run).settings.head].auto)


@pytest.mark.parametrize(("kind", "family"), table())
def test_a_plain_model_gives_the_same(kind, family, runs, tmp_path):
    run, _ = runs(kind, family)
    out = tmp_path / "out"
    done = call("export", run, "--format", "merged", "--out", out)
    assert done.status == 0, done.err
    plain = auto(run).from_pretrained(out).eval()
    for mine, theirs in zip(outputs_of(run, kind), outputs_of(run, kind, plain), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    if kind != "seq2seq":
        return
    lines = (run / "predictions.jsonl").read_text().splitlines()
    said = [json.loads(line)["prediction"] for line in lines]
    texts, tokenizer = [row["text"] for row in ROWS[kind]], AutoTokenizer.from_pretrained(out)
    if auto(run) is transformers.AutoModelForCausalLM:
        writer = pipeline("text-generation", model=str(out))
        found = [writer(text, return_full_text=False)[0]["generated_text"] for text in texts]
    else:
        read = [tokenizer(text, return_tensors="pt") for text in texts]
        ids = [plain.generate(one["input_ids"])[0] for one in read]
        found = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [text.strip() for text in found] == said


@pytest.mark.parametrize(("kind", "family"), table())
def test_an_adapter_goes_to_peft_and_comes_back(kind, family, runs, checkpoints, tmp_path):
    run, words = runs(kind, family)
    out, again = tmp_path / "out", tmp_path / "again"
    done = call("export", run, "--format", "peft", "--out", out)
    if (kind, family) == ("span", "llama"):  # transformers itself cannot load its base model
        assert done.status == 2 and "does not find the weights of its base model" in done.err
        return
    assert done.status == 0, done.err
    stated = json.loads((out / "adapter_config.json").read_text())["task_type"]
    assert stated == HEADS[load(run).settings.head].peft
    body = auto(run).from_pretrained(checkpoints[family])
    # PEFT's own class for spans drops the types of the tokens.
    theirs = peft.PeftModel.from_pretrained(body, out).base_model.eval()
    for mine, other in zip(outputs_of(run, kind), outputs_of(run, kind, theirs), strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-4, atol=1e-4)
    here = [f"model.path={checkpoints[family]}", "trainer=debug"]
    done = call("import", out, *words, *here, "--out", again)
    assert done.status == 0, done.err
    for mine, other in zip(outputs_of(run, kind), outputs_of(again, kind), strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-5, atol=1e-5)
    mine, other = read_predictions(run), read_predictions(again)
    assert mine.keys() == other.keys() and all(same(mine[k][0], other[k][0]) for k in mine)
