"""The pipeline: config -> data -> base model -> adaptation -> training -> score -> record."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from adaptkit.adaptation import quiet
from adaptkit.config.settings import Settings
from adaptkit.counts import count
from adaptkit.errors import AdaptError, machine_failures
from adaptkit.models.compiled import check_compiler
from adaptkit.models.heads import BEGINNINGS
from adaptkit.runs import selection
from adaptkit.runs.delta import digest, save_delta
from adaptkit.runs.description import check_described, description_length
from adaptkit.runs.directory import (
    CHECKPOINTS,
    check_place,
    claimed,
    clear,
    identity,
    write_config,
)
from adaptkit.runs.evaluating.followed import check_followed
from adaptkit.runs.from_run import lineage
from adaptkit.runs.frozen import kept, solved, with_features
from adaptkit.runs.identity import check_same, made_of, note
from adaptkit.runs.lengths import lengths_of, lines_about
from adaptkit.runs.memory import measured, reset_peak, resident, restart, since
from adaptkit.runs.plan import Plan, plan
from adaptkit.runs.predictions import write_predictions
from adaptkit.runs.prepare import count_examples, feed_of, plain_model, prepare, scorer_of
from adaptkit.runs.proof import first, proof_names, verify_saved
from adaptkit.runs.record import (
    RunResult,
    counts_line,
    log,
    log_kept,
    log_to_file,
    machine_facts,
    record_failure,
    result_of,
    scoring_facts,
)
from adaptkit.runs.remarks import ended_worse, of_sample
from adaptkit.runs.repeat import check_bound, done_before, starts_again
from adaptkit.storage.files import is_main_process, processes
from adaptkit.tasks.reading.holdout import check_parents, divided
from adaptkit.tasks.task import Splits
from adaptkit.training import precision
from adaptkit.training.arguments import meet
from adaptkit.training.batching import Feed
from adaptkit.training.checkpoints import number
from adaptkit.training.interruption import Interruption
from adaptkit.training.rows import TooManyRows
from adaptkit.training.scorer import Prepared, Scored
from adaptkit.training.state import last_checkpoint
from adaptkit.training.trackers import trackers
from adaptkit.training.trainer import AdaptTrainer, Scorable


@dataclass(frozen=True)
class Trained:
    """What is left of training once the model is let go."""

    scored: Mapping[str, Scored]
    proof: Mapping[str, Tensor]  # outputs for the first examples, to compare a rebuilt model with
    facts: dict[str, Any]  # entries of the record


@dataclass(frozen=True)
class Interface:
    """How a run speaks to the user."""

    say: Callable[[str], None]
    callbacks: Callable[[str], tuple[TrainerCallback, ...]]  # what runs -> its progress bar
    counting: Callable[[str], Any] = quiet  # what passes over the rows -> how far it is


def run(settings: Settings, interface: Interface) -> RunResult:
    """Carry out one run and return its record; a run that is done already is not repeated.

    Raises:
        AdaptError: a problem that the user can fix; nothing half-written is left.
        MachineError: disk, memory or network failed.
    """
    directory = settings.output_dir
    interface = replace(interface, say=logged(interface.say))
    with machine_failures(directory), claimed(directory), log_kept() as kept:
        main = is_main_process()  # it judges the folder: others would look too early or late
        if main:
            check_place(directory)
        if done := done_before(settings, interface.say):
            return done
        origin = settings.task.origin(settings.data)
        now = made_of(settings, origin)
        splits = divided(settings, settings.task.load(settings.data, settings.seed))
        settings = settings.bind(splits.task)
        sample = of_sample(splits, settings.data.source == "sample")
        for line in (*sample, splits.summary(), *splits.notes):
            interface.say(line)
        device = precision.device_of(settings.trainer.device)
        number_format = precision.resolve(settings.trainer.precision, device)
        if settings.trainer.compile:
            check_compiler(device)
        again = main and starts_again(settings, origin.kind)
        if main and not again:
            check_bound(settings)
            check_same(directory, now)
        parents = lineage(settings)
        check_parents(settings, parents)
        log.info("adaptkit %s; %s, %s", now["versions"], device, number_format)
        costs = plan(settings, number_format)
        check_followed(settings, costs)
        interface.say(counts_line(costs))
        examples = count_examples(settings, splits.train, costs.extra_tokens)
        started = datetime.now(timezone.utc)
        if again:
            clear(directory)  # only now: all that can be checked is checked
        write_config(settings)
        note(directory, now)
        with log_to_file(directory, kept):
            try:
                with machine_failures(directory):
                    result = complete(settings, splits, costs, examples, started, interface)
                if now["model"] is None:  # fetched from the hub since
                    now["model"] = made_of(settings, origin)["model"]
                result = replace(result, made_of=now, from_runs=parents)
                log.info("done: %s %s, %d updates", result.metric, result.score, result.updates)
            except Exception as error:
                record_failure(settings, error, started)
                raise
        result.write(directory)
        if main:
            shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
        return result


def logged(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what says and logs a remark."""

    def both(remark: str) -> None:
        log.info("%s", remark)
        say(remark)

    return both


