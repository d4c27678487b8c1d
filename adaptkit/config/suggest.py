"""What a user may have meant: our name for what was typed, from other libraries or by likeness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from adaptkit.config.groups import CONF, GROUPS, options
from adaptkit.errors import ConfigError, alike, closest, did_you_mean, unknown

# Words of PEFT, transformers and their examples, without dashes and groups, and ours.
OURS = {
    "learning_rate": "optimizer.lr", "wd": "optimizer.weight_decay", "optim": "optimizer",
    "adam_beta1": "optimizer.beta1", "adam_beta2": "optimizer.beta2",
    "adam_epsilon": "optimizer.epsilon", "eps": "optimizer.epsilon",
    "warmup_steps": "optimizer.warmup_ratio", "warmup": "optimizer.warmup_ratio",
    "lr_scheduler_type": "optimizer.schedule", "scheduler": "optimizer.schedule",
    "num_train_epochs": "trainer.epochs", "num_epochs": "trainer.epochs",
    "n_epochs": "trainer.epochs", "max_epochs": "trainer.epochs", "steps": "trainer.max_steps",
    "max_train_steps": "trainer.max_steps", "per_device_train_batch_size": "trainer.batch_size",
    "train_batch_size": "trainer.batch_size", "bs": "trainer.batch_size",
    "per_device_eval_batch_size": "trainer.eval_batch_size",
    "gradient_accumulation_steps": "trainer.gradient_accumulation",
    "auto_find_batch_size": "trainer.find_batch_size",
    "accumulate_grad_batches": "trainer.gradient_accumulation",
    "gradient_clip_val": "trainer.max_grad_norm", "clip": "trainer.max_grad_norm",
    "fp16": "trainer.precision=fp16", "bf16": "trainer.precision=bf16",
    "mixed_precision": "trainer.precision", "torch_dtype": "model.dtype",
    "dtype": "model.dtype",
    "load_in_4bit": "model.quantization=4bit", "load_in_8bit": "model.quantization=8bit",
    "no_cuda": "trainer.device=cpu", "use_cpu": "trainer.device=cpu",
    "eval_steps": "trainer.eval_every", "evaluation_strategy": "trainer.eval_every",
    "eval_strategy": "trainer.eval_every", "save_steps": "trainer.checkpoint_every",
    "logging_steps": "trainer.log_every", "load_best_model_at_end": "trainer.keep=best",
    "early_stopping": "trainer.early_stopping_patience",
    "patience": "trainer.early_stopping_patience", "resume_from_checkpoint": "trainer.resume",
    "overwrite_output_dir": "trainer.resume=never", "overwrite": "trainer.resume=never",
    "report_to": "tracker", "logger": "tracker", "random_seed": "seed",
    "output": "output_dir", "out": "output_dir", "out_dir": "output_dir", "run_name": "output_dir",
    "model_name_or_path": "model", "model_name": "model", "base_model": "model",
    "pretrained_model_name_or_path": "model", "checkpoint": "model",
    "dataset": "task", "dataset_name": "task", "task_name": "task", "train_file": "task.path",
    "data_dir": "data.root", "dataset_path": "data.root", "max_train_samples": "data.train_rows",
    "max_eval_samples": "data.eval_rows", "max_seq_length": "task.max_length",
    "max_seq_len": "task.max_length", "text_column": "task.text", "label_column": "task.label",
    "peft": "method", "peft_type": "method", "peft_method": "method", "adapter": "method",
    "r": "method.rank", "lora_r": "method.rank", "lora_rank": "method.rank",
    "lora_alpha": "method.alpha", "lora_dropout": "method.dropout",
    "target_modules": "method.roles", "rank_pattern": "method.ranks",
    "use_rslora": "method.rank_stabilised", "use_dora": "method=dora",
    "loraplus_lr_ratio": "method.b_lr_ratio", "init_r": "method.rank",
    "target_r": "method.target_rank", "tinit": "method.t_init", "tfinal": "method.t_final",
    "orth_reg_weight": "method.orthogonality", "num_virtual_tokens": "method.length",
    "prefix_length": "method.length", "encoder_hidden_size": "method.projection",
    "bottleneck": "method.size", "adapter_size": "method.size",
}  # fmt: skip


# Set by the choice of a group, not by hand.
NOT_TYPED = ("method.name", "optimizer.name", "tracker.name", "task.kind")


def of_key(key: str, known: Sequence[str], overrides: Sequence[str]) -> str:
    """Say what to write for an option that does not exist, as one or two sentences.

    `known` are the options there are with the groups that `overrides` chose.
    """
    group, _, leaf = key.rpartition(".")
    above, _, chosen = group.partition(".")
    if above in GROUPS and chosen in options(above) and group not in known:
        return f"add {above}={chosen} to use it."
    if same := same_option(key, known):
        return f"did you mean {' or '.join(same)}?"
    mine = {
        name.rpartition(".")[2]: name
        for name in known
        if name.startswith(f"{group}.") and name not in NOT_TYPED
    }
    if group not in GROUPS:
        groups = f"groups: {', '.join(GROUPS)}; all options: adaptkit train --help."
        return did_you_mean(key, [n for n in known if n not in NOT_TYPED]).rstrip() or groups
    chosen = next((o for o in reversed(overrides) if o.startswith(f"{group}=")), group)
    has = f"{chosen} has: {', '.join(mine) or 'no options'}."
    if others := owners(group, OURS.get(leaf, leaf).rpartition(".")[2]):
        return f"{group}={', '.join(others)} would have it. {has}"
    near = [mine[name] for name in closest(leaf, mine)]
    return (f"did you mean {' or '.join(near)}? " if near else "") + has


def same_option(key: str, known: Sequence[str]) -> list[str]:
    """Return our names for a word of another library, or options with the same last word."""
    leaf = key.rpartition(".")[2]
    ours = OURS.get(leaf.lower().replace("-", "_"), "")
    if ours.partition("=")[0] in known:
        return [ours]
    typed = [name for name in known if not name.startswith("search.")]  # names other options
    return [name for name in typed if alike(name.rpartition(".")[2], leaf)][:3]


def owners(group: str, leaf: str) -> list[str]:
    """Return which choices of a group have an option."""
    from adaptkit.config.compose import load_raw

    found = []
    for name in options(group):
        plain = load_raw(CONF / group / f"{name}.yaml")
        if leaf in plain.get(group, plain):
            found.append(name)
    return found


@cache
def hub_ids(group: str) -> dict[str, str]:
    """Return {hub id: choice} of a group whose choices are on the hub, each from a place alone."""
    from adaptkit.config.compose import load_raw

    paths = {name: load_raw(CONF / group / f"{name}.yaml").get("path") for name in options(group)}
    several = Counter(paths.values())
    return {path: name for name, path in paths.items() if path and several[path] == 1}


OWN = {
    "model": " Any other: model=auto model.path=FOLDER_OR_HUB_ID.",
    "task": " Your own data: task=classify task.path=FILE.",
}


def of_choice(group: str, choice: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a choice that a group does not have."""
    own = OWN.get(group, "")
    for path, name in hub_ids(group).items() if own else ():
        if alike(choice, path) or alike(choice, path.rpartition("/")[2]):
            near = f"did you mean {name}? It is {path}."
            return ConfigError(f"{group}={choice}: not known; {near}{own}")
    return ConfigError(f"{unknown(group, choice, known)}{own}")


def of_flag(word: str, following: str, known: Sequence[str], flags: Sequence[str]) -> str:
    """Say what to write for a flag that does not exist, as in --method lora."""
    typed, has_value, value = word.partition("=")
    name = typed.lstrip("-").replace("-", "_")
    ours = [name] if name in known else same_option(name, known)
    if not ours:
        near = did_you_mean(typed, flags) or did_you_mean(name, known)
        near = f"; {near}" if near else ". "
        return f"{word}: no such flag{near}Options are written without dashes: method=lora."
    if not has_value:
        value = "VALUE" if following.startswith("-") or "=" in following else following or "VALUE"
    write = " or ".join(option if "=" in option else f"{option}={value}" for option in ours)
    return f"{word}: options are written without dashes; write {write}."
