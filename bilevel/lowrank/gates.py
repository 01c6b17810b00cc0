"""Gate low-rank layers: one learnable number for every rank-one component of every LoRA layer.

A LoRA layer adds ``scale * B A`` to its frozen weight. With gates it adds
``scale * B diag(g) A = scale * sum_j g_j b_j a_j``: BiLoRA's P Lambda Q, AutoLoRA's sum of
alpha_j u_j v_j, SaLoRA's B G A. PEFT keeps doing all the work; its ``lora_A`` weight simply reads
as ``g[:, None] * A`` through a torch parametrization (:mod:`bilevel.lowrank.attach`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bilevel.errors import UserError, listed
from bilevel.lowrank.gate_kinds import KINDS, GateKind

__all__ = ["Gates"]


class Gates(nn.Module):
    """The gates of n LoRA layers with k components each, from one parameter ``logits`` (n, k).

    names: the layers' names (see ``lora_layers``), one a row. k: the rank of every layer.
    kind: how the gate values come from the logits, row by row (:mod:`bilevel.lowrank.gate_kinds`)

    - ``softmax``: g = softmax(v); positive, each row sums to 1 (AutoLoRA; BiLoRA's default)
    - ``joint_softmax``: g = n k softmax(v) over all rows together; positive, of mean 1
    - ``sigmoid``: g = sigmoid(v) (BiLoRA's approximately binary values)
    - ``real``: g = v
    - ``hard_concrete``: sampled, and can be exactly 0 or 1 (SaLoRA); options tau, gamma, zeta

    init: the logits' first value. None takes 0, and 1 for ``real``.

    A method may use its gates for a part of the training only. ``phase`` says where it is:

    - ``learning`` (the start): values from the logits, as above
    - ``open``: every value is exactly 1, plain LoRA, and costs nothing (:meth:`open`)
    - ``fixed``: the values are constants (:meth:`fix`), whatever the logits are

    The logits are fp32, or float64 once attached to factors in float64. This module must not be
    registered on the model: its logits belong to the upper level, the model's factors to the lower
    one.

    Raises UserError for an unknown kind, no or repeated names, k < 1, or options out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        k: int,
        kind: str = "softmax",
        init: float | None = None,
        **options: float,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"unknown kind of gate {kind!r}; allowed: {listed(KINDS)}")
        if not names or len(set(names)) != len(names):
            raise UserError("gates need at least one layer name, and no name twice")
        if k < 1:
            raise UserError(f"gates need at least one component a layer, not k = {k}")
        self.names = list(names)
        self.k = k
        self.kind: GateKind = KINDS[kind](**options)
        self.init = self.kind.first_logit if init is None else init
        self.logits = nn.Parameter(torch.full((len(self.names), k), self.init, dtype=torch.float32))
        self.phase = "learning"
        self.fixed: Tensor | None
        self.register_buffer("fixed", None, persistent=False)
        self._rows = {name: row for row, name in enumerate(self.names)}
        self._in_use: Tensor | None = None  # the values of the forward under way

    def values(self) -> Tensor:
        """Return the gate values (n, k), differentiable in ``logits``.

        While a gated model is in its forward these are the values that forward uses; otherwise
        they are computed afresh, without noise.
        """
        return self.compute() if self._in_use is None else self._in_use

    def value(self, name: str) -> Tensor:
        """Return the gate values (k,) of one layer. Raises UserError for an unknown name."""
        return self.values()[self.index(name)]

    def index(self, name: str) -> int:
        """Return the row of one layer. Raises UserError for an unknown name."""
        if name not in self._rows:
            raise UserError(f"no gates for a layer named {name!r}; the first is {self.names[0]!r}")
        return self._rows[name]

    @torch.no_grad()
    def restart(self) -> None:
        """Put the logits back to their first value."""
        self.logits.fill_(self.init)

    def open(self) -> None:
        """Hold every gate at exactly 1."""
        self.phase = "open"

    def learn(self) -> None:
        """Let the values follow the logits."""
        self.phase = "learning"

    def fix(self, values: Tensor) -> None:
        """Hold the gates at ``values`` (n, k)."""
        self.fixed = values.detach().to(self.logits, copy=True)
        self.phase = "fixed"

    def compute(self, sample: bool = False) -> Tensor:
        """Return the gate values (n, k); ``sample`` draws the noise of hard-concrete gates."""
        v: Tensor = self.logits
        if self.phase == "open":
            return torch.ones_like(v)
        if self.phase == "fixed":
            assert self.fixed is not None
            return self.fixed
        return self.kind.values(v, sample)

    def expected(self) -> Tensor:
        """Return the mean (n, k) of the gates over their noise, from the logits; no gradient."""
        return self.kind.mean(self.logits)

    def keep_logit(self) -> float:
        """Return the logit above which a gate's noise-free value is positive."""
        return self.kind.keep_logit()

    def extra_repr(self) -> str:
        """Name the kind and the shape in the module's printed form."""
        return f"kind={self.kind.name}, layers={len(self.names)}, k={self.k}"
