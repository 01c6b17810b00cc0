"""Nyström's estimator: the inverse Hessian from what H does to a few random directions.

    (dV/dE)^T v = - d2L1/dEdV (H + rho I)^-1 v,      H = d2L1/dV2 ~ C W^-1 C^T,
    C = H R,  W = R^T H R,  the columns of R: k random orthonormal directions

(Hataya, Yamada: Nyström method for accurate and scalable implicit differentiation, AISTATS 2023,
where R picks k of the coordinates.) By Woodbury's identity, with k Hessian-vector products,

    (C W^-1 C^T + rho I)^-1 v = [v - C (rho W + C^T C)^-1 C^T v] / rho.
"""

from dataclasses import dataclass
from typing import ClassVar

from bilevel import Count, Needs, Positive
from bilevel.hypergradient import Hypergradient, check_double_backward, register


@register
@dataclass(frozen=True)
class Nystrom(Hypergradient):
    """Implicit function theorem with a low-rank Hessian; no step length that could be too long."""

    name: ClassVar[str] = "nystrom"
    directions: Count = 10
    """Random directions, one Hessian-vector product each; exact from the rank of H on."""
    damping: Positive = 0.01
    """rho, added to H's diagonal."""

    def needs(self, lower):
        return Needs(depth=1, double_backward=True)

    def prepare(self, lower):
        check_double_backward(lower, "double_backward")

    def implicit_term(self, vector, lower, upper):
        import torch  # here, so that --help and a slip on the command line need not wait for it

        def flat(tensors):
            return torch.cat([t.flatten() for t in tensors])

        def parts(x):
            pieces = x.split([t.numel() for t in vector])
            return [piece.view_as(t) for piece, t in zip(pieces, vector, strict=True)]

        loss = lower.replayed_loss(upper)
        hessian, mixed = loss.hessian_operator(lower.trainable_parameters(), "double_backward")
        v = flat(vector)
        # A generator of its own, the same in every process and in a run that was resumed.
        draw = torch.Generator(v.device).manual_seed(lower.count)
        R = torch.randn(len(v), self.directions, generator=draw, dtype=v.dtype, device=v.device)
        R = torch.linalg.qr(R).Q
        C = torch.stack([flat(hessian(parts(r))) for r in R.T], dim=1)
        small = self.damping * R.T @ C + C.T @ C
        x = (v - C @ torch.linalg.pinv(small, hermitian=True) @ (C.T @ v)) / self.damping
        return [-g for g in mixed(parts(x))]
