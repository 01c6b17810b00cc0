"""Count a grid search over ranks as one competitor: its best run by D_val, at the cost of all.

python -m experiments.run -m method=lora_grid method.rank=1,2,4,8,16 seed=0,1,2
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.comparing.options import flat

__all__ = ["GRID", "RANK", "searched"]

log = logging.getLogger(__name__)

GRID = "lora_grid"
RANK = "method.rank"


def searched(results: Sequence[Mapping[str, Any]], over: str | None = None) -> list[dict[str, Any]]:
    """What a grid search finds, one result for each task, model and seed of ``lora_grid`` runs.

    Args:
        results: result.json of each run; those of other methods are passed over.
        over: the option that the grid is of: runs that differ in another one are another grid's,
            which its ``variant`` names, and values that not all seeds have are told and left out.
            None: all are of one.

    Returns:
        The result of the run with the lowest validation loss, with the seconds and examples of all
        runs of the grid and ``variant`` telling how many they are. The test set plays no part in
        the choice. Grids of a single run are left out.

    Raises:
        UserError: runs without a validation loss.
    """
    grids: dict[tuple[str, ...], dict[int, dict[str, Mapping[str, Any]]]] = {}
    others: dict[tuple[str, ...], dict[str, str]] = {}
    for number, r in enumerate(results):
        if r["method"] != GRID:
            continue
        options = flat(r.get("configuration") or {}) if over is not None else {}
        # older runs do not say; their words do, where they are of one sweep
        value = options.pop(over or "", (over and r.get("variant")) or f"run {number}")
        key: tuple[str, ...] = (r["task"], r["model"], json.dumps(options, sort_keys=True))
        others[key] = options
        # of one value and seed the first run counts
        grids.setdefault(key, {}).setdefault(r["seed"], {}).setdefault(value, r)
    found = []
    for grid, of_seeds in grids.items():
        shared: list[str] | None = None
        if over is not None:
            every = dict.fromkeys(value for runs in of_seeds.values() for value in runs)
            shared = [value for value in every if all(value in r for r in of_seeds.values())]
            if partly := [value for value in every if value not in shared]:
                log.warning(
                    "%s on %s: not all seeds have a run of %s=%s, which is left out of the grid",
                    *(GRID, grid[0], over, ", ".join(partly)),
                )
        words = _differing(others[grid], [o for k, o in others.items() if k[:2] == grid[:2]])
        for runs in of_seeds.values():
            kept = list(runs.values()) if shared is None else [runs[value] for value in shared]
            if len(kept) > 1:
                found.append(_best(kept, words))
    return found


def _differing(options: Mapping[str, str], every: Sequence[Mapping[str, str]]) -> str:
    """What tells a grid from others of the same task and model."""
    names = [name for name in options if any(o.get(name) != options[name] for o in every)]
    return "".join(f" {name}={json.loads(options[name])}" for name in names)


def _best(runs: Sequence[Mapping[str, Any]], words: str) -> dict[str, Any]:
    """The best run of one seed, with what all of them took."""
    if any(r["validation_loss"] is None for r in runs):
        raise UserError(
            f"the {GRID} runs on {runs[0]['task']} have no validation loss to choose a rank by: "
            "run them with method.hold_out above 0"
        )
    best = min(runs, key=lambda r: r["validation_loss"])
    return {
        **best,
        "variant": f"best of {len(runs)} by validation loss{words}",
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
