"""The checks that several methods share."""

from __future__ import annotations

from collections.abc import Collection

from adaptkit.errors import above, at_least, within
from adaptkit.models.anatomy import check_roles


def check_low_rank(
    rank: int, alpha: float, dropout: float, roles: Collection[str], extra: Collection[str] = ()
) -> None:
    """Check the options of LoRA and its relatives.

    Raises:
        ConfigError: one is out of its range, or a role is neither known nor in `extra`.
    """
    at_least("method.rank", rank, 1)
    above("method.alpha", alpha, 0)
    within("method.dropout", dropout, 0, 1)
    check_roles(roles, extra)
