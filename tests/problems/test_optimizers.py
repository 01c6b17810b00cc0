"""The optimisers that settings name take torch's steps, in one kernel, and read older states."""

import copy

import pytest
import torch
from torch import nn

from problems.common import OptimizerSettings, optimizer_and_scheduler

SETTINGS = {
    "adamw": OptimizerSettings(lr=0.01, weight_decay=0.1, schedule="constant"),
    "adam": OptimizerSettings(name="adam", lr=0.01, weight_decay=0.1, schedule="constant"),
}
PLAIN = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (5, 2), (2,), ()]
    return [nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in shapes]


def train(optimizer, values, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in values:
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        optimizer.step()


def made(name, values):
    settings = OptimizerSettings(**{**vars(SETTINGS[name]), "warmup_ratio": 0.0})
    return optimizer_and_scheduler(settings, values, 10, None)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_steps_are_those_of_plain_torch(name):
    ours, plain = parameters(), parameters()
    train(made(name, ours), ours, 20)
    train(PLAIN[name](plain, lr=0.01, weight_decay=0.1, fused=False, foreach=False), plain, 20)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", SETTINGS)
def test_groups_with_rates_of_their_own_are_fused_too(name):
    ours, plain = parameters(), parameters()
    groups = [[{"params": v[:2], "lr": 0.1}, {"params": v[2:], "lr": 0.01}] for v in (ours, plain)]
    optimizer = made(name, groups[0])
    assert all(group["fused"] for group in optimizer.param_groups)
    train(optimizer, ours, 5)
    train(PLAIN[name](groups[1], weight_decay=0.1, fused=False, foreach=False), plain, 5)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_state_of_an_older_version_goes_on_bit_by_bit(name):
    """Checkpoints from before one kernel took the step were made by torch's loop over tensors."""
    whole = parameters()
    loop = PLAIN[name](whole, lr=0.01, weight_decay=0.1)
    train(loop, whole, 3)
    state, resumed = copy.deepcopy(loop.state_dict()), [copy.deepcopy(p) for p in whole]
    train(loop, whole, 3, start=3)
    ours = made(name, resumed)
    ours.load_state_dict(state)
    train(ours, resumed, 3, start=3)
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))


def test_sgd_is_torchs():
    ours, plain = parameters(), parameters()
    settings = OptimizerSettings(name="sgd", lr=0.1, momentum=0.9, warmup_ratio=0.0)
    train(optimizer_and_scheduler(settings, ours, 10, None)[0], ours, 1)
    train(torch.optim.SGD(plain, lr=0.1, momentum=0.9), plain, 1)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