def complete(
    settings: Settings,
    splits: Splits,
    costs: Plan,
    examples: int,
    started: datetime,
    interface: Interface,
) -> RunResult:
    """Train, score, save and prove; return the record of the finished run."""
    clock = time.monotonic()
    trained = train_in_memory(settings, splits, costs, examples, interface)
    gc.collect()
    facts, before = trained.facts, trained.facts["time"].pop("before_seconds")
    if is_main_process():
        verify_saved(settings, splits, trained.proof, facts["rows_per_pass"]["scoring"])
    facts["memory"] = since(facts["memory"])  # the proof may have taken more than training
    facts["time"]["total_seconds"] = round(time.monotonic() - clock + before, 3)
    judged = scoring_facts(settings, splits, trained.scored, facts.pop("remarks"))
    for remark in judged["remarks"]:
        interface.say(f"WARNING: {remark}")
    return result_of(settings, started, "done", **judged, **facts)


def train_in_memory(
    settings: Settings, splits: Splits, costs: Plan, examples: int, interface: Interface
) -> Trained:
    """Train; when memory runs out, go on from the last checkpoint with fewer rows at a time."""
    while True:
        try:
            return train(settings, splits, costs, examples, interface)
        except TooManyRows as error:
            interface.say(str(error))
        gc.collect()  # out here, what the exception holds is let go


