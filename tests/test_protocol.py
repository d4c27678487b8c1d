"""Runs that follow a run: on its body and on the untouched one, once, and what is made of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import call, write
from datasets import Dataset
from families import SENTENCES, rows
from runs import Killed, at, carry_out, outcome, shallow
from safetensors.torch import load_file
from scipy import stats
from transformers import AutoModelForMaskedLM

from adaptkit.config.compose import compose_job
from adaptkit.config.following import handed_on, pairs_of
from adaptkit.config.settings import settings
from adaptkit.errors import ConfigError
from adaptkit.models import loading
from adaptkit.models.model import Model
from adaptkit.runs.evaluating.protocol import with_protocol
from adaptkit.runs.prepare import reader_of
from adaptkit.runs.record import RunResult
from adaptkit.runs.run import Interface
from adaptkit.tasks.forms.mlm import MLMForm
from adaptkit.training.batching import Feed

NONE = [f"protocol.runs.{name}=null" for name in ("sst2", "qnli", "qqp", "stsb", "mnli", "rte")]
PROBE = "method=probe method.pooling=cls trainer=debug"
HIDDEN = "task=mlm task.name=texts task.path=texts task.max_length=16"
PROTOCOL = [
    "protocol=task_generalisation", "protocol.every=''", f"protocol.runs.cola=task=cola {PROBE}",
    f"+protocol.runs.words={HIDDEN} method=hard_prompt", *NONE,
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Rows of sst2, cola and texts; no other task."""
    folder = tmp_path_factory.mktemp("data")
    for task, seed in (("sst2", 1), ("cola", 2)):
        for split, count in (("train", 32), ("validation", 14)):
            write(folder / task / f"{split}.jsonl", rows(count, seed=seed + count))
    for split, texts in (("train", SENTENCES), ("validation", SENTENCES[::-1])):
        write(folder / "texts" / f"{split}.jsonl", [{"text": text} for text in texts])
    return folder


@pytest.fixture(scope="module")
def words(root, checkpoints, tmp_path_factory) -> list[str]:
    """A run that moves its body well."""
    folder = tmp_path_factory.mktemp("model")
    return [
        "task=sst2", "model=auto", f"data.root={root}", "trainer=debug", "method=full",
        f"model.path={shallow(checkpoints['bert'], folder / 'bert')}", "optimizer.lr=3e-3",
    ]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_at(folder: Path | str) -> dict[str, Any]:
    return json.loads((Path(folder) / "result.json").read_text())


def by_name(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in record["runs"]}


# ---- one command ----


@pytest.fixture(scope="module")
def followed(words, tmp_path_factory) -> Iterator[Path]:
    """The folder in which a run was made and followed: run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("followed"))
        answer = call("train", *words, *PROTOCOL, "output_dir=run")
        assert answer.status == 0, answer.err
        (folder / "out").write_text(answer.out)
        yield folder


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return by_name(record_at(folder / "run")["after"]["task_generalisation"])


def test_the_record_and_the_table(words, followed, monkeypatch):
    """Larger is better for the sign; the numbers are in two files and in what is printed."""
    monkeypatch.chdir(followed)
    found = json.loads(Path("run/after/task_generalisation.json").read_text())
    assert record_at("run")["after"] == {"task_generalisation": found} and not found["missing"]
    cola, hidden = entries(followed).values()
    assert cola["name"] == "cola" and cola["metric"] == "matthews_correlation"
    assert cola["difference"] == pytest.approx(cola["after"] - cola["untouched"])
    assert hidden["difference"] == pytest.approx(hidden["untouched"] - hidden["after"])
    assert hidden["difference"] != 0
    assert Path(hidden["directories"]["after"]) == Path("run/after/task_generalisation/words")
    untouched = Path(hidden["directories"]["untouched"])
    assert untouched.is_relative_to(followed / "outputs" / "texts")
    assert "protocol" not in Path("run/config.yaml").read_text()
    again = call("train", *words, *PROTOCOL, "output_dir=run")
    assert again.status == 0 and "untouched:" not in again.err
    for out in (again.out, Path("out").read_text()):
        for word in (f"{hidden['after']:.4f}", f"{hidden['difference']:+.4f}"):
            assert word in out


@pytest.mark.parametrize(
    ("name", "own"),
    [pytest.param("cola", f"task=cola {PROBE}"),
     pytest.param("words", f"{HIDDEN} method=hard_prompt", marks=pytest.mark.slow)],
)  # fmt: skip
def test_what_follows_is_what_one_would_type(name, own, words, followed, monkeypatch, tmp_path):
    """Both runs of a pair are those of commands of one's own."""
    monkeypatch.chdir(followed)
    entry = entries(followed)[name]
    model = [word for word in words if word.startswith(("model", "data.root"))]
    typed = [*own.split(), *model, "trainer.device=cpu", "trainer.precision=fp32"]
    for key, more in (("untouched", []), ("after", ["model.from_run=run"])):
        made = call("train", *typed, *more, f"output_dir={tmp_path / key}")
        assert made.status == 0, made.err
        assert outcome(tmp_path / key) == outcome(Path(entry["directories"][key]))
        assert entry[key] == record_at(tmp_path / key)["score"]
        assert call("verify", entry["directories"][key]).status == 0


