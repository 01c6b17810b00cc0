r"""AutoLoRA (Zhang, Qiang, Somayajula, Xie, NAACL 2024, arXiv 2403.09113).

Every LoRA layer l starts with k rank-one components and a selection weight for each,

    Delta_l = sum_j alpha_lj u_lj v_lj,     alpha_l = softmax(beta_l),        (section 3.1)

and learns them on two levels:

    lower   V*(beta) = argmin over factors and head of  L(V, alpha; D_train)
    upper   min over beta of  L(V*(beta), alpha; D_val).

The rank of layer l is the number of components with alpha_lj >= 1/k (section 3.3); plain LoRA with
these ranks is then trained from scratch on D_train + D_val. Three stages: search, ranks, retrain.

| choice | paper | released code | here (default) |
|---|---|---|---|
| split D_train : D_val | 1:1 | 7:3 | 1:1 (``split``) |
| rank rule | softmax share >= 1/k | raw logit share >= 1/k | ``threshold``; also ``raw_share`` |
| start of beta | not said | ones (GLUE), zeros (BioNLP) | zeros (``init``) |
| weights | AdamW 1e-4 | Adam 3e-4 | AdamW 1e-4, or train.lr |
| beta | AdamW 1e-3 | Adam 3e-4, betas (0.5, 0.999) | Adam 1e-3, betas (0.5, 0.999) |
| implicit term's scale | inner lr | 1 | 1 (hypergradient.scale) |
| schedule of the search | not said | constant | linear, 6 % warm-up (``lower.schedule``) |
| retraining's scale | not said | alpha / r_l | alpha / r_l (``retrain_scale``) |
| retraining's dropout | not said | 0.1, none in the search | none (``retrain_dropout``) |

Ablations: no constraint (``gate=real rank_rule=mean``), sigmoid (``gate=sigmoid rank_rule=fixed``),
eta = 0 (``hypergradient=none``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from bilevel.errors import UserError
from bilevel.lowrank import Gates, attach_gates, ranks
from bilevel.lowrank.layers import component_costs, lora_layers, lora_pattern
from problems.common.method import (
    FineTuning,
    Job,
    Outcome,
    StageRunner,
    check_lora,
    count,
    total_steps,
    trainable,
    with_lora,
)
from problems.common.optimizer_settings import OptimizerSettings, check_choice, check_range
from problems.common.two_levels import HeldOut, Level, TwoLevelMethod
from problems.lora import train_lora

__all__ = ["AutoLoRA"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutoLoRA(TwoLevelMethod):
    """Search ranks on two levels, then retrain plain LoRA with them.

    Args:
        rank: k, components of every layer during the search.
        lora_alpha, lora_dropout: as in LoRA, in both trainings.
        retrain_dropout: LoRA dropout of the retraining; None for that of the search.
        gate: how selection weights come from beta: softmax, sigmoid or real.
        init: start of beta; None for the gate's own (0, or 1 for real).
        rank_rule: threshold, mean, fixed, raw_share or budget; see :mod:`bilevel.lowrank.ranks`.
        parameter_budget: parameters of all kept components together, for ``rank_rule=budget``.
        split: share of the training data that is D_train; the rest is D_val.
        unroll_steps, upper_steps, warmup_steps, roll_back: as in
            :class:`problems.common.two_levels.TwoLevelMethod` (the released code rolls back).
        search_epochs: passes over D_train in the search; None for as many as the retraining.
        retrain_scale: ``alpha_over_rank``: alpha / r_l as in the released code; ``constant``:
            alpha / k for every layer, whatever its rank.
        lower, upper, retrain: optimisers of the factors, of beta, and of the retraining.
    """

    name: ClassVar[str] = "autolora"
    splits_fused: ClassVar[bool] = True
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    retrain_dropout: float | None = None
    gate: str = "softmax"
    init: float | None = None
    rank_rule: str = "threshold"
    parameter_budget: int | None = None
    split: float = 0.5
    search_epochs: float | None = None
    retrain_scale: str = "alpha_over_rank"
    lower: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.01))
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            name="adam", lr=1e-3, betas=(0.5, 0.999), schedule="constant"
        )
    )
    retrain: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.01))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("rank_rule", self.rank_rule, list(ranks.RULES))
        if (self.rank_rule == "budget") != (self.parameter_budget is not None):
            raise UserError("rank_rule=budget and parameter_budget=N go together; give both")
        check_choice("gate", self.gate, ("softmax", "sigmoid", "real"))
        check_choice("retrain_scale", self.retrain_scale, ("alpha_over_rank", "constant"))
        for dropout in (self.lora_dropout, self._retrain_dropout):
            check_lora(self.rank, dropout)
        given = self.search_epochs
        check_range("search_epochs", given, given is None or given > 0, "more than 0")

    @property
    def _retrain_dropout(self) -> float:
        return self.lora_dropout if self.retrain_dropout is None else self.retrain_dropout

    def run(self, job: Job) -> Outcome:
        """Search, derive the ranks, retrain on D_train + D_val."""
        found = job.stage("search", lambda stage: self.search(job, stage))
        options = self.lora_options(found["ranks"], job)
        outcome = job.stage(
            "retrain",
            lambda stage: train_lora(
                job, stage, options, self.retrain, job.settings.epochs, default_lr=1e-4
            ),
            last=True,
        )
        outcome.ranks = dict(found["ranks"])
        outcome.trainable_parameters = max(
            outcome.trainable_parameters, found["trainable_parameters"]
        )
        outcome.validation_loss = found["validation_loss"]
        outcome.split = dict(found["split"])
        return outcome

    def search(self, job: Job, stage: StageRunner) -> dict[str, Any]:
        """Stage 1: factors and head on D_train, selection variables on D_val."""
        sides = self.sides(job)
        model = with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        names = list(lora_layers(model))
        gates = Gates(names, self.rank, self.gate, self.init)
        attach_gates(model, gates)
        self._check_budget(component_costs(model))
        epochs = job.settings.epochs if self.search_epochs is None else self.search_epochs
        steps = total_steps(job, sides.lower, epochs, self.unroll_steps)
        factors = trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 1e-4
        stats = self.train(
            job,
            stage,
            sides,
            Level(FineTuning, model, factors, self.lower, lr),
            Level(HeldOut, gates, list(gates.parameters()), self.upper, 1e-3),
            steps,
            model,
            gates=gates,
        )
        chosen = self.derive_ranks(gates, component_costs(model))
        log.info("ranks: %s", ", ".join(f"{name}={rank}" for name, rank in chosen.items()))
        return {
            "ranks": chosen,
            "trainable_parameters": count(factors) + gates.logits.numel(),
            "validation_loss": stats.get("validation_loss"),
            "split": sides.sizes,
        }

    def _check_budget(self, costs: dict[str, int]) -> None:
        least = min(costs.values())
        if self.parameter_budget is not None and self.parameter_budget < least:
            raise UserError(
                f"parameter_budget={self.parameter_budget} is less than the {least} parameters of "
                "one component, so nothing would be left to retrain"
            )

    def derive_ranks(self, gates: Gates, costs: dict[str, int]) -> dict[str, int]:
        """Stage 2: the rank of every layer from its selection weights."""
        with torch.no_grad():
            values = gates.values() if self.rank_rule != "raw_share" else gates.logits
            by_name = dict(zip(gates.names, values.detach().cpu(), strict=True))
        options: dict[str, Any] = {}
        if self.rank_rule == "budget":
            options = {"costs": costs, "budget": self.parameter_budget}
        return ranks.RULES[self.rank_rule](by_name, **options)

    def lora_options(self, chosen: dict[str, int], job: Job) -> dict[str, Any]:
        """``LoraConfig`` options of the retraining: each layer's rank, and its scale.

        Raises:
            UserError: no layer is left.
        """
        if not any(chosen.values()):
            raise UserError(
                f"method.rank_rule={self.rank_rule} leaves every layer at rank 0, so there is "
                "nothing to retrain; threshold and mean keep at least one component a layer"
            )
        scales = {
            name: self.lora_alpha / (rank if self.retrain_scale == "alpha_over_rank" else self.rank)
            for name, rank in chosen.items()
            if rank > 0
        }
        return {**lora_pattern(chosen, scales), "lora_dropout": self._retrain_dropout}
