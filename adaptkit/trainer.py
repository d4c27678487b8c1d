"""AdaptTrainer: the Hugging Face Trainer running an Adaptation.

The Trainer brings the loop, devices, distribution, accumulation, mixed precision, trackers and
resuming. Added here: the task's loss and the penalties, the hooks around the update, parameter
groups, batches by length, scores reduced batch by batch, the best weights, and checkpoints that
hold what learns instead of the whole model. There is no branch on a method's or a task's name.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState
from transformers.trainer_utils import IntervalStrategy

from adaptkit.adaptation import Adaptation, Step
from adaptkit.batching import BucketSampler, Collator, Features, LongestFirst, lengths
from adaptkit.config import Settings
from adaptkit.errors import AdaptError
from adaptkit.files import is_main_process, save_tensors, write_lines, write_text
from adaptkit.precision import autocast

STATE = "adaptkit.json"  # what the Trainer's own files do not hold
COMPLETE = "complete"  # written last into a checkpoint: without it the save was cut short
IN_MEMORY = 1 << 30  # bytes of a best delta that are kept in memory rather than on disk


@dataclass
class Best:
    """The best evaluation so far."""

    score: float = -math.inf
    update: int = 0


@dataclass(frozen=True)
class Scored:
    """Predictions and labels in the order of the rows, and the scores."""

    predictions: np.ndarray
    labels: np.ndarray
    scores: dict[str, float]


class AdaptTrainer(Trainer):
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
        self._pending: list[dict[str, Tensor]] = []
        self._accumulation = settings.trainer.gradient_accumulation
        self._started = time.monotonic()
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

    # ---- the step ----

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
            terms = {"loss": self.task.loss(outputs.logits, inputs["labels"])}
            for name, penalty in self.adaptation.penalty.items():
                terms[name] = penalty(self.adaptation.model, inputs, outputs, self.now())
        self._pending.append({name: term.detach() for name, term in terms.items()})
        return sum(terms.values())

    def check_losses(self) -> None:
        """Add up the terms since the last check: one transfer from the device, not one a step.

        Raises:
            AdaptError: one of them is no number; the message names the update.
        """
        first = self.state.global_step - len(self._pending) // self._accumulation + 1
        for i, terms in enumerate(self._pending):
            for name, value in terms.items():
                if not math.isfinite(float(value)):
                    raise AdaptError(
                        f"{name} is {float(value)} at update {first + i // self._accumulation}: "
                        "the run has diverged. Checkpoints before it are kept. Lower optimizer.lr "
                        f"(now {self.settings.optimizer.lr:g}), raise optimizer.warmup_ratio, or "
                        "use trainer.precision=fp32."
                    )
                self._sums[name] += float(value)
        self._terms += len(self._pending)
        self._pending.clear()

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
        if patience and self._evaluations_since_best() >= patience:
            self.control.should_training_stop = True
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _evaluations_since_best(self) -> int:
        key = f"eval_{self.task.best}"
        steps = {h["step"] for h in self.state.log_history if key in h}
        return sum(step > self.best.update for step in steps)

    def final_scores(self) -> dict[str, Scored]:
        """Return the predictions of the kept weights, computed anew only after a restart."""
        keep_best = self.settings.trainer.keep == "best"
        update = self.best.update if keep_best else self.state.global_step
        if self.kept[0] == update:
            return self.kept[1]
        return {suffix: self.score(rows) for suffix, rows in self.validation.items()}

    def score(self, rows: Any) -> Scored:
        """Predict and score rows; each batch is reduced to predictions at once."""
        sampler = LongestFirst(lengths(rows))
        loader = self._get_dataloader(
            rows, "Evaluation", self.args.eval_batch_size, sampler_fn=lambda _: sampler
        )
        self.model.eval()
        done: dict[str, list[Tensor]] = {"predictions": [], "labels": []}
        for batch in loader:
            found = self.task.reduce(self.logits(batch))
            gathered = self.accelerator.gather_for_metrics((found, batch["labels"]))
            for name, tensor in zip(done, gathered, strict=True):
                done[name].append(tensor.cpu())
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        predictions, labels = (sampler.restore(torch.cat(t).numpy()) for t in done.values())
        return Scored(predictions, labels, self.task.score(predictions, labels))

    @torch.no_grad()
    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of one batch in evaluation mode."""
        self.model.eval()
        inputs = self._prepare_inputs({k: v for k, v in batch.items() if k != "labels"})
        with autocast(self.precision, self.args.device):
            return self.model(**inputs).logits

    @torch.no_grad()
    def cache_features(self, rows: Any) -> Features:
        """Compute what the frozen part makes of every row, once."""
        self.model.eval()
        sampler = LongestFirst(lengths(rows))
        loader = self._get_dataloader(
            rows, "Features", self.args.eval_batch_size, sampler_fn=lambda _: sampler
        )
        parts = []
        for batch in loader:
            inputs = self._prepare_inputs({k: v for k, v in batch.items() if k != "labels"})
            with autocast(self.precision, self.args.device):
                parts.append(self.adaptation.features(inputs).float().cpu())
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        features = torch.cat(parts)
        restored = torch.empty_like(features)
        restored[torch.from_numpy(sampler.order)] = features
        return Features(restored, rows["labels"][:], lengths(rows))

    # ---- best weights ----

    def _keep_best(self) -> None:
        if self.settings.trainer.keep != "best" or not self.is_world_process_zero():
            return
        delta = self.adaptation.delta()
        if sum(t.numel() * t.element_size() for t in delta.values()) <= IN_MEMORY:
            self.best_delta = {n: t.to("cpu", copy=True) for n, t in delta.items()}
        else:
            save_tensors(Path(self.args.output_dir) / "best.safetensors", delta)

    def restore_best(self) -> None:
        """Put the best weights back, where they are wanted."""
        if self.settings.trainer.keep != "best" or self.best.update == self.state.global_step:
            return
        best = self.best_delta
        if best is None and (Path(self.args.output_dir) / "best.safetensors").is_file():
            best = load_file(Path(self.args.output_dir) / "best.safetensors")
        if best is not None:
            self.adaptation.load_delta({n: t.to(self.args.device) for n, t in best.items()})

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
            write_text(folder / COMPLETE, "")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "delta.safetensors", self.adaptation.delta())
        if self.best_delta is not None:
            save_tensors(folder / "best.safetensors", self.best_delta)
        hooks = {
            f"{name}:{key}": tensor
            for name, hook in self.adaptation.stateful().items()
            for key, tensor in hook.state_dict().items()
        }
        save_tensors(folder / "hooks.safetensors", hooks)
        state = {"best_score": self.best.score, "best_update": self.best.update}
        state["seconds"] = self.elapsed()
        state["eval_seconds"] = self.seconds["eval"]
        state["over"] = self.control.should_training_stop
        write_text(folder / STATE, json.dumps(state))

    def go_on(self, checkpoint: str | None) -> None:
        """Train from a checkpoint or from the start; nothing is done twice.

        The Trainer itself makes one update too many from a checkpoint at which training had ended
        within an epoch, and forgets that it was stopped early.
        """
        if checkpoint is None or not over(checkpoint):
            self.train(resume_from_checkpoint=checkpoint)
            return
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        self._load_from_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder, device = Path(resume_from_checkpoint), self.args.device
        delta = load_file(folder / "delta.safetensors")
        self.adaptation.load_delta({n: t.to(device) for n, t in delta.items()})
        if (folder / "best.safetensors").is_file():
            self.best_delta = load_file(folder / "best.safetensors")
        state = json.loads((folder / STATE).read_text())
        self.best = Best(state["best_score"], state["best_update"])
        self._started = time.monotonic() - state["seconds"]
        self.seconds["eval"] = state["eval_seconds"]
        hooks = load_file(folder / "hooks.safetensors")
        for name, hook in self.adaptation.stateful().items():
            mine = {k[len(name) + 1 :]: t for k, t in hooks.items() if k.startswith(f"{name}:")}
            hook.load_state_dict(mine)

    # ---- the log ----

    def elapsed(self) -> float:
        """Return seconds of training so far, those before an interruption included."""
        return time.monotonic() - self._started

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
        """Rewrite history.jsonl: after an interruption it holds nothing that was undone."""
        if self.is_world_process_zero():
            lines = [json.dumps(entry) for entry in self.state.log_history]
            write_lines(self.directory / "history.jsonl", lines)