def test_the_loss_after_a_run_is_that_of_plain_transformers(words, followed):
    """The trained body under the pretrained head, put together by hand; the same masks."""
    entry = entries(followed)["words"]
    path = next(word for word in words if word.startswith("model.path=")).partition("=")[2]
    model = AutoModelForMaskedLM.from_pretrained(path).eval()
    spec = Model("tiny", path)
    config = loading.load_config(spec, "mlm", None)
    reader = reader_of(config, loading.load_tokenizer(spec, config), 0)
    form = MLMForm("text", 16, 0.15, 0)
    texts = Dataset.from_dict({"text": SENTENCES[::-1]})
    feed = Feed(form.encode(texts, reader), form, reader)
    batch = feed.batch(list(range(len(feed))))

    @torch.no_grad()
    def loss() -> float:
        return float(model(**batch.inputs, labels=batch.targets["target"]).loss)

    assert entry["untouched"] == pytest.approx(loss(), rel=1e-5)
    own = model.state_dict()
    delta = load_file(followed / "run" / "delta.safetensors")
    trained = {name: tensor for name, tensor in delta.items() if name in own}
    assert len(trained) > 10
    model.load_state_dict(trained, strict=False)
    assert entry["after"] == pytest.approx(loss(), rel=1e-5)


@pytest.mark.slow
def test_rows_that_cannot_be_had(words, followed, monkeypatch):
    """They are named with the reason; another try looks for them alone."""
    monkeypatch.chdir(followed)
    typed = [*words, *PROTOCOL, f"protocol.runs.rte=task=rte {PROBE}", "protocol.name=other"]
    answer = call("train", *typed, "protocol.runs.cola=null", "output_dir=run")
    assert answer.status == 0, answer.err
    assert "not carried out: rte: data.root=" in answer.out
    assert "holds no folder 'rte'" in answer.out
    again = call("train", *typed, "protocol.runs.cola=null", "output_dir=run")
    assert again.status == 0 and again.err.count("done before") == 3  # the run, and two


# ---- several runs ----


@pytest.mark.slow
def test_the_untouched_body_is_run_once(words, here):
    """One per seed, whatever the method; means and intervals at the end of a sweep."""
    answer = call("train", "-m", *words, *PROTOCOL, "method=full,lora", "seed=0,1")
    assert answer.status == 0, answer.err
    assert len(list((here / "outputs" / "cola").rglob("result.json"))) == 2
    assert len(list((here / "outputs" / "texts").rglob("result.json"))) == 2
    runs = [json.loads(file.read_text()) for file in (here / "outputs" / "sst2").rglob(
        "seed?/result.json")]  # fmt: skip
    assert len(runs) == 4
    for method in ("full", "lora"):
        found = [by_name(run["after"]["task_generalisation"])["words"]
                 for run in runs if run["method"] == method]  # fmt: skip
        values = [entry["difference"] for entry in found]
        low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
        assert (
            f"task_generalisation, words: masked_loss {found[0]['untouched']:.4f} untouched, "
            f"{np.mean([entry['after'] for entry in found]):.4f} after, difference "
            f"{np.mean(values):+.4f} (95 % over the runs: {low:+.4f} to {high:+.4f})"
        ) in answer.out
        seeds = {entry["directories"]["untouched"].rpartition("/")[2] for entry in found}
        assert seeds == {"seed0", "seed1"}


