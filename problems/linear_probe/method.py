r"""Linear probe: logistic regression on the frozen model's embeddings, a baseline of minutes.

    min over W, b of  1/n sum_i l(W e(x_i) + b, y_i) + penalty/2 |W|^2,    e the pretrained model's

What a fine-tuning does not beat it need not have been run for; probes of frozen representations
are Alain and Bengio's (2016, arXiv 1610.01644). Ridge regression for numbers, one logistic
regression a label for sets of labels, and of tags one over all words. Nothing is trained by
gradient steps through the model: it reads each example once, without a backward pass.

| choice | here (default) |
|---|---|
| e of a text or a pair | the mean of the last layer's states over the tokens, ``pooling=mean``: the stronger of the two where it was tried |
| e of a word | what the model's own head is given of it |
| scale of e | standardised by the training rows |
| penalty | the one of ``penalties`` with the smallest loss on D_val, never the test set |
| D_val | the task's validation split; without one a fifth of the training data, which are fitted again with the rest at the penalty that they chose |

See :mod:`problems.linear_probe.model` for what is saved.
"""  # noqa: E501

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import MinLen

from bilevel.data import split, stratified_order
from bilevel.errors import UserError, listed
from bilevel.labels import NO_LABEL
from bilevel.settings import Count, Positive, Share
from bilevel.views import taken
from problems.common import (
    DVal,
    Job,
    Method,
    Outcome,
    Stage,
    TrainSettings,
    ValidationScores,
)
from problems.linear_probe.embedding import Embedded, embedded
from problems.linear_probe.fitting import fits, mean_loss

if TYPE_CHECKING:
    from torch import Tensor

    from problems.linear_probe.fitting import Fitted
    from problems.linear_probe.model import Embedder, ProbedModel

__all__ = ["LinearProbe"]

log = logging.getLogger(__name__)

