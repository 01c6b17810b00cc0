"""Count a grid search over ranks as one competitor: its best run by D_val, at the cost of all.

python -m experiments.run -m method=lora_grid method.rank=1,2,4,8,16 seed=0,1,2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.errors import UserError

__all__ = ["GRID", "searched"]

GRID = "lora_grid"


def searched(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a grid search finds, one result for each task, model and seed of ``lora_grid`` runs.

    Args:
        results: result.json of each run; those of other methods are passed over.

    Returns:
        The result of the run with the lowest validation loss, with the seconds and examples of all
        runs of the grid and ``variant`` telling how many they are. The test set plays no part in
        the choice. Grids of a single run are left out.

    Raises:
        UserError: runs without a validation loss.
    """
    grids: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for r in results:
        if r["method"] == GRID:
            grids.setdefault((r["task"], r["model"], r["seed"]), []).append(r)
    found = []
    for members in grids.values():
        if len(members) < 2:
            continue
        if any(r["validation_loss"] is None for r in members):
            raise UserError(
                f"the {GRID} runs on {members[0]['task']} have no validation loss to choose a rank "
                "by: run them with method.hold_out above 0"
            )
        best = min(members, key=lambda r: r["validation_loss"])
        totals = {
            level: sum(r["examples_seen"][level] for r in members) for level in ("lower", "upper")
        }
        found.append(
            {
                **best,
                "variant": f"best of {len(members)} by validation loss",
                **{
                    key: {"grid": sum(sum(r[key].values()) for r in members)}
                    for key in ("seconds", "processor_seconds")
                },
                "examples_seen": totals,
                "peak_memory_mib": max(r["peak_memory_mib"] for r in members),
            }
        )
    return found
