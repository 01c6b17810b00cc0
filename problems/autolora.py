r"""AutoLoRA (Zhang, Qiang, Somayajula, Xie, NAACL 2024, arXiv 2403.09113).

Every LoRA layer l starts with k rank-one components and a selection weight for each,

    Delta_l = sum_j alpha_lj u_lj v_lj,     alpha_l = softmax(beta_l),        (section 3.1)

and learns them on two levels:

    lower   V*(beta) = argmin over factors and head of  L(V, alpha; D_train)
    upper   min over beta of  L(V*(beta), alpha; D_val).

The rank of layer l is the number of components with alpha_lj >= 1/k (section 3.3); plain LoRA with
these ranks is then trained from scratch on D_train + D_val. Three stages: search, ranks, retrain.
With the task's own validation split as D_val (``split=null``) the retraining is on D_train alone,
the data that LoRA is given, so that D_val can tell its best weights.

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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bilevel import lowrank
from bilevel.cutting.budget import Part, check_part, parameters_of
from bilevel.errors import UserError
from bilevel.settings import Count, Passes, Share
from problems import common
from problems.common import (
    DVal,
    FoundRanks,
    Job,
    Layout,
    Level,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    RankSearch,
    Stage,
    Training,
    TrainSettings,
    TwoLevelMethod,
)
from problems.common.two_levels import Fraction
from problems.lora import lora_training

if TYPE_CHECKING:
    from bilevel.cutting.decided import RankChoice
    from bilevel.lowrank import Gates

__all__ = ["AutoLoRA"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutoLoRA(LowRankMethod, TwoLevelMethod, RankSearch):
    """Search ranks on two levels, then retrain plain LoRA with them."""

    name: ClassVar[str] = "autolora"
    splits_fused: ClassVar[bool] = True
    two_rates: ClassVar[bool] = True
    refuses: ClassVar[dict[str, str]] = {
        "moved": "whose gates start below 1 and would take a part of the pretrained weights away",
        "orthogonal": "whose retraining has odd ranks too",
    }
    rank: Count = 8
    """k, components of every layer during the search."""
    retrain_dropout: Share | None = None
    """LoRA dropout of the retraining; null for that of the search."""
    gate: Literal["softmax", "sigmoid", "real"] = "softmax"
    """How selection weights alpha come from beta."""
    init: float | None = None
    """Start of beta; null for the gate's own (0, or 1 for real)."""
    rank_rule: Literal["threshold", "mean", "fixed", "positive", "budget", "raw_share"] = (
        "threshold"
    )
    """Which components make up a layer's rank: those of at least 1/k (threshold), of at least the
    layer's mean (mean), of at least 0.5 (fixed), above 0 (positive), the largest of all layers
    within parameter_budget (budget), or those whose logit is at least the layer's mean (raw_share).
    """
    parameter_budget: Part | None = None
    """Parameters of all kept components together, or a share of those of all, for
    rank_rule=budget."""
    split: Fraction | None = 0.5
    """Share of the training data that is D_train, the rest is D_val; null takes the task's own
    validation split as D_val of the search. Retrained is on all of the training data."""
    search_epochs: Passes | None = None
    """Passes over D_train in the search; null for as many as the retraining."""
    retrain_scale: Literal["alpha_over_rank", "constant"] = "alpha_over_rank"
    """Scale of a layer in the retraining: alpha / r_l as in the released code, or alpha / k for
    every layer, whatever its rank."""
    lower: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.01))
    """Of the factors and the head in the search."""
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            name="adam", lr=1e-3, betas=(0.5, 0.999), schedule="constant"
        )
    )
    """Of beta."""
    retrain: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.01))
    """Of the retraining."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rank_rule == "budget") != (self.parameter_budget is not None):
            raise UserError("rank_rule=budget and parameter_budget=N go together; give both")

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Of the search: its epochs are passes over D_train.

        Raises:
            UserError: ``unroll_steps`` is more than it has.
        """
        epochs = settings.epochs if self.search_epochs is None else self.search_epochs
        trained = examples if self.split is None else round(self.split * examples)
        super().check_steps(trained, replace(settings, epochs=epochs))

    def held_out(self, own: bool) -> DVal:
        """The retraining is on the training data alone."""
        return "apart" if own else "trained_on"

    def rank_choice(self) -> RankChoice:
        """By ``rank_rule``, of the gates that the search ends with."""
        from bilevel.cutting.decided import RankChoice

        return RankChoice(self.rank_rule, gate=self.gate)

    def upper_variables(self, layout: Layout) -> int:
        """A selection variable for each component of each module."""
        return self.rank * len(layout.modules)

    def stages(self) -> Sequence[Stage]:
        """Search, whose end derives the ranks; then retrain on all of the training data."""
        return (Stage("search", self.search), Stage("retrain", self.retraining))

    def search(self, job: Job, found: None) -> Training:
        """Stage 1: factors and head on D_train, selection variables on D_val."""
        parts = self.parts(job)
        model = common.with_lora(
            job, self.rank, self.lora_alpha, self.lora_dropout, self.peft, parts.rows
        )
        names = list(lowrank.lora_layers(model))
        gates = lowrank.Gates(names, self.rank, self.gate, self.init)
        lowrank.attach_gates(model, gates)
        check_part(self.parameter_budget, lowrank.component_costs(model), self.rank)
        epochs = job.settings.epochs if self.search_epochs is None else self.search_epochs
        steps = common.total_steps(job, parts.lower, epochs, self.unroll_steps)
        factors = common.trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 1e-4

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            chosen = self.derive_ranks(gates, lowrank.component_costs(model))
            log.info("ranks: %s", ", ".join(f"{name}={rank}" for name, rank in chosen.items()))
            return {
                "ranks": chosen,
                "trainable_parameters": common.count(factors) + gates.logits.numel(),
                "validation_loss": stats.get("validation_loss"),
                "split": parts.sizes,
            }

        return self.training(
            job,
            parts,
            Level(common.FineTuning, model, factors, self.lower, lr),
            Level(common.HeldOut, gates, list(gates.parameters()), self.upper, 1e-3),
            steps,
            model,
            finish,
            gates=gates,
        )

    def derive_ranks(self, gates: Gates, costs: dict[str, int]) -> dict[str, int]:
        """Stage 2: the rank of every layer from its selection weights."""
        values = gates.values() if self.rank_rule != "raw_share" else gates.logits
        by_name = dict(zip(gates.names, values.detach().cpu(), strict=True))
        options: dict[str, Any] = {}
        if self.rank_rule == "budget":
            assert self.parameter_budget is not None
            whole = self.rank * sum(costs.values())
            options = {"costs": costs, "budget": parameters_of(self.parameter_budget, whole)}
        return lowrank.RULES[self.rank_rule](by_name, **options)

    def retraining(self, job: Job, found: dict[str, Any]) -> Training:
        """Stage 3: plain LoRA from scratch on all of the training data, every layer at its rank."""
        options = self.lora_options(found["ranks"], job)
        training = lora_training(
            *(job, options, self.retrain, job.settings.epochs), default_lr=1e-4, peft=self.peft
        )

        def finish(stats: dict[str, float]) -> Outcome:
            outcome: Outcome = training.finish(stats)
            return outcome.after(found, ranks=dict(found["ranks"]), split=dict(found["split"]))

        return replace(training, finish=finish)

    def found_ranks(self, job: Job, found: dict[str, Any]) -> FoundRanks:
        """The search's ranks, at the retraining's scales."""
        return FoundRanks(self.lora_options(found["ranks"], job), found["ranks"])

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
            name: self.peft.scale(
                self.lora_alpha, rank if self.retrain_scale == "alpha_over_rank" else self.rank
            )
            for name, rank in chosen.items()
            if rank > 0
        }
        dropout = self.lora_dropout if self.retrain_dropout is None else self.retrain_dropout
        return {**lowrank.lora_pattern(chosen, scales), "lora_dropout": dropout}