def train(
    settings: Settings, splits: Splits, costs: Plan, examples: int, interface: Interface
) -> Trained:
    """Train (or resume training), put back the best weights, score and save the delta."""
    clock, directory = time.monotonic(), settings.output_dir
    earlier, before_training = restart(), resident()
    rows = splits.train
    world = processes()
    settings = replace(settings, trainer=settings.trainer.for_rows(examples, world))
    updates = settings.trainer.updates(examples, world)
    prepared = prepare(settings, updates, "train", rows, interface.counting)
    log.info("%s", BEGINNINGS[prepared.head])
    if updates and not prepared.adaptation.trainable:
        raise AdaptError(
            f"method={settings.method_name}: trains nothing, so there are no updates to make. Set "
            "trainer.max_steps=0 to score it as it is."
        )
    check_described(settings, prepared)
    trainer, proof, lengths = trainer_of(settings, splits, prepared, interface)
    described = settings.trainer.description_length and updates > 0
    start = {n: t.clone() for n, t in prepared.adaptation.delta().items()} if described else {}
    resumed, passed_over = last_checkpoint(directory / CHECKPOINTS, trainer.identity)
    for remark in passed_over:
        interface.say(remark)
    if resumed:
        interface.say(f"resuming from update {number(resumed)}")
    reset_peak(prepared.device)
    if updates and not solved(trainer, interface.say):
        trainer.run(resumed)
    if trainer.state.global_step not in trainer.evaluated():
        trainer.evaluate()
    seconds = trainer.progress.elapsed()  # those before an interruption included
    before = max(0.0, seconds - (time.monotonic() - clock))
    trainer.restore_best()
    params = count(prepared.adaptation)
    trainer.finish()
    params = replace(params, stored=count(prepared.adaptation).stored)
    scored = trainer.final_scores()
    memory = measured(prepared.device, before_training, earlier, costs)
    shown = proof.batch(first(settings, proof, trainer.scorer.rows.scoring))
    outputs = trainer.scorer.proof(shown, proof_names(settings))
    size = save_delta(directory, prepared.adaptation.delta(), settings, prepared.fingerprint)
    write_predictions(directory, scored)
    facts = {
        "head": prepared.head,
        "params": asdict(params),
        "remarks": [ended_worse(trainer.state.log_history)],
        "lengths": lengths,
        "description": description_length(trainer, start, interface.counting) if described else {},
        "delta_bytes": size,
        "delta_sha256": digest(directory) if is_main_process() else "",
        "time": {"before_seconds": before, **times(trainer, seconds, len(rows or ()))},
        **progress(trainer),
        **selection.facts(settings, splits, trainer.state.global_step),
        **machine_facts(prepared.device, prepared.precision, memory),
        "rows_per_pass": trainer.scorer.rows.as_dict(),
    }
    return Trained(scored, outputs, facts)


def trainer_of(
    settings: Settings, splits: Splits, prepared: Prepared, interface: Interface
) -> tuple[AdaptTrainer, Feed, dict[str, Any]]:
    """Return a run's trainer, the examples that prove a rebuilt model, and how texts are cut."""
    scorer = scorer_of(settings, prepared, settings.output_dir / CHECKPOINTS)
    parts = selection.scored(splits)
    feeds = {name: feed_of(settings, prepared, rows) for name, rows in parts.items()}
    load_base = plain_model(settings, prepared.device)
    train_feed = feed_of(settings, prepared, splits.train)
    lengths = lengths_of(settings, prepared, {"training": train_feed, **feeds})
    for line in lines_about(lengths):
        interface.say(line)
    train_feed = train_feed.with_examples(prepared.form.prepare(train_feed.examples, load_base))
    proof = feeds["validation"]
    if kept(settings, prepared):
        meet(settings.recipe, prepared.precision, prepared.device)  # they share the work
        train_feed, feeds = with_features(settings, scorer, interface, train_feed, feeds)
    scorable = {name: Scorable(feed, parts[name]) for name, feed in feeds.items()}
    validation = dict(zip(splits.validation, scorable.values(), strict=False))  # it comes first
    callbacks = (*trackers(settings.recipe), *interface.callbacks("training"))
    trainer = AdaptTrainer(
        scorer, settings.recipe, train_feed, validation, scorable.get(selection.ROWS), callbacks,
        identity=identity(settings.plain, splits.fingerprint, prepared.fingerprint),
        interruption=Interruption(interface.say),
    )  # fmt: skip
    return trainer, proof, lengths


def progress(trainer: AdaptTrainer) -> dict[str, Any]:
    """Return the entries about updates."""
    return {
        "updates": trainer.state.global_step,
        "best_update": trainer.progress.best_update,
        "epochs": round(trainer.state.epoch or 0.0, 4),
    }


def times(trainer: AdaptTrainer, seconds: float, rows: int) -> dict[str, float]:
    """Return the entries about seconds of training and evaluation."""
    evaluating = trainer.progress.eval_seconds
    training = max(seconds - evaluating, 1e-9)
    return {
        "train_seconds": round(training, 3),
        "eval_seconds": round(evaluating, 3),
        "train_samples_per_second": round((trainer.state.epoch or 0.0) * rows / training, 2),
    }
