"""Phases of gates: open, learning, fixed; and the mean of a hard-concrete gate."""

import copy
import io

import pytest
import torch
from peft import get_peft_model_state_dict

from bilevel.lowrank.attach import Factors, attach_gates, fold_gates, gated_layers
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import down_and_up, lora_layers


def gated(adapted):
    model = adapted(r=3)
    gates = Gates(list(lora_layers(model)), 3, "hard_concrete")
    attach_gates(model, gates)
    return model, gates


def gradients(model, batch):
    model.zero_grad()
    model(**batch).logits.square().sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_open_gates_are_plain_lora_bit_for_bit_and_leave_the_logits_alone(adapted, batch):
    model = adapted(r=3)
    plain = copy.deepcopy(model)
    gates = Gates(list(lora_layers(model)), 3, "hard_concrete")
    attach_gates(model, gates)
    gates.open()
    assert torch.equal(gates.values(), torch.ones_like(gates.logits))
    for mode in (True, False):
        for m in (model, plain):
            m.train(mode)
        torch.manual_seed(0)
        found = gradients(model, batch)
        torch.manual_seed(0)
        expected = gradients(plain, batch)
        found = {
            n.replace("parametrizations.weight.original", "weight"): g for n, g in found.items()
        }
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert gates.logits.grad is None


def test_open_gates_put_no_work_between_the_factors_and_the_layer(adapted, batch):
    model, gates = gated(adapted)
    gates.open()
    seen = []
    down = down_and_up(next(iter(lora_layers(model).values())))[0]
    down.register_forward_hook(lambda module, args, output: seen.append(module.weight))
    model(**batch)
    assert seen[0] is next(iter(gated_layers(model).values())).A


def test_fixed_gates_are_constants_whatever_the_logits(adapted, batch):
    model, gates = gated(adapted)
    values = torch.rand_like(gates.logits)
    gates.fix(values)
    values_before = values.clone()
    values.zero_()
    model.train()
    first = model.eval()(**batch).logits
    with torch.no_grad():
        gates.logits.normal_()
    assert torch.equal(gates.values(), values_before)
    assert torch.equal(model(**batch).logits, first)
    model.train()
    grads = gradients(model, batch)
    assert gates.logits.grad is None
    assert any(g.any() for g in grads.values())
    for layer in gated_layers(model).values():
        torch.testing.assert_close(
            layer.gates.value(gates.names[layer.index]), values_before[layer.index]
        )


def test_fixed_values_are_folded_and_a_learning_gate_follows_its_logits_again(adapted, batch):
    model, gates = gated(adapted)
    gates.fix(torch.full(gates.logits.shape, 0.25))
    gates.learn()
    torch.testing.assert_close(gates.values(), torch.full_like(gates.logits, 0.5))
    gates.fix(torch.full(gates.logits.shape, 0.25))
    before = {n: g.A.detach().clone() for n, g in gated_layers(model).items()}
    fold_gates(model)
    for name, layer in lora_layers(model).items():
        torch.testing.assert_close(down_and_up(layer)[0].weight, 0.25 * before[name])


def test_phases_leave_the_state_dicts_as_they_were(adapted):
    model, gates = gated(adapted)
    keys = set(gates.state_dict()), set(get_peft_model_state_dict(model))
    gates.fix(torch.ones_like(gates.logits))
    assert (set(gates.state_dict()), set(get_peft_model_state_dict(model))) == keys
    torch.save(gates.state_dict(), io.BytesIO())
    assert gates.to(torch.float64).values().dtype == torch.float64, "the constants move along"


def test_the_factors_are_those_registered_now(adapted):
    model, _ = gated(adapted)
    factors = Factors(model)
    layers = gated_layers(model)
    for (B, A), layer in zip(factors.pairs(), layers.values(), strict=True):
        assert B is layer.B
        assert A is layer.A


@pytest.mark.parametrize(("tau", "gamma", "zeta"), [(1.0, -0.1, 1.1), (0.5, -0.3, 1.2)])
def test_the_mean_of_a_gate_is_that_of_its_samples(tau, gamma, zeta):
    torch.manual_seed(0)
    n = 100_000
    gates = Gates(
        [str(i) for i in range(n)], 5, "hard_concrete", tau=tau, gamma=gamma, zeta=zeta
    ).double()
    gates.logits.data[:] = torch.tensor([-6.0, -2.4, 0.0, 1.0, 5.0])
    sampled = gates.compute(sample=True).detach()
    error = sampled.std(0) / n**0.5
    assert ((sampled.mean(0) - gates.expected()[0]).abs() < 4 * error).all()


def test_the_mean_of_a_gate_in_closed_form():
    """tau = 1: E[g] is the integral of theta (1-x) / (theta (1-x) + x) over x, by hand."""
    gates = Gates(["a"], 4, "hard_concrete").double()
    gates.logits.data[:] = torch.tensor([-5.0, -2.3, 0.7, 4.0])
    theta = gates.logits.detach().exp()
    low, high = 1 / 12, 11 / 12

    def antiderivative(x):
        # theta (1-x) / (theta + (1-theta) x); with a = 1 - theta, D = theta + a x
        a = 1 - theta
        D = theta + a * x
        return theta / a * (-x + (1 / a) * D.log())

    expected = (antiderivative(high) - antiderivative(low)) * 1.2
    torch.testing.assert_close(gates.expected(), expected, rtol=0, atol=1e-5)
