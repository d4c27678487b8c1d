"""Our settings in the Trainer's words: its arguments and the optimizer's parameter groups."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn
from transformers import TrainingArguments

from adaptkit.adaptation import Adaptation
from adaptkit.models.anatomy import is_bias
from adaptkit.optimizers import Groups, OptimizerSettings
from adaptkit.training.settings import Recipe


def parameter_groups(adaptation: Adaptation, optimizer: OptimizerSettings) -> Groups:
    """Return groups with lr and weight_decay; vectors, scalars and biases do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in adaptation.trainable.items():
        # Some biases are matrices: XLNet's r_w_bias, T5's relative_attention_bias.weight.
        matrix = parameter.dim() > 1 and not any(map(is_bias, name.split(".")))
        decay = optimizer.weight_decay if matrix else 0.0
        groups[adaptation.factor(name), decay].append(parameter)
    return [
        {"params": parameters, "lr": optimizer.lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def meet(recipe: Recipe, precision: str, device: torch.device) -> None:
    """Let the processes of a run find each other, as the Trainer's arguments do."""
    training_arguments(recipe, precision, device)


def training_arguments(recipe: Recipe, precision: str, device: torch.device) -> TrainingArguments:
    """Translate our settings into the Trainer's."""
    trainer, optimizer, directory = recipe.trainer, recipe.optimizer, recipe.directory
    every = trainer.checkpoint_every or trainer.eval_every
    arguments = TrainingArguments(
        output_dir=str(directory / "checkpoints"),
        run_name=str(directory),
        num_train_epochs=trainer.epochs or 0,  # filled in by `for_rows`
        max_steps=trainer.max_steps or -1,
        per_device_train_batch_size=trainer.batch_size,
        per_device_eval_batch_size=trainer.eval_batch_size,
        gradient_accumulation_steps=trainer.gradient_accumulation,
        learning_rate=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        eval_strategy="steps" if trainer.eval_every else "epoch",
        eval_steps=trainer.eval_every,
        save_strategy="steps" if every else "epoch",
        save_steps=every or 500,
        save_total_limit=None,  # `checkpoints.seal` removes them: the Trainer goes by dates
        logging_steps=trainer.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is not a number stops the run
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
        ddp_broadcast_buffers=False,  # all processes have the same; a second pass could not follow
        report_to=[],  # `trackers`
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
        log_level="error",
        log_level_replica="error",
    )
    # Several devices are used by several processes (torchrun), never by one: nn.DataParallel would
    # multiply the batch and so change the number of updates.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    if device.type == "cuda" and device.index != arguments.device.index:  # it takes the first one
        torch.cuda.set_device(device)
        vars(arguments)["_setup_devices"] = device  # where the property `device` keeps it
    return arguments
