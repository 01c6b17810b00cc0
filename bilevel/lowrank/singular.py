r"""Write low-rank updates in their singular basis, the one in which a component means something.

    s B A = U diag(sigma) V^T,      U^T U = V^T V = I,      sigma_1 >= sigma_2 >= ... >= 0

B A = (B R)(R^-1 A) for every invertible R, so that a component b_j a_j of trained factors is one of
many that add up to the same update; in the singular basis it is the j-th best of all.  From the
factors alone, B = Q_B R_B and A^T = Q_A R_A, so that only s R_B R_A^T (r x r) is decomposed: the
(out x in) matrix is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils import parametrize

from bilevel.errors import UserError
from bilevel.lowrank.fused import fuse
from bilevel.lowrank.gated_forward import chain_of
from bilevel.lowrank.layers import down_and_up, lora_factors, lora_layers, lora_scales

__all__ = [
    "SingularForm",
    "saved_singular_values",
    "set_factors",
    "singular_form",
    "singular_values",
    "to_singular_basis",
]


@dataclass(frozen=True)
class SingularForm:
    """An update s B A of rank r at most, all in float64 on the CPU.

    Attributes:
        U: (out, r), orthonormal columns.
        sigma: (r,), the largest first.
        V: (in, r), orthonormal columns.
    """

    U: Tensor
    sigma: Tensor
    V: Tensor


def singular_form(A: Tensor, B: Tensor, scale: float) -> SingularForm:
    """The singular value decomposition of ``scale * B @ A``.

    Args:
        A: (r, in).
        B: (out, r).
        scale: s, positive.

    Raises:
        UserError: a factor is not finite, or the scale is not positive.
    """
    A, B = A.detach().cpu().double(), B.detach().cpu().double()
    if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise UserError("the factors hold numbers that are not finite, so they have no rank")
    if not scale > 0:
        raise UserError(f"the update's scale is {scale:g}: lora_alpha must be positive")
    left, R_B = torch.linalg.qr(B)
    right, R_A = torch.linalg.qr(A.T)
    U, sigma, Vh = torch.linalg.svd(scale * R_B @ R_A.T)
    r = len(sigma)  # less than the factors' where a side of the matrix is shorter than their rank
    return SingularForm(left @ U[:, :r], sigma, right @ Vh[:r].T)


def singular_values(model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    """Layer -> singular values (r,) of its update s B A, float64, the largest first.

    Raises:
        UserError: the model has no plain LoRA, or factors that are not finite.
    """
    scales = lora_scales(model, adapter)
    return {
        name: singular_form(*lora_factors(layer, adapter), scales[name]).sigma
        for name, layer in lora_layers(model, adapter).items()
    }


def saved_singular_values(model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    """The same of the layers that the adapter is saved with: fused projections are put together.

    Raises:
        UserError: the model has no plain LoRA, or factors that are not finite.
    """
    layers = lora_layers(model, adapter)
    factors = {name: lora_factors(layer, adapter) for name, layer in layers.items()}
    fused, scales = fuse(model.get_base_model(), factors, lora_scales(model, adapter))
    return {name: singular_form(A, B, scales[name]).sigma for name, (A, B) in fused.items()}


def to_singular_basis(model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    """Rewrite every layer's factors as A = (sigma / s)^1/2 V^T and B = U (sigma / s)^1/2, in place.

    The function stays what it is, but for rounding in the factors' precision. Where a side of a
    matrix is shorter than r, the components left over are zero. Gates, where attached, are part of
    the update that is decomposed, so that the function stays if they are then set to 1.

    Returns:
        Layer -> sigma (r,), float64, the largest first.

    Raises:
        UserError: as :func:`singular_values`.
    """
    scales = lora_scales(model, adapter)
    found = {}
    for name, layer in lora_layers(model, adapter).items():
        form = singular_form(*lora_factors(layer, adapter), scales[name])
        root = (form.sigma / scales[name]).sqrt()
        set_factors(model, name, root[:, None] * form.V.T, form.U * root, adapter)
        sigma = torch.zeros(layer.r[adapter], dtype=torch.float64)
        sigma[: len(form.sigma)] = form.sigma
        found[name] = sigma
    return found


@torch.no_grad()
def set_factors(
    model: PeftModel, name: str, A: Tensor, B: Tensor, adapter: str = "default"
) -> None:
    """Put factors into one layer, in its own precision; components that are not given become zero.

    Args:
        model: with plain LoRA; with gates, A is the one that they multiply.
        name: the layer's.
        A: (k, in), k <= r.
        B: (out, k).
        adapter: which.
    """
    down, up = down_and_up(lora_layers(model, adapter)[name], adapter)
    k = len(A)
    gated = parametrize.is_parametrized(down, "weight")
    ungated: Tensor = chain_of(down).original if gated else down.weight
    ungated[:k] = A.to(ungated)
    up.weight[:, :k] = B.to(up.weight)
    ungated[k:] = 0
    up.weight[:, k:] = 0
