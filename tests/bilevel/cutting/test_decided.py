"""How far ranks are decided, against counts by hand and by plain loops."""

import statistics

import numpy as np
import pytest

from bilevel.cutting.decided import Decided, RankChoice, decided, decided_by_rule, last_quarter
from bilevel.errors import UserError

STEPS = np.arange(1, 101)


def test_a_cut_by_hand() -> None:
    # The cut of two is half-way between the second and the third: 2, 4, 2, so positions are
    # (1, .5, -.5), (1, .25, -.25), (1, .5, -.5).
    history = np.array([[4, 3, 1], [8, 5, 3], [4, 3, 1]], dtype=float)
    found = decided(history, np.array([True, True, False]))
    assert (found.near, found.components, found.kept, found.records) == (0, 3, 2, 3)
    assert found.margin == pytest.approx(1.0, abs=1e-12)  # 0.5 less -0.5
    assert found.spread == pytest.approx(2**0.5 * statistics.stdev([0.5, 0.25, 0.5]), abs=1e-12)
    assert found.decided
    assert found.words == ("these ranks are decided: 0 of 3 components lie within noise of the cut")


def test_what_grows_together_is_no_noise() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(rng.uniform(0.1, 1, 40))[::-1]
    growth = np.linspace(1, 5, 20)[:, None]
    keep = np.arange(40) < 12
    assert decided(growth * values, keep).near == 0
    middle = (5 * values[11] + 5 * values[12]) / 2
    standing = np.full((20, 40), middle)  # against a cut that does not move with them
    assert decided(growth * values, keep, standing).near > 20


@pytest.mark.parametrize("noise", [0.001, 0.02, 0.3])
def test_against_plain_loops(noise: float) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(0.5, 1.5, 30)
    history = np.abs(values + noise * rng.standard_normal((25, 30)))
    keep = np.zeros(30, dtype=bool)
    keep[np.argsort(-history[-1])[:10]] = True
    rows = [sorted(row, reverse=True) for row in history.tolist()]
    cuts = [(row[9] + row[10]) / 2 for row in rows]
    near = 0
    for j in range(30):
        positions = [x[j] / c - 1 for x, c in zip(history.tolist(), cuts, strict=True)]
        near += abs(positions[-1]) <= 2 * statistics.stdev(positions)
    found = decided(history, keep)
    assert found.near == near
    assert found.decided == (near == 0)  # 5 % of 10 is none
    assert (near > 10) == (noise == 0.3)


def test_values_that_were_chosen_by_may_be_of_another_step() -> None:
    history = np.array([[3.0, 2.0, 1.0]] * 4) + 0.01 * np.arange(4)[:, None]
    keep = np.array([True, True, False])
    assert decided(history, keep).near == 0
    assert decided(history, keep, now=np.array([3.0, 1.0, 1.0])).near == 2  # a tie


@pytest.mark.parametrize(
    ("kept", "near", "said"),
    [(40, 2, True), (40, 3, False), (60, 2, True), (97, 0, True), (97, 1, False), (100, 1, False)],
)
def test_one_in_twenty_of_those_that_could_change_sides(kept: int, near: int, said: bool) -> None:
    found = Decided(100, near, kept)
    assert found.decided is said
    assert ("not decided" in found.words) is not said
    assert f"{near} of 100" in found.words


def test_what_cannot_be_known() -> None:
    keep = np.array([True, False])
    few = decided(np.array([[2.0, 1.0]] * 2), keep)
    odd = decided(np.array([[2.0, np.nan]] * 5), keep)
    zero = decided(np.zeros((5, 2)), keep)
    for found in (few, odd, zero):
        assert found.decided is None
        assert found.near is None
        assert found.words.startswith("it is not known how far")
        assert found.as_json()["decided"] is None
    everything = decided(np.ones((5, 2)), np.array([True, True]))
    assert (everything.near, everything.margin) == (0, None)
    with pytest.raises(UserError, match="components"):
        decided(np.ones((5, 2)), np.array([True]))


def test_the_last_quarter() -> None:
    assert STEPS[last_quarter(STEPS)].tolist() == list(range(76, 101))
    assert STEPS[last_quarter(STEPS, until=0.4)].tolist() == list(range(31, 41))
    assert STEPS[last_quarter(STEPS, start=0.36, until=0.4)].tolist() == list(range(37, 41))
    assert STEPS[last_quarter(STEPS, kept=40)].tolist() == list(range(31, 41))
    assert STEPS[last_quarter(STEPS, until=0.4, kept=90)].tolist() == list(range(31, 41))
    assert STEPS[last_quarter(STEPS, start=0.2, until=0.9, kept=24)].tolist() == [21, 22, 23, 24]
    assert last_quarter(np.array([])).sum() == 0


