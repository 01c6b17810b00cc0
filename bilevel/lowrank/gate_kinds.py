"""Define the kinds of gates: how gate values come from their logits, one class a kind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.precision import in_float64

__all__ = ["KINDS", "GateKind", "HardConcrete", "JointSoftmax", "Real", "Sigmoid", "Softmax"]

# Points of the quadrature in HardConcrete.mean; its error is below 1e-5 for the default settings.
POINTS = 256


class GateKind(ABC):
    """A map from logits to gate values, both (n, k); row by row but for ``joint_softmax``."""

    name: ClassVar[str]
    first_logit: ClassVar[float] = 0.0
    random: ClassVar[bool] = False  # whether training draws the values

    @abstractmethod
    def values(self, logits: Tensor, sample: bool = False) -> Tensor:
        """The gate values; ``sample`` draws the noise of a random kind."""

    def mean(self, logits: Tensor) -> Tensor:
        """The mean of the values over their noise; no gradient."""
        return self.values(logits).detach()

    def keep_logit(self) -> float:
        """The logit above which the noise-free value is positive."""
        return -math.inf


class Softmax(GateKind):
    """g = softmax(v); positive, each row sums to 1 (AutoLoRA; BiLoRA's default)."""

    name = "softmax"

    def values(self, logits: Tensor, sample: bool = False) -> Tensor:
        """softmax(v)."""
        return torch.softmax(logits, dim=-1)


class JointSoftmax(GateKind):
    """g = n k softmax(v) over all layers together: equal logits give 1, and the mean stays 1.

    What one component gains the others lose, whichever layers they are in.
    """

    name = "joint_softmax"

    def values(self, logits: Tensor, sample: bool = False) -> Tensor:
        """n k softmax(v), v taken as one vector."""
        return (logits.numel() * torch.softmax(logits.flatten(), dim=0)).view_as(logits)


class Sigmoid(GateKind):
    """g = sigmoid(v) (BiLoRA's approximately binary values)."""

    name = "sigmoid"

    def values(self, logits: Tensor, sample: bool = False) -> Tensor:
        """sigmoid(v)."""
        return torch.sigmoid(logits)


class Real(GateKind):
    """g = v, from 1: a gate of 0 beside LoRA's B = 0 has a zero gradient in all three factors."""

    name = "real"
    first_logit = 1.0

    def values(self, logits: Tensor, sample: bool = False) -> Tensor:
        """The logits, not the parameter itself, which a module would register."""
        return logits.view_as(logits)

    def keep_logit(self) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class HardConcrete(GateKind):
    """g = clip(sigmoid((log(u/(1-u)) + v) / tau) (zeta - gamma) + gamma, 0, 1), u ~ U(0, 1).

    v = log theta (SaLoRA). Sampled once per training forward; everywhere else the noise-free
    clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1), which can be exactly 0 or 1.

    Raises:
        UserError: not gamma < 0 < 1 < zeta, or tau not positive.
    """

    name: ClassVar[str] = "hard_concrete"
    random: ClassVar[bool] = True
    tau: float = 1.0
    """Temperature: a low one draws values near 0 and 1."""
    gamma: float = -0.1
    """Where the stretched sigmoid begins, below 0."""
    zeta: float = 1.1
    """Where it ends, above 1."""

    def __post_init__(self) -> None:
        if not (self.gamma < 0 and self.zeta > 1 and self.tau > 0):
            raise UserError(
                "hard-concrete gates need gamma < 0, zeta > 1 and tau > 0, "
                f"not gamma = {self.gamma}, zeta = {self.zeta}, tau = {self.tau}"
            )

    def values(self, logits: Tensor, sample: bool = False) -> Tensor:
        """See the class."""
        v = logits
        if sample:
            # Uniform noise can be exactly 0, whose logit is infinite.
            tiny = torch.finfo(v.dtype).eps
            v = (torch.rand_like(v).clamp(tiny, 1 - tiny).logit() + v) / self.tau
        return (torch.sigmoid(v) * (self.zeta - self.gamma) + self.gamma).clamp(0.0, 1.0)

    @torch.no_grad()
    def mean(self, logits: Tensor) -> Tensor:
        """The mean of the gates over their noise.

        E[g] = integral over t in (0, 1) of P(g > t),
        P(g > t) = sigmoid(v - tau logit((t - gamma) / (zeta - gamma))),

        by the midpoint rule. It lies between 0 and 1 and is never either.
        """
        v = in_float64(logits)
        t = (torch.arange(POINTS, dtype=torch.float64, device=v.device) + 0.5) / POINTS
        bounds = self.tau * ((t - self.gamma) / (self.zeta - self.gamma)).logit()
        exceeded = torch.sigmoid(v.unsqueeze(-1) - bounds)
        return exceeded.mean(-1).to(logits)

    def keep_logit(self) -> float:
        """sigmoid(v) (zeta - gamma) + gamma > 0, that is v > log(-gamma / zeta).

        -2.398 by default.
        """
        return math.log(-self.gamma / self.zeta)


KINDS: dict[str, type[GateKind]] = {
    kind.name: kind for kind in (Softmax, Sigmoid, Real, HardConcrete, JointSoftmax)
}
