"""The groups of the configuration and their options."""

from __future__ import annotations

from adaptkit.storage.bundled import CONF

GROUPS = ("model", "method", "task", "optimizer", "regularizer", "trainer", "tracker", "suite",
          "protocol", "experiment")  # fmt: skip


def options(group: str) -> list[str]:
    """Return the choices of a config group: its files, as in ood/sst2, without their endings."""
    files = (p.relative_to(CONF / group) for p in (CONF / group).rglob("*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files)