def flat_scores(scored: Mapping[str, Scored]) -> dict[str, float]:
    """Return all scores in one mapping; those of further splits carry the split's name."""
    return {
        f"{name}_{suffix}" if suffix else name: value
        for suffix, part in scored.items()
        for name, value in part.scores.items()
    }


class Hooks(TrainerCallback):
    """Calls an Adaptation's hooks at their moments, and flushes the log before a save."""

    def __init__(self, trainer: AdaptTrainer) -> None:
        self.trainer = trainer
        self.save_later = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are final, weights have not moved."""
        hooks = self.trainer.adaptation.before_update
        if hooks and args.max_grad_norm == 0:
            self.trainer.accelerator.unscale_gradients()  # clipping would have done it
        for hook in hooks:
            hook(self.trainer.now())

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Weights have moved, gradients are still there."""
        for hook in self.trainer.adaptation.after_update:
            hook(self.trainer.now(made=1))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put off a save that would come before the evaluation of the epoch that ends here."""
        ends = control.should_training_stop or float(state.epoch).is_integer()
        if ends and args.eval_strategy == IntervalStrategy.EPOCH:
            self.save_later, control.should_save = control.should_save, False
        self._flush(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save what was put off: the evaluation comes before it."""
        control.should_save = control.should_save or self.save_later
        self.save_later = False
        self._flush(control)

    def _flush(self, control: Any) -> None:
        """Log what was summed up before it is saved, so that a resumed log is the same."""
        control.should_log = control.should_log or control.should_save
        if control.should_log or control.should_evaluate or control.should_training_stop:
            self.trainer.check_losses()


