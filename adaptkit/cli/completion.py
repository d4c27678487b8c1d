"""Tab completion: the script for the shell, and what it asks for. No torch.

The shell gives the line in COMP_LINE. An answer that ends in = . or / goes on; bash gets a blank
after all others. bash cuts words at the characters of COMP_WORDBREAKS, so what stands before the
last of them is not repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from adaptkit.cli.listing import KINDS, PLAIN, TEMPLATES
from adaptkit.cli.prompting import templated
from adaptkit.config.describe import options_in
from adaptkit.config.groups import GROUPS, options
from adaptkit.config.overrides import composed, known_keys
from adaptkit.config.suggest import NOT_TYPED
from adaptkit.errors import one_of
from adaptkit.reports.published import figures

BASH = """_adaptkit() {
    local answer
    COMPREPLY=()
    while IFS= read -r answer; do
        COMPREPLY+=("$answer")
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        "${COMP_WORDS[0]/#\\~/$HOME}" -sc query=bash 2>/dev/null)
}
complete -o nospace -F _adaptkit adaptkit
"""
FISH = """function _adaptkit
    set -lx COMP_LINE (commandline -cp)
    adaptkit -sc query=fish 2>/dev/null
end
complete -c adaptkit -f -a '(_adaptkit)'
"""
INSTALL = {
    "bash": BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH}",
    "fish": FISH,
}
UNINSTALL = {
    "bash": "complete -r adaptkit; unset -f _adaptkit\n",
    "zsh": "complete -r adaptkit; unset -f _adaptkit\n",
    "fish": "complete -e -c adaptkit; functions -e _adaptkit\n",
}
FLAGS = {  # of every command; train's are Hydra's
    "train": ("--help", "--multirun", "--cfg", "--resolve", "--package", "--info", "--config-dir",
              "--hydra-help", "--version", "--show-example"),
    "tune": ("--help", "--search", "--budget", "--out"),
    "compare": ("--help", "--search", "--budget", "--seeds", "--jobs", "--out", "--control"),
    "reproduce": ("--help", "--seeds", "--hours", "--out"),
    "plan": ("--help", "--json", "--names", "--show-example"),
    "data": ("--help", "--json", "--html", "--strict"),
    "eval": ("--help", "--json", "--output"),
    "predict": ("--help", "--input", "--split", "--output", "--format", "--batch-size", "--device",
                "--overwrite"),
    "report": ("--help", "--out", "--by"),
    "verify": ("--help",),
    "export": ("--help", "--format", "--out", "--push", "--private"),
    "import": ("--help", "--out"),
    "smoke": ("--help", "--output"),
    "doctor": ("--help", "--json"),
    "list": ("--help", "--json", "--schema"),
}  # fmt: skip
VALUES = {  # of flags
    "--format": ("peft", "merged", "onnx", "card"),
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": (),
    "--device": ("cpu", "cuda", "mps"),
}
PLACES = ("--out", "--output", "--config-dir")
RUN_FIRST = (
    "eval",
    "predict",
    "report",
    "verify",
    "export",
    "import",
)  # commands whose first word is a folder
OVERRIDDEN = (
    "train",
    "reproduce",
    "plan",
    "data",
    "eval",
    "predict",
    "import",
)  # commands that take overrides
FILES = ("task.path", "task.template", "model.path", "data.root", "output_dir")
COMMA = re.compile(r"(.*[=,\[])?([^,\[]*)$")


def complete(arguments: list[str], commands: Iterable[str]) -> int:
    """Answer `adaptkit -sc install=SHELL | uninstall=SHELL | query=SHELL`."""
    request = next((word for word in arguments if "=" in word), "install=bash")
    action, _, shell = request.partition("=")
    one_of("-sc", action, ("install", "uninstall", "query"))
    one_of(f"-sc {action}", shell, INSTALL)
    if action != "query":
        print((INSTALL if action == "install" else UNINSTALL)[shell], end="")
        return 0
    *before, word = words_of(os.environ.get("COMP_LINE", ""))
    found = [a for a in answers(before[1:], word, tuple(commands)) if a.startswith(word)]
    if shell != "fish":  # fish adds the blank itself
        cut = kept(word, os.environ.get("COMP_WORDBREAKS", ""))
        found = [quoted(a)[len(cut) :] + ("" if open_ended(a) else " ") for a in found]
    if found:
        print("\n".join(sorted(dict.fromkeys(found))))
    return 0


def words_of(line: str) -> list[str]:
    """Return the words of a line, the last of them the one to complete, perhaps empty."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", line)]
    return words if words and not line[-1].isspace() else [*words, ""]


