"""Fisher's estimator: the inverse Hessian from the lower step's own gradient.

    (dV/dE)^T v = - d2L1/dEdV (H + rho I)^-1 v,      H = d2L1/dV2 ~ g g^T,      g = dL1/dV,

the Fisher information of one batch, as far as the batch's mean gradient tells it (Amari: Natural
gradient works efficiently in learning, Neural Computation 1998). By Sherman and Morrison's formula

    (g g^T + rho I)^-1 v = [v - g <g, v> / (rho + |g|^2)] / rho,

which costs nothing: the gradient is at hand. The mixed derivative is a difference along the result.
"""

from dataclasses import dataclass
from typing import ClassVar

from bilevel import Needs, Positive
from bilevel.hypergradient import Hypergradient, register


@register
@dataclass(frozen=True)
class Fisher(Hypergradient):
    """Implicit function theorem with a Hessian of rank one; no second-order products."""

    name: ClassVar[str] = "fisher"
    damping: Positive = 0.1
    """rho, added to the diagonal."""

    def needs(self, lower):
        return Needs(depth=1)

    def implicit_term(self, vector, lower, upper):
        import torch  # here, so that --help and a slip on the command line need not wait for it

        step = lower.recorded.last
        g = [
            torch.zeros_like(v) if x is None else x  # None: the loss does not use a parameter
            for x, v in zip(step.gradient, vector, strict=True)
        ]
        along = sum((x * v).sum() for x, v in zip(g, vector, strict=True))
        share = along / (self.damping + sum(x.square().sum() for x in g))
        solved = [(v - share * x) / self.damping for x, v in zip(g, vector, strict=True)]
        loss = lower.replayed_loss(upper)
        return loss.minus_mixed_product(step.weights, solved, epsilon=1e-2)
