"""A plain model in transformers.pipeline answers as the run does: over families and heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import call, tiny, write
from datasets import Dataset
from families import EACH_FAMILY, KNOWN_SENTENCES, UNKNOWN_SENTENCES, rows
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline
from transformers.pipelines import Pipeline

from adaptkit.config.compose import compose
from adaptkit.config.settings import Settings, settings
from adaptkit.runs.delta import SavedRun
from adaptkit.runs.exchange.export import write as export
from adaptkit.runs.predicting.predictor import Predictor
from adaptkit.runs.prepare import feed_of, prepare, scorer_of
from adaptkit.training.scorer import Prepared

pytestmark = pytest.mark.filterwarnings("ignore")
LONG = " ".join(["the plot was great but", *[row["sentence"] for row in rows(90)]])
TEXTS = [*KNOWN_SENTENCES, *UNKNOWN_SENTENCES, LONG]
LABELS = ("bad", "good", "so so")
TAGS = ("O", "B-LOC", "I-LOC", "ADJ")
NO_TOKENS = (
    "opt",
    "bart",
    "modernbert-decoder",
    "gemma3_text",
)  # transformers has no token classifier of theirs
SEQUENCE = ("task=classify", f"task.labels=[{','.join(LABELS[:2])},'so so']", "task.text=text")
NUMBER = ("task=regress", "task.text=text", "task.label=stars")
TOKEN = ("task=tag", f"task.labels=[{','.join(TAGS)}]", "task.words=words", "task.label=tags")


@torch.no_grad()
def run_of(checkpoint: Path, *words: str) -> tuple[Settings, Prepared]:
    """Return a run whose tensors are random numbers."""
    made = settings(compose([*tiny(checkpoint), *words, "task.path=none", "method=lora"]))
    prepared = prepare(made, 1, "train")
    generator = torch.Generator().manual_seed(3)
    for parameter in prepared.adaptation.trainable.values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made, prepared


def exported(made: Settings, prepared: Prepared, folder: Path) -> Path:
    saved = SavedRun(folder, made, None, {}, {"fingerprint": ""})
    export(saved, prepared, "merged", folder / "out")
    return folder / "out"


@pytest.mark.sampled
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_classes(family: str, checkpoints: Any, tmp_path: Path) -> None:
    made, prepared = run_of(checkpoints[family], *SEQUENCE)
    feed = feed_of(made, prepared, Dataset.from_dict({"text": TEXTS}))
    outputs = scorer_of(made, prepared).outputs(feed.batch(list(range(len(TEXTS)))))
    mine = outputs.logits.softmax(-1)
    plain: Pipeline = pipeline("text-classification", str(exported(made, prepared, tmp_path)))
    size = 1 if family == "xlnet" else 5  # the pipeline cannot cut XLNet's memories into rows
    found = plain(TEXTS, truncation=True, top_k=None, batch_size=size)
    table = [{answer["label"]: answer["score"] for answer in answers} for answers in found]
    scores = torch.tensor([[row[label] for label in LABELS] for row in table])
    torch.testing.assert_close(scores, mine, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ("bert", "gpt2", "t5"))
def test_numbers(family: str, checkpoints: Any, tmp_path: Path) -> None:
    made, prepared = run_of(checkpoints[family], *NUMBER)
    mine = Predictor(made, prepared).predict([{"text": text} for text in TEXTS])
    plain = pipeline("text-classification", str(exported(made, prepared, tmp_path)))
    found = [answer["score"] for answer in plain(TEXTS, truncation=True)]
    assert found == pytest.approx(mine, rel=1e-4, abs=1e-4)


@pytest.mark.sampled
@pytest.mark.parametrize("family", [f for f in EACH_FAMILY if f.values[0] not in NO_TOKENS])
def test_tags(family: str, checkpoints: Any, tmp_path: Path) -> None:
    """Every word's tag, read where the run reads it: at its first piece, or its last if causal."""
    made, prepared = run_of(checkpoints[family], *TOKEN)
    lists = [text.split() for text in TEXTS[:-1]]
    mine = Predictor(made, prepared).predict([{"words": words} for words in lists])
    causal = prepared.reader.causal
    plain = pipeline("token-classification", str(exported(made, prepared, tmp_path)),
                     ignore_labels=[])  # fmt: skip
    for words, tags in zip(lists, mine, strict=True):
        pieces = [piece for piece in plain(" ".join(words)) if piece["end"] > piece["start"]]
        start = 0
        for word, tag in zip(words, tags, strict=True):
            here = [p for p in pieces if start < p["end"] <= start + len(word)]
            assert tag is None or here[-1 if causal else 0]["entity"] == tag, (words, word)
            start += len(word) + 1


