"""SaLoRA: what pruning keeps, at which value, and the plain LoRA it is saved as."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from bilevel import UserError
from bilevel.lowrank import Gates, component_costs, export_adapter, gated_layers
from problems.salora import SaLoRA
from problems.salora.window import GateWindow
from tests.problems.jobs import logits_of, train
from tests.problems.salora_jobs import WatchedJob


def window_of(logits, costs=(10, 30), **options):
    gates = Gates(["a", "b"], logits.shape[1], "hard_concrete")
    with torch.no_grad():
        gates.logits.copy_(logits)
    return GateWindow(gates, dict(zip("ab", costs, strict=True)), 0, 1, **options)


def test_what_the_budget_keeps_and_at_which_value():
    """Total 160, half of it 80: b's two largest (60), then a's two (20)."""
    logits = torch.tensor([[-1.0, 2.0, -9.0, -8.0], [3.0, -7.0, 1.0, -7.5]])
    window = window_of(logits, target=0.5)
    window.close()
    expected = {"a": [True, True, False, False], "b": [True, False, True, False]}
    assert {name: mask.tolist() for name, mask in window.kept().items()} == expected
    mask = torch.tensor([expected["a"], expected["b"]])
    mean = window.gates.expected()
    assert torch.equal(window.gates.values(), mean * mask)
    again = window.gates.values()
    window.close()
    assert torch.equal(window.gates.values(), again)


def test_the_threshold_is_minus_log_eleven():
    logits = torch.tensor([[-2.39, -2.41], [0.0, -5.0]])
    window = window_of(logits, target=0.5, prune="threshold")
    window.close()
    assert {k: v.tolist() for k, v in window.kept().items()} == {
        "a": [True, False],
        "b": [True, False],
    }


def test_a_budget_without_room_for_a_component_is_refused():
    with pytest.raises(UserError, match=r"room.*10"):
        window_of(torch.zeros(2, 4), target=0.01)


@pytest.mark.parametrize("options", [{}, {"density": 0.2}, {"prune": "threshold"}])
def test_the_pruned_adapter_is_plain_lora_for_stock_peft(options, tmp_path):
    job = WatchedJob(epochs=4)
    outcome = train(SaLoRA(rank=4, **options), job)
    trained = logits_of(outcome.model, job)
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    assert report.ranks == outcome.ranks
    assert 0 < sum(report.ranks.values()) < 4 * 12
    assert report.cut == 0, "what is cut was at zero already"
    costs = component_costs(outcome.model)
    assert report.parameters == sum(costs[n] * r for n, r in outcome.ranks.items())
    if "prune" not in options:
        target = options.get("density", 0.5)
        total = 4 * sum(costs.values())
        assert target * total - max(costs.values()) < report.parameters <= target * total
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), trained, rtol=0, atol=1e-5)
    fresh = logits_of(job.build_model(), job)
    assert not torch.allclose(fresh, trained, atol=1e-3), "there was something to load"


def test_fixing_the_gates_leaves_the_layers_outputs_at_their_mean():
    """So the loss does not jump at T_end: B E[g] A x is the mean of B g A x over the draws."""
    model, window = SaLoRA(rank=4, density=1.0).adapted(WatchedJob(), 10)
    gates = window.gates
    torch.manual_seed(0)
    with torch.no_grad():
        gates.logits.normal_(0, 3)
        gate = torch.stack([gates.compute(sample=True) for _ in range(4000)])
    window.close()
    layer = next(iter(gated_layers(model).values()))
    x = torch.randn(layer.A.shape[1])
    with torch.no_grad():
        layer.B.normal_()
        drawn = (gate[:, 0] * (layer.A @ x)) @ layer.B.T
        fixed = (gates.values()[0] * (layer.A @ x)) @ layer.B.T
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((fixed - drawn.mean(0)).abs() < 4.5 * error).all()
