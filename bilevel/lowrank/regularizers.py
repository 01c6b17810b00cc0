"""Penalise factors and gates; each function returns a tensor to add to a loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.lowrank.gate_kinds import HardConcrete
from bilevel.lowrank.gates import Gates

__all__ = ["ExpectedDensity", "density", "entropy", "expected_l0", "orthogonality"]


def orthogonality(
    pairs: Iterable[tuple[Tensor, Tensor]], squared: bool = True, reduce: str = "mean"
) -> Tensor:
    """Return how far the factors are from orthonormal, as a 0-d tensor.

    R1 = sum_k ( ||P_k^T P_k - I||_F^2 + ||Q_k Q_k^T - I||_F^2 )    (AdaLoRA, BiLoRA, SaLoRA)

    pairs: (P_k, Q_k) of every layer, P (out x r) and Q (r x in); in LoRA's naming (B, A), without
    the gates. reduce="sum" is the papers' form; "mean" divides it by the number of matrices (two a
    layer). squared=False takes the norms themselves; with "mean" that is AdaLoRA's code.

    Raises UserError for no pairs or another ``reduce``.
    """
    # Q and P^T are the same problem: rows that should be orthonormal. Equal shapes go in one batch.
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for P, Q in pairs:
        for rows in (P.T, Q):
            by_shape.setdefault(rows.shape, []).append(rows)
    count = sum(map(len, by_shape.values()))
    if count == 0:
        raise UserError("the orthogonality penalty needs at least one pair of factors")
    totals = []
    for group in by_shape.values():
        rows = torch.stack(group)
        gram = rows @ rows.mT
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        squares = (gram - identity).square().sum((-2, -1))
        totals.append((squares if squared else _safe_sqrt(squares)).sum())
    return _reduced(torch.stack(totals).sum(), count, reduce)


def entropy(values: Tensor, reduce: str = "sum") -> Tensor:
    """Return the binary entropy of gates in [0, 1], as a 0-d tensor.

    R2 = - sum ( g log g + (1 - g) log(1 - g) )

    Minimising it pushes gates to 0 and 1. (BiLoRA prints it without the minus, which would push
    them to 0.5.) At exactly 0 or 1 the value and the gradient are 0. reduce="mean" divides by the
    number of gates. Raises UserError for another ``reduce``.
    """
    # The derivative log((1-g)/g) is infinite at 0 and 1, where a sigmoid saturates.
    tiny = torch.finfo(values.dtype).eps
    g = values.clamp(tiny, 1 - tiny)
    both = torch.special.entr(g) + torch.special.entr(1 - g)
    inside = (values > tiny) & (values < 1 - tiny)
    return _reduced(both.masked_fill(~inside, 0.0).sum(), values.numel(), reduce)


def expected_l0(logits: Tensor, tau: float = 1.0, gamma: float = -0.1, zeta: float = 1.1) -> Tensor:
    """Return the expected number of hard-concrete gates that are not 0, summed over the last axis.

    E[L0] = sum_j P(g_j > 0) = sum_j sigmoid(log theta_j - tau log(-gamma / zeta))    (SaLoRA)

    logits: log theta, (..., k); the result has shape (...). At log theta = 0 and the default
    settings each gate counts 11/12.
    """
    return torch.sigmoid(logits - tau * math.log(-gamma / zeta)).sum(-1)


def density(expected: Tensor, costs: Tensor, k: int) -> Tensor:
    """Return the expected share of adapter parameters in use, between 0 and 1, as a 0-d tensor.

    C = sum_l costs_l E[L0]_l / sum_l costs_l k

    expected: (n,) from ``expected_l0``; costs: (n,) parameters of one component of each layer.
    (SaLoRA's text sums the layers' shares instead, which is no number between 0 and 1.)
    """
    costs = costs.to(expected)
    return (costs * expected).sum() / (costs.sum() * k)


class ExpectedDensity:
    """C of hard-concrete gates, differentiable in log theta: :func:`density` of their E[L0].

    Args:
        gates: of all layers.
        costs: layer -> parameters of one component.

    Raises:
        UserError: the gates are of another kind.
    """

    def __init__(self, gates: Gates, costs: Mapping[str, int]) -> None:
        if not isinstance(gates.kind, HardConcrete):
            raise UserError(f"only hard-concrete gates have a density, not {gates.kind.name}")
        self._gates, self._kind = gates, gates.kind
        self._costs = torch.tensor([costs[name] for name in gates.names])

    def __call__(self) -> Tensor:
        """C now, a 0-d tensor."""
        logits, kind = self._gates.logits, self._kind
        expected = expected_l0(logits, kind.tau, kind.gamma, kind.zeta)
        if self._costs.device != expected.device or self._costs.dtype != expected.dtype:
            self._costs = self._costs.to(expected)  # once: a copy to the device waits for it
        return density(expected, self._costs, self._gates.k)


def _safe_sqrt(squares: Tensor) -> Tensor:
    """Square root whose derivatives at 0 are 0 instead of infinite."""
    positive = squares > 0
    # No torch.where on numbers: it copies them to the device, and waits for that.
    return squares.masked_fill(~positive, 1.0).sqrt().masked_fill(~positive, 0.0)


def _reduced(total: Tensor, count: int, reduce: str) -> Tensor:
    if reduce not in ("mean", "sum"):
        raise UserError(f"unknown reduction {reduce!r}; allowed: mean, sum")
    return total / count if reduce == "mean" else total
