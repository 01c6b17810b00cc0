r"""Implicit function theorem, its linear system solved a step at a time while training goes on.

    z  <-  z - rho [(H + mu I) z - v],        (dV/dE)^T v  ~  - d2L1/dEdV z

(Dagreou, Ablin, Vaiter, Moreau: A framework for bilevel optimization that enables stochastic and
global variance reduction algorithms, NeurIPS 2022: SOBA), H = d2L1/dV2 on the last lower batch,
randomness replayed, at the weights after the lower steps. z starts from 0 and is kept from one
upper step to the next, so that one Hessian-vector product an upper step follows the solution
(H + mu I)^-1 v as it moves: cheaper than to solve anew, and an average over batches.

The paper takes all three directions at the same z; here the term is of the z after its step, which
costs nothing more and does not answer 0 at first. z converges where rho is below 2 / (largest
eigenvalue of H, + mu) and no eigenvalue of H is below -mu. Away from a minimum of L1 some are, and
z then grows from step to step along them: raise mu (``damping``) until it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.hypergradient.base import register
from bilevel.hypergradient.implicit_function import ImplicitFunction
from bilevel.settings import NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Soba"]


@register
@dataclass(frozen=True)
class Soba(ImplicitFunction):
    """One damped step an upper step on (H + mu I) z = v, from the last one's z."""

    name: ClassVar[str] = "soba"
    needs_records: ClassVar[bool] = True  # a problem of Betty's has no memory for z
    rate: Positive = 0.1
    """rho, the length of the step on z."""
    damping: NonNegative = 0.0
    """mu, added to H's diagonal."""

    def inverse(
        self,
        hessian: Callable[[Sequence[Tensor]], list[Tensor]],
        vector: list[Tensor],
        lower: LowerLevel,
        upper: UpperLevel,
    ) -> list[Tensor]:
        """The next z, which is remembered: a checkpoint holds it."""
        import torch

        from bilevel.hypergradient.derivatives import norm

        memory: dict[str, list[Tensor]] = lower.estimator_state.get(self.name, {})
        held = memory.get(upper.name)
        if held is None:
            z = [torch.zeros_like(v) for v in vector]
        else:
            z = [saved.to(v) for saved, v in zip(held, vector, strict=True)]
        residual = [h + self.damping * x - v for h, x, v in zip(hessian(z), z, vector, strict=True)]
        after = [x - self.rate * r for x, r in zip(z, residual, strict=True)]
        # A gradient that overflowed (fp16) must not stay in z for ever.
        finite = torch.isfinite(norm(after))
        kept = [torch.where(finite, a, b) for a, b in zip(after, z, strict=True)]
        lower.estimator_state[self.name] = {**memory, upper.name: kept}
        return after
