"""The horizon: where the hypergradient's direction stops to change; finding it moves nothing."""

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient import NoHypergradient, Unrolled, find_horizon
from tests.bilevel.toys import STRICT, cosine, flat, two_levels, upper_gradient

pytestmark = STRICT


def options(lr=0.05):
    return {"optimizer": lambda p: torch.optim.SGD(p, lr=lr), "dropout": 0.2}


def gradient(depth, steps):
    """Of a run with that many lower steps, through the last ``depth`` of them."""
    estimator = Unrolled(depth=depth, keep_graph=False)
    return upper_gradient(*two_levels(estimator, unroll_steps=steps, **options(0.5))[::2])


def test_the_cosines_are_those_of_truncated_runs():
    engine, *_ = two_levels(NoHypergradient(), **options(0.5))
    found = find_horizon(engine, cosine=0.9999, most=4, batches=1)
    assert set(found.cosines) == {1, 2, 4}
    for steps, measured in found.cosines.items():
        expected = cosine(gradient(steps, 2 * steps), gradient(2 * steps, 2 * steps))
        assert measured == pytest.approx(expected, abs=1e-12)
    assert found.unroll_steps is None
    assert "no T1 up to 4" in str(found)


def test_the_least_that_is_good_enough_is_taken():
    engine, *_ = two_levels(NoHypergradient(), **options(0.5))
    whole = find_horizon(engine, cosine=0.9999, most=8, batches=1).cosines
    wanted = sorted(whole.values())[1]
    expected = next(steps for steps, value in whole.items() if value >= wanted)
    found = find_horizon(engine, cosine=wanted - 1e-9, most=8, batches=1)
    assert found.unroll_steps == expected
    assert list(found.cosines) == [s for s in whole if s <= expected]
    assert f"method.unroll_steps={expected}" in str(found)


def test_slow_steps_need_a_short_horizon():
    """With a learning rate near 0 the direct partial is all there is, at any T1."""
    engine, *_ = two_levels(NoHypergradient(), **options(1e-6))
    assert find_horizon(engine, cosine=0.99).unroll_steps == 1


def test_the_engine_goes_on_as_if_unasked():
    ends = []
    for asked in (False, True):
        engine, lower, upper = two_levels(
            Unrolled(), steps=4, unroll_steps=3, upper_optimizer=torch.optim.Adam, **options()
        )
        engine.train_iters = 2
        engine.run()
        if asked:
            find_horizon(engine, most=4)
        assert lower.config.unroll_steps == 3
        engine.train_iters = 4
        engine.run()
        ends.append(flat([*lower.trainable_parameters(), *upper.trainable_parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("given", [{"cosine": 1.5}, {"most": 0}])
def test_what_cannot_be_is_refused(given):
    engine, *_ = two_levels(NoHypergradient())
    with pytest.raises(UserError, match="horizon"):
        find_horizon(engine, **given)
