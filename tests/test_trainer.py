"""What the trainer promises: hooks, penalties, rates, batches, best weights, number formats."""

from __future__ import annotations

import json
import math
import shutil
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    bits,
    carry_out,
    command,
    configure,
    finished,
    history,
    outcome,
    script,
    sentiment,
    shallow,
)
from safetensors.torch import load_file
from transformers import TrainerCallback

from adaptkit.adaptation import Adaptation
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.runs import run as pipeline
from adaptkit.tasks.forms.head import HeadForm
from adaptkit.training import precision
from adaptkit.training.arguments import parameter_groups
from adaptkit.training.scorer import Prepared, Scorer
from adaptkit.training.trainer import AdaptTrainer

LABELS = ("negative", "positive")
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FOUR = {"trainer.max_steps": 4, "trainer.log_every": 1}


@dataclass(frozen=True)
class Place:
    """A checkpoint of one layer, the same without dropout, and rows."""

    model: Path
    quiet: Path
    data: Path

    def settings(
        self, directory: Path, *groups: str, quiet: bool = False, method: Any = None, **changes: Any
    ) -> Any:
        model = self.quiet if quiet else self.model
        made = configure(directory, model, self.data, *groups, **changes)
        return replace(made, method=method, method_name="test") if method else made


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoints) -> Place:
    folder = tmp_path_factory.mktemp("trainer")
    loud = shallow(checkpoints["bert"], folder / "bert")
    quiet = shallow(checkpoints["bert"], folder / "quiet")
    config = json.loads((quiet / "config.json").read_text())
    (quiet / "config.json").write_text(json.dumps(config | QUIET))
    return Place(loud, quiet, sentiment(folder / "data"))


def assembled(settings: Any) -> tuple[AdaptTrainer, Prepared]:
    """Return a trainer as the pipeline builds it."""
    splits = settings.task.load(settings.data, settings.seed)
    prepared = pipeline.prepare(settings, 1, "train", splits.train)
    quiet = pipeline.Interface(lambda _: None, lambda _: ())
    return pipeline.trainer_of(settings, splits, prepared, quiet)[0], prepared


def copied(adaptation: Adaptation) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in adaptation.trainable.items()}