def quiet_job(words: list[str], *more: str) -> Any:
    return settings(compose_job([*words, *PROTOCOL, *more]))


@pytest.mark.slow
def test_a_kill_in_a_run_that_follows(words, here):
    """It resumes, and ends as if it had not been cut; what was done is not repeated."""
    for name in ("whole", "cut"):
        carry_out(quiet_job(words, f"output_dir={here / name}"))
    said: list[str] = []

    def kill() -> None:
        raise Killed

    def follow(name: str, *callbacks: Any) -> RunResult:
        job = quiet_job(words, f"output_dir={here / name}")
        result = RunResult.read(here / name)
        assert result is not None
        return with_protocol(job, result, Interface(said.append, lambda _: callbacks))

    with pytest.raises(Killed):
        follow("cut", at("on_step_end", 3, kill))
    assert record_at("cut")["after"] == {}
    follow("cut")
    assert "resuming from update 2" in said
    said.clear()
    whole = follow("whole").after["task_generalisation"]["runs"]
    assert sum(line.startswith("done before") for line in said) == 2  # both untouched ones
    for entry in whole:
        after = Path(entry["directories"]["after"])
        cut = here / "cut" / after.relative_to(here / "whole")
        # Its parent lies elsewhere and has the same tensors.
        assert outcome(cut) == outcome(after)


@pytest.mark.slow
def test_an_interrupted_protocol_goes_on(words, here, monkeypatch):
    from adaptkit.runs.evaluating import protocol

    done = []
    run = protocol.run

    def stop(*arguments: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "run", stop)
        answer = call("train", *words, *PROTOCOL, "output_dir=run")
    assert answer.status == 130
    assert "run itself is done, and the same command carries out its protocol" in answer.err
    answer = call("train", *words, *PROTOCOL, "output_dir=run")
    assert answer.status == 0, answer.err
    assert answer.err.count("done before") == 3  # the run, and the first pair


@pytest.mark.slow
def test_another_run_in_the_same_place_has_others_after_it(words, here):
    """What followed the run goes with it; other options of the protocol replace it."""
    assert call("train", *words, *PROTOCOL, "output_dir=run").status == 0
    first = record_at("run")
    answer = call("train", *words, *PROTOCOL, "output_dir=run", "trainer.resume=never", "seed=1")
    assert answer.status == 0, answer.err
    second = record_at("run")
    assert second["delta_sha256"] != first["delta_sha256"]
    for name, entry in by_name(second["after"]["task_generalisation"]).items():
        made = record_at(entry["directories"]["after"])
        assert made["from_runs"][0]["delta_sha256"] == second["delta_sha256"]
        assert made["seed"] == 1, name
    other = f"protocol.runs.cola=task=cola {PROBE} trainer.max_steps=2"
    answer = call("train", *words, *PROTOCOL, "output_dir=run", "seed=1", other)
    assert answer.status == 0, answer.err
    third = by_name(record_at("run")["after"]["task_generalisation"])
    assert record_at(third["cola"]["directories"]["after"])["updates"] == 2
    assert record_at(third["cola"]["directories"]["untouched"])["updates"] == 2


# ---- mistakes ----


def test_a_method_that_cannot_be_merged_is_rejected_first(words, here):
    answer = call("train", *words, *PROTOCOL, "method=prefix", "output_dir=run")
    assert answer.status == 2
    assert (
        "protocol=task_generalisation: method=prefix cannot be merged into the weights, so no run "
        "on another task can go on from it." in answer.err
    )
    assert not (here / "run").exists() and not (here / "outputs").exists()


