r"""Implicit function theorem with the Hessian known by what it does to a few random directions.

    (dV/dE)^T v = - d2L1/dEdV (H + rho I)^{-1} v,      H ~ C W^{-1} C^T,
    C = H R,  W = R^T H R,  the columns of R: k random orthonormal directions

(Hataya, Yamada: Nystrom method for accurate and scalable implicit differentiation, AISTATS 2023,
where R picks k of the coordinates), H = d2L1/dV2 on the last lower batch, randomness replayed, at
the weights after the lower steps. By Woodbury's identity, with k Hessian-vector products,

    (C W^{-1} C^T + rho I)^{-1} v = [v - C (rho W + C^T C)^{-1} C^T v] / rho.

Nothing iterates, so there is no step that could be too long. What H does outside of the k
directions is taken for 0, so there 1/rho stands for H^{-1}: a small rho makes the term long. It
holds 2 k vectors in the space of V, R and C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.hypergradient.base import register
from bilevel.hypergradient.implicit_function import ImplicitFunction
from bilevel.settings import Count, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Nystrom"]


@register
@dataclass(frozen=True)
class Nystrom(ImplicitFunction):
    """Low-rank Hessian, inverted in closed form."""

    name: ClassVar[str] = "nystrom"
    needs_records: ClassVar[bool] = True  # directions are drawn by the steps of a level of ours
    rank: Count = 10
    """k, random directions and Hessian-vector products; exact from the rank of H on."""
    damping: Positive = 0.01
    """rho, added to H's diagonal."""

    def inverse(
        self,
        hessian: Callable[[Sequence[Tensor]], list[Tensor]],
        vector: list[Tensor],
        lower: LowerLevel,
        upper: UpperLevel,
    ) -> list[Tensor]:
        """[v - C (rho W + C^T C)^{-1} C^T v] / rho."""
        import torch

        from bilevel.precision import in_float64

        def flat(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([t.flatten() for t in tensors])

        def parts(x: Tensor) -> list[Tensor]:
            pieces = x.split([t.numel() for t in vector])
            return [piece.view_as(t) for piece, t in zip(pieces, vector, strict=True)]

        v = flat(vector)
        # A generator of its own, the same in every process and in a run that was resumed; on the
        # device, as there are k numbers for every weight.
        draw = torch.Generator(v.device).manual_seed(lower.count)
        shape = (len(v), min(self.rank, len(v)))
        R = torch.randn(*shape, generator=draw, dtype=v.dtype, device=v.device)
        R = torch.linalg.qr(R).Q
        C = torch.stack([flat(hessian(parts(r))) for r in R.T], dim=1)
        # C^T C has the squares of H's eigenvalues: of fp32 numbers, those of all but the largest
        # would be lost in their rounding. The products themselves stay in V's precision.
        C, R, exact = in_float64(C), in_float64(R), in_float64(v)
        small = self.damping * R.T @ C + C.T @ C
        small = (small + small.T) / 2
        x = exact - C @ (torch.linalg.pinv(small, hermitian=True) @ (C.T @ exact))
        return parts((x / self.damping).to(v))
