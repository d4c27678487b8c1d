"""Description length: the online code by hand, and labels that can be read off are short."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import carry_out, configure, sentiment
from safetensors.torch import load_file
from test_processes import SCRIPT
from test_processes import carry_out as in_processes
from torch.nn.functional import cross_entropy

from adaptkit.errors import ConfigError
from adaptkit.runs.description import ends
from adaptkit.runs.prepare import feed_of, prepare

MEASURED = {"trainer.description_length": True}


def tagged(folder: Path, train: int = 60) -> Path:
    """Write sentences of one to four words whose tags follow from the words."""
    words = {"the": "DET", "film": "NOUN", "is": "VERB", "good": "ADJ", "bad": "ADV"}
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("validation", 10)):
        lines = []
        for number in range(count):
            some = random.choice(list(words), 1 + number % 4).tolist()
            tags = [words[word] for word in some]
            lines.append({"idx": f"{split}{number}", "tokens": some, "upos": tags})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_where_the_blocks_end():
    assert ends(1000) == [1, 2, 4, 8, 16, 32, 63, 125, 250, 500, 1000]
    assert ends(100_000)[:4] == [100, 200, 400, 800]
    assert ends(5) == [1, 2, 3, 5]
    assert ends(1) == [1]


def test_the_code_of_probes_that_learn_nothing(checkpoints, tmp_path):
    """The start codes every block behind the first: added up by hand, word by word."""
    data = tagged(tmp_path / "data")
    still = {"seed": 3, "optimizer.lr": 1e-12, "trainer.epochs": 1}
    made = configure(tmp_path / "run", checkpoints["bert"], data, "task=ud_ewt", "method=probe",
                     **MEASURED, **still)  # fmt: skip
    record, _ = carry_out(made)
    found = record["description"]
    splits = made.task.load(made.data, made.seed)
    made = made.bind(splits.task)
    prepared = prepare(made, 1, "train", splits.train)
    feed = feed_of(made, prepared, splits.train)
    order = np.random.default_rng(3).permutation(60)
    costs = []
    for index in order.tolist():
        batch = feed.batch([index])
        logits = prepared.adaptation.model.eval()(**batch.inputs).logits[0]
        wanted = batch.targets["target"][0]
        kept = wanted >= 0
        nats = cross_entropy(logits[kept], wanted[kept], reduction="sum")
        costs.append((nats.item() / math.log(2), int(kept.sum())))
    stops = ends(60)
    uniform = math.log2(18)
    assert uniform == math.log2(len(made.task.classes))
    expected = [sum(n for _, n in costs[: stops[0]]) * uniform]
    expected += [sum(bits for bits, _ in costs[a:b]) for a, b in pairwise(stops)]
    assert [block["bits"] for block in found["blocks"]] == pytest.approx(expected, rel=1e-4)
    assert [block["rows"] for block in found["blocks"]] == np.diff([0, *stops]).tolist()
    assert found["bits"] == pytest.approx(sum(expected), rel=1e-4)
    assert found["uniform_bits"] == pytest.approx(150 * uniform)  # 60 sentences of 2.5 words
    assert found["compression"] == pytest.approx(found["uniform_bits"] / found["bits"])


def test_what_can_be_read_off_is_short_and_the_run_stays_as_it_is(checkpoints, tmp_path):
    data, found, deltas = tagged(tmp_path / "data", 120), {}, {}
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "measured": MEASURED,
    }
    for name, changes in cases.items():
        made = configure(tmp_path / name, checkpoints["bert"], data, "task=ud_ewt", "method=probe",
                         **{"optimizer.lr": 0.03, "trainer.epochs": 4, "method.layer": 0},
                         **changes)  # fmt: skip
        found[name], _ = carry_out(made)
        deltas[name] = load_file(tmp_path / name / "delta.safetensors")
    assert found["plain"]["description"] == {}
    assert found["plain"]["scores"] == found["measured"]["scores"]
    for name, tensor in deltas["plain"].items():
        assert torch.equal(tensor, deltas["measured"][name])
    assert found["measured"]["description"]["compression"] > 2
    assert not (tmp_path / "measured" / "checkpoints").exists()
    assert len((tmp_path / "measured" / "history.jsonl").read_text().splitlines()) == len(
        (tmp_path / "plain" / "history.jsonl").read_text().splitlines()
    )


@pytest.mark.reliability
def test_two_processes_find_the_length_of_one(checkpoints, tmp_path):
    data, found = tagged(tmp_path / "data"), []
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for processes in (1, 2):
        run = tmp_path / str(processes)
        words = [
            "task=ud_ewt", f"task.path={data}", "method=probe", "model=auto", "trainer.epochs=3",
            f"model.path={checkpoints['bert']}", f"trainer.batch_size={8 // processes}",
            "trainer.device=cpu", "trainer.precision=fp32", "trainer.description_length=true",
            f"output_dir={run}",
        ]  # fmt: skip
        in_processes(processes, script, words)
        found.append(json.loads((run / "result.json").read_text())["description"])
    assert found[0]["bits"] == pytest.approx(found[1]["bits"], rel=1e-3)
    assert [block["rows"] for block in found[0]["blocks"]] == [1, 1, 2, 4, 7, 15, 30]


def test_rows_without_words_cost_nothing(checkpoints, tmp_path):
    """Six rows, of which one has two words: in a block of its own, or behind the first one."""
    data = tagged(tmp_path / "data")
    lines = [{"idx": "a", "tokens": ["the", "film"], "upos": ["DET", "NOUN"]},
             *({"idx": str(n), "tokens": [], "upos": []} for n in range(5))]  # fmt: skip
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = configure(tmp_path / "run", checkpoints["bert"], data, "task=ud_ewt", "method=probe",
                     **MEASURED, **{"task.labels": ["DET", "NOUN", "VERB", "ADJ", "ADV"]},
                     **{"optimizer.lr": 1e-12})  # fmt: skip
    found = carry_out(made)[0]["description"]
    assert found["uniform_bits"] == pytest.approx(2 * math.log2(5))
    costs = [block["bits"] for block in found["blocks"]]
    assert sum(cost > 0 for cost in costs) == 1
    assert found["bits"] == pytest.approx(sum(costs))
    assert found["compression"] == pytest.approx(2 * math.log2(5) / sum(costs))


def test_what_has_no_code(checkpoints, tmp_path):
    rows = sentiment(tmp_path / "rows")
    cases: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        (("task=sst2", "method=lora"), {}, "method=lora is not a probe"),
        (("task=stsb", "method=probe"), {"task.label": "label"}, "not classes"),
        (("task=sst2", "method=probe"), {"task.label_smoothing": 0.1}, "change the loss"),
        (("task=sst2", "method=probe"), {"trainer.cache_frozen": "never"}, "are not kept"),
    ]
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    line = json.dumps({"sentence1": "a", "sentence2": "b", "label": 1.5})
    for split in ("train", "validation"):
        (numbers / f"{split}.jsonl").write_text(line)
    for number, (words, changes, why) in enumerate(cases):
        data = numbers if "task=stsb" in words else rows
        with pytest.raises(ConfigError, match=why):
            carry_out(configure(tmp_path / f"run{number}", checkpoints["bert"], data, *words,
                                **MEASURED, **changes))  # fmt: skip