def softmax(x: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    e = np.exp(x)
    return np.asarray(e / e.sum(-1, keepdims=True))


def gates(size: float, noise: float) -> dict[str, np.ndarray]:
    """Softmax gates of two layers, the first half of each above 1/k by ``size`` in the logit."""
    rng = np.random.default_rng(2)
    base = np.array([size, size, -size, -size])
    return {n: softmax(base + noise * rng.standard_normal((100, 4))) for n in "ab"}


@pytest.mark.parametrize("rule", ["threshold", "mean", "raw_share", "budget"])
def test_softmax_gates_by_every_rule(rule: str) -> None:
    choice = RankChoice(rule, gate="softmax")
    ranks = {"a": 2, "b": 2}
    clear = decided_by_rule(gates(1.0, 0.01), STEPS, ranks, choice)
    assert (clear.near, clear.components, clear.kept, clear.records) == (0, 8, 4, 25)
    # All noise, as of a search that learned nothing.
    blurred = gates(0.0, 0.1)
    masks = {n: x[-1] >= np.sort(x[-1])[::-1][1] for n, x in blurred.items()}
    noisy = decided_by_rule(blurred, STEPS, {n: int(m.sum()) for n, m in masks.items()}, choice)
    assert noisy.near is not None
    assert noisy.near >= 5
    assert noisy.decided is False


def test_gates_that_never_moved_are_not_decided() -> None:
    still = {"a": np.full((100, 3), 0.333333)}
    found = decided_by_rule(still, STEPS, {"a": 3}, RankChoice("threshold"))
    assert found.near == 3
    assert found.decided is False


def test_gates_of_weights_that_were_best_before_the_end() -> None:
    """After step 40 the order turns round, and is all noise: that is not what was kept."""
    rng = np.random.default_rng(4)
    noise = np.where(STEPS[:, None] <= 40, 0.001, 1.0) * rng.standard_normal((100, 4))
    before = np.array([4.0, 3.0, 1.0, 0.5])
    values = {"a": np.where(STEPS[:, None] <= 40, before, before[::-1]) + noise}
    found = decided_by_rule(values, STEPS, {"a": 2}, RankChoice("budget"), kept=40)
    assert (found.near, found.records) == (0, 10)
    assert found.margin == pytest.approx((3.0 - 1.0) / 2.0, abs=0.01)
    last = decided_by_rule(values, STEPS, {"a": 2}, RankChoice("budget"))
    assert last.near


def test_other_gates() -> None:
    rng = np.random.default_rng(3)
    real = {"a": np.array([-0.9, 0.8, 0.3, 0.1]) + 0.01 * rng.standard_normal((100, 4))}
    sized = decided_by_rule(real, STEPS, {"a": 2}, RankChoice("fixed", bound=0.5))
    assert (sized.near, sized.kept) == (0, 2)  # -0.9 is kept for its size
    assert sized.margin == pytest.approx(0.5, abs=0.05)
    above = decided_by_rule(real, STEPS, {"a": 3}, RankChoice("positive"))
    assert above.near == 0
    assert above.margin == pytest.approx(1.0, abs=0.05)
    # Before the choice is fixed all move; after it they stand still.
    fixed = {"a": np.where(STEPS[:, None] <= 40, real["a"], [0.9, 0.8, 0.0, 0.0])}
    window = decided_by_rule(fixed, STEPS, {"a": 2}, RankChoice("budget", until=0.4))
    assert window.records == 10
    assert window.spread is not None
    assert window.spread > 0
    strange = decided_by_rule(real, STEPS, {"b": 2}, RankChoice("threshold"))
    assert strange.decided is None
    with pytest.raises(UserError, match="lottery"):
        decided_by_rule(real, STEPS, {"a": 2}, RankChoice("lottery"))


def test_where_nothing_was_cut_there_is_nothing_to_decide():
    history = np.tile([3.0, 2.0, 1.0], (10, 1))
    found = decided(history, np.array([True, True, True]), now=history[-1])
    assert "nothing was cut" in found.words