def parameter_groups(adaptation: Adaptation, optimizer: Any) -> list[dict[str, Any]]:
    """Return groups with lr and weight_decay; vectors and scalars do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in adaptation.trainable.items():
        decay = optimizer.weight_decay if parameter.dim() > 1 else 0.0
        groups[adaptation.factor(name), decay].append(parameter)
    return [
        {"params": parameters, "lr": optimizer.lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def training_arguments(
    settings: Settings, precision: str, device: torch.device, directory: Path
) -> TrainingArguments:
    """Translate our settings into the Trainer's."""
    trainer, optimizer = settings.trainer, settings.optimizer
    every = trainer.checkpoint_every or trainer.eval_every
    tracker = settings.tracker.name
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(directory / "tensorboard"))
    return TrainingArguments(
        output_dir=str(directory / "checkpoints"),
        run_name=str(directory),
        num_train_epochs=trainer.epochs,
        max_steps=trainer.max_steps or -1,
        per_device_train_batch_size=trainer.batch_size,
        per_device_eval_batch_size=trainer.eval_batch_size,
        gradient_accumulation_steps=trainer.gradient_accumulation,
        learning_rate=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        lr_scheduler_type="constant_with_warmup"
        if optimizer.schedule == "constant"
        else optimizer.schedule,
        warmup_steps=optimizer.warmup_ratio,  # below 1: a share of all updates
        eval_strategy="steps" if trainer.eval_every else "epoch",
        eval_steps=trainer.eval_every,
        save_strategy="steps" if every else "epoch",
        save_steps=every or 500,
        save_total_limit=2,  # the one being written may be cut short
        logging_steps=trainer.log_every,
        logging_nan_inf_filter=False,  # a loss that is no number stops the run
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        seed=settings.seed,
        report_to=[] if tracker == "none" else [tracker],
        label_names=["labels"],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        log_level="error",
        log_level_replica="error",
    )


def over(checkpoint: str) -> bool:
    """Tell whether training had ended when a checkpoint was written."""
    return json.loads((Path(checkpoint) / STATE).read_text())["over"]


def last_complete(checkpoints: Path) -> str | None:
    """Return the newest checkpoint whose save was finished; remove what was cut short."""
    found = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            found.append((int(folder.name.rpartition("-")[2]), folder))
        elif is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
    return str(max(found)[1]) if found else None
