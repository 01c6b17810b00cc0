"""`betty_darts` is stock Betty's routine, noise included."""

import torch

from bilevel.hypergradient import BettyDarts, FiniteDifference
from tests.bilevel.toys import STRICT, two_levels, upper_gradient

pytestmark = STRICT


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def gradient(**options):
    torch.manual_seed(0)
    engine, _, upper = two_levels(optimizer=optimizer, **options)
    torch.manual_seed(1)
    return upper_gradient(engine, upper)


def test_equal_to_the_type_darts_of_a_plain_config():
    for dropout in (0.0, 0.5):
        ours = gradient(hypergradient=BettyDarts(), dropout=dropout)
        stock = gradient(hypergradient=None, lower_options={"type": "darts"}, dropout=dropout)
        assert torch.equal(ours, stock)


def test_without_dropout_close_to_ours_and_with_it_not():
    options = FiniteDifference(difference="central", point="after")
    for dropout, close in ((0.0, True), (0.5, False)):
        ours = gradient(hypergradient=options, dropout=dropout)
        stock = gradient(hypergradient=BettyDarts(), dropout=dropout)
        assert torch.allclose(ours, stock, rtol=1e-4) is close