def quoted(word: str) -> str:
    """Return a word with a backslash before what the shell would read."""
    return re.sub(r"([^\w@%+=:,./~\[\]{}-])", r"\\\1", word)


def open_ended(answer: str) -> bool:
    """Tell whether more belongs to a word: a value, the next level, the rest of a list."""
    return answer[-1] in "=./" or answer.count("[") > answer.count("]")


def kept(word: str, breaks: str) -> str:
    """Return the part of a word that bash does not replace."""
    at = max((word.rfind(char) for char in "=:" if char in breaks), default=-1)
    return quoted(word[: at + 1])


def answers(before: list[str], word: str, commands: tuple[str, ...]) -> list[str]:
    """Return what `word` may become after the words `before` it."""
    if not before:
        return [*commands, "--help", "--version"] if word[:1] == "-" else list(commands)
    command, *rest = before
    last = rest[-1] if rest else ""
    if command == "predict" and last in ("--input", "--output", "--format"):
        return ["glue"] if last == "--format" else paths(word)
    if last == "--html":
        return paths(word)
    if last in VALUES:
        return list(VALUES[last])
    if last in PLACES:
        return paths(word, folders=True)
    if word.startswith("-"):
        return list(FLAGS.get(command, ()))
    plain = [w for w in rest if not w.startswith("-")]
    if command == "list":
        return of_list(plain)
    if command == "reproduce":
        if not plain:
            return list(figures())
        plain = [f"experiment=paper/{plain[0].removeprefix('paper/')}", *plain[1:]]
    if command == "smoke":
        return [*options("method"), *options("regularizer"), *options("task"), "mini-bert",
                "mini-gpt2", "mini-t5"]  # fmt: skip
    if command in RUN_FIRST and (not plain or command in ("report", "verify")):
        return paths(word, folders=True)
    return overrides(plain, word) if command in OVERRIDDEN else []


def of_list(plain: list[str]) -> list[str]:
    """Return what may follow in `adaptkit list KIND NAME`."""
    if not plain:
        return [*KINDS, *PLAIN, TEMPLATES]
    if plain[0].removesuffix("s") == TEMPLATES.removesuffix("s"):
        return templated() if len(plain) == 1 else []
    group = plain[0].removesuffix("s")
    return options(group) if len(plain) == 1 and group in GROUPS else []


def overrides(chosen: list[str], word: str) -> list[str]:
    """Return the overrides that begin with `word`: keys level by level, then values."""
    key, is_set, value = word.partition("=")
    name = key.lstrip("+~")
    if is_set:
        if name in FILES:
            found = paths(value, folders=name not in FILES[:2])
            if name == "task.template":
                found += composed(chosen)["task"].get("templates", {})
            return [f"{key}={one}" for one in found]
        start = COMMA.match(word)
        return [f"{start[1]}{v}" for v in values(name, chosen)] if start else []
    sign, level = key[: len(key) - len(name)], name.count(".")
    known = [k for k in known_keys(chosen) if k not in NOT_TYPED]
    nodes = {k.rpartition(".")[0] for k in known}
    near = [k for k in known if k.startswith(name) and k.count(".") == level]
    leaves = [f"{sign}{k}=" for k in near if k in GROUPS or k not in nodes]
    return leaves + [f"{sign}{k}." for k in near if k in nodes]


def values(key: str, chosen: list[str]) -> list[str]:
    """Return the values of a group or an option, if there is a choice."""
    if key in GROUPS:
        return options(key)
    group, _, leaf = key.partition(".")
    if group not in ("method", "optimizer", "task", "model", "trainer", "data") or not leaf:
        return []
    found = [o for o in options_in(composed(chosen), group) if o.name == key]
    return list(found[0].values) if found else []


def paths(start: str, folders: bool = False) -> list[str]:
    """Return the files and folders that begin with `start`; folders end in a slash."""
    parent, _, name = start.rpartition("/")
    place = Path(f"{parent}/" if "/" in start else ".").expanduser()
    prefix = f"{parent}/" if "/" in start else ""
    if not place.is_dir():
        return []
    entries = [p for p in place.iterdir() if p.name.startswith(name)]
    shown = [p for p in entries if name.startswith(".") or not p.name.startswith(".")]
    return [f"{prefix}{p.name}{'/' if p.is_dir() else ''}" for p in shown
            if p.is_dir() or not folders]  # fmt: skip
