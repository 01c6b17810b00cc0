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
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.tuners.adalora import AdaLoraLayer, AdaLoraModel
from torch import Tensor
from transformers import PreTrainedModel

from bilevel.errors import UserError
from bilevel.lowrank import built_of_conv1d, orthogonality, plain_lora
from problems.common.method import (
    FineTuning,
    Job,
    Method,
    Outcome,
    StageRunner,
    check_lora,
    count,
    loader,
    total_steps,
    trainable,
)
from problems.common.one_level import ALONE, only_problem
from problems.common.optimizer_settings import OptimizerSettings, check_range
from problems.common.two_levels import full_precision

__all__ = ["AdaLoRA", "SingularTriplets"]

STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # the allocator's, parameter name -> tensor


class SingularTriplets(FineTuning):
    """The task's loss with the penalty; PEFT's allocator runs after every optimiser step."""

    def __init__(self, *args: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.layers = adalora_layers(self.module)

    @property
    def tuner(self) -> AdaLoraModel:
        """PEFT's model, with its ``rankallocator``."""
        return cast(AdaLoraModel, self.module.base_model)

    @property
    def steps_taken(self) -> int:
        """Optimiser steps."""
        return self.count // self.gas

    def vectors(self) -> list[tuple[Tensor, Tensor]]:
        """(P, Q) of every layer."""
        return [lora_vectors(layer) for layer in self.layers.values()]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """L + gamma R, the penalty in full precision."""
        loss = self.module.get_base_model()(**batch).loss
        if not self.gamma:
            return loss
        with full_precision(self):
            return loss + self.gamma * orthogonality(self.vectors(), squared=False)

    def param_callback(self) -> None:
        """Runs after every optimiser step, before the gradients go: update scores, mask Lambda."""
        if self.scaler is not None:
            # fp16: a step that was skipped has infinite gradients, which no score would forget.
            for p in self.trainable_parameters():
                if p.grad is not None:
                    p.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.tuner.update_and_allocate(self.steps_taken)

    def budget(self) -> int:
        """b(t), components of all matrices together."""
        return int(self.tuner.rankallocator.budget_schedule(self.steps_taken)[0])

    def extra_state(self) -> dict[str, Any]:
        """Smoothed scores, and the mask of the final phase."""
        allocator = self.tuner.rankallocator
        return {
            "scores": {part: dict(getattr(allocator, part)) for part in STATE},
            "mask": allocator.peft_config.rank_pattern,
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        allocator = self.tuner.rankallocator
        for part in STATE:
            saved = {name: value.to(self.device) for name, value in state["scores"][part].items()}
            setattr(allocator, part, saved)
        allocator.peft_config.rank_pattern = state["mask"]

    @torch.no_grad()
    def rebuild(self) -> PeftModel:
        """Plain LoRA of the components whose lambda is not 0. Uses up this problem's model."""
        factors, scales = {}, {}
        for name, layer in self.layers.items():
            P, Q = lora_vectors(layer)
            Lambda = cast(Tensor, layer.lora_E["default"])
            alive = Lambda[:, 0] != 0
            factors[name] = ((Lambda * Q)[alive].clone(), P[:, alive].clone())
            scales[name] = layer.scaling["default"] / (float(layer.ranknum["default"]) + 1e-5)
        # Else PEFT cuts the tensors by its own pattern when it is asked for the head's.
        self.tuner.rankallocator.peft_config.rank_pattern = None
        return plain_lora(self.module, factors, scales)


class SingularValues:
    """Lambda of every layer, for drawing over the steps.

    Attributes:
        names: the layers.
    """

    def __init__(self, layers: dict[str, AdaLoraLayer]) -> None:
        self.names = list(layers)
        self._layers = list(layers.values())

    def values(self) -> Tensor:
        """The values now, (n, r_0)."""
        return torch.stack([layer.lora_E["default"][:, 0] for layer in self._layers])


def adalora_layers(model: PeftModel) -> dict[str, AdaLoraLayer]:
    """AdaLoRA layers by their name in the base model."""
    modules = model.get_base_model().named_modules()
    return {name: module for name, module in modules if isinstance(module, AdaLoraLayer)}


def lora_vectors(layer: AdaLoraLayer) -> tuple[Tensor, Tensor]:
    """P (out, r_0) and Q (r_0, in) of a layer."""
    return cast(Tensor, layer.lora_B["default"]), cast(Tensor, layer.lora_A["default"])


@dataclass(frozen=True)
class AdaLoRA(Method):
    """A budget of components that falls to ``rank`` a matrix, given to where they matter most.

    Args:
        rank: r, average rank at the end.
        initial_rank: r_0 of every matrix; None for 1.5 r.
        lora_alpha: alpha; the update is scaled by alpha / r_0. lora_dropout: as in LoRA.
        gamma: weight of the orthogonality penalty.
        beta1, beta2: smoothing of the importance, and of its variation.
        initial_share, final_share: t_i / T and t_f / T, at the full and at the final budget.
        interval: dT, steps from one allocation to the next; None for a thousandth of all steps.
        optimizer: of P, Lambda, Q and the head.
    """

    name: ClassVar[str] = "adalora"
    splits_fused: ClassVar[bool] = True
    targets: ClassVar[str | None] = "all"
    rank: int = 8
    initial_rank: int | None = None
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    gamma: float = 0.1
    beta1: float = 0.85
    beta2: float = 0.85
    initial_share: float = 0.13
    final_share: float = 0.47
    interval: int | None = None
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(weight_decay=0.01)
    )

    def __post_init__(self) -> None:
        check_lora(self.rank, self.lora_dropout)
        first = self.initial_rank
        fits = first is None or first > self.rank
        check_range("initial_rank", first, fits, f"more than rank={self.rank}")
        check_range("lora_alpha", self.lora_alpha, self.lora_alpha > 0, "more than 0")
        check_range("gamma", self.gamma, self.gamma >= 0, "0 or more")
        for name in ("beta1", "beta2"):
            check_range(name, getattr(self, name), 0 < getattr(self, name) < 1, "between 0 and 1")
        for name in ("initial_share", "final_share"):
            check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        shares = self.initial_share + self.final_share
        check_range("initial_share + final_share", shares, shares < 1, "less than 1")
        every = self.interval
        check_range("interval", every, every is None or every >= 1, "1 or more")

    def run(self, job: Job) -> Outcome:
        """One stage, one problem."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        base = job.build_model()
        model = get_peft_model(base, self.config(job, base, steps))
        parameters = trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 8e-4
        problem = only_problem(
            SingularTriplets, job, model, batches, self.optimizer, steps, lr, gamma=self.gamma
        )
        stage.run(
            [problem],
            ALONE,
            steps,
            model,
            gates=SingularValues(problem.layers),
            watch=lambda: {
                "orthogonality": orthogonality(problem.vectors()),
                "budget": problem.budget(),
            },
        )
        ranks = {
            name: int((layer.lora_E["default"] != 0).sum())
            for name, layer in problem.layers.items()
        }
        return Outcome(
            model=problem.rebuild(),
            ranks=ranks,
            trainable_parameters=count(parameters),
            split={"train": len(job.data.examples)},
        )

    def config(self, job: Job, base: PreTrainedModel, steps: int) -> AdaLoraConfig:
        """PEFT's configuration for training ``base`` in ``steps`` optimiser steps.

        Raises:
            UserError: a single step, after which there is nothing to allocate by.
        """
        if steps < 2:
            raise UserError("AdaLoRA needs at least 2 optimiser steps: raise train.epochs")
        # At least one step gives scores before the final mask, at step T - t_f.
        final = min(int(self.final_share * steps), steps - 2)
        return AdaLoraConfig(
            task_type=job.task_type,
            modules_to_save=list(job.head_modules) or None,
            target_modules=list(job.target_modules),
            fan_in_fan_out=built_of_conv1d(base),
            target_r=self.rank,
            init_r=self.initial_rank or math.ceil(1.5 * self.rank),
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
