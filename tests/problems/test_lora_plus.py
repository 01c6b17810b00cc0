"""train.lora_plus_ratio: LoRA's two factors at learning rates of their own, as PEFT groups them."""

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from bilevel.errors import UserError
from bilevel.hypergradient import Unrolled
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from problems import AutoLoRA, DoRA, LoRA, OptimizerSettings, PeftOptions
from problems.lora_settings.record import ModuleSettings
from tests.problems.jobs import SmallJob, engine_of, train


def rates(optimizer):
    """Learning rate of each parameter."""
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("method", [LoRA(rank=2), DoRA(rank=2), AutoLoRA(rank=2)])
def test_the_factors_have_pefts_rates(method):
    job = SmallJob(lora_plus_ratio=16.0)
    training = method.stages()[0].prepare(job, None)
    problem = training.problems[0]
    for group in problem.optimizer.param_groups:  # without the warm-up
        group["lr"] = group["initial_lr"]
    found = rates(problem.optimizer)
    expected = rates(
        create_loraplus_optimizer(
            training.model, torch.optim.AdamW, lr=job.settings.lr, loraplus_lr_ratio=16.0
        )
    )
    assert found.keys() == expected.keys()
    for name, parameter in training.model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            assert found[id(parameter)] == pytest.approx(expected[id(parameter)])
        elif parameter.requires_grad:  # the head
            assert found[id(parameter)] == pytest.approx(job.settings.lr)
    assert len(set(found.values())) == 2


def test_one_step_of_gradient_descent():
    """From the same start B moves four times as far, A and the head as far."""
    steps = {}
    for ratio in (None, 4.0):
        job = SmallJob(lora_plus_ratio=ratio, max_steps=1)
        sgd = OptimizerSettings(name="sgd", lr=0.1, schedule="constant")
        start = PeftOptions(init_lora_weights="orthogonal")
        torch.manual_seed(0)
        training = LoRA(rank=2, optimizer=sgd, peft=start).prepare(job, None)
        trained = {n: p for n, p in training.model.named_parameters() if p.requires_grad}
        before = {n: p.detach().clone() for n, p in trained.items()}
        torch.manual_seed(0)
        engine_of(training).run()
        steps[ratio] = {n: p.detach() - before[n] for n, p in trained.items()}
    for name, step in steps[None].items():
        factor = 4.0 if ".lora_B." in name else 1.0
        assert step.abs().max() > 0
        torch.testing.assert_close(steps[4.0][name], factor * step, rtol=1e-3, atol=1e-6)


def test_two_levels_with_the_derivative_through_the_steps():
    job = SmallJob(hypergradient=Unrolled(), lora_plus_ratio=4.0)
    outcome = train(AutoLoRA(rank=2, unroll_steps=2), job)
    assert outcome.ranks


def test_what_does_not_go_together():
    options = ["method=bilora", "task=demo", "train.lora_plus_ratio=16"]
    with pytest.raises(UserError, match=r"lora_plus_ratio.*bilora"):
        Plan.of(compose_config(options))
    with pytest.raises(UserError, match=r"lora_plus_ratio"):
        Plan.of(compose_config(["method=lora", "task=demo", "train.lora_plus_ratio=0"]))
    method = LoRA(settings=ModuleSettings(scale={"x": 2.0}))
    with pytest.raises(UserError, match=r"lora_plus_ratio.*settings"):
        method.check_steps(48, SmallJob(lora_plus_ratio=4.0).settings)


def test_a_start_in_weights_that_are_not_whole():
    options = ["method=lora", "task=demo", "method.peft.init_lora_weights=pissa"]
    with pytest.raises(UserError, match=r"init_lora_weights=pissa"):
        Plan.of(compose_config([*options, "model.dtype=bfloat16"]))