@pytest.mark.slow
def test_also_of_a_run_that_is_done(words, here):
    assert call("train", *words, "method=prefix", "output_dir=run").status == 0
    answer = call("train", *words, *PROTOCOL, "method=prefix", "output_dir=run")
    assert answer.status == 2  # done before, without the protocol
    assert "method=prefix cannot be merged into the weights" in answer.err
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["protocol=forgeting"], "protocol=forgeting: not known; did you mean forgetting"),
        (["protocol.runs.cola=task=colla"], "run cola: task=colla: not known; did you mean cola"),
        (["protocol.runs.cola=task=cola seed=3"], "runs.cola: seed=3: is taken from the run it f"),
        (["protocol.runs.cola=task=cola model=bert-base"], "model=bert-base: is taken from the"),
        (["protocol.runs.cola=null", "protocol.runs.words=null"], "task_generalisation: has no"),
        (["protocol.runs.cola=task=rte", "protocol.runs.words=null"],
         "none of its runs has rows. data.root="),
        ([f"protocol.runs.cola={PROBE} task=cola method.pooling=max method.layer=9"],
         "run cola: method.layer=9: this model has layers 0 to 1"),
        (["model.random_weights=true"], "run cola: model.random_weights=True: draws what model.fr"),
    ],
)  # fmt: skip
def test_mistakes_come_before_the_first_run(typed, message, words, here):
    answer = call("train", *words, *PROTOCOL, *typed, "output_dir=run")
    assert answer.status == 2 and message in answer.err, answer.err
    assert not (here / "run").exists() and not (here / "outputs").exists()


def test_a_model_that_hides_no_words(root, checkpoints, here):
    words = ["task=sst2", "model=auto", f"data.root={root}", "trainer=debug",
             f"model.path={checkpoints['gpt2']}", "output_dir=run"]  # fmt: skip
    answer = call("train", *words, "protocol=forgetting")
    assert answer.status == 2 and not (here / "run").exists()
    assert "protocol=forgetting, run wikitext: model.path=" in answer.err
    assert "GPT-2 models have no masked-word head" in answer.err


# ---- what is handed on ----


def test_what_is_handed_on(root):
    job = settings(compose_job([
        "model=roberta-base", "model.revision=v2", f"data.root={root}", "trainer.device=cpu",
        "trainer.precision=bf16", "seed=7", *PROTOCOL,
    ]))  # fmt: skip
    assert handed_on(job) == [
        "model=roberta-base", "model.revision='v2'", f"data.root='{root}'", "trainer.device='cpu'",
        "trainer.precision=bf16", "seed=7",
    ]  # fmt: skip
    pair = pairs_of(job)["cola"]
    for one in (pair.untouched, pair.after):
        assert (one.model.name, one.model.revision, one.seed) == ("roberta-base", "v2", 7)
        assert (one.trainer.device, one.trainer.precision) == ("cpu", "bf16")
        assert one.data.root == str(root) and one.protocol is None
    assert pair.untouched.model.from_run is None
    assert pair.after.model.from_run == str(job.output_dir)


def test_bundled_protocols():
    """Every one can be composed; forgetting has a form for encoders and one for decoders."""
    for name, head in (("task_generalisation", "sequence"), ("forgetting", "mlm"),
                       ("forgetting_lm", "lm")):  # fmt: skip
        model = "mini-gpt2" if head == "lm" else "mini-bert"
        job = settings(compose_job([f"protocol={name}", f"model={model}", "task=mrpc"]))
        pairs = pairs_of(job)
        assert {pair.after.head for pair in pairs.values()} == {head}
        for pair in pairs.values():
            if head == "sequence":
                trainer, method = pair.after.trainer, pair.after.method
                assert (trainer.epochs, trainer.batch_size) == (3, 16)
                assert (pair.after.optimizer.lr, method.pooling) == (1e-3, "cls")
            else:
                assert pair.after.trainer.max_steps == 0
    with pytest.raises(ConfigError, match=r"runs\.mine: output_dir=x: is taken from the run"):
        settings(compose_job(["protocol=forgetting", "+protocol.runs.mine=task=rte output_dir=x"]))
