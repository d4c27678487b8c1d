"""The `adaptkit` command: one word chooses what is done, the rest belongs to it. No torch here."""

from __future__ import annotations

import sys

COMMANDS = {
    "train": "adapt a model to a task, score it, save what was trained",
    "tune": "race learning rates or other settings on held-out training rows",
    "compare": "tune methods at the same budget, repeat the winners, one report",
    "reproduce": "run a published recipe, and ours beside its figure",
    "plan": "parameters, bytes and memory of a run, before it starts",
    "data": "what is in a task's rows: balance, duplicates, overlap, lengths, baselines",
    "eval": "score a finished run on another task or split, or on a suite of them",
    "predict": "answer the rows of a file with a finished run",
    "report": "many runs as one answer: means, intervals, tests, costs, pictures",
    "verify": "rebuild a finished run from disk and compare its predictions",
    "export": "write a finished run for PEFT, transformers or onnxruntime; push it to the hub",
    "import": "make a run of a PEFT adapter and score it",
    "smoke": "try everything on the bundled models and samples, with no network",
    "doctor": "versions, cores, memory, speed and the hub: what slows adaptkit down here",
    "list": "methods, models, tasks, regularizers, optimizers, suites, protocols, experiments, ...",
}
USAGE = """adaptkit: adapt a pretrained language model to a task with any published method

{commands}

  adaptkit train method=lora task=sst2                       one run
  adaptkit train -m method=lora,bitfit task=sst2,mrpc        a sweep
  adaptkit plan method=lora model=roberta-base task=sst2     what it would cost
  adaptkit eval RUN suite=ood                                what it is worth out of its domain
  adaptkit COMMAND --help                                    more

Tab completion: eval "$(adaptkit -sc install=bash)"
"""
TAKE_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
              "--config-dir", "-cd")  # fmt: skip
FLAGS = (*TAKE_VALUE, "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r",
         "--multirun", "-m", "--shell-completion", "-sc", "--info", "-i",
         "--show-example")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command; status 0 done, 2 the user's mistake, 1 a failure, 3 findings."""
    from adaptkit.terminal.console import guarded

    return guarded(dispatch, list(sys.argv[1:] if argv is None else argv))


def dispatch(arguments: list[str]) -> int:
    """Find the command and call it."""
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version" or arguments[:2] == ["train", "--version"]:
        from adaptkit import __version__

        print(__version__)
        return 0
    if arguments[0] in ("-sc", "--shell-completion") or "-sc" in arguments:
        from adaptkit.cli.completion import complete

        return complete(arguments, COMMANDS)
    command, rest = arguments[0], arguments[1:]
    if command == "train":
        from adaptkit.train import main as train

        check_flags(rest)
        if "--show-example" in rest:
            from adaptkit.cli.prompting import show_example

            return show_example([word for word in in_order(rest) if word != "--show-example"])
        if {"--help", "-h"} & set(rest):
            from adaptkit.cli.listing import help_of_train

            print(help_of_train([word for word in rest if not word.startswith("-")]), end="")
            return 0
        return train(in_order(rest))
    if command in COMMANDS:
        from adaptkit.cli import (
            commands,
            comparing,
            diagnosing,
            listing,
            predicting,
            reporting,
            reproducing,
            tuning,
        )

        rooms = {"data": diagnosing, "doctor": diagnosing, "list": listing, "predict": predicting,
                 "report": reporting, "tune": tuning, "compare": comparing,
                 "reproduce": reproducing}  # fmt: skip
        return getattr(rooms.get(command, commands), f"{command}_")(rest)
    from adaptkit.errors import ConfigError, did_you_mean

    raise ConfigError(
        f"unknown command {command!r}; {did_you_mean(command, COMMANDS)}"
        f"Commands: {', '.join(COMMANDS)}."
    )


def usage() -> str:
    """Return the text of `adaptkit --help`."""
    return USAGE.format(commands="\n".join(f"  {n:9} {text}" for n, text in COMMANDS.items()))


def check_flags(words: list[str]) -> None:
    """Reject flags that Hydra does not have, such as --method lora.

    Raises:
        ConfigError: it names what to write.
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name = word.partition("=")[0]
        short = name.startswith("--") and any(flag.startswith(name) for flag in FLAGS)
        if name.startswith("-") and name not in FLAGS and not short:
            from adaptkit.config.overrides import known_keys
            from adaptkit.config.suggest import of_flag
            from adaptkit.errors import ConfigError

            raise ConfigError(of_flag(word, following, known_keys([]), FLAGS))


def in_order(arguments: list[str]) -> list[str]:
    """Put flags before overrides, which Hydra wants, and accept +experiment=x for experiment=x."""
    flags: list[str] = []
    overrides: list[str] = []
    waiting = False
    for word in arguments:
        if waiting or (word.startswith("-") and "=" not in word.partition(" ")[0]):
            waiting = not waiting and word in TAKE_VALUE
            flags.append(word)
        elif flags and flags[-1] == "--info" and "=" not in word:
            flags.append(word)
        elif word.startswith("--"):
            flags.append(word)
        else:
            overrides.append(word[1:] if word.startswith("+experiment=") else word)
    return [*flags, *overrides]


if __name__ == "__main__":
    sys.exit(main())