def gradients(adaptation: Adaptation) -> dict[str, torch.Tensor]:
    return {name: tensor.grad.clone() for name, tensor in adaptation.trainable.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return bits(one) == bits(other)


# ---- hooks ----


@dataclass(frozen=True)
class Spy:
    """Notes at every hook the moment, the weights and the gradients."""

    seen: list[tuple] = field(default_factory=list)

    def adapt(self, start: Adaptation, context: Any) -> Adaptation:
        def hook(name: str) -> Any:
            def note(step: Any) -> None:
                self.seen.append((name, step, copied(start), gradients(start)))

            return note

        def finish() -> None:
            if context.tokenizer is not None:  # the plan finishes as well, on shapes alone
                self.seen.append(("finish", None, copied(start), {}))

        first = start.plus(before_update=hook("before"), after_update=hook("after"), finish=finish)
        return first.plus(before_update=hook("before2"), after_update=hook("after2"))


@pytest.fixture(params=[1, 2], ids=["one batch", "two batches"])
def spied(request, place, tmp_path) -> list[tuple]:
    spy = Spy()
    changes = {
        **FOUR, "trainer.gradient_accumulation": request.param, "trainer.max_grad_norm": 0.1,
        "trainer.keep": "last",
    }  # fmt: skip
    # Four updates with accumulation end within an epoch of six batches.
    record, _ = carry_out(place.settings(tmp_path / "run", method=spy, **changes))
    assert record["updates"] == 4
    return spy.seen


def test_hooks_come_in_order(spied):
    names = [entry[0] for entry in spied]
    assert names == ["before", "before2", "after", "after2"] * 4 + ["finish"]


def test_hooks_know_the_moment(spied):
    steps = [entry[1] for entry in spied[:-1]]
    assert [step.index for step in steps] == [i for k in range(4) for i in (k, k, k + 1, k + 1)]
    assert {step.total for step in steps} == {4}
    # 6 % of 4 updates, rounded up, is one update of warm-up: half, then down from the top to 0.
    assert [s.lr for s in steps[::4]] == pytest.approx([5e-4, 1e-3, 1e-3 * 2 / 3, 1e-3 / 3])
    assert [s.lr for s in steps[2::4]] == [s.lr for s in steps[::4]]


def test_before_sees_unmoved_weights_and_clipped_gradients(spied):
    befores, afters = spied[0:-1:4], spied[2:-1:4]
    for before, previous in zip(befores[1:], afters, strict=False):
        assert same(before[2], previous[2])
    for before in befores:
        norm = torch.cat([g.flatten() for g in before[3].values()]).norm()
        assert float(norm) == pytest.approx(0.1, rel=1e-4)  # far larger before it was clipped


def test_after_sees_moved_weights_and_the_same_gradients(spied):
    pairs = list(zip(spied[0:-1:4], spied[2:-1:4], strict=True))
    for before, after in pairs:
        assert not same(before[2], after[2])
        assert same(before[3], after[3])
    assert same(spied[-1][2], spied[-2][2])


@pytest.mark.parametrize(("keep", "update"), [("best", 2), ("last", 4)])
def test_finish_has_the_last_word(keep, update, place, tmp_path, monkeypatch):
    """What `finish` makes of the weights that are kept is what is saved and scored."""
    seen: list[dict] = []

    class Constant:
        def adapt(self, start: Adaptation, context: Any) -> Adaptation:
            @torch.no_grad()
            def finish() -> None:
                if context.tokenizer is not None:  # the plan finishes as well, on shapes alone
                    seen.append(copied(start))
                start.trainable["classifier.weight"].zero_()
                start.trainable["classifier.bias"].copy_(torch.tensor([0.0, 1.0]))

            return start.plus(finish=finish)

    weights = Weights()
    changes = {**FOUR, "trainer.keep": keep, "trainer.eval_every": 2,
               "trainer.select_on": "validation"}  # fmt: skip
    with monkeypatch.context() as patch:
        script(patch, {2: 0.9, 4: 0.8})
        carry_out(place.settings(tmp_path / "run", method=Constant(), **changes), weights)
    assert len(seen) == 1
    assert same(seen[0], weights.seen[update])
    found = outcome(tmp_path / "run")
    assert {json.loads(line)["prediction"] for line in found["predictions"].splitlines()} == {
        "positive"
    }
    saved = load_file(tmp_path / "run" / "delta.safetensors")
    assert not saved.pop("classifier.weight").any()
    saved.pop("classifier.bias")
    assert same(saved, {name: weights.seen[update][name] for name in saved})


# ---- penalties ----


def penalised(weight: float, constant: float) -> Any:
    class Penalised:
        def adapt(self, start: Adaptation, context: Any) -> Adaptation:
            head = start.trainable["classifier.weight"]
            terms = {
                "slope": lambda model, batch, outputs, step: weight * head.sum(),
                "constant": lambda model, batch, outputs, step: torch.tensor(constant),
                "updates": lambda model, batch, outputs, step: torch.tensor(float(step.index)),
                "rows": lambda model, batch, outputs, step: torch.tensor(
                    float(batch.weight + len(outputs.logits))
                ),
            }
            spy = Spy(seen)
            return spy.adapt(start.plus(penalty=terms), context)

    seen: list[tuple] = []
    return Penalised(), seen


@pytest.mark.parametrize("accumulation", [1, 2])
def test_penalties_are_added_and_logged(accumulation, place, tmp_path):
    changes = {**FOUR, "trainer.gradient_accumulation": accumulation, "trainer.max_grad_norm": 0.0}
    found = {}
    for weight in (0.0, 0.75):
        method, seen = penalised(weight, 0.25)
        directory = tmp_path / str(weight)
        carry_out(place.settings(directory, quiet=True, method=method, **changes))
        found[weight] = seen[0][3], [e for e in history(directory) if "loss" in e]
    plain, pulled = found[0.0][0], found[0.75][0]
    for name in plain:
        slope = 0.75 if name == "classifier.weight" else 0.0
        assert torch.allclose(pulled[name] - plain[name], torch.tensor(slope), atol=1e-5), name
    lines = found[0.75][1]
    assert [line["constant"] for line in lines] == pytest.approx([0.25] * 4)
    assert [line["updates"] for line in lines] == pytest.approx([0, 1, 2, 3])
    assert lines[0]["rows"] == 16  # of every batch: a penalty is a mean, not a sum, over batches
    assert lines[0]["loss"] == pytest.approx(found[0.0][1][0]["loss"])  # the task's own loss


def test_log_is_the_mean_since_the_last_line(place, tmp_path):
    method, _ = penalised(0.0, 0.5)
    changes = {"trainer.max_steps": 6, "trainer.log_every": 3}
    carry_out(place.settings(tmp_path / "run", method=method, **changes))
    lines = [entry for entry in history(tmp_path / "run") if "loss" in entry]
    assert [(line["step"], line["updates"]) for line in lines] == [(1, 0.0), (3, 1.5), (6, 4.0)]


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_loss_that_is_no_number_stops_the_run(every, accumulation, place, tmp_path):
    class Diverging:
        def adapt(self, start: Adaptation, context: Any) -> Adaptation:
            def term(model: Any, batch: Any, outputs: Any, step: Any) -> torch.Tensor:
                return torch.tensor(math.nan if step.index == 2 else 0.0)

            return start.plus(penalty={"bad": term})

    changes = {**FOUR, "trainer.log_every": every, "trainer.gradient_accumulation": accumulation}
    with pytest.raises(AdaptError, match=r"bad is nan at update 3\b"):
        carry_out(place.settings(tmp_path / "run", method=Diverging(), **changes))
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == "failed"


# ---- learning rates and weight decay ----


class Rates(TrainerCallback):
    """Notes the learning rate of every parameter at every update."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any,
        model: Any = None, optimizer: Any = None, **_: Any,
    ) -> None:  # fmt: skip
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.seen.append(
            {
                names[id(parameter)]: group["lr"]
                for group in optimizer.param_groups
                for parameter in group["params"]
            }
        )


def shape(schedule: str, update: int, warmup: int, total: int) -> float:
    """The schedules as defined: a line up, then constant, a line or half a cosine to 0."""
    if update < warmup:
        return (update + 1) / (warmup + 1)
    done = (update - warmup) / max(1, total - warmup)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[
        schedule
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(
    "warmup", [0.25, 0.99, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.3))]
)
def test_rates_through_the_schedule(schedule, warmup, place, tmp_path):
    scale = {"classifier.*": 10.0, "*.embeddings.*": 0.1, "*.bias": 0.5}

    class Scaled:
        def adapt(self, start: Adaptation, context: Any) -> Adaptation:
            return start.plus(lr_scale=scale)

    changes = {
        "trainer.max_steps": 8, "optimizer.schedule": schedule, "optimizer.warmup_ratio": warmup,
        "optimizer.weight_decay": 0.02, "optimizer.lr": 2e-3, "trainer.eval_every": 8,
    }  # fmt: skip
    rates = Rates()
    carry_out(place.settings(tmp_path / "run", method=Scaled(), **changes), rates)
    assert len(rates.seen) == 8
    for update, seen in enumerate(rates.seen):
        expected = 2e-3 * shape(schedule, update, math.ceil(8 * warmup), 8)
        for name, lr in seen.items():
            factor = 10.0 if name.startswith("classifier.") else 1.0
            factor *= 0.1 if ".embeddings." in name else 1.0
            factor *= 0.5 if name.endswith(".bias") else 1.0
            assert lr == pytest.approx(expected * factor, rel=1e-9, abs=1e-15), (name, update)


def test_weight_decay_is_for_matrices(place, tmp_path):
    settings = place.settings(tmp_path, "method=full", **{"optimizer.weight_decay": 0.1})
    prepared = pipeline.prepare(settings, 1, "train")
    groups = parameter_groups(prepared.adaptation, settings.optimizer)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in prepared.adaptation.trainable.values()}
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.dim() == 2 else 0.0)
            assert group["lr"] == settings.optimizer.lr


# ---- batches ----


@pytest.mark.parametrize(("size", "accumulation"), [(4, 2), (1, 8)])
@pytest.mark.parametrize("groups", [("method=full",), ("method=lora", "regularizer=[l2_sp]")])
def test_accumulation_equals_a_larger_batch(size, accumulation, groups, place, tmp_path):
    """44 rows in updates of 8; the last of an epoch has 4."""
    found = []
    for batch, micro in ((8, 1), (size, accumulation)):
        changes = {
            "trainer.batch_size": batch, "trainer.gradient_accumulation": micro,
            "trainer.epochs": 1, "optimizer.lr": 0.05,
        }  # fmt: skip
        directory = tmp_path / str(batch)
        made = place.settings(directory, "optimizer=sgd", *groups, quiet=True, **changes)
        record, _ = carry_out(made)
        found.append((record["updates"], load_file(directory / "delta.safetensors")))
    assert found[0][0] == found[1][0] == 6
    for name, tensor in found[0][1].items():
        assert torch.allclose(tensor, found[1][1][name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 31, 44])
@pytest.mark.parametrize(("size", "accumulation"), [(1, 1), (8, 1), (4, 2), (3, 4), (64, 2)])
def test_total_updates(rows, size, accumulation, place, tmp_path):
    """The number that methods are told equals the number the Trainer makes."""
    trainer = None
    for epochs in (1, 3, 0.3, 2.5):
        changes = {
            "trainer.batch_size": size, "trainer.gradient_accumulation": accumulation,
            "trainer.epochs": epochs,
        }  # fmt: skip
        settings = place.settings(tmp_path, **changes)
        trainer = trainer or light(place, tmp_path, rows, changes)
        trainer.args.num_train_epochs = epochs
        values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        assert settings.trainer.updates(rows, 1) == values[-1]


_light: dict[str, Any] = {}


def light(place: Place, directory: Path, rows: int, changes: dict) -> AdaptTrainer:
    """A trainer around one model that all sizes share."""
    settings = place.settings(directory, **changes)
    if not _light:
        _light["prepared"] = pipeline.prepare(settings, 1, "train")
        splits = settings.task.load(settings.data, 0)
        _light["feed"] = pipeline.feed_of(settings, _light["prepared"], splits.train)
    feed, scorer = _light["feed"], pipeline.scorer_of(settings, _light["prepared"])
    some = feed.with_examples(feed.examples.select(range(rows)))
    return AdaptTrainer(scorer, settings.recipe, some, {})


def test_max_steps_overrides_epochs(place, tmp_path):
    settings = place.settings(tmp_path, **{"trainer.max_steps": 5, "trainer.epochs": 100})
    assert settings.trainer.updates(44, 1) == 5


@pytest.mark.parametrize("size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batch_size(size, place, tmp_path):
    trainer, prepared = assembled(place.settings(tmp_path, **{"trainer.eval_batch_size": size}))
    found = trainer.score()[""]
    prepared.adaptation.model.eval()
    expected, losses = [], []
    for row in trainer.validation[""].feed.examples:
        with torch.no_grad():
            ids = torch.tensor([row["input_ids"]])
            logits = prepared.adaptation.model(input_ids=ids).logits[0]
        expected.append(LABELS[int(logits.argmax())])
        losses.append(float(-logits.log_softmax(0)[row["target"]]))
    labels = trainer.validation[""].rows["label"][:]
    assert found.answers == expected
    right = sum(a == b for a, b in zip(expected, labels, strict=True))
    assert found.scores == {"accuracy": right / 20, "loss": pytest.approx(sum(losses) / 20, 1e-5)}


def test_evaluation_holds_one_batch_of_logits(place, tmp_path, monkeypatch):
    settings = place.settings(tmp_path, **{"trainer.eval_batch_size": 3})
    trainer, _ = assembled(settings)
    predict = HeadForm.predict
    held: list[weakref.ref] = []

    def watched(self: Any, model: Any, outputs: Any, batch: Any, reader: Any) -> list[str]:
        assert len(outputs.logits) <= 3
        assert not any(old() is not None for old in held[:-1])  # the last may still have a name
        held.append(weakref.ref(outputs.logits))
        return predict(self, model, outputs, batch, reader)

    monkeypatch.setattr(HeadForm, "predict", watched)
    found = trainer.score()[""]
    assert len(held) == 7  # 20 rows by 3
    assert len(found.answers) == 20
    assert not any(old() is not None for old in held)


# ---- which weights are kept ----

RISES_THEN_FALLS = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.9, 10: 0.6, 12: 0.6}
EVERY_TWO = {"trainer.epochs": 2, "trainer.eval_every": 2, "trainer.select_on": "validation"}


class Weights(TrainerCallback):
    """Copies what learns at every evaluation."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, torch.Tensor]] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.seen[state.global_step] = {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize(("keep", "update"), [("best", 4), ("last", 12)])
def test_kept_weights(keep, update, place, tmp_path, monkeypatch):
    """Of two best evaluations the first counts."""
    script(monkeypatch, RISES_THEN_FALLS)
    weights = Weights()
    changes = {**EVERY_TWO, "trainer.keep": keep}
    record, _ = carry_out(place.settings(tmp_path / "run", "method=full", **changes), weights)
    assert sorted(weights.seen) == [2, 4, 6, 8, 10, 12]
    assert same(load_file(tmp_path / "run" / "delta.safetensors"), weights.seen[update])
    assert (record["updates"], record["best_update"]) == (12, 4)
    assert record["score"] == RISES_THEN_FALLS[update]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.yaml", "delta.safetensors", "result.json", "history.jsonl", "predictions.jsonl",
        "train.log",
    }  # fmt: skip


