"""The best weights: what is remembered, put back, and kept in a checkpoint."""

import math

import pytest
import torch

from bilevel.checkpoint.best import BestWeights
from bilevel.checkpoint.state_file import load_state, save_state
from bilevel.hypergradient import FiniteDifference
from tests.bilevel.toys import flat, two_levels


def trained(steps):
    engine, lower, upper = two_levels(
        FiniteDifference(), upper_optimizer=lambda p: torch.optim.SGD(p, lr=0.1), steps=steps
    )
    return engine, [lower, upper]


def weights(problems):
    return [flat(problem.trainable_parameters()).clone() for problem in problems]


def train_further(engine, steps):
    engine.train_iters += steps
    engine.run()


@pytest.mark.parametrize(("mode", "scores"), [("min", (3, 1, 1, math.nan, 2)), ("max", (1, 3, 3))])
def test_the_first_of_the_best_comes_back_on_every_level(mode, scores):
    engine, problems = trained(1)
    best = BestWeights(problems, mode)
    seen = []
    for score in scores:
        engine.run()
        best.offer(engine.global_step, score)
        seen.append(weights(problems))
        engine.train_iters += 1
    assert (best.step, best.score) == (2, scores[1])
    best.restore()
    assert all(map(torch.equal, weights(problems), seen[1]))
    assert [problem.count for problem in problems] == [2, 2]
    assert not any(map(torch.equal, seen[1], seen[-1])), "nothing was trained in between"


def test_without_a_score_that_is_a_number_everything_stays():
    engine, problems = trained(2)
    engine.run()
    best, last = BestWeights(problems, "min"), weights(problems)
    assert not best.offer(2, math.nan)
    best.restore()
    assert all(map(torch.equal, weights(problems), last))


def test_it_survives_a_checkpoint(tmp_path):
    engine, problems = trained(2)
    engine.run()
    best, then = BestWeights(problems, "min"), weights(problems)
    best.offer(2, 0.5)
    save_state(tmp_path / "state", best.state_dict())
    train_further(engine, 2)
    again = BestWeights(problems, "min")
    again.load_state_dict(load_state(tmp_path / "state"))
    assert not again.offer(4, 0.5)
    again.restore()
    assert all(map(torch.equal, weights(problems), then))


def test_a_method_s_own_state_comes_back_and_is_a_copy():
    engine, (lower, upper) = trained(1)
    engine.run()
    kept = {"mask": torch.ones(3), "names": ["a"]}
    lower.extra_state = lambda: kept
    found = []
    lower.load_extra_state = found.append
    best = BestWeights([lower, upper], "min")
    best.offer(1, 1.0)
    kept["mask"].zero_()
    best.restore()
    assert torch.equal(found[0]["mask"], torch.ones(3))
    assert found[0]["names"] == ["a"]