OLD = {
    "problem_type": "multi_label_classification", "output_attentions": True,
    "output_hidden_states": True, "return_dict": False, "function_to_apply": "sigmoid",
    "id2label": {"0": "old"}, "label2id": {"old": 0}, "max_position_embeddings": 64,
    "task_specific_params": {"text-classification": {"top_k": 2}},
}  # fmt: skip


@pytest.fixture
def used(checkpoints: Any, tmp_path: Path) -> Path:
    """A checkpoint that an earlier task left its marks on, and that reads 64 positions."""
    from families import tiny_config, tiny_tokenizer
    from transformers import BertForMaskedLM

    folder = tmp_path / "used"
    config = tiny_config("bert")
    config.max_position_embeddings = 64
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    tiny_tokenizer("bert").save_pretrained(folder)
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | OLD))
    return folder


@pytest.mark.parametrize("words", (SEQUENCE, NUMBER), ids=("classes", "number"))
def test_an_earlier_task_leaves_nothing(words: tuple[str, ...], used: Path, tmp_path: Path) -> None:
    made, prepared = run_of(used, *words)
    texts = [*TEXTS, LONG[::-1]]
    mine = Predictor(made, prepared).predict([{"text": text} for text in texts])
    out = exported(made, prepared, tmp_path)
    plain = pipeline("text-classification", str(out))
    found = plain(texts, truncation=True)
    key = "label" if words is SEQUENCE else "score"
    assert [answer[key] for answer in found] == (
        mine if key == "label" else pytest.approx(mine, rel=1e-3)
    )
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == (
        "single_label_classification" if words is SEQUENCE else "regression"
    )
    assert not {"function_to_apply", "output_attentions"} & {k for k, v in config.items() if v}
    assert AutoTokenizer.from_pretrained(out).model_max_length == 64


def test_tags_of_a_used_checkpoint(used: Path, tmp_path: Path) -> None:
    made, prepared = run_of(used, *TOKEN)
    plain = AutoModelForTokenClassification.from_pretrained(exported(made, prepared, tmp_path))
    assert (plain.config.problem_type, plain.config.id2label) == (None, dict(enumerate(TAGS)))


def test_merged_and_peft_exports_of_a_trained_regression(checkpoints: Any, tmp_path: Path) -> None:
    table = [{"text": row["sentence"], "stars": row["label"] * 3.0 - 1} for row in rows(24)]
    for split in ("train", "validation"):
        write(tmp_path / "data" / f"{split}.jsonl", table)
    data = [*NUMBER, f"task.path={tmp_path / 'data'}"]
    run = tmp_path / "run"
    answer = call("train", *tiny(checkpoints["bert"]), *data, f"output_dir={run}")
    assert answer.status == 0, answer.err
    assert call("export", run, "--format", "merged", "--out", tmp_path / "out").status == 0
    plain = pipeline("text-classification", str(tmp_path / "out"))
    saved = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    found = [answer["score"] for answer in plain([row["text"] for row in table])]
    assert found == pytest.approx([row["prediction"] for row in saved], rel=1e-4, abs=1e-4)
