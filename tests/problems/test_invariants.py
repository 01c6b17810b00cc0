"""Ten facts that any right implementation of the papers has; each method's own tests have more.

Three are elsewhere: 2 (Delta-LoRA telescopes; K >= T is LoRA) in test_delta_lora.py, 7 (AdaLoRA's
budget) in test_adalora.py, 8 (counts) in tests/experiments/reproduction/test_published_counts.py.
"""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
    UpperProblem,
)
from bilevel.hypergradient import FiniteDifference
from bilevel.lowrank import RULES, Gates, entropy, expected_l0
from bilevel.lowrank.layers import lora_layers
from problems import AutoLoRA
from problems.bidora import BiDoRA
from problems.bilora import BiLoRA
from problems.salora import SaLoRABilevel
from tests.problems.jobs import SmallJob, train


def test_1_bettys_implicit_term_has_no_learning_rate():
    """L1 = |V - M E|^2 / 2, L2 = c.V: v = c, d2L1/dE dV = -M^T, so the term is M^T c."""
    torch.manual_seed(0)
    M, c = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    class Vector(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.x = nn.Parameter(torch.randn(n, dtype=torch.float64))

    class Lower(LowerProblem):
        def training_step(self, batch):
            return (self.module.x - M @ self.upper.module.x).square().sum() / 2

    class Upper(UpperProblem):
        def training_step(self, batch):
            return c @ self.lower.module.x

    def level(cls, name, module, lr, **config):
        optimizer = torch.optim.SGD(module.parameters(), lr=lr)
        data = ResumableLoader([0], 1, torch.tensor)
        return cls(name, ProblemConfig(**config), module, optimizer, train_data_loader=data)

    for lr in (0.1, 1e-4):
        estimator = FiniteDifference(difference="central", scale="identity")
        lower = level(Lower, "lower", Vector(3), lr, hypergradient=estimator)
        upper = level(Upper, "upper", Vector(2), 1.0)
        before = upper.module.x.detach().clone()
        graph = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        BilevelEngine(
            [lower, upper], BilevelEngineConfig(train_iters=1, strategy="cpu"), graph
        ).run()
        step = before - upper.module.x.detach()  # lr 1: the gradient
        torch.testing.assert_close(step, M.T @ c, rtol=1e-7, atol=0)


def test_3_hard_concrete_gates_at_the_start():
    assert expected_l0(torch.zeros(8)).item() / 8 == pytest.approx(0.916667, abs=1e-6)
    gates = Gates(["a"], 2, "hard_concrete")
    assert gates.keep_logit() == pytest.approx(-2.3979, abs=1e-4)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[-2.3978, -2.3980]]))
    first, second = gates.values()[0].tolist()
    assert first > 0.0
    assert second == 0.0


def test_4_softmax_values_and_a_start_without_an_update():
    model, gates = BiLoRA(rank=5, start="zero").adapted(SmallJob())
    torch.testing.assert_close(gates.values(), torch.full((4, 5), 0.2))
    with torch.no_grad():
        gates.logits.normal_()
    torch.testing.assert_close(gates.values().sum(1), torch.ones(4))
    for layer in lora_layers(model).values():
        assert not layer.get_delta_weight("default").any()


def test_5_the_entropy_penalty_pushes_away_from_the_middle():
    values = torch.tensor([0.6, 0.4], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(entropy(values), values)
    assert slope[0] < 0 < slope[1], "descending raises 0.6 and lowers 0.4"


def test_6_autoloras_ranks():
    generator = torch.Generator().manual_seed(0)
    for k in (1, 2, 8):
        for scale in (1e-3, 1.0, 30.0):
            logits = scale * torch.randn(50, k, generator=generator)
            shares = {str(i): row for i, row in enumerate(logits.softmax(1))}
            raw = {str(i): row for i, row in enumerate(logits)}
            paper, released = RULES["threshold"](shares), RULES["raw_share"](raw)
            assert all(1 <= paper[name] <= released[name] <= k for name in paper)
        assert RULES["threshold"]({"a": torch.full((k,), 0.7).softmax(0)}) == {"a": k}


@pytest.mark.parametrize(
    "method", [AutoLoRA(), BiLoRA(), BiDoRA(), SaLoRABilevel(constraint=False)]
)
def test_9_two_parts_and_what_is_trained_on_both(method):
    job = SmallJob(n=64)
    train(method, job)
    search, *later = job.runs
    lower, upper = search["problems"]
    D1, D2 = (set(p.train_data_loader[0].indices) for p in (lower, upper))
    assert not D1 & D2
    assert set(range(64)) == D1 | D2
    if isinstance(method, AutoLoRA):
        assert [set(r["problems"][0].train_data_loader[0].indices) for r in later] == [D1 | D2]
    else:
        assert not later


@pytest.mark.parametrize(
    "method", [AutoLoRA(), BiLoRA(), BiDoRA(), SaLoRABilevel(constraint=False)]
)
def test_10_who_owns_what(method):
    job = SmallJob(epochs=2)
    train(method, job)
    lower, upper = job.runs[0]["problems"]
    model = job.runs[0]["model"]

    def owned(problem):
        return {id(p) for group in problem.optimizer.param_groups for p in group["params"]}

    head = {id(p) for n, p in model.named_parameters() if "classifier.modules_to_save" in n}
    assert head
    assert head <= owned(lower)
    assert not owned(lower) & owned(upper)
    above = owned(upper)
    if isinstance(method, BiDoRA):
        magnitudes = {n for n, p in model.named_parameters() if id(p) in above}
        assert len(magnitudes) == len(above) == 4
        assert all("magnitude" in name for name in magnitudes)
    else:
        assert above == {id(upper.module.logits)}
        assert not any("logits" in key for key in get_peft_model_state_dict(model))
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    assert frozen
    assert not frozen & (owned(lower) | above)
