"""Gradients of several processes: what nobody has stays missing."""

import pytest
import torch
from torch import nn

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, distributed
from bilevel.data import ResumableLoader
from bilevel.gradients import mean_where_any
from tests.bilevel.ranks import of_each

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and is about CPUs")


def means():
    """Of gradients that both ranks have, that one has, and that nobody has."""
    world = distributed.setup("distributed")
    mine = torch.full((2,), 1.0 + 2 * world.rank, dtype=torch.float64)
    grads = [mine, mine if world.rank else None, None]
    return mean_where_any(grads, [torch.zeros(2, dtype=torch.float64)] * 3, world)


def test_a_mean_where_somebody_has_a_gradient():
    for both, one, nobody in of_each(means):
        assert both.tolist() == [2.0, 2.0]
        assert one.tolist() == [1.5, 1.5]
        assert nobody is None


class Partly(LowerProblem):
    """Its loss depends on the weight alone."""

    def training_step(self, batch):
        return (batch @ self.module.weight.T).square().mean()


def trained(strategy):
    """Weight and bias after two steps of AdamW, whose decay moves whatever has a gradient."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2, dtype=torch.float64)
    data = list(torch.randn(16, 3, dtype=torch.float64))
    problem = Partly(
        "partly",
        ProblemConfig(),
        module=module,
        optimizer=torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5),
        train_data_loader=ResumableLoader(data, 8, torch.stack, seed=1),
    )
    BilevelEngine([problem], BilevelEngineConfig(train_iters=2, strategy=strategy)).run()
    return [module.weight.detach(), module.bias.detach()]


def test_two_processes_leave_alone_what_one_does():
    """The weight to 1e-12; the bias, which no loss depends on, as it was drawn."""
    weight, bias = trained("cpu")
    for theirs, other in of_each(trained, "distributed"):
        assert torch.equal(other, bias)
        assert torch.allclose(theirs, weight, rtol=1e-12, atol=0)
