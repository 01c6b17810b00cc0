r"""``activation``: what the layer's output loses without the component, over its parameters.

    M = E[(A x)(A x)^T],   B = Q R,   s^2 R M R^T = P diag(lambda) P^T,   u_j = Q p_j,
    component j = u_j (u_j^T dW),    dW = s B A,     E ||u_j u_j^T dW x||^2 = lambda_j,
    score_lj = lambda_j / (n_l c_l),       c_l = in + out

x over the valid tokens of held-out examples (see :mod:`bilevel.cutting.criteria.moments` for which
those are).  Its first k components are the best matrix of rank k for E ||dW x - . x||^2, which is
(dW C^1/2)_k C^-1/2 with C = E[x x^T], the truncation of SVD-LLM (arXiv 2403.07378) and of
weighted low-rank approximation in general; from M (r x r) alone, so that neither C (in x in) nor
dW is ever formed. It changes the basis as well as the order: sigma_j^2 E (v_j^T x)^2 in the
singular basis, a diagonal approximation of this, is something else.

What one layer's output is to another's is n_l:

    output     E ||W x||^2, W the frozen weight: what share of the output is lost
    gradient   out / E ||dL/dy||^2, y the layer's output, L an example's loss: what the loss makes
               of it, (dL/dy . lost)^2 as if the gradient had no direction and knew nothing of what
               is lost (one backward a batch more)
    nothing    1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bilevel.cutting.criteria.base import Criterion, ScoringData

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from bilevel.cutting.criteria.moments import Moments

__all__ = ["Activation", "output_basis"]


@dataclass(frozen=True)
class Activation(Criterion):
    """Size of a component in its layer's output."""

    name: ClassVar[str] = "activation"
    needs_data: ClassVar[bool] = True

    across: Literal["output", "gradient", "nothing"] = "output"
    """What layers are made comparable by: the squared norm of W x, the loss's gradient at their
    outputs, or nothing."""

    def score(self, model: PeftModel, data: ScoringData | None) -> dict[str, Tensor]:
        """See the module."""
        import torch

        from bilevel.cutting.criteria.moments import moments
        from bilevel.lowrank.layers import component_costs, lora_factors, lora_layers, lora_scales
        from bilevel.lowrank.singular import set_factors

        assert data is not None
        seen = moments(model, data.batches, gradients=self.across == "gradient")
        layers, scales, costs = lora_layers(model), lora_scales(model), component_costs(model)
        scores = {}
        for name, layer in layers.items():
            A, B = lora_factors(layer)
            down = seen[name].down / max(1, seen[name].tokens)
            sizes, A, B = output_basis(A, B, scales[name], down)
            set_factors(model, name, A, B)
            scores[name] = torch.zeros(layer.r["default"], dtype=torch.float64)
            weight = self._weight(seen[name], len(B))
            scores[name][: len(sizes)] = sizes * weight / costs[name]
        return scores

    def _weight(self, seen: Moments, out: int) -> float:
        """1 / n_l; 0 of a layer that no example reaches, or whose weight puts out nothing."""
        if self.across == "nothing":
            return 1.0
        if self.across == "gradient":
            return seen.gradient / max(1, seen.tokens) / out
        return seen.tokens / seen.output if seen.output else 0.0


def output_basis(A: Tensor, B: Tensor, scale: float, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate factors so that their components lose as much of the output as they are large.

    Args:
        A: (r, in).
        B: (out, r).
        scale: s of s B A.
        down: (r, r), M, the second moment of A x.

    Returns:
        lambda (k,), the largest first, and the new A (k, in) and B (out, k), of equal norms in
        each component; k = min(r, out), float64 on the CPU.
    """
    import torch

    A, B = A.detach().cpu().double(), B.detach().cpu().double()
    left, R = torch.linalg.qr(B)
    sizes, P = torch.linalg.eigh(scale**2 * R @ down @ R.T)
    sizes, P = sizes.flip(0).clamp(min=0), P.flip(1)  # rounding may leave them below 0
    rows = P.T @ R @ A
    root = rows.norm(dim=1).sqrt()
    return sizes, rows / root.clamp(min=torch.finfo(root.dtype).tiny)[:, None], left @ P * root
