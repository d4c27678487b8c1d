"""AdaptTrainer: the Hugging Face Trainer running an Adaptation.

The Trainer brings the loop, devices, distribution, accumulation, mixed precision, trackers and
resuming. Added here: the task's loss and the penalties, the hooks around the update, parameter
groups, batches by length, the best weights, and checkpoints that hold what learns instead of the
whole model; in scoring.py, scores reduced batch by batch. There is no branch on a method's or a
task's name.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

from adaptkit.adaptation import Adaptation, Step
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.storage.files import to_json, write_text
from adaptkit.training import state as resuming
from adaptkit.training.arguments import parameter_groups, training_arguments
from adaptkit.training.batching import BucketSampler, Collator, lengths
from adaptkit.training.hooks import Hooks
from adaptkit.training.precision import autocast
from adaptkit.training.scorer import ScoringTrainer
from adaptkit.training.scores import Best, Scored, flat_scores


class AdaptTrainer(ScoringTrainer):
    """Trains an Adaptation on a task, and scores it."""

    def __init__(
        self,
        adaptation: Adaptation,
        task: Any,
        settings: Settings,
        collator: Collator,
        train: Any,
        validation: Mapping[str, Any],
        precision: str,
        device: torch.device,
        directory: Path,
        callbacks: tuple[TrainerCallback, ...] = (),
    ) -> None:
        self.adaptation, self.task, self.settings = adaptation, task, settings
        self.precision, self.validation, self.directory = precision, validation, directory
        self.best = Best()
        self.best_delta: dict[str, Tensor] | None = None
        self.kept: tuple[int, dict[str, Scored]] = (-1, {})  # update, predictions after it
        self.seconds = {"eval": 0.0}
        self._sums: dict[str, float] = defaultdict(float)  # penalties since the last log
        self._terms = 0
        self._written = 0  # lines of history.jsonl
        self._pending: list[dict[str, Tensor]] = []
        self._accumulation = settings.trainer.gradient_accumulation
        self.started = time.monotonic()
        super().__init__(
            model=adaptation.model,
            args=training_arguments(settings, precision, device, directory),
            data_collator=collator,
            train_dataset=train,
            eval_dataset=validation,  # `evaluate` reads self.validation
            callbacks=[Hooks(self), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        # The loss is a mean over the batch: let the Trainer divide by the accumulation steps.
        self.loss_is_scaled_for_ga = False
        self.model_accepts_loss_kwargs = False

    def now(self, made: int = 0) -> Step:
        """Return the moment; `made`: updates made beyond the Trainer's count."""
        return Step(self.state.global_step + made, self.state.max_steps, self._get_learning_rate())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Return task loss + penalties of one batch.

        Raises:
            AdaptError: the loss is not finite.
        """
        batch = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        with autocast(self.precision, self.args.device):
            outputs = model(**batch)
            labels = inputs["labels"].repeat_interleave(self.adaptation.copies, 0)
            terms = {"loss": self.task.loss(outputs.logits, labels)}
            for name, penalty in self.adaptation.penalty.items():
                terms[name] = penalty(self.adaptation.model, inputs, outputs, self.now())
        self._pending.append({name: term.detach() for name, term in terms.items()})
        return sum(terms.values())

    def check_losses(self) -> None:
        """Add up the terms since the last check: one transfer from the device, not one a step.

        Raises:
            AdaptError: one of them is no number; the message names the update.
        """
        if not self._pending:
            return
        names, made = list(self._pending[0]), len(self._pending) // self._accumulation
        rows = torch.stack([torch.stack([t[n].float() for n in names]) for t in self._pending])
        for i, row in enumerate(rows.tolist()):
            update = self.state.global_step - made + 1 + i // self._accumulation
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    raise AdaptError(self._diverged(name, value, update))
                self._sums[name] += value
        self._terms += len(self._pending)
        self._pending.clear()

    def _diverged(self, name: str, value: float, update: int) -> str:
        return (
            f"{name} is {value} at update {update}: the run has diverged. Checkpoints before it "
            f"are kept. Lower optimizer.lr (now {self.settings.optimizer.lr:g}), raise "
            "optimizer.warmup_ratio, or use trainer.precision=fp32."
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Group what learns by weight decay (matrices only) and learning-rate factor."""
        if self.optimizer is None:
            self.optimizer = self.settings.optimizer.build(
                parameter_groups(self.adaptation, self.settings.optimizer)
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> BucketSampler:
        rows = lengths(train_dataset if train_dataset is not None else self.train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return BucketSampler(rows, size, self.settings.seed)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: counting would walk the whole model at every step."""
        return 0

    # ---- scoring ----

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Score every validation split, remember the best, and report the scores."""
        started = time.monotonic()
        found = {suffix: self.score(rows) for suffix, rows in self.validation.items()}
        metrics = {f"eval_{k}": v for k, v in flat_scores(found).items()}
        self.seconds["eval"] += time.monotonic() - started
        score = metrics[f"eval_{self.task.best}"]
        if math.isnan(score):  # a constant prediction has no correlation
            score = -math.inf
        better = score > self.best.score or not self.best.update
        if better:
            self.best = Best(score, self.state.global_step)
            self._keep_best()
        if better or self.settings.trainer.keep == "last":
            self.kept = (self.state.global_step, found)
        self.log(dict(metrics))
        patience = self.settings.trainer.early_stopping_patience
        if patience and sum(u > self.best.update for u in self.evaluated()) >= patience:
            self.control.should_training_stop = True
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluated(self) -> set[int]:
        """Return the updates after which the validation splits were scored."""
        return {h["step"] for h in self.state.log_history if f"eval_{self.task.best}" in h}

    def final_scores(self) -> dict[str, Scored]:
        """Return the predictions of the kept weights, computed anew only after a restart."""
        keep_best = self.settings.trainer.keep == "best"
        update = self.best.update if keep_best else self.state.global_step
        if self.kept[0] == update:
            return self.kept[1]
        return {suffix: self.score(rows) for suffix, rows in self.validation.items()}

    # ---- best weights ----

    def _keep_best(self) -> None:
        if self.settings.trainer.keep == "best":  # in every process: all score the same weights
            delta = self.adaptation.delta()
            self.best_delta = {n: t.to("cpu", copy=True) for n, t in delta.items()}

    def restore_best(self) -> None:
        """Put the best weights back, where they are wanted."""
        if self.best_delta is not None and self.best.update != self.state.global_step:
            device = self.args.device
            self.adaptation.load_delta({n: t.to(device) for n, t in self.best_delta.items()})

    def finish(self) -> None:
        """Let the method finish; its last word is about the weights that are kept."""
        for last in self.adaptation.finish:
            last()
            self.kept = (-1, {})  # made by other weights

    # ---- checkpoints: what learns, the hooks' state and the Trainer's own ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            write_text(folder / resuming.COMPLETE, "")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        resuming.write_state(self, Path(output_dir))

    def go_on(self, checkpoint: str | None) -> None:
        """Train from a checkpoint or from the start; nothing is done twice.

        The Trainer itself makes one update too many from a checkpoint at which training had ended
        within an epoch, and forgets that it was stopped early.
        """
        if checkpoint is None or not resuming.over(checkpoint):
            self.train(resume_from_checkpoint=checkpoint)
            return
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        self._load_from_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        resuming.read_state(self, Path(resume_from_checkpoint))

    # ---- the log ----

    def elapsed(self) -> float:
        """Return seconds of training so far, those before an interruption included."""
        return time.monotonic() - self.started

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report averages since the last report, and append them to history.jsonl."""
        if "train_runtime" in logs:
            return  # the Trainer's summary; the run's record has it
        if "loss" in logs:
            logs |= {name: total / self._terms for name, total in self._sums.items()}
            logs["lr"] = logs.pop("learning_rate")
            self._sums.clear()
            self._terms = 0
        logs["seconds"] = round(self.elapsed(), 3)
        super().log(logs, start_time)
        self.write_history()

    def write_history(self) -> None:
        """Append to history.jsonl; the first time write it anew, without what was undone."""
        new = self.state.log_history[self._written :]
        mode, self._written = "a" if self._written else "w", len(self.state.log_history)
        if self.is_world_process_zero():
            with (self.directory / "history.jsonl").open(mode, encoding="utf-8") as file:
                file.writelines(f"{to_json(entry)}\n" for entry in new)
