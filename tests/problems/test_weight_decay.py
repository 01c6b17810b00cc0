"""What weight decay leaves alone: DoRA's magnitudes; layer norms and biases beside adapters."""

from __future__ import annotations

import pytest
import torch

from problems import DoRA, FullFineTuning
from problems.adapters import BottleneckAdapters
from problems.common import at_two_rates, without_decay
from tests.problems.jobs import SmallJob, train
from tests.problems.resuming import assert_resumes_exactly

STEPS = 100
HOULSBY = BottleneckAdapters(size=2)
PFEIFFER = BottleneckAdapters(size=2, placement="pfeiffer")


def decayed_alone(method, **settings):
    """Trained parameters before and after STEPS steps of the method's optimiser without gradients.

    Returns:
        name -> (start, end, what decay alone makes of the start), in float64.
    """
    torch.manual_seed(0)
    training = method.prepare(SmallJob(epochs=20, **settings), None)
    problem = training.problems[0]
    parameters = {n: p for n, p in training.model.named_parameters() if p.requires_grad}
    for p in parameters.values():
        p.data = p.data.double() + 1  # B and biases start at 0
        p.grad = torch.zeros_like(p)
    start = {n: p.detach().clone() for n, p in parameters.items()}
    share = dict.fromkeys(parameters, 1.0)
    for _ in range(STEPS):
        rates = {id(p): g["lr"] for g in problem.optimizer.param_groups for p in g["params"]}
        for name, p in parameters.items():
            share[name] *= 1 - rates[id(p)] * method.optimizer.weight_decay
        problem.optimizer.step()
        problem.scheduler.step()
    return {n: (start[n], p.detach(), start[n] * share[n]) for n, p in parameters.items()}


def check(found, spared):
    """Those that ``spared`` names are as they were, bit by bit; all others have decayed."""
    of_both = [0, 0]
    for name, (start, end, expected) in found.items():
        of_both[spared(name)] += 1
        if spared(name):
            assert torch.equal(end, start), name
        else:
            assert (end - start).abs().max() > 1e-4, name
            torch.testing.assert_close(end, expected, rtol=1e-9, atol=0)
    assert min(of_both) > 0


@pytest.mark.parametrize("settings", [{}, {"lora_plus_ratio": 16.0}])
def test_doras_magnitudes_do_not_decay(settings):
    check(decayed_alone(DoRA(rank=2), **settings), lambda name: "magnitude" in name)


@pytest.mark.parametrize("method", [HOULSBY, PFEIFFER])
def test_norms_and_biases_beside_adapters_do_not_decay(method):
    found = decayed_alone(method)
    assert any("LayerNorm" in name for name in found)
    check(
        found,
        lambda name: (
            name.endswith("bias")
            or name.endswith("LayerNorm.weight")
            or name.endswith("LayerNorm.base.weight")
        ),
    )


def test_other_methods_have_one_group_as_before():
    training = FullFineTuning().prepare(SmallJob(), None)
    assert len(training.problems[0].optimizer.param_groups) == 1


@pytest.mark.parametrize("method", [DoRA(rank=2), HOULSBY])
def test_clipping_and_resuming_with_groups(method, tmp_path):
    ratio = 16.0 if isinstance(method, DoRA) else None
    options = {"gradient_clipping": 0.1, "lora_plus_ratio": ratio}
    assert_resumes_exactly(method, tmp_path / "state.safetensors", 3, **options)


def test_magnitudes_are_trained_still():
    job = SmallJob()
    train(DoRA(rank=2), job)
    before, model = job.runs[0]["before"], job.runs[0]["model"]
    moved = [not torch.equal(p, before[n]) for n, p in model.named_parameters() if "magnit" in n]
    assert moved
    assert all(moved)


def test_groups_are_parted_into_two_rates():
    model = torch.nn.ModuleDict({"lora_B": torch.nn.ModuleDict({"x": torch.nn.Linear(2, 2)})})
    model = torch.nn.ModuleDict({"q": model, "head": torch.nn.Linear(2, 2)})
    up, head = model["q"]["lora_B"]["x"], model["head"]
    groups = without_decay(list(model.parameters()), [up.bias, head.bias])
    found = at_two_rates(model, groups, 0.5, 4.0)
    told = {(id(p), g["lr"], g.get("weight_decay")) for g in found for p in g["params"]}
    assert told == {
        (id(head.weight), 0.5, None),
        (id(up.weight), 2.0, None),
        (id(head.bias), 0.5, 0.0),
        (id(up.bias), 2.0, 0.0),
    }
