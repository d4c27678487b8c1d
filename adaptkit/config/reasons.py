"""Why a configuration cannot be read, in one line, from what the libraries say of it."""

from __future__ import annotations

import re

from adaptkit.errors import first_line


def of_yaml(error: BaseException) -> str:
    """Say in one line why YAML cannot be read, and where."""
    from yaml import MarkedYAMLError

    if isinstance(error, RecursionError):
        return "it is nested too deeply, or refers to itself"
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} ({mark.name}, line {mark.line + 1})"
    return first_line(error)


def of_interpolation(text: str) -> str:
    """Say in a sentence why a value with ${...} has none; nothing if it is something else."""
    first, _, rest = text.partition("\n")
    key = re.search(r"full_key: (\S+)", rest)
    if not key:
        return ""
    if "Recursive interpolation" in first:
        return f"{key[1]}: refers to itself. Write the value."
    reason = re.sub(r"^.* raised while resolving interpolation: ", "", first).strip("\"'. ")
    return f"{key[1]}: cannot be resolved: {reason}."