HOLD_OUT = 0.2  # where nothing else is said
SHOWN = 12  # numbers of labels in a message
PENALTIES = (1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


Row = dict[str, Any]


@dataclass(frozen=True)
class LinearProbe(Method):
    """Fit a linear map on what the frozen model puts out."""

    name: ClassVar[str] = "linear_probe"
    streams: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = True
    pooling: Literal["mean", "head"] = "mean"
    """What the map is given of a text: the mean of the last layer's states over its tokens, or what
    the model's own head is given, whose place the map can then take (experiments.export
    merge=true); of tags always the latter."""
    penalties: Annotated[tuple[Positive, ...], MinLen(1)] = PENALTIES
    """Of half the squared weights, beside the mean loss; the one with the smallest validation loss
    is taken."""
    hold_out: Share | None = None
    """Share of the training data to choose the penalty by; null takes the task's own validation
    split, or 0.2 where there is none."""
    refit: bool = True
    """Fit again on all of the training data, what was held out of them included, at the chosen
    penalty; false leaves them out, as method.hold_out of LoRA does."""
    max_rows: Count | None = 50000
    """Texts (of tags, words) to fit on at most, the first of a seeded choice; null for all."""

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`."""
        return "reads what a whole model puts out; take method=lora"

    def check_answers(self, kind: str) -> None:
        """A linear map of an embedding cannot write, find an answer in a text, or compare.

        Raises:
            UserError: text, spans or choices are wanted.
        """
        if kind in ("spans", "choices"):
            raise UserError(
                "method=linear_probe puts a class, a number or tags on an embedding, and this task "
                f"wants {kind}: take method=pretrained as the baseline"
            )
        if kind == "text":
            raise UserError(
                "method=linear_probe puts a class, a number or tags on an embedding and writes no "
                "text: for a task of text take method=pretrained as the baseline"
            )

    def check_size(self, examples: int, batch_size: int) -> None:
        """Batches play no part; both parts of the data need an example."""
        super().check_size(examples, 1)

    def check_validation(self, examples: int, batch_size: int) -> None:
        """Several penalties need something to choose among them by.

        Raises:
            UserError: hold_out=0 without a validation split.
        """
        if self.hold_out == 0 and not examples and len(self.penalties) > 1:
            raise UserError(
                "method.hold_out=0 leaves nothing to choose among method.penalties by, as the task "
                "has no validation split beside its test set: give one penalty, or hold out a share"
            )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """There are none; but the loss is the plain one.

        Raises:
            UserError: ``train.class_weights``.
        """
        if settings.class_weights is not None:
            raise UserError(
                "train.class_weights does not go with method=linear_probe, which fits the plain "
                "loss: leave it at null"
            )

    def held_out(self, own: bool) -> DVal:
        """The validation split or a part of the training data, unless hold_out=0."""
        return "apart" if own or self.hold_out != 0 else "nothing"

    def stages(self) -> Sequence[Stage]:
        """The fit; and the model that it makes, which a resumed run takes from there."""
        return (Stage("fit", self.fit), Stage("probe", self.finish))

    def fit(self, job: Job, found: None) -> dict[str, Any]:
        """Embed, fit for each penalty, choose one on D_val, and fit again."""
        if job.settings.label_smoothing:
            log.info("train.label_smoothing plays no part: method=linear_probe has a penalty")
        chosen, held, source = self._parts(job)
        own = source == "validation"
        trained = sorted({*range(len(chosen))} - {*held})
        weights = _weights(job, chosen)
        if weights is not None and not weights[trained].any():
            raise UserError("all weights of examples are 0: there is nothing to train on")
        embedder = self._embedder(job)
        rows = taken(job.data.examples, chosen)
        every = embedded(job, embedder, rows)
        apart = embedded(job, embedder, job.data.validation or ()) if own else every.of(held)
        first = every if own else every.of(trained)
        outputs = embedder.removed.out_features
        if not embedder.has_bias:
            _say_constant((every if self.refit else first).y)

        def fitted(data: Embedded, penalties: Sequence[float]) -> list[Fitted]:
            of_rows = None if weights is None else weights[data.example]
            bias = embedder.has_bias
            return fits(job.kind, data.x, data.y, outputs, penalties, of_rows, bias)

        found_maps = fitted(first, self.penalties)
        best, tried, scores = found_maps[0], {}, None
        if len(apart.x):
            losses = [mean_loss(job.kind, each.outputs(apart.x), apart.y) for each in found_maps]
            best = found_maps[losses.index(min(losses))]
            tried = {f"{m.penalty:g}": loss for m, loss in zip(found_maps, losses, strict=True)}
            self._say(best.penalty, tried)
            model = _model(job, embedder, *map(_tensor, best[1:]))
            scores = job.scores(model, _held_rows(job, rows, held, source))
            if not own and self.refit:
                best = fitted(every, [best.penalty])[0]
        return {
            "weight": _tensor(best.weight),
            "bias": _tensor(best.bias),
            "penalty": best.penalty,
            "tried": tried,
            "scores": scores,
        }

    def finish(self, job: Job, found: Mapping[str, Any]) -> Outcome:
        """The model with the linear map on it."""
        chosen, held, source = self._parts(job)
        own = source == "validation"
        rows = taken(job.data.examples, chosen)
        embedder = self._embedder(job)
        model = _model(job, embedder, found["weight"], found["bias"])
        scores = None
        if found["scores"] is not None:
            scores = ValidationScores(_held_rows(job, rows, held, source), source, found["scores"])
        sizes = {"train": len(rows) - len(held)}
        return Outcome(
            model,
            ranks=None,
            trainable_parameters=found["weight"].numel() + found["bias"].numel(),
            split=sizes if own or not held else {**sizes, "validation": len(held)},
            validation_scores=scores,
            validation_trained_on=bool(held) and self.refit,
            probe={
                "pooling": embedder.pooling,
                "penalty": found["penalty"],
                "validation_losses": found["tried"],
            },
        )

    def _embedder(self, job: Job) -> Embedder:
        from problems.linear_probe.model import Embedder

        embedder = Embedder(job.build_model(), "head" if job.kind == "tags" else self.pooling)
        return embedder.to(job.device)

    def _parts(self, job: Job) -> tuple[list[int], list[int], Literal["validation", "training"]]:
        """Training examples to use, positions among them to hold out, and what D_val is of."""
        data = job.data
        order = stratified_order(len(data.examples), job.seed, data.labels)
        chosen = sorted(order[: _enough(job, order, self.max_rows)])
        if self.hold_out == 0 or (self.hold_out is None and data.validation):
            return chosen, [], "validation" if data.validation else "training"
        share = HOLD_OUT if self.hold_out is None else self.hold_out
        labels = None if data.labels is None else [data.labels[i] for i in chosen]
        return chosen, split(len(chosen), 1 - share, job.seed, labels)[1], "training"

    def _say(self, penalty: float, tried: Mapping[str, float]) -> None:
        """Which penalty was taken, and whether there should be others to choose from."""
        log.info("penalty %g has the smallest validation loss, %.4f", penalty, min(tried.values()))
        if len(self.penalties) > 1 and penalty in (min(self.penalties), max(self.penalties)):
            log.info("that is an end of method.penalties: give some beyond it too")


def _say_constant(y: np.ndarray) -> None:
    """Say which answers never change, which a map without a bias cannot put out.

    Args:
        y: as :class:`Embedded` has it.
    """
    columns = y.T if y.ndim > 1 else y[None]
    constant = [i for i, column in enumerate(columns) if (column == column[0]).all()]
    if not constant:
        return
    which = "the answer"
    if y.ndim > 1:
        first = listed(constant[:SHOWN]) + ", ..." * (len(constant) > SHOWN)
        which = f"{len(constant)} of {len(columns)} labels (number {first}, counted from 0)"
    log.warning(
        "%s: all examples have the same, which a probe in the place of this model's head cannot "
        "say, as that has no bias: take method.pooling=mean",
        which,
    )


def _enough(job: Job, order: Sequence[int], most: int | None) -> int:
    """How many of the examples in this order have ``most`` rows to fit on."""
    if most is None or job.kind != "tags":
        return len(order) if most is None else most
    words = 0
    for count, i in enumerate(order):
        words += sum(label != NO_LABEL for label in job.data.examples[i]["labels"])
        if words > most:
            return max(1, count)
    return len(order)


def _held_rows(job: Job, rows: Sequence[Row], held: Sequence[int], source: str) -> list[Row]:
    return list(job.data.validation or ()) if source == "validation" else [rows[i] for i in held]


def _model(job: Job, embedder: Embedder, weight: Tensor, bias: Tensor) -> ProbedModel:
    from problems.linear_probe.model import ProbedModel

    return ProbedModel(embedder, weight, bias, tuple(job.head_modules))


def _tensor(array: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(array).float()


def _weights(job: Job, chosen: Sequence[int]) -> np.ndarray | None:
    """Of the examples: in the loss, times how often they are to be drawn; None for equal ones."""
    given = [w for w in (job.data.weights, job.data.draw_weights) if w is not None]
    if not given:
        return None
    return np.prod([np.asarray(w, float)[list(chosen)] for w in given], axis=0)
