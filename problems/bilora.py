r"""BiLoRA (Qin, Zhang, Xie, arXiv 2403.13037): singular vectors below, singular values above.

The update of every adapted matrix k is a pseudo singular value decomposition,

    dW_k = s P_k Lambda_k Q_k,      s = alpha / r,

with Lambda_k diagonal, made of a free vector v_k: softmax(v) (each matrix's values sum to 1), v
itself (``real``), or sigmoid(v) (``binary``). P and Q, LoRA's B and A, and the head learn on D1;
Lambda on D2, which the vectors do not see:

    lower   V*(E) = argmin over P, Q, head of  L(V, E; D1) + gamma1 R1(V)
    upper   min over v of  L(V*(E), E; D2)  [+ gamma2 R2(E), binary only]

    R1 = sum_k ( ||P_k^T P_k - I||_F^2 + ||Q_k Q_k^T - I||_F^2 )
    R2 = - sum ( lambda log lambda + (1 - lambda) log(1 - lambda) ).

One stage; what it ends with is used as it stands. Nothing is pruned unless ``prune_below`` asks for
it, and nothing retrained. No code is released; "sibling" is BiDoRA's code, by the same group, whose
argument class still has fields that only make sense here.

| choice | paper | sibling | here (default) |
|---|---|---|---|
| D1 : D2 | 8:2; NLG: train, validation split | 0.8 | 0.8 (``split``, null for the task's) |
| values | softmax; ablations real, binary | softmax | softmax (``values``) |
| R1 | squared, summed over matrices | - | squared, mean over matrices, gamma1 0.1 (AdaLoRA's) |
| R2's sign | pushes to 0.5 as printed | - | the entropy itself: to 0 and 1; gamma2 0.01 |
| start of P, Q | not said | - | P = 0, Q Kaiming: dW = 0 (``start=normal``: N(0, 0.02) both) |
| start of v | not said | 0 | 0; real values 1, but for ``start=normal`` 0 (``init``) |
| optimisers | not said | AdamW, betas (0.9, 0.98), eps 1e-6 | the same, no decay, both levels |
| schedules | not said | linear, warm-up | linear, 10 % warm-up, both levels |
| lr of head | larger than LoRA's (all) | 4e-5 | train.lr, or LoRA's 5e-4 |
| lr of P, Q | | | r times that (softmax), twice (binary), once (real) |
| lr of v | not said | 4e-5 | 1e-3 (AutoLoRA's paper) |
| T1, T2 | not said | 1 (field: 5), 1 | 1, 1 |
| hypergradient | Betty | darts | the job's |

With P = 0 the hypergradient and R1's gradient in P are zero at the first step, so the task moves
first. Softmax values begin at 1/r, and with them the effective scale at alpha / r^2, where LoRA has
alpha / r; so the learning rate of P and Q is r times LoRA's, and a step moves dW as far as one of
LoRA's does. (Binary values begin at 1/2 and double it.) A given ``lower.lr`` is taken as it is, for
all. Real values of 0 beside P = 0 would never move (all three gradients are zero), so that is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilevel.errors import UserError
from bilevel.lowrank import RULES, Gates, attach_gates, entropy, gated_layers, orthogonality
from bilevel.lowrank.layers import down_and_up, lora_layers
from problems.common.method import (
    FineTuning,
    Job,
    Outcome,
    StageRunner,
    check_lora,
    count,
    trainable,
    with_lora,
)
from problems.common.optimizer_settings import (
    OptimizerSettings,
    Parameters,
    check_choice,
    check_range,
)
from problems.common.two_levels import HeldOut, Level, TwoLevelMethod, full_precision

__all__ = ["BiLoRA", "SingularValues", "SingularVectors"]

KINDS = {"softmax": "softmax", "real": "real", "binary": "sigmoid"}


def factors(model: PeftModel) -> list[tuple[Tensor, Tensor]]:
    """(P, Q) of every layer, (out, r) and (r, in), without Lambda, as registered right now."""
    return [(layer.B, layer.A) for layer in gated_layers(model).values()]


class SingularVectors(FineTuning):
    """Lower level: L(V, E; D1) + gamma1 R1(V).

    Args:
        penalty: R1 of the factors; gamma1: its weight.
    """

    def __init__(
        self, *args: Any, gamma1: float, penalty: Callable[..., Tensor], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.gamma1 = gamma1
        self.penalty = penalty

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss with its penalty, the latter in full precision."""
        loss = super().training_step(batch)
        if not self.gamma1:
            return loss
        with full_precision(self):
            return loss + self.gamma1 * self.penalty(factors(self.module))


