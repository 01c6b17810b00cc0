"""What the frontier chooses, against a look at every number of components."""

import numpy as np
import pytest
import torch

from bilevel import UserError
from bilevel.cutting import Frontier, Losses, Ranking
from bilevel.cutting.losses import difference

EXAMPLES = 60
random = np.random.default_rng(0)
OWN = random.normal(size=EXAMPLES)  # an example's difficulty, which pairs take out


class Adapter:
    """Losses that only fall as components are added, by what each is worth."""

    def __init__(self, worth: dict[str, list[float]], noise: float, costs: dict[str, int]):
        self.worth = {n: torch.tensor(row, dtype=torch.float64) for n, row in worth.items()}
        self.ranking = Ranking({n: row.abs() / costs[n] for n, row in self.worth.items()}, costs)
        self.spread = 1 + noise * np.random.default_rng(1).normal(size=EXAMPLES)
        self.looks = 0

    def losses(self, keep) -> Losses:
        self.looks += 1
        lost = sum(float(row[~keep[n]].sum()) for n, row in self.worth.items())
        return Losses(2.0 + OWN + lost * self.spread, np.ones(EXAMPLES, dtype=int))

    def brute_force(self, share: float, errors: float) -> int:
        count = len(self.ranking.order)
        whole = self.losses(self.ranking.first(count))
        apart = [difference(self.losses(self.ranking.first(c)), whole) for c in range(count + 1)]
        delta = share * apart[0].mean
        return min(c for c, d in enumerate(apart) if d.mean + errors * d.error <= delta)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1, 0.4])
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("decay", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("errors", [0.0, 1.0, 2.5])
def test_the_choice_is_the_smallest_that_loses_no_more(share, noise, decay, errors):
    worth = {
        name: [2 * start * decay**j for j in range(16)]
        for name, start in (("a", 1.0), ("b", 0.7), ("c", 0.01))
    }
    adapter = Adapter(worth, noise, {"a": 10, "b": 30, "c": 20})
    found = Frontier.draw(adapter.ranking, adapter.losses, share, errors)
    assert adapter.looks < 30
    assert found.learned
    assert found.chosen == adapter.brute_force(share, errors)
    assert found.as_json()["errors"] == errors
    assert found.passed_over is None
    assert found.delta == pytest.approx(share * found.points[0].difference, abs=1e-12)
    assert found.choice is not None
    assert found.choice.parameters == adapter.ranking.parameters(found.chosen)
    counts = [point.components for point in found.points]
    assert counts == sorted(set(counts))
    assert (counts[0], counts[-1]) == (0, 48)
    assert found.points[-1].difference == 0
    assert list(found.even) == [1, 2, 4, 8]
    assert found.even[2].parameters == 2 * (10 + 30 + 20)


def test_an_even_part_whose_loss_is_not_finite_is_left_out():
    """It is drawn for the picture alone."""
    adapter = Adapter({"a": [1.0] * 8, "b": [2.0] * 8}, 0.0, {"a": 1, "b": 1})

    def losses(keep) -> Losses:
        found = adapter.losses(keep)
        if [int(keep[n].sum()) for n in "ab"] == [2, 2]:
            found.totals[3] = float("inf")
        return found

    found = Frontier.draw(adapter.ranking, losses)
    assert found.learned
    assert list(found.even) == [1, 4]


@pytest.mark.parametrize(("part", "value"), [(48, float("nan")), (0, float("inf"))])
def test_losses_that_are_not_finite_are_told(part, value):
    adapter = Adapter({"a": [1.0] * 48}, 0.0, {"a": 1})

    def losses(keep) -> Losses:
        found = adapter.losses(keep)
        if int(keep["a"].sum()) == part:
            found.totals[3] = value
        return found

    with pytest.raises(UserError, match=rf"1 of the 60 held-out.*not finite.* {part} components"):
        Frontier.draw(adapter.ranking, losses)


def test_standard_errors_make_the_choice_larger():
    """Of differences that spread as much as they are large, by sixteen sizes of one layer."""
    worth = {"a": [0.5**j for j in range(16)]}
    adapter = Adapter(worth, 3.0, {"a": 1})
    choices = [
        Frontier.draw(adapter.ranking, adapter.losses, errors=errors).chosen
        for errors in (0.0, 1.0, 2.0, 8.0)
    ]
    assert choices == sorted(choices)
    assert choices[0] < choices[1] < choices[3]


class Sizes:
    """Losses by the number of components alone, of one layer of 64."""

    def __init__(self, losing: dict[int, float]):
        self.ranking = Ranking({"a": torch.arange(64.0, 0.0, -1.0)}, {"a": 1})
        self.losing = losing

    def losses(self, keep) -> Losses:
        found = 2.0 + OWN + self.losing.get(int(keep["a"].sum()), 0.0)
        return Losses(found, np.ones(EXAMPLES, dtype=int))


@pytest.mark.parametrize("seed", range(20))
def test_every_larger_part_that_was_looked_at_passes_and_the_next_smaller_does_not(seed):
    """Of losses that rise and fall with the size at random, delta among them."""
    drawn = np.random.default_rng(seed).normal(0.0, 0.015, 65)
    sizes = Sizes({**dict(enumerate(drawn)), 0: 1.0, 64: 0.0})
    found = Frontier.draw(sizes.ranking, sizes.losses)
    assert found.chosen is not None
    passing = {p.components: p.difference + p.error <= found.delta for p in found.points}
    assert all(passing[c] for c in passing if c >= found.chosen)
    assert not passing[found.chosen - 1]
    smaller = [c for c in passing if c < found.chosen and passing[c]]
    over = found.passed_over
    assert (None if over is None else over.components) == min(smaller, default=None)


def test_a_bump_at_a_coarse_size_is_below_the_choice():
    sizes = Sizes({0: 1.0, 16: 0.5})
    found = Frontier.draw(sizes.ranking, sizes.losses)
    assert found.chosen == 17
    assert found.passed_over is not None
    assert found.passed_over.components == 2


@pytest.mark.parametrize(("noise", "errors"), [(20.0, 0.01), (5.0, 1.34)])
def test_where_nothing_was_learned_nothing_is_chosen(noise, errors):
    adapter = Adapter({"a": [0.01, 0.01], "b": [0.01, 0.01]}, noise, {"a": 1, "b": 1})
    found = Frontier.draw(adapter.ranking, adapter.losses)
    nothing = found.points[0]
    assert nothing.difference / nothing.error == pytest.approx(errors, abs=0.01)
    assert not found.learned
    assert found.chosen is found.choice is None
    assert found.as_json()["chosen"] is None


def test_two_standard_errors_are_enough_to_have_learned():
    adapter = Adapter({"a": [0.01, 0.01], "b": [0.01, 0.01]}, 3.0, {"a": 1, "b": 1})
    found = Frontier.draw(adapter.ranking, adapter.losses)
    nothing = found.points[0]
    assert nothing.difference / nothing.error == pytest.approx(2.53, abs=0.01)
    assert found.learned


def test_an_adapter_that_does_harm_is_not_one_that_learned():
    adapter = Adapter({"a": [-1.0, -1.0]}, 0.0, {"a": 1})
    found = Frontier.draw(_ordered(), adapter.losses)
    assert found.points[0].difference < 0
    assert found.chosen is None


def _ordered() -> Ranking:
    return Ranking({"a": torch.tensor([2.0, 1.0])}, {"a": 1})


class Luck:
    """Losses whose differences are large, of both signs, and on average as asked."""

    def __init__(self, mean: float, spread: float):
        self.ranking = Ranking({"a": torch.tensor([4.0, 3.0, 2.0, 1.0])}, {"a": 10})
        apart = np.random.default_rng(2).normal(size=EXAMPLES)
        apart -= apart.mean()
        self.apart = mean + spread * apart / apart.std(ddof=1)

    def losses(self, keep) -> Losses:
        kept = int(keep["a"].sum())
        extra = {0: np.full(EXAMPLES, 1.0), 4: np.zeros(EXAMPLES)}.get(kept, self.apart)
        return Losses(2.0 + extra, np.ones(EXAMPLES, dtype=int))


def test_a_choice_by_luck_is_told():
    """At an error of 0.1 a delta of 0.02 is passed by a negative difference alone."""
    adapter = Luck(-0.1, 0.1 * EXAMPLES**0.5)
    lucky = Frontier.draw(adapter.ranking, adapter.losses, errors=1.0)
    assert lucky.chosen == 1
    assert lucky.choice is not None
    assert lucky.choice.error == pytest.approx(0.1, rel=1e-9)
    assert lucky.doubt is not None
    assert "examples" in lucky.doubt
    assert lucky.as_json()["doubt"] == lucky.doubt
    careful = Frontier.draw(adapter.ranking, Luck(-0.3, 0.1 * EXAMPLES**0.5).losses, errors=2.0)
    assert careful.chosen == 1
    assert careful.doubt is None
    adapter = Luck(0.0, 0.01 * EXAMPLES**0.5)
    assert Frontier.draw(adapter.ranking, adapter.losses, errors=1.0).doubt is None


class Offset:
    """A head that is off by 5 without its adapter; the mean number costs 2.2, the whole 2.0."""

    def __init__(self, constant: float | None, spread: float = 0.1):
        self.ranking = Ranking({"a": torch.arange(64.0, 0.0, -1.0)}, {"a": 1})
        same = 2.0 + OWN + (constant or 0.0) + spread * np.random.default_rng(3).normal(size=60)
        self.constant = None if constant is None else same

    def losses(self, keep) -> Losses:
        kept = int(keep["a"].sum())
        found = 2.0 + OWN + (3.7 if not kept else 0.05 * (kept < 16))
        return Losses(found, np.ones(EXAMPLES, dtype=int), self.constant)


def test_delta_is_a_share_of_what_was_learned_beyond_the_best_constant_answer():
    told, untold = (Frontier.draw(a.ranking, a.losses, 0.02) for a in (Offset(0.2), Offset(None)))
    assert untold.delta == pytest.approx(0.02 * 3.7, rel=1e-9)
    assert untold.chosen == 1
    assert untold.constant is None
    assert not untold.from_constant
    assert told.constant is not None
    assert told.delta == pytest.approx(0.02 * (told.constant - told.points[-1].loss), rel=1e-9)
    assert 0.02 * 0.15 < told.delta < 0.02 * 0.25
    assert told.chosen == 16
    assert told.from_constant
    assert Frontier.read(told.as_json()) == told


def test_a_constant_answer_that_is_worse_than_nothing_changes_nothing():
    with_it, without = Offset(5.0), Offset(None)
    told = Frontier.draw(with_it.ranking, with_it.losses, 0.02)
    untold = Frontier.draw(without.ranking, without.losses, 0.02)
    assert (told.delta, told.chosen, told.from_constant) == (untold.delta, untold.chosen, False)


def test_what_no_constant_answer_is_beaten_by_has_learned_nothing():
    adapter = Offset(0.01)
    found = Frontier.draw(adapter.ranking, adapter.losses)
    assert not found.learned
    assert found.chosen is None
