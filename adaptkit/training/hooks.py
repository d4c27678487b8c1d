"""The moments of a step at which an Adaptation's hooks are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

if TYPE_CHECKING:
    from adaptkit.training.trainer import AdaptTrainer


class Hooks(TrainerCallback):
    """Calls an Adaptation's hooks at their moments, and flushes the log before a save."""

    def __init__(self, trainer: AdaptTrainer) -> None:
        self.trainer = trainer
        self.save_later = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are final, weights have not moved."""
        for hook in self.trainer.adaptation.before_update:
            hook(self.trainer.now())

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Weights have moved, gradients are still there."""
        if self.trainer.accelerator.optimizer_step_was_skipped:  # fp16 overflow: they have not
            return
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
