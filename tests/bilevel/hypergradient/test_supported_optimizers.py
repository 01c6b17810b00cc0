"""Which optimisers are differentiated, and which refused by name."""

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient.optimizers import check_supported, functional_step, snapshot
from tests.bilevel.optimizer_cases import SGD, Adam, AdamW, make_params, random_like, warmed_up


class Halving(torch.optim.AdamW):
    def step(self, closure=None):
        self.param_groups[0]["lr"] /= 2
        return super().step(closure)


class Renamed(torch.optim.AdamW):
    pass


def test_supported_optimizers():
    params = make_params()
    for cls in (SGD, Adam, AdamW, Renamed):
        check_supported(cls(params))
    scheduled = AdamW(params)
    torch.optim.lr_scheduler.ConstantLR(scheduled)  # wraps scheduled.step on the instance
    scheduled.step()
    check_supported(scheduled)
    check_supported(Renamed(params))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop"),
        (lambda p: torch.optim.Adamax(p), "Adamax"),
        (lambda p: Halving(p), "Halving"),
        (lambda p: AdamW(p, differentiable=True), "differentiable"),
        (lambda p: AdamW(p, capturable=True), "capturable"),
        (lambda p: SGD(p, lr=torch.tensor(0.1, requires_grad=True)), "requires a gradient"),
        (lambda p: SGD([torch.nn.Parameter(torch.ones(2, dtype=torch.cfloat))]), "complex"),
    ],
)
def test_other_optimizers_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        check_supported(make(make_params()))


def test_hooks_are_refused():
    optimizer = AdamW(make_params())
    optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(UserError, match="hooks"):
        check_supported(optimizer)


def test_parameter_outside_the_optimizer_is_refused():
    params = make_params()
    with pytest.raises(UserError, match=r"parameter 2 of shape \(\).*not in the SGD"):
        snapshot(SGD(params[:2]), params)


def test_sparse_gradients_are_refused():
    params, optimizer = warmed_up("sgd", 0)
    grads = random_like(params, 0)
    grads[0] = grads[0].to_sparse()
    with pytest.raises(UserError, match="sparse"):
        functional_step(snapshot(optimizer, params), params, grads)
