r"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512), on PEFT's layers and its rank allocator.

The update of each matrix k is a pseudo singular value decomposition,

    dW_k = s P_k Lambda_k Q_k,      Lambda_k diagonal,  s = alpha / (r_0 + 1e-5),

trained with the orthogonality penalty  gamma R(P, Q).  All matrices together start with
b_0 = n r_0 components and end with b_T = n r, r on average; in between the budget falls cubically,

    b(t) = b_0                                                  t <= t_i
           b_T + (b_0 - b_T) (1 - (t - t_i) / (T - t_i - t_f))^3   until T - t_f
           b_T                                                  after it.

Every dT steps the b(t) components of largest importance, over all matrices, stay; the others'
lambda is set to 0 (their vectors stay, so that they may come back). From T - t_f on the last mask
is applied after every step. Importance of a component: that of its lambda, plus the means over its
column of P and its row of Q, each |w dL/dw| smoothed (beta_1) times its smoothed variation
(beta_2).

| choice | paper | released code | here (default) |
|---|---|---|---|
| matrices | all six | all six | all (``train.target_modules=qv`` for two) |
| r, r_0 | 2, 4, 8; 1.5 r | 1; 2 or 3 | 8; 1.5 r (``rank``, ``initial_rank``) |
| alpha | not said | 16 or 32 | 32 |
| s | not said | alpha / r_0 (in-tree code: over the surviving rank) | alpha / r_0, as PEFT |
| b(t) | jumps at t_i as printed | continuous | continuous |
| t_i, t_f | 600 to 8000, 1800 to 50000 | the same | 13 %, 47 % of the steps, the tasks' means |
| dT | 1 to 100 | the same | 0.1 % of the steps (``interval``) |
| R | squared norms, summed | norms, mean over matrices | the code's, gamma 0.1 |
| lr; decay | 5e-4 to 2.2e-3; 0 to 0.1 | the same | train.lr, or 8e-4; 0.01 |
| warm-up | 1 to 10 % | the same | 6 % |

The steps t are optimiser steps from 1 on; PEFT's allocator is called after each of them, with the
step's gradient. Of PEFT's ``AdaLoraModel`` only ``forward`` is passed by: it adds the penalty
itself, but in the precision of the autocast, in which a Gram matrix in bf16 is off by a hundredth.
PEFT leaves pruned components in place (its own cutting is switched off upstream); here they are cut
at the end, and the outcome is plain LoRA with A'' = Lambda Q, B'' = P at each matrix's own rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt, Lt

from bilevel import lowrank
from bilevel.errors import UserError
from bilevel.settings import Count, NonNegative, Positive
from problems import common
from problems.common import (
    ALONE,
    DVal,
    Job,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    Stage,
    Training,
)

if TYPE_CHECKING:
    from peft import AdaLoraConfig
    from transformers import PreTrainedModel

    from bilevel.cutting.decided import RankChoice

__all__ = ["AdaLoRA"]

Smoothing = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class AdaLoRA(LowRankMethod):
    """A budget of components that falls to ``rank`` a matrix, given to where they matter most."""

    name: ClassVar[str] = "adalora"
    splits_fused: ClassVar[bool] = True
    targets: ClassVar[str | None] = "all"
    rank: Count = 8
    """r, average rank at the end."""
    initial_rank: Count | None = None
    """r_0 of every matrix, more than rank; null for 1.5 r."""
    lora_alpha: Positive = 32.0
    """alpha; the update is scaled by alpha / r_0."""
    gamma: NonNegative = 0.1
    """Weight of the orthogonality penalty."""
    beta1: Smoothing = 0.85
    """Smoothing of the importance."""
    beta2: Smoothing = 0.85
    """Smoothing of the importance's variation."""
    initial_share: NonNegative = 0.13
    """t_i / T, share of the steps at the full budget."""
    final_share: NonNegative = 0.47
    """t_f / T, share of the steps at the final budget."""
    interval: Count | None = None
    """dT, steps from one allocation to the next; null for a thousandth of all steps."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(weight_decay=0.01)
    )
    """Of P, Lambda, Q and the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.initial_rank
        if first is not None and first <= self.rank:
            raise UserError(
                f"method.initial_rank={first}: this must be more than method.rank={self.rank}"
            )
        shares = self.initial_share + self.final_share
        if shares >= 1:
            raise UserError(
                f"method.initial_share={self.initial_share} and "
                f"method.final_share={self.final_share}: their sum must be less than 1"
            )

    @property
    def first_rank(self) -> int:
        """r_0."""
        return self.initial_rank or math.ceil(1.5 * self.rank)

    def check_model(self, model: PreTrainedModel, target_modules: Sequence[str]) -> None:
        """Nor is the first rank larger than a layer, whose singular vectors there are to start.

        Raises:
            UserError: it is.
        """
        super().check_model(model, target_modules)
        own = self.initial_rank is not None
        said = "" if own else f" (null: 1.5 times method.rank={self.rank})"
        common.check_rank(model, target_modules, self.first_rank, f"method.initial_rank{said}")

    def held_out(self, own: bool) -> DVal:
        """The task's own validation split."""
        return "apart" if own else "nothing"

    def rank_choice(self) -> RankChoice:
        """Of the singular values before the last mask; importance itself is not recorded."""
        from bilevel.cutting.decided import RankChoice

        return RankChoice("budget", until=1 - self.final_share)

    def stages(self) -> Sequence[Stage]:
        """One stage, one problem."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """P, Lambda, Q and head on all of the data, under PEFT's allocator."""
        from peft import get_peft_model

        from problems.adalora.levels import SingularTriplets, SingularValues, freeze_rank_counts

        batches = common.loader(job)
        steps = common.total_steps(job, batches, job.settings.epochs)
        base = job.build_model()
        config = self.config(job, base, steps)
        model = get_peft_model(base, config)
        freeze_rank_counts(model)
        parameters = common.trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 8e-4
        problem = common.only_problem(
            SingularTriplets, job, model, batches, self.optimizer, steps, lr, gamma=self.gamma
        )

        def finish(stats: dict[str, float]) -> Outcome:
            ranks = problem.ranks()
            return Outcome(
                model=problem.rebuild(),
                ranks=ranks,
                trainable_parameters=common.count(parameters),
                split={"train": len(job.data.examples)},
            )

        return Training(
            [problem],
            ALONE,
            steps,
            model,
            finish,
            gates=SingularValues(problem.layers),
            watch=lambda: {
                "orthogonality": lowrank.orthogonality(problem.vectors()),
                "budget": problem.budget(),
            },
            settled=steps - config.tfinal,
        )

    def config(self, job: Job, base: PreTrainedModel, steps: int) -> AdaLoraConfig:
        """PEFT's configuration for training ``base`` in ``steps`` optimiser steps.

        Raises:
            UserError: a single step, after which there is nothing to allocate by.
        """
        from peft import AdaLoraConfig

        if steps < 2:
            raise UserError("AdaLoRA needs at least 2 optimiser steps: raise train.epochs")
        # At least one step gives scores before the final mask, at step T - t_f.
        final = min(int(self.final_share * steps), steps - 2)
        return AdaLoraConfig(
            **common.peft_head(job),
            target_modules=list(job.target_modules),
            fan_in_fan_out=lowrank.built_of_conv1d(base),
            target_r=self.rank,
            init_r=self.first_rank,
            lora_alpha=self.lora_alpha,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.gamma,
            tinit=int(self.initial_share * steps),
            tfinal=final,
            deltaT=self.interval or max(1, round(steps / 1000)),
            total_step=steps,
        )
