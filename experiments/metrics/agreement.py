"""Say how far the ranks that several runs found agree: in all modules, and in each kind of them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.metrics.module_names import places, shortened

__all__ = ["ALL", "Agreement", "agreement"]

ALL = "all modules"


@dataclass(frozen=True)
class Agreement:
    """Rank correlations over some modules, each the mean over the pairs of runs that have one."""

    modules: int
    """How many modules are compared: with few of them, chance alone agrees well or badly."""
    mean_ranks: tuple[float, ...]
    """Mean rank of these modules in each run."""
    pairs: int
    """Pairs of runs."""
    defined: int
    """Pairs in which the ranks of both runs vary over the modules: of others there is none."""
    spearman: float | None
    """Spearman's rho, ties with their mean position: 1 the same order, 0 none. None: undefined."""
    kendall: float | None
    """Kendall's tau-b, which corrects for ties. None: undefined."""


def agreement(ranks_by_run: Sequence[Mapping[str, int]]) -> dict[str, Agreement]:
    """Compare the ranks of every two runs over the modules.

    Correlations know nothing of the size: twice the ranks in the same order agree by 1. But where
    much more is cut in one run than in another, other modules meet the limits (0 and the rank
    trained), so compare ranks that were cut at one share of parameters.

    The mean over all modules counts a difference between kinds too: where values always get more
    than queries, it is high although the layers are in no order. That is what the kinds are for.

    Args:
        ranks_by_run: for each run, rank by module (its full name). A module that only one run has
            is of rank 0 in the others, as in `recovery`.

    Returns:
        Under ``ALL`` over all modules, then over the modules of each kind (``query``, ``value``:
        the name without its layer, as short as it stays apart). Empty with fewer than two runs, or
        without modules.
    """
    names = list(dict.fromkeys(name for ranks in ranks_by_run for name in ranks))
    if len(ranks_by_run) < 2 or not names:
        return {}
    table = np.array([[ranks.get(name, 0) for name in names] for ranks in ranks_by_run])
    parts = [part for _, part in places(names).values()]
    kinds = list(dict.fromkeys(parts))
    found = {ALL: _over(table)}
    for kind, shown in zip(kinds, shortened(kinds), strict=True):
        found[shown] = _over(table[:, [part == kind for part in parts]])
    return found


def _over(table: np.ndarray) -> Agreement:
    """The agreement of the rows of ``table`` (runs, modules)."""
    from scipy import stats  # 20 MiB, which a run need not load

    pairs = list(itertools.combinations(table, 2))
    varied = [(a, b) for a, b in pairs if np.ptp(a) > 0 and np.ptp(b) > 0]
    return Agreement(
        modules=table.shape[1],
        mean_ranks=tuple(table.mean(1).tolist()),
        pairs=len(pairs),
        defined=len(varied),
        spearman=_mean([float(stats.spearmanr(a, b).statistic) for a, b in varied]),
        kendall=_mean([float(stats.kendalltau(a, b).statistic) for a, b in varied]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
