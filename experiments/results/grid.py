"""Count a grid search over ranks as one competitor: its best run by D_val, at the cost of all.

python -m experiments.run -m method=lora_grid method.rank=1,2,4,8,16 seed=0,1,2
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.comparing.variants import flat

__all__ = ["GRID", "RANK", "searched"]

log = logging.getLogger(__name__)

GRID = "lora_grid"
RANK = "method.rank"


def searched(results: Sequence[Mapping[str, Any]], over: str | None = None) -> list[dict[str, Any]]:
    """What a grid search finds, one result for each task, model and seed of ``lora_grid`` runs.

    Args:
        results: result.json of each run; those of other methods are passed over.
        over: the option that the grid is of: runs that differ in another one are another grid's,
            and a seed that lacks one of its values is told and left out. None: all are of one.

    Returns:
        The result of the run with the lowest validation loss, with the seconds and examples of all
        runs of the grid and ``variant`` telling how many they are. The test set plays no part in
        the choice. Grids of a single run are left out.

    Raises:
        UserError: runs without a validation loss.
    """
    grids: dict[tuple[str, ...], dict[int, dict[str, Mapping[str, Any]]]] = {}
    for number, r in enumerate(results):
        if r["method"] != GRID:
            continue
        options = flat(r.get("configuration") or {}) if over is not None else {}
        value = options.pop(over or "", f"run {number}")
        key = (r["task"], r["model"], json.dumps(options, sort_keys=True))
        # of one value and seed the first run counts
        grids.setdefault(key, {}).setdefault(r["seed"], {}).setdefault(value, r)
    found = []
    for (task, *_), of_seeds in grids.items():
        most = max(map(len, of_seeds.values()))
        for seed, runs in of_seeds.items():
            if over is not None and len(runs) < most:
                log.warning(
                    "%s on %s: seed %s has %d of %d runs of the grid, and is left out of it",
                    *(GRID, task, seed, len(runs), most),
                )
            elif len(runs) > 1:
                found.append(_best(list(runs.values())))
    return found


def _best(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best run of one seed, with what all of them took."""
    if any(r["validation_loss"] is None for r in runs):
        raise UserError(
            f"the {GRID} runs on {runs[0]['task']} have no validation loss to choose a rank by: "
            "run them with method.hold_out above 0"
        )
    best = min(runs, key=lambda r: r["validation_loss"])
    return {
        **best,
        "variant": f"best of {len(runs)} by validation loss",
        **{
            key: {"grid": sum(sum(r[key].values()) for r in runs)}
            for key in ("seconds", "processor_seconds")
        },
        "examples_seen": {
            level: sum(r["examples_seen"][level] for r in runs) for level in ("lower", "upper")
        },
        "peak_memory_mib": max(r["peak_memory_mib"] for r in runs),
        "of_grid": True,
    }
