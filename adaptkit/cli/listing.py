"""The choices, and the meaning of every option: `adaptkit list`, `adaptkit train --help`."""

from __future__ import annotations

import json
from dataclasses import asdict

from adaptkit.cli.parser import command
from adaptkit.cli.prompting import list_templates
from adaptkit.config.choices import also_set, described, shown
from adaptkit.config.describe import OWN, Option, options_in, options_of
from adaptkit.config.groups import CONF, GROUPS, options
from adaptkit.config.overrides import composed
from adaptkit.config.schema import schema
from adaptkit.config.suggest import of_choice
from adaptkit.errors import ConfigError, unknown

KINDS = ("methods", "models", "tasks", "regularizers", "optimizers", "suites",
         "protocols", "experiments")  # fmt: skip
TEMPLATES = "templates"  # of a task: they are no group of options
PLAIN = ("trainer", "data", "budget")  # groups of options with nothing to choose by name
HELP = """adaptkit train: adapt a pretrained model to a task, score it, save the trained tensors.

adaptkit train method=lora task=sst2
adaptkit train -m method=lora,bitfit task=sst2,mrpc 'seed=range(0,3)'

== Groups (GROUP=OPTION) ==
{groups}

== Options (KEY=VALUE) ==
{options}

The options are those of {choices}; give others to see theirs.
adaptkit list method lora explains one choice. --cfg job shows the composed configuration.
--show-example prints the first training row as the model reads it, and ends.
-m sweeps over comma-separated values. --hydra-help lists all flags.
Tab completion: eval "$(adaptkit -sc install=bash)"
"""


def list_(arguments: list[str]) -> int:
    """`adaptkit list [KIND [NAME]] [--json]`, `adaptkit list --schema`."""
    parser = command("list", "The choices, and the meaning of their options.")
    parser.add_argument("kind", nargs="?", help=" | ".join((*KINDS, *PLAIN, TEMPLATES)))
    parser.add_argument(
        "name", nargs="?", help="one of its names: explain its options; of templates: a task"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--schema", action="store_true", help="print a JSON Schema of all settings of a run"
    )
    args = parser.parse_args(arguments)
    if args.schema:
        if args.kind:
            raise ConfigError(
                f"list --schema {args.kind}: is of all settings. Leave {args.kind} out."
            )
        print(json.dumps(schema(), indent=2))
        return 0
    several = (*KINDS, TEMPLATES)
    kind = f"{args.kind}s" if args.kind and f"{args.kind}s" in several else args.kind
    if kind and kind not in (*KINDS, *PLAIN, TEMPLATES):
        raise unknown("list", kind, (*KINDS, *PLAIN, TEMPLATES))
    if kind == TEMPLATES:
        return list_templates(args.name, args.json)
    if kind in PLAIN or args.name:
        return explain(kind, args.name, args.json)
    listing = {each: described(each) for each in ([kind] if kind else KINDS)}
    if args.json:
        print(json.dumps(listing, indent=2))
        return 0
    for each, entries in listing.items():
        print(each)
        width = max((len(name) for name in entries), default=0)
        for name, text in entries.items():
            print(f"  {name:{width}}  {text}")
    return 0


def explain(kind: str, name: str | None, as_json: bool) -> int:
    """Print the options of one choice: meaning, default and range."""
    group = kind if kind in PLAIN else kind.removesuffix("s")
    if name and name not in options(group):
        raise of_choice(group, name, options(group))
    if group in ("experiment", "suite", "protocol") and name:
        print((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"), end="")
        return 0
    found = options_of(group, name or "")
    if as_json:
        print(json.dumps({group: {name or group: [asdict(option) for option in found]}}, indent=2))
        return 0
    if name:
        print(f"{group}={name}: {described(kind)[name]}")
    print("\n".join(lines(found)) or "  no options")
    if sets := also_set(group, name or ""):
        print(f"It also sets {sets}.")
    return 0


def lines(found: list[Option]) -> list[str]:
    """Return options as aligned lines: key and default, meaning, range."""
    typed = [f"{option.name}={shown(option.default)}" for option in found]
    width = min(max((len(word) for word in typed), default=0), 36)
    return [
        f"  {word:{width}}  {option.meaning} ({option.rule})"
        for word, option in zip(typed, found, strict=True)
    ]


def help_of_train(overrides: list[str]) -> str:
    """Return the help of `adaptkit train`, with the options of what was chosen."""
    plain = composed(overrides)
    typed = dict(word.split("=", 1) for word in overrides if "=" in word)
    names = {
        group: name if (name := typed.get(group)) in options(group) else plain[group]["name"]
        for group in ("method", "task", "model", "optimizer")
    }
    found = [option for group in (*names, *PLAIN) for option in options_in(plain, group)]
    for name in plain.get("regularizer") or ():
        found += options_in(plain, "regularizer", name)
    own = [
        Option("seed", OWN["seed"], plain["seed"], (), "whole number, 0 or more"),
        Option("output_dir", OWN["output_dir"], "...", (), "text"),
    ]
    groups = "\n".join(f"{group}: {', '.join(options(group))}" for group in GROUPS)
    choices = ", ".join(f"{group}={name}" for group, name in names.items())
    return HELP.format(groups=groups, options="\n".join(lines([*own, *found])), choices=choices)
