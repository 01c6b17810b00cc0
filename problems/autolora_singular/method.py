r"""AutoLoRA in the singular basis: one selection over the components of all layers (ours).

A product of factors does not say what its components are: B A = (B R)(R^-1 A) for every invertible
R, so AutoLoRA's alpha_j (:mod:`problems.autolora`) scores the j-th vector of an arbitrary basis.
Here the basis is fixed before anything is selected. The first share of the steps trains plain LoRA
(at B = 0 no gate has a gradient). Then, and again every N steps, the update of each layer is
written in its singular basis (:mod:`problems.autolora_singular.rounds`),

    s B diag(g) A = U diag(sigma) V^T,    B <- U (sigma/s)^1/2,   A <- (sigma/s)^1/2 V^T,   g <- 1

and the gates of all n components of all layers learn together on held-out data, through T1 >= 4
steps of the factors:

    lower   V*(theta) = argmin over factors and head of  L(V, g(theta); D_train)
    upper   min over theta of  L(V*(theta), g(theta); D_val)  [+ lambda (C(theta) - b)^2]

``softmax``        g = n softmax(theta) over all n components: what one gains the others lose.
``hard_concrete``  SaLoRA's gates (:mod:`problems.salora`), and one multiplier lambda >= 0 for the
                   expected share C of all parameters in use. b is ``parameter_budget``, or 1/4
                   where nothing is told.

At the end the gates are folded into the factors, drawn ones at their mean, and the basis is turned
once more: what D_val made larger, smaller or 0 is in sigma. The order of all components is that of
score_lj = sigma_lj^2 / c_l, c_l the parameters of a component of layer l. The gates alone would not
do: they know nothing of the rounds before, and a gate says by what factor its component should grow
or shrink, not what it does.

Kept are the first of them: as many as fit into ``parameter_budget``, or, where the total is not
told, the fewest that lose nothing on examples that neither level trained on
(:mod:`bilevel.cutting.frontier`). The others are cut, and the kept factors and the head go on
training from where they are, on all of the training data, D_val and what was held out included, as
AutoLoRA's retraining does. A gate that stayed beside its factor would only scale its learning rate.

| choice | AutoLoRA | here (default) |
|---|---|---|
| basis of the components | as it happens to be trained | singular |
| selection | softmax within a layer | over all layers together (``selection``) |
| value at the start | 1/k: every update is 1/k of LoRA's | 1: the function is LoRA's |
| factors when the gates begin | B = 0 | trained for ``start`` of the steps |
| ranks | alpha >= 1/k: near k/2, whatever was learned | one order, one budget (frontier) |
| T1 | 1 | 4 (``unroll_steps``) |
| L2 | with the backbone's dropout | the same (see below) |
| after the search | plain LoRA from scratch | the kept factors go on |
| lower steps in all | of a search, and of LoRA | those of LoRA |
| Adam's moments at a turn | - | forgotten of factors and gates, kept of the head |

Other variables that methods here add to the papers' are scored without dropout
(:class:`problems.common.EvaluatedHeldOut`); these gates are not, and what was measured of them was
measured so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel import lowrank
from bilevel.cutting.budget import check_part
from bilevel.data import split as split_indices
from bilevel.views import taken
from problems import common
from problems.autolora_singular.settings import SingularSettings
from problems.common import ALONE, FoundRanks, Job, Layout, Outcome, Parts, Stage, Training, Watch
from problems.lora import held_apart, rows_apart

if TYPE_CHECKING:
    from torch import nn

    from bilevel.lowrank import Gates
    from problems.autolora_singular.rounds import Rounds
    from problems.salora.levels import Ascent

__all__ = ["AutoLoRASingular"]

log = logging.getLogger(__name__)

# From here a hard-concrete gate's noise-free value is exactly 1: above log((1 - gamma)/(zeta - 1)).
OPEN = 3.0
# How far a logit can come in a round with all of its steps at full length; and the largest rate
# that a short round is given for it. A softmax gate multiplies what factors compute: at a rate of
# more than a fifth it would wreck in a step what they have learned.
TRAVEL = {"softmax": 2.0, "hard_concrete": 20.0}
FASTEST = {"softmax": 0.2, "hard_concrete": math.inf}
MULTIPLIER_TRAVEL = 60.0
# Rounds of a softmax search; hard-concrete gates need the whole of it to reach their density.
ROUNDS = {"softmax": 4, "hard_concrete": 1}


@dataclass(frozen=True)
class AutoLoRASingular(SingularSettings):
    """Train LoRA, select among its singular components on two levels, go on with the kept ones."""

    name: ClassVar[str] = "autolora_singular"
    splits_fused: ClassVar[bool] = True

    def upper_variables(self, layout: Layout) -> int:
        """A gate for each component of each module."""
        return self.rank * len(layout.modules)

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`."""
        return "cuts a whole model between its stages; take method=autolora"

    def stages(self) -> Sequence[Stage]:
        """Factors, then gates, to the cut; then what is kept, on all of the training data."""
        return (Stage("search", self.search), Stage("finish", self.finishing))

    def parts(self, job: Job) -> Parts:
        """D_train and D_val, of what is not held out."""
        if not self.hold_out:
            return super().parts(job)
        data = job.data
        rest, _ = held_apart(job, self.hold_out)
        if self.split is None:
            parts = super().parts(job)
            return replace(
                parts, lower=common.loader(job, rest), sizes={**parts.sizes, "train": len(rest)}
            )
        labels = None if data.labels is None else [data.labels[i] for i in rest]
        lower, upper = split_indices(len(rest), self.split, job.seed, labels)
        train, validation = [rest[i] for i in lower], [rest[i] for i in upper]
        return Parts(
            common.loader(job, train),
            common.loader(job, validation, stream=1),
            taken(data.examples, validation),
            {"train": len(train), "validation": len(validation)},
        )

    def search(self, job: Job, found: None) -> Training:
        """Plain LoRA to ``start``, then gates on D_val; the cut at the end."""
        from problems.autolora_singular.cut import fold_learned, kept_weights
        from problems.autolora_singular.rounds import Rounds

        parts = self.parts(job)
        blind = self.budget.told and not self.named().needs_data
        needed = 0 if blind else self._least()
        apart, source = rows_apart(job, self.hold_out, self.split is not None, needed)
        if apart:
            log.info("examples to cut by: %d (%s)", len(apart), source)
        first, steps = self.phases(self.steps(job))
        model = common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        gates = self._gates(list(lowrank.lora_layers(model)))
        lowrank.attach_gates(model, gates)
        check_part(self.parameter_budget, lowrank.component_costs(model), self.rank)
        every = self.rotate_every or math.ceil((steps - first) / ROUNDS[self.selection])
        rounds = Rounds(model, gates, first, every)
        weights = common.trainable(model)
        problems, dependencies = self._levels(job, parts, rounds, weights, steps)

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            fold_learned(model, gates)
            cut = common.cut_held_out(job, model, apart, self, self.budget)
            keep = cut.keep
            if keep is None:
                log.info("cut: nothing was learned, so the whole adapter is kept")
                keep = cut.ranking.first(len(cut.ranking.order))
            ranks = {name: int(mask.sum()) for name, mask in keep.items()}
            log.info("ranks: %s", ", ".join(f"{name}={rank}" for name, rank in ranks.items()))
            return {
                "ranks": ranks,
                "cut": cut.state(),
                "cut_by": source,
                "weights": kept_weights(model, keep),
                "trainable_parameters": common.count(weights)
                + gates.logits.numel()
                + (len(problems) > 2),
                "validation_loss": stats.get("validation_loss"),
                "split": parts.sizes | ({"held_out": len(apart)} if self.hold_out else {}),
            }

        return Training(
            problems,
            dependencies,
            steps,
            model,
            finish,
            validation=apart if self.hold_out else parts.validation,
            gates=gates,
            watch=self._watch(rounds, problems),
            roll_back=self.roll_back,
            settled=steps,  # what is cut is the end of the search
        )

    def _gates(self, names: list[str]) -> Gates:
        if self.selection == "softmax":
            return lowrank.Gates(names, self.rank, "joint_softmax")
        return lowrank.Gates(names, self.rank, "hard_concrete", OPEN)

    def _levels(
        self, job: Job, parts: Parts, rounds: Rounds, weights: list[nn.Parameter], steps: int
    ) -> tuple[list[Any], dict[str, dict[Any, list[Any]]]]:
        """Factors and head; gates; and with hard-concrete ones the multiplier."""
        from bilevel.hypergradient import NoHypergradient
        from problems.autolora_singular.levels import TurnedFactors
        from problems.salora.levels import UpperGates

        given, warmup = job.settings, job.settings.warmup_steps
        optimizer, scheduler = common.optimizer_and_scheduler(
            self.lower,
            weights,
            self._lower_steps(rounds.first, steps),
            given.lr if given.lr is not None else 5e-4,
            warmup,
        )
        lower = TurnedFactors(
            "lower",
            common.problem_config(
                job,
                hypergradient=job.hypergradient,
                unroll_steps=self.unroll_steps,
                warmup_steps=rounds.first * self.unroll_steps,
            ),
            module=rounds.model,
            optimizer=optimizer,
            scheduler=scheduler,
            train_data_loader=parts.lower,
            rounds=rounds,
        )
        selecting = steps - rounds.first
        in_a_round = min(rounds.every, selecting) * self.upper_steps
        optimizer, scheduler = common.optimizer_and_scheduler(
            self.upper,
            [rounds.gates.logits],
            selecting * self.upper_steps,
            max(0.01, min(FASTEST[self.selection], 2 * TRAVEL[self.selection] / in_a_round)),
            warmup,
        )
        upper = UpperGates(
            "upper",
            common.problem_config(job, hypergradient=NoHypergradient(), steps=self.upper_steps),
            module=rounds.gates,
            optimizer=optimizer,
            scheduler=scheduler,
            train_data_loader=parts.upper,
            gate_window=rounds,
        )
        problems: list[Any] = [lower, upper]
        graph: dict[str, dict[Any, list[Any]]] = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        if self.selection == "hard_concrete":
            ascent = self._ascent(job, rounds, in_a_round, selecting * self.upper_steps)
            problems.append(ascent)
            graph["u2l"][ascent] = [upper]
            graph["l2u"][upper] = [ascent]
        return problems, graph

    def _lower_steps(self, first: int, steps: int) -> int:
        """Lower optimiser steps that stand: with ``roll_back`` one of T1, but in the warm-up."""
        if not self.roll_back:
            return steps * self.unroll_steps
        return first * self.unroll_steps + steps - first

    def _ascent(self, job: Job, rounds: Rounds, in_a_round: int, steps: int) -> Ascent:
        """The multiplier's problem, which lives through all rounds."""
        from problems.salora.levels import multiplier_problem

        target, lr = self.density(rounds.costs), max(0.01, MULTIPLIER_TRAVEL / in_a_round)
        return multiplier_problem(job, self.multiplier, target, steps, lr, rounds)

    def _watch(self, rounds: Rounds, problems: list[Any]) -> Watch | None:
        """What is drawn over the steps: how far hard-concrete gates have closed."""
        if len(problems) < 3:
            return None
        module = problems[2].module
        return lambda: {
            "density": rounds.density(),
            "target_density": module.target,
            "multiplier": module.value,
        }

    def finishing(self, job: Job, found: dict[str, Any]) -> Training:
        """The kept factors and the head, from where they are, on all of the training data."""
        from bilevel.cutting import Cut

        total = self.steps(job)
        _, searched = self.phases(total)
        options = self._lora_options(found["ranks"])
        model = common.add_lora(job, job.build_model(), **options, lora_dropout=self.lora_dropout)
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, parameter in parameters.items():
            parameter.data.copy_(found["weights"][name])
        steps = (total - searched) * self.unroll_steps
        if job.settings.max_steps is not None:
            steps = min(steps, job.settings.max_steps)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        problem = common.only_problem(
            common.FineTuning, job, model, common.loader(job), self.finish, steps, lr
        )

        def finish(stats: dict[str, float]) -> Outcome:
            weights = common.count(list(parameters.values()))
            return Outcome(
                model=model,
                ranks=dict(found["ranks"]),
                trainable_parameters=max(weights, found["trainable_parameters"]),
                validation_loss=found["validation_loss"],
                split=dict(found["split"]),
                cut=Cut.of_state(found["cut"]),
                cut_by=found["cut_by"],
                validation_trained_on=bool(self.hold_out),
            )

        return Training([problem], ALONE, steps, model, finish)

    def found_ranks(self, job: Job, found: dict[str, Any]) -> FoundRanks:
        """The ranks of the cut, each layer at the scale of the search."""
        from bilevel.cutting import Cut

        options = {**self._lora_options(found["ranks"]), "lora_dropout": self.lora_dropout}
        return FoundRanks(options, found["ranks"], Cut.of_state(found["cut"]))

    def _lora_options(self, ranks: dict[str, int]) -> dict[str, Any]:
        return lowrank.lora_pattern(ranks, dict.fromkeys(ranks, self.lora_alpha / self.rank))
