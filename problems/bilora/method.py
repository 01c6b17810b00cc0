r"""BiLoRA (Qin, Zhang, Xie, arXiv 2403.13037): vectors on D_train, values on D_val.

The update of every adapted matrix k is a pseudo singular value decomposition,

    dW_k = s P_k Lambda_k Q_k,      s = alpha / r,

with Lambda_k diagonal, made of a free vector v_k: softmax(v) (each matrix's values sum to 1), v
itself (``real``), or sigmoid(v) (``binary``). P and Q, LoRA's B and A, and the head learn on
D_train; Lambda on D_val, which the vectors do not see:

    lower   V*(E) = argmin over P, Q, head of  L(V, E; D_train) + gamma1 R1(V)
    upper   min over v of  L(V*(E), E; D_val)  [+ gamma2 R2(E), binary only]

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
| start of P, Q | not said | - | N(0, 0.02) both, AdaLoRA's (``start=zero``: P = 0, Q Kaiming) |
| start of values | softmax 1/r, real ones less | 1/r | 1/r; real 1/(2r), binary 1/2 (``init``) |
| optimisers | not said | AdamW, betas (0.9, 0.98), eps 1e-6 | the same, no decay, both levels |
| schedules | not said | linear, warm-up | linear, 10 % warm-up, both levels |
| lr of head | larger than LoRA's (all) | 4e-5 | train.lr, or LoRA's 5e-4 |
| lr of P, Q | | | r times that (softmax), twice (binary), 2r times (real; once at ``start=zero``) |
| lr of v | not said | 4e-5 | 1e-3 (AutoLoRA's paper) |
| T1, T2 | not said | 1 (field: 5), 1 | 1, 1 |
| hypergradient | Betty | darts | the job's |

The paper says that softmax values start at 1/r and that this is more than real ones do; that rules
out real values of 1. So real values start at half of that, and both factors are drawn, as those of
AdaLoRA, whose penalty R1 is: dW starts small, not at none. (From AdaLoRA's 0, ``init=0``, 216 steps
of the demo lead to an accuracy of 0.73, from here to 0.84.) ``start=zero`` is the other reading:
dW = 0, real values 1; the hypergradient and R1's gradient in P are zero at its first step, so the
task moves first. Real values of 0 beside P = 0 would never move (all three gradients are zero):
that is refused.

Softmax values begin at 1/r, and with them the effective scale at alpha / r^2, where LoRA has
alpha / r; so the learning rate of P and Q is r times LoRA's, and a step moves dW as far as one of
LoRA's does. (Binary values begin at 1/2 and double it; real ones alike.) A given ``lower.lr`` is
taken as it is, for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from bilevel import lowrank
from bilevel.errors import UserError
from bilevel.settings import Count, NonNegative, Positive
from problems import common
from problems.common import (
    Job,
    Layout,
    Level,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    Stage,
    Training,
    TwoLevelMethod,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from bilevel.cutting.decided import RankChoice
    from bilevel.lowrank import Gates
    from problems.common import Parameters

__all__ = ["BiLoRA"]

# The gates that make the values.
GATES = {"softmax": "softmax", "real": "real", "binary": "sigmoid"}


def _optimizer(lr: float | None) -> Callable[[], OptimizerSettings]:
    return partial(OptimizerSettings, lr=lr, betas=(0.9, 0.98), eps=1e-6, warmup_ratio=0.1)


@dataclass(frozen=True)
class BiLoRA(LowRankMethod, TwoLevelMethod):
    """Singular vectors on one part of the training data, singular values on the other."""

    name: ClassVar[str] = "bilora"
    splits_fused: ClassVar[bool] = True
    rank: Count = 8
    """r, singular values of every layer."""
    values: Literal["softmax", "real", "binary"] = "softmax"
    """How Lambda comes from v: its softmax, v itself, or its sigmoid."""
    start: Literal["normal", "zero"] = "normal"
    """P and Q both N(0, 0.02) as in AdaLoRA, or P = 0 and Q as LoRA's A."""
    init: float | None = None
    """First value of v; null for 0, but for real values 1/(2r), or 1 with start=zero."""
    gamma1: NonNegative = 0.1
    """Weight of R1 at the lower level."""
    r1_squared: bool = True
    """Squared Frobenius norms in R1, or the norms themselves (AdaLoRA's code)."""
    r1_reduce: Literal["mean", "sum"] = "mean"
    """R1's mean over the matrices (two a layer), or their sum (the papers)."""
    gamma2: NonNegative = 0.01
    """Weight of R2 at the upper level, for binary values."""
    prune_below: Positive | None = None
    """Leave components whose value is smaller than this in size out of the saved adapter; null
    keeps all."""
    lower: OptimizerSettings = field(default_factory=_optimizer(None))
    """Of the vectors and the head."""
    upper: OptimizerSettings = field(default_factory=_optimizer(1e-3))
    """Of the values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bound = self.prune_below
        if bound is not None and bound >= 1 and self.values != "real":
            raise UserError(
                f"method.prune_below={bound}: this must be less than 1, as "
                f"method.values={self.values} are"
            )
        if self.values == "real" and self.start == "zero" and self.init == 0:
            raise UserError(
                "values=real with start=zero and init=0 has nothing that could move, as P and "
                "Lambda are both zero: give another init or start=normal"
            )

    def rank_choice(self) -> RankChoice | None:
        """Where ``prune_below`` cuts values off."""
        from bilevel.cutting.decided import RankChoice

        bound = self.prune_below
        return None if bound is None else RankChoice("fixed", bound=bound)

    def upper_variables(self, layout: Layout) -> int:
        """A singular value for each component of each module."""
        return self.rank * len(layout.modules)

    def stages(self) -> Sequence[Stage]:
        """One stage, two problems."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """Vectors and head on D_train, values on D_val."""
        from problems.bilora.levels import SingularValues, SingularVectors, factors

        parts = self.parts(job)
        model, gates = self.adapted(job)
        lower = common.trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        penalty = partial(lowrank.orthogonality, squared=self.r1_squared, reduce=self.r1_reduce)
        vectors = partial(SingularVectors, gamma1=self.gamma1, penalty=penalty)
        values = partial(SingularValues, gamma2=self.gamma2 if self.values == "binary" else 0.0)

        def finish(stats: dict[str, float]) -> Outcome:
            keep = self.components(gates)
            return Outcome(
                model=model,
                ranks={name: int(mask.sum()) for name, mask in keep.items()},
                trainable_parameters=common.count(lower) + gates.logits.numel(),
                validation_loss=stats.get("validation_loss"),
                split=parts.sizes,
                keep=None if self.prune_below is None else keep,
            )

        return self.training(
            job,
            parts,
            Level(vectors, model, self._groups(model, lr), self.lower, lr),
            Level(values, gates, [gates.logits], self.upper, 1e-3),
            self.steps(job),
            model,
            finish,
            gates=gates,
            watch=lambda: {"orthogonality": lowrank.orthogonality(factors(model))},
        )

    def _groups(self, model: PeftModel, lr: float) -> Parameters:
        """P and Q with a learning rate that makes up for singular values that start below 1."""
        from problems.bilora.levels import factors

        if self.lower.lr is not None:
            return common.trainable(model)
        vectors = [factor for pair in factors(model) for factor in pair]
        own = {id(p) for p in vectors}
        head = [p for p in common.trainable(model) if id(p) not in own]
        # Of the first values 1/r, 1/2, and 1 or 1/(2r).
        real = 1 if self.start == "zero" else 2 * self.rank
        times = {"softmax": self.rank, "binary": 2, "real": real}[self.values]
        groups = [{"params": vectors, "lr": times * lr}, {"params": head, "lr": lr}]
        return [group for group in groups if group["params"]]

    def adapted(self, job: Job) -> tuple[PeftModel, Gates]:
        """A fresh model with P, Q and Lambda at their start."""
        from torch import nn

        from bilevel.lowrank.layers import down_and_up

        model = common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        layers = lowrank.lora_layers(model)
        if self.start == "normal":
            for layer in layers.values():
                for part in down_and_up(layer):
                    nn.init.normal_(part.weight, std=0.02)
        init = self.init
        if init is None:
            real = 1.0 if self.start == "zero" else 1 / (2 * self.rank)
            init = real if self.values == "real" else 0.0
        gates = lowrank.Gates(list(layers), self.rank, GATES[self.values], init)
        lowrank.attach_gates(model, gates)
        return model, gates

    def components(self, gates: Gates) -> dict[str, Tensor]:
        """Layer -> boolean mask (r,) of the components that are saved."""
        import torch

        if self.prune_below is None:
            return {name: torch.ones(self.rank, dtype=torch.bool) for name in gates.names}
        return lowrank.RULES["fixed"].keep(gates, bound=self.prune_below)
