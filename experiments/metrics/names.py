"""Check the names of the metrics that a task is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bilevel.errors import UserError, listed, nearest

__all__ = ["check_names"]


def check_names(
    metrics: Sequence[str],
    known: Collection[str],
    option: str,
    allowed: Collection[str] | None = None,
) -> None:
    """Refuse no metric, or an unknown one.

    Args:
        metrics: their names.
        known: those that there are.
        option: where the names were given, for the message.
        allowed: those that the message names; None for all.

    Raises:
        UserError: says which are allowed.
    """
    if not metrics:
        raise UserError(f"{option} is empty: name at least one")
    for metric in metrics:
        if metric not in known:
            names = known if allowed is None else allowed
            hint = f"{listed(names)}{nearest(metric, names)}"
            raise UserError(f"{option}: unknown metric {metric!r}: allowed are {hint}")
