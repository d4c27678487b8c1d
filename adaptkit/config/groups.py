"""Where the configuration is: its folder, its groups, and their options."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# In a wheel conf/ is inside the package, in a checkout next to it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
GROUPS = ("model", "method", "task", "optimizer", "regularizer", "trainer", "tracker", "suite",
          "protocol", "experiment")  # fmt: skip


def options(group: str) -> list[str]:
    """Return the choices of a config group: its files, as in ood/sst2, without their endings."""
    files = (p.relative_to(CONF / group) for p in (CONF / group).rglob("*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files)
