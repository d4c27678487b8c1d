"""AdaptTrainer: the Hugging Face Trainer running an Adaptation.

The Trainer brings the loop, devices, distribution, accumulation, mixed precision, trackers and
resuming. Added here: the form's loss and the penalties, the hooks around the update, parameter
groups, batches by length, the best weights, and checkpoints of what trains.

An update minimises the sum of the losses over all its batches, of all accumulation steps and all
processes, divided by the sum of their counts: however the rows are cut, it is the update of one big
batch. A penalty is a mean over its batch, weighted by the batch's share of the counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerState

from adaptkit.adaptation import Batch, Step
from adaptkit.models.attention import known_masks
from adaptkit.models.places import Places
from adaptkit.training import checkpoints, state
from adaptkit.training.arguments import parameter_groups, training_arguments
from adaptkit.training.batching import Feed, collated, shards
from adaptkit.training.clipping import ClippingTrainer
from adaptkit.training.comparison import Comparison
from adaptkit.training.history import History
from adaptkit.training.hooks import Hooks
from adaptkit.training.interruption import Interruption
from adaptkit.training.losses import Losses
from adaptkit.training.precision import autocast
from adaptkit.training.rows import TooManyRows
from adaptkit.training.scorer import Scorable, Scored, Scorer, distributed, flat_scores, summed
from adaptkit.training.settings import Recipe


class AdaptTrainer(ClippingTrainer):
    """Trains an Adaptation on a task, scoring it on the way."""

    def __init__(
        self,
        scorer: Scorer,
        recipe: Recipe,
        train: Feed,
        validation: Mapping[str, Scorable],
        selection: Scorable | None = None,  # scored while training; None: validation is
        callbacks: tuple[TrainerCallback, ...] = (),
        identity: str = "",  # of the run: no other run's checkpoints are loaded
        interruption: Interruption | None = None,
    ) -> None:
        self.identity, self.interruption = identity, interruption or Interruption()
        self.prepared, self.task, self.recipe = scorer.prepared, scorer.task, recipe
        self.adaptation = scorer.prepared.adaptation
        self.feed, self.validation = train, validation
        self.watched = {"": selection} if selection else validation
        every = recipe.trainer.generate_every
        self.comparison = Comparison.of(self.task, scorer.prepared.form, every)
        self.kept: tuple[int, dict[str, Scored]] = (-1, {})  # update, what was scored after it
        self.losses = Losses(recipe.optimizer.lr)
        self.progress = state.TrainingState(self.losses)
        self.history = History(recipe.directory)
        super().__init__(
            model=self.adaptation.model, data_collator=collated, train_dataset=train,
            args=training_arguments(recipe, scorer.prepared.precision, scorer.prepared.device),
            eval_dataset=dict(validation),  # asked for; `evaluate` reads self.watched
            callbacks=[self._hooks(), *callbacks],
        )  # fmt: skip
        self.remove_callback(PrinterCallback)
        self.places = Places(self.adaptation.model, scorer.prepared.form.outputs is None)
        self.batches = shards(
            train, recipe, self.args.process_index, self.args.world_size, scorer.rows
        )
        self.scorer = replace(scorer, step=self._predicted)
        # `compute_loss` divides by the counts of all batches: the Trainer must not divide again.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True

    def _hooks(self) -> Hooks:
        return Hooks(
            self.adaptation,
            now=self.now,
            skipped=lambda: self.accelerator.optimizer_step_was_skipped,
            check_losses=self.losses.check,
            set_epoch=lambda epoch: self.batches.set_epoch(epoch),
            interrupted=self.interruption.is_due,
        )

    def now(self, made: int = 0) -> Step:
        """Return the moment; `made`: updates made beyond the Trainer's count."""
        lr, factors = self._get_learning_rate(), self.adaptation.factors
        return Step(self.state.global_step + made, self.state.max_steps, lr, factors)

    def _get_learning_rate(self) -> float:  # the Trainer's is that of the first group
        """Return the rate before a parameter's factor."""
        return self.recipe.optimizer.lr * self.share(cast(LambdaLR, self.lr_scheduler).last_epoch)

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process; accelerate would fill the last one up."""
        return DataLoader(
            self.feed, batch_sampler=self.batches, collate_fn=collated,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Batch]], num_batches: int, device: torch.device
    ) -> tuple[list[list[Batch]], int]:
        """Return the steps of one update, in pieces, and what they count in all processes."""
        update = zip(range(num_batches), epoch_iterator, strict=False)
        steps = [[piece.to(device) for piece in step] for _, step in update]
        weight = sum(piece.weight for step in steps for piece in step)
        count, interrupted = summed([weight, int(self.interruption.came())], device)
        self.interruption.agreed = interrupted > 0
        return steps, count

    def _prepare_inputs(self, inputs: Batch) -> Batch:  # type: ignore[override]
        return inputs  # on the device already

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: list[Batch], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add up the gradients of a step, piece by piece; return its loss."""
        step: Any = super().training_step
        *others, last = inputs
        with self.scorer.rows.training_step(max(len(piece.rows) for piece in inputs)):
            with self.accelerator.no_sync(model):  # processes exchange gradients once, at the last
                loss = sum(step(model, piece, num_items_in_batch) for piece in others)
            return loss + step(model, last, num_items_in_batch)

    # ---- loss ----

    def compute_loss(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:  # fmt: skip
        """Return the share of one batch in the task loss and the penalties of its update."""
        batch, whole = inputs, max(int(num_items_in_batch), 1)
        form, precision = self.prepared.form, self.prepared.precision

        def forward(**changes: Tensor) -> Any:
            read = self.places.only(form.read_at(batch))
            with read, known_masks(batch.hides), autocast(precision, self.args.device):
                return model(**{**batch.inputs, **changes})

        outputs = forward()
        with autocast(precision, self.args.device):
            loss = form.loss(outputs, batch) / whole
            # A filler takes part in the communication of gradients, and changes none.
            terms = {"loss": loss if batch.weight else loss * 0}
            for name, penalty in self.adaptation.penalty.items():
                share = batch.weight / whole
                terms[name] = share * penalty(forward, batch, outputs, self.now())
        self.losses.add(self.state.global_step + 1, terms)
        return sum(terms.values()) * self.args.world_size  # DDP takes the mean of the gradients

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Group what trains by weight decay (matrices only) and learning-rate factor."""
        if self.optimizer is None:
            optimizer = self.recipe.optimizer
            self.optimizer = optimizer.build(parameter_groups(self.adaptation, optimizer))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Follow the schedule that the optimizer's settings define."""
        self.share = partial(self.recipe.optimizer.share, total=num_training_steps)
        self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), self.share)
        return self.lr_scheduler

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: counting would walk the whole model at every step."""
        return 0

    # ---- scoring ----

    def _predicted(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def score(self, generate: bool = True) -> dict[str, Scored]:
        """Score what is watched while training; if nothing is to be generated, by the loss."""
        return self._scored(self.watched, generate)

    def _scored(self, splits: Mapping[str, Scorable], generate: bool = True) -> dict[str, Scored]:
        return {s: self.scorer.score(feed, rows, generate) for s, (feed, rows) in splits.items()}

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Score what is watched, remember the best, and report the scores."""
        started = time.monotonic()
        scored = self.score(self.comparison.generates(len(self.evaluated()) + 1))
        metrics = {f"eval_{k}": v for k, v in flat_scores(scored).items()}
        self.progress.eval_seconds += time.monotonic() - started
        better = self._improves(metrics[f"eval_{self.comparison.name}"])
        if better or self.recipe.trainer.keep == "last":
            self.kept = (self.state.global_step, scored)
        self.log(dict(metrics))
        patience, best = self.recipe.trainer.early_stopping_patience, self.progress.best_update
        if patience and sum(update > best for update in self.evaluated()) >= patience:
            self.control.should_training_stop = True
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _improves(self, score: float) -> bool:
        """Note a score, and keep the weights that made it if it is the best so far."""
        kept = self.adaptation if self.recipe.trainer.keep == "best" else None
        return self.progress.improves(self.comparison.value(score), self.state.global_step, kept)

    def evaluated(self) -> set[int]:
        """Return the updates after which there was an evaluation."""
        key = f"eval_{self.comparison.name}"
        return {int(entry["step"]) for entry in self.state.log_history if key in entry}

    def final_scores(self) -> dict[str, Scored]:
        """Return what the kept weights score on the validation splits, if known from training."""
        if self.watched is not self.validation:
            return self._scored(self.validation)
        keep_best = self.recipe.trainer.keep == "best"
        update = self.progress.best_update if keep_best else self.state.global_step
        made = self.kept[1] if self.kept[0] == update else {}
        whole = made and len(made[""].answers) == len(made[""].rows)  # not the loss alone
        return made if whole else self.score()

    def restore_best(self) -> None:
        """Put the best weights back, if they are wanted."""
        best = self.progress
        if best.best_delta is not None and best.best_update != self.state.global_step:
            device = self.args.device
            self.adaptation.load_delta({n: t.to(device) for n, t in best.best_delta.items()})

    def finish(self) -> None:
        """Let the method finish: applied to the weights that are saved."""
        for last in self.adaptation.finish:
            last()
            self.kept = (-1, {})  # made by other weights

    # ---- checkpoints: what trains, the hooks' state and the Trainer's own ----

    @property
    def checkpoints(self) -> Path:
        """Folder of the training state."""
        return Path(self.args.output_dir or "")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = checkpoints.folder_of(self.checkpoints, self.state.global_step)
        with checkpoints.writing(folder):
            super()._save_checkpoint(model, trial)
            if distributed():
                dist.barrier()  # every process has written its part
            if self.is_world_process_zero():
                checkpoints.seal(folder, self.identity)
        self.interruption.raise_if_due()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.checkpoints)
        self.progress.write(folder, self.adaptation, self.control.should_training_stop)

    def run(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint or from the start; nothing is done twice.

        The Trainer itself makes one update too many from a checkpoint at which training had ended
        within an epoch, and forgets that it was stopped early.

        Raises:
            TooManyRows: memory ran out; another trainer can go on with fewer rows at a time.
        """
        if checkpoint is None or not state.is_over(checkpoint):
            try:
                with self.interruption.deferred():
                    self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except TooManyRows:  # another trainer goes on: trackers and progress bars end here
                self.callback_handler.on_train_end(self.args, self.state, self.control)
                raise
            return
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.progress.read(Path(resume_from_checkpoint), self.adaptation, self.args.device)

    # ---- the log ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report averages since the last report, also to history.jsonl."""
        if "train_runtime" in logs:
            return  # the Trainer's summary; the run's record has it
        if "loss" in logs:
            logs |= self.losses.averages() | {"lr": logs.pop("learning_rate")}
        logs["seconds"] = round(self.progress.elapsed(), 3)
        super().log(logs, start_time)
        self.history.write(self.state.log_history)