class SingularValues(HeldOut):
    """Upper level: L(V, E; D2) + gamma2 R2(E); gamma2 = 0 without R2."""

    def __init__(self, *args: Any, gamma2: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma2 = gamma2

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, with the entropy of binary values."""
        loss = super().training_step(batch)
        if not self.gamma2:
            return loss
        with full_precision(self):
            return loss + self.gamma2 * entropy(self.module.values())


def _optimizer(lr: float | None) -> Callable[[], OptimizerSettings]:
    return partial(OptimizerSettings, lr=lr, betas=(0.9, 0.98), eps=1e-6, warmup_ratio=0.1)


@dataclass(frozen=True)
class BiLoRA(TwoLevelMethod):
    """Singular vectors on one part of the training data, singular values on the other.

    Args:
        rank: r, singular values of every layer.
        lora_alpha, lora_dropout: as in LoRA.
        values: softmax, real or binary.
        start: ``zero`` (P = 0, Q as LoRA's A) or ``normal`` (both N(0, 0.02), as AdaLoRA).
        init: first value of v; None for 0, and for 1 with real values and ``start=zero``.
        gamma1: weight of R1 at the lower level.
        r1_squared: squared Frobenius norms in R1, or the norms themselves (AdaLoRA's code).
        r1_reduce: ``mean`` over the matrices (two a layer), or ``sum`` (the papers).
        gamma2: weight of R2 at the upper level, for binary values.
        prune_below: leave components whose value is smaller than this in size out of the saved
            adapter; None keeps all.
        split, unroll_steps, upper_steps, warmup_steps, roll_back: as in
            :class:`problems.common.two_levels.TwoLevelMethod`.
        lower, upper: optimisers of the vectors and head, and of the values.
    """

    name: ClassVar[str] = "bilora"
    splits_fused: ClassVar[bool] = True
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    values: str = "softmax"
    start: str = "zero"
    init: float | None = None
    gamma1: float = 0.1
    r1_squared: bool = True
    r1_reduce: str = "mean"
    gamma2: float = 0.01
    prune_below: float | None = None
    lower: OptimizerSettings = field(default_factory=_optimizer(None))
    upper: OptimizerSettings = field(default_factory=_optimizer(1e-3))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lora(self.rank, self.lora_dropout)
        check_choice("values", self.values, list(KINDS))
        check_choice("start", self.start, ("zero", "normal"))
        check_choice("r1_reduce", self.r1_reduce, ("mean", "sum"))
        for name in ("gamma1", "gamma2"):
            check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        bound = self.prune_below
        if self.values == "real":
            check_range("prune_below", bound, bound is None or bound > 0, "more than 0")
        else:
            check_range("prune_below", bound, bound is None or 0 < bound < 1, "between 0 and 1")
        if self.values == "real" and self.start == "zero" and self.init == 0:
            raise UserError(
                "values=real with start=zero and init=0 has nothing that could move, as P and "
                "Lambda are both zero: give another init or start=normal"
            )

    def run(self, job: Job) -> Outcome:
        """One stage, two problems."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        sides = self.sides(job)
        model, gates = self.adapted(job)
        below = trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        penalty = partial(orthogonality, squared=self.r1_squared, reduce=self.r1_reduce)
        vectors = partial(SingularVectors, gamma1=self.gamma1, penalty=penalty)
        gamma2 = self.gamma2 if self.values == "binary" else 0.0
        stats = self.train(
            job,
            stage,
            sides,
            Level(vectors, model, self._groups(model, lr), self.lower, lr),
            Level(partial(SingularValues, gamma2=gamma2), gates, [gates.logits], self.upper, 1e-3),
            self.steps(job),
            model,
            gates=gates,
            watch=lambda: {"orthogonality": orthogonality(factors(model))},
        )
        keep = self.components(gates)
        return Outcome(
            model=model,
            ranks={name: int(mask.sum()) for name, mask in keep.items()},
            trainable_parameters=count(below) + gates.logits.numel(),
            validation_loss=stats.get("validation_loss"),
            split=sides.sizes,
            keep=None if self.prune_below is None else keep,
        )

    def _groups(self, model: PeftModel, lr: float) -> Parameters:
        """P and Q with a learning rate that makes up for singular values that start below 1."""
        if self.lower.lr is not None:
            return trainable(model)
        vectors = [factor for pair in factors(model) for factor in pair]
        own = {id(p) for p in vectors}
        head = [p for p in trainable(model) if id(p) not in own]
        times = {"softmax": self.rank, "binary": 2, "real": 1}[self.values]
        groups = [{"params": vectors, "lr": times * lr}, {"params": head, "lr": lr}]
        return [group for group in groups if group["params"]]

    def adapted(self, job: Job) -> tuple[PeftModel, Gates]:
        """A fresh model with P, Q and Lambda at their start."""
        model = with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        layers = lora_layers(model)
        if self.start == "normal":
            for layer in layers.values():
                for part in down_and_up(layer):
                    nn.init.normal_(part.weight, std=0.02)
        init = self.init
        if init is None:
            init = 1.0 if self.values == "real" and self.start == "zero" else 0.0
        gates = Gates(list(layers), self.rank, KINDS[self.values], init)
        attach_gates(model, gates)
        return model, gates

    def components(self, gates: Gates) -> dict[str, Tensor]:
        """Layer -> boolean mask (r,) of the components that are saved."""
        if self.prune_below is None:
            return {name: torch.ones(self.rank, dtype=torch.bool) for name in gates.names}
        return RULES["fixed"].keep(gates, bound=self.prune_below)
