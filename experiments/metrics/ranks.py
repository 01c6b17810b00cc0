"""Score how well a method finds known ranks, and whether it learned anything beyond its rule.

A rank rule alone can look good. AutoLoRA keeps components of at least the mean share, so about half
of them whatever was learned: where the true ranks are about k/2, such ranks are near the truth by
chance. Everything here is therefore held against the same numbers dealt out to the layers at
random: that has the same mean and spread, and knows nothing of the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["information", "linear_costs", "recovery"]

PERMUTATIONS = 9999  # p-values of 1e-4 at the least


def recovery(
    true: Mapping[str, int], found: Mapping[str, int], costs: Mapping[str, int]
) -> dict[str, float | int | None]:
    """Score the ranks that a method found.

    Args:
        true: the right rank of each layer. A layer that only one of the two names has rank 0 in
            the other: it was adapted without need, or not adapted.
        found: the rank found for each layer.
        costs: parameters of one component of each layer, see `linear_costs`.

    Returns:
        spearman, pearson: correlation of found with true ranks over the layers; None when either
            is the same everywhere (a method that does not search).
        p_value: share of random deals of the found ranks to the layers whose Spearman correlation
            is at least as large (one-sided; small is good); None where that is undefined.
        exact: share of layers whose rank is right, and exact_by_chance: on average over all deals.
        mean_absolute_error, error_by_chance: likewise of |found - true|.
        bias: mean of found - true.
        parameters, true_parameters: of all components found and planted; parameter_ratio: the
            first over the second (None when nothing is planted).
    """
    names = list(dict.fromkeys([*true, *found]))
    t = np.array([true.get(name, 0) for name in names], dtype=float)
    f = np.array([found.get(name, 0) for name in names], dtype=float)
    # Over all deals, every found rank meets every true one equally often.
    pairs = f[:, None] - t[None, :]
    used = sum(found.get(name, 0) * costs[name] for name in names)
    needed = sum(true.get(name, 0) * costs[name] for name in names)
    spearman, p_value = _spearman(f, t)
    return {
        "spearman": spearman,
        "pearson": _pearson(f, t),
        "p_value": p_value,
        "exact": float((f == t).mean()),
        "exact_by_chance": float((pairs == 0).mean()),
        "mean_absolute_error": float(np.abs(f - t).mean()),
        "error_by_chance": float(np.abs(pairs).mean()),
        "bias": float((f - t).mean()),
        "parameters": used,
        "true_parameters": needed,
        "parameter_ratio": used / needed if needed else None,
    }


def information(
    values: Mapping[str, Sequence[float]], true: Mapping[str, int]
) -> dict[str, dict[str, float | None]]:
    """Whether learned values tell the true ranks apart, without any threshold.

    The values of a layer are its selection weights, singular values or gates; their sizes count.
    With shares p_j = |value_j| / sum |values| of a layer, each of these numbers should be larger in
    a layer that needs more components:

    * ``effective_rank`` exp(-sum p log p), and ``participation`` 1 / sum p^2: both are k for equal
      values and 1 for a single one;
    * ``selected``: how many p_j are at least 1/k, AutoLoRA's rule, to compare with;
    * ``total`` sum |values|: fixed at 1 for softmax weights, but not for free values or gates.

    Each comes with the Spearman correlation to the true rank over layers, and the share of random
    deals of the layers' values to the layers that correlate at least as much (``p_value``,
    one-sided). Both are None where nothing varies. A p-value near 1 tells that the values order the
    layers the wrong way round.

    ``components`` compares values across layers place by place: a layer of true rank r needs its r
    largest components. Of all pairs of layers of which, at place j, one needs a j-th component
    and the other does not, ``auc`` is the share in which the j-th largest value of the first is the
    larger (ties count half). Values that know nothing of the layers have 1/2 whatever the rule, the
    threshold and the mean rank; ``p_value`` as above.

    Args:
        values: layer -> its values, at the end of the search.
        true: the right rank of each layer; layers without one have 0.
    """
    names = list(values)
    ranks = np.array([true.get(name, 0) for name in names], dtype=float)
    width = max((len(row) for row in values.values()), default=0)
    sizes = np.zeros((len(names), width))
    counts = np.array([len(values[name]) for name in names])
    for i, name in enumerate(names):
        sizes[i, : counts[i]] = -np.sort(-np.abs(np.asarray(values[name], dtype=float)))
    total = sizes.sum(1)
    shares = sizes / np.where(total > 0, total, 1)[:, None]
    square = (shares**2).sum(1)
    logs = np.log(np.where(shares > 0, shares, 1))
    numbers = {
        "effective_rank": np.where(total > 0, np.exp(-(shares * logs).sum(1)), 0),
        "participation": np.divide(1, square, out=np.zeros_like(square), where=square > 0),
        "selected": (shares * counts[:, None] >= 1 - 1e-6).sum(1).astype(float),
        "total": total,
    }
    found: dict[str, dict[str, float | None]] = {}
    for key, column in numbers.items():
        spearman, p_value = _spearman(column, ranks)
        found[key] = {"spearman": spearman, "p_value": p_value}
    found["components"] = _auc(sizes, ranks)
    return found


def linear_costs(model: object, names: Sequence[str]) -> dict[str, int]:
    """Parameters of one component of each named linear map: inputs + outputs."""
    return {name: sum(model.get_submodule(name).weight.shape) for name in names}  # type: ignore[attr-defined]


def _deals(count: int) -> np.ndarray:
    """Random orders of the layers, (PERMUTATIONS, count); the same at every call."""
    rows = np.tile(np.arange(count), (PERMUTATIONS, 1))
    return np.random.default_rng(0).permuted(rows, axis=1)


def _p_value(observed: float, dealt: np.ndarray) -> float:
    # The observed deal counts as one of them: a p-value is never 0. Slack: rounding of sums.
    return float((1 + (dealt >= observed - 1e-9).sum()) / (1 + len(dealt)))


def _constant(column: np.ndarray) -> bool:
    # Up to rounding: softmax weights sum to 1 and a few times 1e-6, as they are logged.
    return len(column) < 2 or np.ptp(column) <= 1e-4 * np.abs(column).max()


def _pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    if _constant(a) or _constant(b):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _spearman(a: np.ndarray, b: np.ndarray) -> tuple[float | None, float | None]:
    """Spearman correlation and its one-sided permutation p-value; None and None if undefined."""
    if _constant(a) or _constant(b):
        return None, None
    from scipy import stats  # 20 MiB, which a run need not load

    x, y = (stats.zscore(stats.rankdata(column)) for column in (a, b))
    observed = float((x * y).mean())
    return observed, _p_value(observed, (x[_deals(len(x))] * y).mean(1))


def _auc(sizes: np.ndarray, ranks: np.ndarray) -> dict[str, float | None]:
    """``components`` of `information`, for sorted values (n, k) and true ranks (n,)."""
    deals = _deals(len(ranks))
    observed, pairs, dealt = 0.0, 0.0, np.zeros(len(deals))
    for place in range(sizes.shape[1]):
        column = sizes[:, place]
        needs = (ranks > place).astype(float)
        # wins[a, b]: a's value is larger than b's
        wins = (column[:, None] > column) + 0.5 * (column[:, None] == column)
        observed += needs @ wins @ (1 - needs)
        pairs += needs.sum() * (1 - needs).sum()
        dealt += ((needs[deals] @ wins) * (1 - needs[deals])).sum(1)
    if not pairs:
        return {"auc": None, "p_value": None}
    return {"auc": float(observed / pairs), "p_value": _p_value(observed / pairs, dealt / pairs)}
