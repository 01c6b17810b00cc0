"""What is differentiated twice: GELU's closed form against PyTorch's, and where it takes over."""

import pytest
import torch
from torch.nn import functional

from bilevel.second_derivatives import differentiable_twice, gelu

# Where the density is 0 in every precision, at the bend, and between.
POINTS = [-40.0, -3.0, -(2**0.5), -0.7, 0.0, 1e-3, 1.0, 2**0.5, 3.5, 40.0]


def derivatives(function, x):
    """Value, first derivative and the two products of the second one."""
    x = x.clone().requires_grad_()
    g = torch.linspace(-1, 2, len(x), dtype=x.dtype).requires_grad_()
    y = function(x)
    (first,) = torch.autograd.grad(y, x, g, create_graph=True)
    by_g, by_x = torch.autograd.grad(first, [g, x], torch.linspace(1, 3, len(x), dtype=x.dtype))
    return y.detach(), first.detach(), by_g, by_x


def test_the_derivatives_are_pytorchs():
    x = torch.tensor(POINTS, dtype=torch.float64)
    ours, theirs = derivatives(gelu, x), derivatives(functional.gelu, x)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_first_derivative_are_bit_for_bit_pytorchs(dtype):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    for a, b in zip(derivatives(gelu, x)[:3], derivatives(functional.gelu, x)[:3], strict=True):
        assert torch.equal(a, b)


def test_in_bfloat16_it_is_no_less_exact_than_pytorchs():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    right = derivatives(functional.gelu, x.double())[3]
    errors = [
        (derivatives(function, x)[3].double() - right).norm() / right.norm()
        for function in (gelu, functional.gelu)
    ]
    assert errors[0] < 1.2 * errors[1]


def test_it_can_be_differentiated_a_third_time():
    x = torch.tensor(POINTS[1:-1], dtype=torch.float64, requires_grad=True)

    def second(x):
        (first,) = torch.autograd.grad(gelu(x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (x,))


def test_only_the_exact_one_is_taken_over_and_only_inside():
    x = torch.tensor(POINTS, requires_grad=True)
    with differentiable_twice():
        assert "_Gelu" in functional.gelu(x).grad_fn.name()
        assert "_Gelu" in torch.nn.GELU()(x).grad_fn.name()
        tanh = functional.gelu(x, approximate="tanh")
    assert "_Gelu" not in tanh.grad_fn.name()
    assert "_Gelu" not in functional.gelu(x).grad_fn.name()


def test_inside_attention_can_be_differentiated_twice():
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    with differentiable_twice():
        y = functional.scaled_dot_product_attention(q, q, q)
        (first,) = torch.autograd.grad(y.square().sum(), q, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), q)
    assert second.isfinite().all()
