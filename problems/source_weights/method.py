r"""Learn a weight for each source of the training data on trusted D_val, while LoRA is trained.

    lower   V*(theta) = argmin over V of  sum_i w_s(i) l_i(V) / sum_i w_s(i)       over D_train
    upper   min over theta of  L(V*(theta); D_val),         w = S softmax(theta)

One number a source, S of them: few upper variables with a real influence on what generalises
(ScaleBiO: Pan et al., ACL 2025, arXiv 2406.19976, which solves the same problem by a penalty with
two copies of the model; here any hypergradient estimator does, of the adapter alone). The upper
loss has no theta in it: its whole gradient is the implicit term, so ``hypergradient=none`` would
leave all weights equal, and is refused.

theta = 0 is all data pooled, each example as much as every other. w stands for an example's weight;
what a source has of the loss is n_s w_s / sum_t n_t w_t.

D_val is what the weights are learned on, so it must be data that are trusted: the task's own
validation split (``split=null``), of which ``V`` sees nothing; or a part of one named source
(``trusted=NAME split=0.5``), which then is not trained on. A random part of all data is not
offered: it would reward each source for resembling the mixture.

One stage: what is saved has been trained under the weights as they came about. For a model that is
trained under the final ones from its first step on, or a larger one:
``method=lora task.source_weights=DIR/source_weights.json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from bilevel import lowrank
from bilevel.data import ResumableLoader
from bilevel.data import split as split_indices
from bilevel.errors import UserError, listed, nearest
from bilevel.settings import Count
from bilevel.views import taken
from problems import common
from problems.common import (
    DVal,
    Job,
    Layout,
    Level,
    Method,
    OptimizerSettings,
    Outcome,
    Parts,
    Stage,
    Training,
    TrainSettings,
)
from problems.common.records import SOURCE_WEIGHT
from problems.common.trusted import LearnedWeights, check_several
from problems.common.two_levels import Fraction

if TYPE_CHECKING:
    from problems.source_weights.levels import SourceLogits

__all__ = ["SourceWeights"]

SHOWN = 12  # names in a message


def _name(value: object) -> object:
    """A source may be called 2020, which YAML reads as a number."""
    return str(value) if type(value) in (int, float) else value


@dataclass(frozen=True)
class SourceWeights(LearnedWeights):
    """LoRA on data of several sources, a weight for each source on trusted D_val."""

    name: ClassVar[str] = "source_weights"
    weighted: ClassVar[str] = "sources"
    split: Fraction | None = None
    """With trusted: the share of that source that stays in D_train, the rest of it is D_val; null
    without: D_val is the task's own validation split."""
    trusted: Annotated[str | None, BeforeValidator(_name)] = None
    """The source of which a part is D_val, with split=SHARE; null: the validation split is."""
    sampling: Literal["loss", "draw"] = "loss"
    """Weights multiply the losses of batches in which every example comes once an epoch, or batches
    are drawn by the weights: nothing is computed for a source that has lost its weight."""
    unroll_steps: Count = 2
    """T1, lower steps before every upper one."""
    lower: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.1))
    """Of the factors and the head."""
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            name="adam", lr=0.1, schedule="constant", warmup_ratio=0.0
        )
    )
    """Of theta."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trusted is None and self.split is not None:
            raise UserError(
                f"method.split={self.split:g} would make a share of all sources D_val, which has "
                "to be trusted: leave it at null, for the task's own validation split, or name the "
                "source too, method.trusted=NAME"
            )
        if self.trusted is not None and self.split is None:
            raise UserError(
                f"method.trusted={self.trusted} needs method.split, the share of this source that "
                "stays in D_train: method.split=0.5 makes one half of it D_val"
            )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """What is drawn counts relative to the others of its step.

        Raises:
            UserError: there are none, or as other methods on two levels.
        """
        if self.sampling == "draw":
            check_several(settings, ", or method.sampling=loss")
        super().check_steps(examples, settings)

    def check_size(self, examples: int, batch_size: int) -> None:
        """As of a method on one level: D_val may be smaller than a batch.

        Raises:
            UserError: there are fewer examples than a batch holds.
        """
        Method.check_size(self, examples, batch_size)

    def check_sources(self, sizes: Mapping[str, int] | None, drawn: bool) -> None:
        """Two sources are needed, the trusted one among them, and no weights beforehand.

        Raises:
            UserError: they are not there.
        """
        names = list(sizes or ())
        if len(names) < 2:
            there = f"one, {names[0]!r}" if names else "none"
            raise UserError(
                f"method={self.name} needs training data of two sources or more, and here is "
                f"{there}: name them by a column, task.source_column=COLUMN (domain_column of "
                "texts, source_column= of finetune), or give a file for each, "
                "task.sources={a: FILE, b: FILE}"
            )
        if drawn:
            raise UserError(
                f"task.source_weights does not go with method={self.name}, which learns them: "
                "leave it at null"
            )
        if self.trusted is not None and self.trusted not in names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UserError(
                f"method.trusted={self.trusted} is no source of the training data: they are "
                f"{listed(names[:SHOWN])}{more}{nearest(self.trusted, names)}"
            )
        if self.trusted is not None and sizes is not None and sizes[self.trusted] < 4:
            raise UserError(
                f"method.trusted={self.trusted}: this source has {sizes[self.trusted]} examples, "
                "and a part of them is to be D_val: 4 or more are needed"
            )

    def check_validation(self, examples: int, batch_size: int) -> None:
        """Weights are learned on the task's own validation split; a few examples will do.

        Raises:
            UserError: there are fewer than two, and no source is trusted.
        """
        if self.trusted is None and examples < 2:
            raise UserError(
                f"method={self.name} learns on trusted data, by default the task's own validation "
                f"split beside its test set, which has {examples or 'no'} examples here: give one, "
                "or take a part of a source, method.trusted=NAME method.split=0.5"
            )

    def check_drawn_validation(self) -> None:
        """A random share of all sources would reward each for being like the mixture.

        Raises:
            UserError: weights are to be learned on it.
        """
        if self.trusted is None:
            raise UserError(
                f"method={self.name} learns on trusted data, and task.trusted draws them from all "
                "sources, faults included: give a validation file beside the test file, or "
                "task.trusted_file=FILE, or take a part of one source, method.trusted=NAME "
                "method.split=0.5"
            )

    def held_out(self, own: bool) -> DVal:
        """The validation split is D_val, unless a part of a source is."""
        return "apart" if own and self.trusted is not None else "trained_on"

    def upper_variables(self, layout: Layout) -> int:
        """A weight for each source."""
        return layout.sources

    def stages(self) -> Sequence[Stage]:
        """One stage, two problems."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """Factors and head on D_train under the weights, theta on D_val."""
        from problems.source_weights.levels import (
            DrawnSourceWeighted,
            SourceLogits,
            SourceWeighted,
        )

        assert job.data.sources is not None
        names = list(dict.fromkeys(job.data.sources))
        train = self._indices(job)[0]
        logits = SourceLogits(names, job.data.sources, train)
        parts = self.weighted_parts(job, logits)
        sizes = Counter(job.data.sources[i] for i in train)
        kind = DrawnSourceWeighted if self.sampling == "draw" else SourceWeighted
        model = common.with_lora(
            job, self.rank, self.lora_alpha, self.lora_dropout, self.peft, parts.rows
        )
        factors = common.trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4

        def shares() -> dict[str, float]:
            return dict(zip(names, logits.shares().tolist(), strict=True))

        def finish(stats: dict[str, float]) -> Outcome:
            layers = lowrank.lora_layers(model)
            return Outcome(
                model=model,
                ranks=dict.fromkeys(layers, self.rank),
                trainable_parameters=common.count(factors) + len(names),
                validation_loss=stats.get("validation_loss"),
                split=parts.sizes,
                source_weights=shares(),
                source_examples={name: sizes[name] for name in names},
            )

        return self.training(
            job,
            parts,
            Level(partial(kind, losses=job.example_losses), model, factors, self.lower, lr),
            Level(common.EvaluatedHeldOut, logits, [logits.theta], self.upper, 0.1),
            self.steps(job),
            model,
            finish,
            watch=lambda: {f"{SOURCE_WEIGHT}{name}": p for name, p in shares().items()},
        )

    def _indices(self, job: Job) -> tuple[list[int], Sequence[dict[str, Any]]]:
        """Indices of D_train, and the examples of D_val."""
        data = job.data
        train = list(range(len(data.examples)))
        if self.trusted is None:
            return train, data.validation or ()
        assert data.sources is not None
        assert self.split is not None
        own = [i for i in train if data.sources[i] == self.trusted]
        classes = None if data.labels is None else [data.labels[i] for i in own]
        held = {own[i] for i in split_indices(len(own), self.split, job.seed, classes)[1]}
        return [i for i in train if i not in held], taken(data.examples, sorted(held))

    def weighted_parts(self, job: Job, logits: SourceLogits) -> Parts:
        """D_train in numbered batches, drawn or not, and D_val, a batch of it at most."""
        from problems.source_weights.levels import DrawnBatches

        train, trusted = self._indices(job)
        data, size = job.data, job.settings.batch_size
        if self.sampling == "draw":
            lower: ResumableLoader = DrawnBatches(
                data.examples, size, data.collate, seed=job.seed, indices=train, logits=logits
            )
        else:
            lower = common.loader(job, train, numbered=True)
        upper = ResumableLoader(
            trusted, min(size, len(trusted)), data.collate, seed=job.seed + 1000
        )
        return Parts(lower, upper, trusted, {"train": len(train), "validation": len(trusted)})
