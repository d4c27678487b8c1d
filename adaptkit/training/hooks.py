"""The moments of a step at which an Adaptation's hooks are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from adaptkit.adaptation import Adaptation, Step


class Hooks(TrainerCallback):
    """Calls an Adaptation's hooks at their moments, and has the losses checked before a save."""

    def __init__(
        self,
        adaptation: Adaptation,
        now: Callable[[int], Step],  # updates made beyond the Trainer's count -> the moment
        skipped: Callable[[], bool],  # True: fp16 overflowed, the weights did not move
        check_losses: Callable[[], None],
        set_epoch: Callable[[int], None],
        interrupted: Callable[[], bool],  # True: a checkpoint is wanted now
    ) -> None:
        self.adaptation, self.now, self.skipped = adaptation, now, skipped
        self.check_losses, self.set_epoch = check_losses, set_epoch
        self.interrupted = interrupted
        self.save_later = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Choose the order of the rows."""
        self.set_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Gradients are final, weights have not moved."""
        for hook in self.adaptation.before_update:
            hook(self.now(0))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Weights have moved, gradients are still there."""
        if self.skipped():
            return
        for hook in self.adaptation.after_update:
            hook(self.now(1))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put off a save that would come before the evaluation of the epoch that ends here."""
        ends = control.should_training_stop or float(state.epoch or 0).is_integer()
        later = ends and args.eval_strategy == IntervalStrategy.EPOCH
        if later:
            self.save_later, control.should_save = control.should_save, False
        self._flush(control)
        if not later:
            self._save_if_interrupted(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save what was put off: the evaluation comes before it."""
        control.should_save = control.should_save or self.save_later
        self.save_later = False
        self._flush(control)
        if args.eval_strategy == IntervalStrategy.EPOCH:
            self._save_if_interrupted(control)

    def _save_if_interrupted(self, control: TrainerControl) -> None:
        """Save although none is due; nothing is logged, so that a resumed log is the same."""
        if self.interrupted():
            self.check_losses()
            control.should_save = True

    def _flush(self, control: TrainerControl) -> None:
        """Log what was summed up before it is saved, so that a resumed log is the same."""
        control.should_log = control.should_log or control.should_save
        if control.should_log or control.should_evaluate or control.should_training_stop:
            self.check_losses()