@pytest.mark.parametrize(("keep", "kept"), [("best", 4), ("last", 8)])
@pytest.mark.parametrize("patience", [2, 50])
def test_early_stopping(keep, kept, patience, place, tmp_path, monkeypatch):
    """An evaluation that is as good as the best is not better."""
    script(monkeypatch, RISES_THEN_FALLS)
    weights = Weights()
    changes = {**EVERY_TWO, "trainer.keep": keep, "trainer.early_stopping_patience": patience}
    record, _ = carry_out(place.settings(tmp_path / "run", "method=full", **changes), weights)
    stop = 8 if patience == 2 else 12
    assert record["updates"] == stop
    assert record["best_update"] == 4
    kept = stop if keep == "last" else 4
    assert same(load_file(tmp_path / "run" / "delta.safetensors"), weights.seen[kept])


def test_epoch_evaluations_and_the_end(place, tmp_path):
    """A run that ends within an epoch is scored where it ends."""
    record, _ = carry_out(place.settings(tmp_path / "run", **{"trainer.max_steps": 8}))
    scored = [e["step"] for e in history(tmp_path / "run") if "eval_accuracy" in e]
    assert scored == [6, 8]
    assert record["epochs"] == pytest.approx(8 / 6, abs=1e-4)


# ---- cached features ----


