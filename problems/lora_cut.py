r"""LoRA whose ranks are cut when it is trained: the smallest part of it that loses next to nothing.

    train    W = W0 + s B A at rank k in every layer, on all but ``hold_out`` of the training data
    cut      order the components of all layers together (``criterion``); with L_val the loss on
             what was held out, keep the fewest with
             L_val(kept) - L_val(all) + errors * se
                 <= delta (min(L_val(none), L_val(constant)) - L_val(all)),
             se the difference's standard error, ``constant`` the best answer that is always the
             same
    finish   ``finish_epochs`` more of what is kept, on all of the training data

One run finds the ranks and is the adapter. A single threshold over the singular values of all
layers is PARA's (arXiv 2604.27796); the choice by held-out examples, the criteria and their sources
are in :mod:`bilevel.cutting`. Training is LoRA's (``method=lora``) in every setting.

The frontier is that of the adapter before it is finished; the loss of the finished one on the same
examples would be that of examples it was trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from bilevel import lowrank
from bilevel.cutting.budget import Budget, Part, check_part
from bilevel.cutting.options import CutOptions
from bilevel.errors import UserError, listed
from bilevel.settings import Share
from problems import common
from problems.common import FoundRanks, Job, Outcome, RankSearch, Stage, Training, TrainSettings
from problems.common.peft_options import PeftOptions
from problems.lora import LoRA, rows_apart, train_lora

if TYPE_CHECKING:
    from peft import PeftModel

    from bilevel.cutting import Cut

__all__ = ["LoRACut"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoRACut(CutOptions, LoRA, RankSearch):
    """Train LoRA, then keep the smallest part of it that loses next to nothing."""

    name: ClassVar[str] = "lora_cut"
    refuses: ClassVar[dict[str, str]] = {
        "moved": "which would cut the part of the pretrained weights in the factors too"
    }
    hold_out: Share = 0.2
    """Share of the training data kept out of the training, to draw the frontier by; 0 takes the
    task's own validation split."""
    parameter_budget: Part | None = None
    """Parameters of all kept components together, or a share of those of all; null for the fewest
    that lose no more than delta."""
    finish_epochs: Annotated[float, Ge(0), Le(1e6)] = 0.0
    """Passes of the kept components over all of the training data, once they are cut."""

    @property
    def budget(self) -> Budget:
        """What was told of the size."""
        return Budget.of_part(self.parameter_budget)

    def check_size(self, examples: int, batch_size: int) -> None:
        """What is held out must do for the frontier, and the rest for a batch.

        Raises:
            UserError: it does not, there is no such criterion, or what is asked of LoRA does not
                go with a cut.
        """
        super().check_size(examples, batch_size)
        if self.ranks is not None:
            raise UserError(
                f"method.ranks={self.ranks}: {self.name} finds the ranks by itself, from one rank "
                "for all layers; train these with method=lora"
            )
        if self.finish_epochs and self.settings.given:
            raise UserError(
                f"method.settings ({listed(self.settings.names())}) are followed before the cut "
                f"alone: give method.finish_epochs=0 in the place of {self.finish_epochs:g}"
            )
        least = self._least()
        if self.examples < least:
            raise UserError(
                f"method.examples={self.examples}: criterion={self.criterion} needs {least} or more"
            )
        if not self.hold_out:
            return
        trained = round((1 - self.hold_out) * examples)
        if trained < batch_size or examples - trained < least:
            raise UserError(
                f"method.hold_out={self.hold_out:g} leaves {trained} of the {examples} training "
                f"examples to train on and {examples - trained} to cut by: needed are "
                f"train.batch_size={batch_size} and {least}; give more data or another share"
            )

    def check_validation(self, examples: int, batch_size: int) -> None:
        """Without ``hold_out`` the task's own validation split draws the frontier.

        Raises:
            UserError: there is none, or it is too small.
        """
        least = self._least()
        blind = self.budget.told and not self.named().needs_data
        if self.hold_out or examples >= least or blind:
            return
        raise UserError(
            "method.hold_out=0 cuts by the task's own validation split, beside its test set: that "
            f"must have {least} examples or more, and here are {examples or 'none'}; give a share "
            "of the training data, method.hold_out=0.2"
            + ", or say how much is to stay, method.parameter_budget=N"
            * (not self.named().needs_data)
        )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Of both trainings.

        Raises:
            UserError: the warm-up takes more steps than one of them has.
        """
        super().check_steps(round((1 - self.hold_out) * examples), settings)
        if self.finish_epochs:
            super().check_steps(examples, replace(settings, epochs=self.finish_epochs))

    def _least(self) -> int:
        """Held-out examples that the cut needs."""
        from bilevel.cutting import least_examples

        return least_examples(self.named())

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`."""
        return "cuts a whole model between its stages; take method=autolora"

    def stages(self) -> Sequence[Stage]:
        """Train, cut, and finish what is left."""
        return (
            Stage("train", self.prepare),
            Stage("cut", self.cut),
            Stage("finish", self.finish),
        )

    def prepare(self, job: Job, found: None) -> Training:
        """Stage 1: LoRA at rank k, on all but what is held out."""
        self._apart(job)  # what is wrong with them is told before the training
        training = super().prepare(job, found)
        check_part(self.parameter_budget, lowrank.component_costs(training.model), self.rank)

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            outcome: Outcome = training.finish(stats)
            return {
                "state": lowrank.adapter_state(training.model),
                "scales": lowrank.lora_scales(training.model),
                "trainable_parameters": outcome.trainable_parameters,
                "validation_loss": outcome.validation_loss,
                "split": outcome.split,
            }

        return replace(training, finish=finish)

    def _apart(self, job: Job) -> tuple[Sequence[dict[str, Any]], str]:
        """Examples to cut by."""
        blind = self.budget.told and not self.named().needs_data
        return rows_apart(job, self.hold_out, needed=0 if blind else self._least())

    def cut(self, job: Job, found: dict[str, Any]) -> dict[str, Any]:
        """Stage 2: order the components, draw the frontier, and choose."""
        model = self._restored(job, found).to(job.device)
        rows, source = self._apart(job)
        if rows:
            log.info("examples to cut by: %d (%s)", len(rows), source)
        result = common.cut_held_out(job, model, rows, self, self.budget)
        log.info("cut: %s", _told(result))
        return {
            **found,
            "state": lowrank.adapter_state(model),
            "cut": result.state(),
            "cut_by": source,
        }

    def finish(self, job: Job, found: dict[str, Any]) -> Training | Outcome:
        """Stage 3: go on with the components that are kept, on all of the training data."""
        from bilevel.cutting import Cut

        model = self._restored(job, found)
        cut = Cut.of_state(found["cut"])
        keep = cut.keep
        outcome = Outcome(
            model=model,
            ranks=self._ranks(cut),
            trainable_parameters=found["trainable_parameters"],
            validation_loss=found["validation_loss"],
            split=found["split"],
            keep=keep,
            cut=cut,
            cut_by=found["cut_by"],
        )
        if not self.finish_epochs:
            return outcome
        if keep is not None:
            factors = {}
            for name, layer in lowrank.lora_layers(model).items():
                factors[name] = lowrank.kept_factors(*lowrank.lora_factors(layer), keep[name])
            scales = lowrank.lora_scales(model)
            model = lowrank.plain_lora(model, factors, scales, dropout=self.lora_dropout)
        training = train_lora(job, model, self.optimizer, self.finish_epochs)

        def finish(stats: dict[str, float]) -> Outcome:
            return replace(
                outcome, model=model, keep=None, validation_trained_on=bool(self.hold_out)
            )

        return replace(training, finish=finish)

    def found_ranks(self, job: Job, found: dict[str, Any]) -> FoundRanks:
        """The ranks of the cut at LoRA's scale; every layer at k where nothing was learned."""
        from bilevel.cutting import Cut

        cut = Cut.of_state(found["cut"])
        ranks = self._ranks(cut)
        options = lowrank.lora_pattern(ranks, found["scales"])
        return FoundRanks({**options, "lora_dropout": self.lora_dropout}, ranks, cut)

    def _ranks(self, cut: Cut) -> dict[str, int]:
        """Of what is kept."""
        return cut.ranks or dict.fromkeys(cut.ranking.scores, self.rank)

    def _restored(self, job: Job, found: dict[str, Any]) -> PeftModel:
        """The trained model out of its adapter."""
        scale = PeftOptions(use_rslora=self.peft.use_rslora)  # the state tells the rest
        model = common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout, scale)
        lowrank.put_adapter_state(model, found["state"])
        scales = found.get("scales", {})  # which method.settings gave; none by an older version
        for name, layer in lowrank.lora_layers(model).items():
            layer.scaling["default"] = scales.get(name, layer.scaling["default"])
        return model


def _told(cut: Cut) -> str:
    """What was cut, in a sentence."""
    if cut.keep is None:
        return "nothing was learned, so the whole adapter is kept"
    kept, whole = cut.ranking.cost(cut.keep), cut.ranking.total
    said = (
        f"{sum((cut.ranks or {}).values())} components are kept, {kept:,} of {whole:,} parameters"
    )
    points = [] if cut.frontier is None else cut.frontier.points
    point = next((p for p in points if p.parameters == kept), None)
    if point is None:
        return said
    return f"{said}, loss {point.difference:+.4f} +- {point.error:.4f} to the whole"
