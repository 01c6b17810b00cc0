"""The singular form of an update against the decomposition of its full matrix."""

import pytest
import torch

from bilevel.errors import UserError
from bilevel.lowrank.layers import lora_factors, lora_layers, lora_scales
from bilevel.lowrank.singular import singular_form, singular_values, to_singular_basis


def drawn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("out", "inside", "r"), [(12, 9, 4), (9, 12, 4), (5, 9, 8), (9, 5, 8), (6, 6, 6), (7, 8, 1)]
)
def test_the_form_is_the_decomposition_of_the_full_matrix(out, inside, r):
    A, B = drawn(r, inside), drawn(out, r)
    form = singular_form(A, B, 0.75)
    full = 0.75 * B @ A
    k = len(form.sigma)
    assert k == min(out, inside, r)
    torch.testing.assert_close(form.U * form.sigma @ form.V.T, full, rtol=0, atol=1e-12)
    torch.testing.assert_close(form.sigma, torch.linalg.svdvals(full)[:k], rtol=0, atol=1e-12)
    eye = torch.eye(k, dtype=torch.float64)
    torch.testing.assert_close(form.U.T @ form.U, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(form.V.T @ form.V, eye, rtol=0, atol=1e-12)


def test_a_rank_deficient_update_has_singular_values_of_zero():
    A, B = drawn(4, 9), drawn(12, 4)
    A[3] = A[0] - 2 * A[1]
    B[:, 2] = 0
    sigma = singular_form(A, B, 1.0).sigma
    torch.testing.assert_close(sigma, torch.linalg.svdvals(B @ A)[:4], rtol=0, atol=1e-12)
    assert (sigma > 1e-3).sum() == 2
    assert (sigma[2:] < 1e-12).all()


def test_what_has_no_rank_is_refused():
    A, B = drawn(2, 4), drawn(5, 2)
    with pytest.raises(UserError, match="lora_alpha"):
        singular_form(A, B, 0.0)
    B[1, 1] = float("nan")
    with pytest.raises(UserError, match="finite"):
        singular_form(A, B, 1.0)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("r", [4, 20])  # 20 is more than a side
def test_rotated_factors_compute_the_same(adapted, batch, family, r):
    model = adapted(family, r=r).eval()
    before = model(**batch).logits.detach()
    updates = {
        name: lora_scales(model)[name] * B @ A
        for name, (A, B) in ((n, lora_factors(m)) for n, m in lora_layers(model).items())
    }
    apart = singular_values(model)
    found = to_singular_basis(model)
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=1e-12)
    for name, layer in lora_layers(model).items():
        A, B = lora_factors(layer)
        scale, sigma = lora_scales(model)[name], found[name]
        torch.testing.assert_close(scale * B @ A, updates[name], rtol=0, atol=1e-12)
        # orthogonal components of equal norms in both factors
        for gram in (A @ A.T, B.T @ B):
            torch.testing.assert_close(scale * gram, sigma.diag(), rtol=0, atol=1e-12)
        torch.testing.assert_close(sigma[: len(apart[name])], apart[name], rtol=0, atol=0)
        assert len(sigma) == r
        assert (sigma[len(apart[name]) :] == 0).all()


def test_single_precision_is_kept_to_its_rounding(adapted, batch):
    model = adapted("bert").float().eval()
    before = model(**batch).logits.detach()
    to_singular_basis(model)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=1e-5)