def test_cached_features_train_the_same(place, tmp_path):
    found = {}
    for cache in ("auto", "never"):
        changes = {"trainer.epochs": 3, "trainer.cache_frozen": cache}
        carry_out(place.settings(tmp_path / cache, "method=probe", **changes))
        found[cache] = outcome(tmp_path / cache), load_file(tmp_path / cache / "delta.safetensors")
    for name, tensor in found["auto"][1].items():
        assert torch.allclose(tensor, found["never"][1][name], rtol=0, atol=1e-6), name
    assert found["auto"][0]["predictions"] == found["never"][0]["predictions"]
    for one, other in zip(found["auto"][0]["history"], found["never"][0]["history"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_body_runs_once_per_row(place, tmp_path, monkeypatch):
    from adaptkit.layers.probing import Probing

    rows, states = [], Probing.states

    def counted(self: Any, inputs: Any, layers: Any) -> list[torch.Tensor]:
        if type(inputs["input_ids"]) is torch.Tensor:  # the plan counts without numbers
            rows.append(len(inputs["input_ids"]))
        return states(self, inputs, layers)

    monkeypatch.setattr(Probing, "states", counted)
    monkeypatch.setattr(pipeline, "verify_saved", lambda *_: None)
    monkeypatch.setattr(Scorer, "proof", lambda *_: {})
    carry_out(place.settings(tmp_path / "run", "method=probe", **{"trainer.epochs": 5}))
    assert sum(rows) == 44 + 20


# ---- number formats ----


def test_bf16(place, tmp_path):
    changes = {"trainer.precision": "bf16", "trainer.max_steps": 3, "trainer.keep": "last"}
    settings = place.settings(tmp_path / "run", "method=lora", **changes)
    trainer, prepared = assembled(settings)
    adaptation = prepared.adaptation
    frozen = {n: p for n, p in adaptation.model.named_parameters() if not p.requires_grad}
    for name, parameter in frozen.items():
        expected = torch.bfloat16 if parameter.dim() > 1 else torch.float32
        assert parameter.dtype == expected, name
    before = {name: p.clone() for name, p in frozen.items()}
    start = copied(adaptation)
    products = []
    layer = adaptation.model.bert.encoder.layer[0].intermediate.dense
    layer.register_forward_hook(lambda module, args, out: products.append(out.dtype))
    trainer.run(None)
    assert set(products) == {torch.bfloat16}
    assert same(before, frozen)
    for name, parameter in adaptation.trainable.items():
        assert parameter.dtype == torch.float32
        assert not torch.equal(parameter, start[name]), name
    moments = [t for s in trainer.optimizer.state.values() for t in s.values() if t.dim()]
    assert {t.dtype for t in moments} == {torch.float32}


def test_bf16_run_is_proved(place, tmp_path):
    changes = {"trainer.precision": "bf16", "trainer.max_steps": 3}
    record, _ = carry_out(place.settings(tmp_path / "run", "method=lora", **changes))
    assert record["precision"] == "bf16"
    tensors = load_file(tmp_path / "run" / "delta.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}


def test_fp16_is_refused_on_a_cpu(place, tmp_path):
    changes = {"trainer.precision": "fp16", "trainer.device": "cpu"}
    with pytest.raises(ConfigError, match=r"trainer\.precision='fp16'.*CUDA") as refusal:
        carry_out(place.settings(tmp_path / "run", **changes))
    assert "bf16" in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_automatic_precision_is_computed_natively():
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    found = precision.resolve("auto", torch.device("cpu"))
    assert found == ("bf16" if native else "fp32")


# ---- seeds ----


@pytest.mark.parametrize("method", ["full", "probe"])
def test_same_seed_same_run(method, place, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        carry_out(place.settings(tmp_path / name, f"method={method}", seed=seed, **FOUR))
        torch.manual_seed(99)  # what happened before must not matter
    found = [outcome(tmp_path / name) for name in "abc"]
    assert found[0] == found[1]
    assert found[0]["delta"] != found[2]["delta"]


@pytest.mark.slow
def test_fresh_processes_make_the_same_run(place, tmp_path):
    """Nothing depends on the order of sets, on memory addresses or on the clock."""
    started = [
        command(
            "train", "model=auto", f"model.path={place.model}", "task=sst2",
            f"task.path={place.data}", "method=full", "regularizer=[l2_sp]",
            "data.train_rows=30", "trainer.device=cpu", "trainer.precision=fp32",
            "trainer.batch_size=4", "trainer.max_steps=6", "trainer.log_every=2",
            "optimizer.lr=1e-3", f"output_dir={tmp_path / str(seed)}", hash_seed=seed,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    for process in started:
        finished(process)
    assert outcome(tmp_path / "1") == outcome(tmp_path / "2")


def test_a_checkpoint_that_asks_for_tuples(place, tmp_path):
    tuples = tmp_path / "tuples"
    shutil.copytree(place.quiet, tuples)
    config = json.loads((tuples / "config.json").read_text())
    (tuples / "config.json").write_text(json.dumps(config | {"return_dict": False}))
    kept = []
    for name, source in (("plain", place), ("tuples", replace(place, quiet=tuples))):
        carry_out(source.settings(tmp_path / f"run-{name}", quiet=True, **FOUR))
        kept.append(load_file(tmp_path / f"run-{name}" / "delta.safetensors"))
    assert same(*kept)
