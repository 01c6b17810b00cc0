"""Regularisers: closed forms, signs, derivatives (float64)."""

import math

import pytest
import torch

from bilevel.errors import UserError
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.regularizers import density, entropy, expected_l0, orthogonality


def random(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(found, expected, atol=1e-12):
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=atol
    )


# ---------------------------------------------------------------- orthogonality


def test_orthonormal_factors_cost_nothing():
    P, Q = torch.linalg.qr(random(9, 4))[0], torch.linalg.qr(random(7, 4))[0].T
    close(orthogonality([(P, Q)]), 0.0)


def test_closed_form_of_scaled_orthonormal_factors():
    """P^T P = 4 I and Q Q^T = 9 I in r = 4: ||3 I||^2 = 36 and ||8 I||^2 = 256."""
    P, Q = 2 * torch.linalg.qr(random(9, 4))[0], 3 * torch.linalg.qr(random(7, 4))[0].T
    close(orthogonality([(P, Q)], reduce="sum"), 36.0 + 256.0, atol=1e-10)
    close(orthogonality([(P, Q)], reduce="mean"), 146.0, atol=1e-10)
    close(orthogonality([(P, Q)], squared=False, reduce="sum"), 6.0 + 16.0, atol=1e-10)


@pytest.mark.parametrize("squared", [True, False])
def test_layers_of_many_shapes_against_the_formula(squared):
    shapes = [(9, 7, 4), (9, 7, 4), (5, 9, 2), (4, 4, 4), (7, 9, 4)]
    pairs = [(random(o, r, seed=i), random(r, n, seed=9 + i)) for i, (o, n, r) in enumerate(shapes)]
    power = 2 if squared else 1
    total = sum(
        torch.linalg.norm(P.T @ P - torch.eye(P.shape[1])) ** power
        + torch.linalg.norm(Q @ Q.T - torch.eye(len(Q))) ** power
        for P, Q in pairs
    )
    close(orthogonality(pairs, squared, reduce="sum"), total, atol=1e-9)
    close(orthogonality(pairs, squared), total / 10, atol=1e-9)


@pytest.mark.parametrize("squared", [True, False])
def test_orthogonality_is_twice_differentiable(squared):
    P, Q = random(5, 3).requires_grad_(), random(3, 4).requires_grad_()

    def penalty(P, Q):
        return orthogonality([(P, Q)], squared)

    assert torch.autograd.gradcheck(penalty, (P, Q))
    assert torch.autograd.gradgradcheck(penalty, (P, Q))


@pytest.mark.parametrize("squared", [True, False])
def test_derivatives_at_orthonormal_and_at_zero_factors_are_zero(squared):
    for start in (torch.eye(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)):
        P, Q = start.clone().requires_grad_(), start.clone().requires_grad_()
        grads = torch.autograd.grad(orthogonality([(P, Q)], squared), (P, Q), create_graph=True)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)
        second = torch.autograd.grad(sum(g.sum() for g in grads), (P, Q), allow_unused=True)
        assert all(s is None or torch.isfinite(s).all() for s in second)


# ---------------------------------------------------------------- entropy


def test_entropy_values():
    gates = torch.tensor([0.5, 0.9, 0.0, 1.0], dtype=torch.float64)
    h = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    close(entropy(gates), math.log(2) + h)
    close(entropy(gates, reduce="mean"), (math.log(2) + h) / 4)


def test_descending_the_entropy_pushes_six_tenths_up_and_four_tenths_down():
    gates = torch.tensor([0.6, 0.4, 0.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy(gates), [gates])
    close(gradient, [math.log(0.4 / 0.6), math.log(0.6 / 0.4), 0.0])
    assert gradient[0] < 0 < gradient[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_of_saturated_gates_has_finite_derivatives(dtype):
    gates = Gates(["a"], 4, "sigmoid").to(dtype)
    gates.logits.data = torch.tensor([[-1000.0, -50.0, 50.0, 1000.0]], dtype=dtype)
    (first,) = torch.autograd.grad(entropy(gates.values()), [gates.logits], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), [gates.logits])
    close(first, [[0.0] * 4], atol=1e-6)
    assert torch.isfinite(second).all()


# ---------------------------------------------------------------- expected L0, density


def test_expected_l0_at_the_start_is_eleven_twelfths():
    close(expected_l0(torch.zeros(3, 8, dtype=torch.float64)), [8 * 11 / 12] * 3)


def test_expected_l0_counts_sampled_gates():
    torch.manual_seed(0)
    tau, gamma, zeta = 0.7, -0.2, 1.3
    gates = Gates(
        ["a"] + [str(i) for i in range(19_999)], 5, "hard_concrete", tau=tau, gamma=gamma, zeta=zeta
    ).double()
    gates.logits.data[:] = torch.tensor([-3.0, -1.5, 0.0, 1.0, 3.0])
    counted = (gates.compute(sample=True) > 0).double().mean(0).sum()
    close(counted, expected_l0(gates.logits, tau, gamma, zeta)[0].detach(), atol=0.03)


def test_a_gate_with_even_odds_is_where_its_noise_free_value_turns_positive():
    gates = Gates(["a"], 1, "hard_concrete").double()
    close(expected_l0(torch.tensor([gates.keep_logit()], dtype=torch.float64)), 0.5)


def test_density_weighs_layers_by_their_size():
    expected = torch.tensor([8.0, 0.0], dtype=torch.float64)
    close(density(expected, torch.tensor([30, 10]), k=8), 0.75)
    start = expected_l0(torch.zeros(2, 8, dtype=torch.float64))
    close(density(start, torch.tensor([30, 10]), k=8), 11 / 12)


def test_bad_requests_are_refused():
    with pytest.raises(UserError, match="at least one pair"):
        orthogonality([])
    with pytest.raises(UserError, match="allowed: mean, sum"):
        orthogonality([(random(3, 2), random(2, 3))], reduce="max")
    with pytest.raises(UserError, match="allowed: mean, sum"):
        entropy(torch.rand(3), reduce="none")
