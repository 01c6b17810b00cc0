"""Draw the micro-batches of an optimiser step, each with its weight in the step's loss.

A loss is a mean over some terms: examples, or those tokens or tags that are not padding. The mean
over all of a step's micro-batches m, on all ranks, is

    L  =  sum over m of (n_m / N) L_m,        n_m terms in micro-batch m, N of them together,

and not the mean of the means L_m, which counts a token of a short text for more than one of a long
text. Averaging over W ranks divides by W, so on several ranks the weight is W n_m / N.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from bilevel import distributed
from bilevel.labels import NO_LABEL

if TYPE_CHECKING:
    from bilevel.distributed import World

__all__ = ["EpochEnd", "MicroBatch", "StepBatches", "count_terms", "loss_terms"]


class EpochEnd(Exception):  # noqa: N818 (it is no error)
    """The data of the epoch under way are spent, in the midst of an optimiser step."""


@dataclass(frozen=True)
class MicroBatch:
    """One batch of an optimiser step.

    Attributes:
        batch: as the loader gave it, on the device.
        weight: of its loss in the step's; 0 where it has no term.
        last: whether it is the step's last.
        indices: of its examples in the data set, where the loader tells them.
    """

    batch: Any
    weight: float | Tensor = 1.0
    last: bool = True
    indices: list[int] | None = None

    @property
    def counts(self) -> bool:
        """Whether its loss has any term: without, it is no number."""
        return isinstance(self.weight, Tensor) or self.weight != 0.0

    def weighted(self, loss: Tensor) -> Tensor:
        """``loss`` times the weight; itself where that is 1."""
        if isinstance(self.weight, Tensor):
            return loss * self.weight.to(loss)
        return loss if self.weight == 1.0 else loss * self.weight


class _Level(Protocol):
    """Whose batches are drawn."""

    @property
    def count(self) -> int: ...

    @property
    def gas(self) -> int: ...

    @property
    def world(self) -> World: ...

    @property
    def device(self) -> Any: ...

    @property
    def last_indices(self) -> list[int] | None: ...

    def get_batch(self) -> Any: ...

    def of_step(self, batches: list[Any], loaded: list[Any]) -> list[Any]: ...

    def loss_terms(self, batch: Any) -> float: ...


class StepBatches:
    """The micro-batches of a level's optimiser step.

    All are drawn before the first is used, since a weight needs the number of all terms. A step
    ends with the epoch: its last one takes what is there.

    Attributes:
        within_step: whether the batch being drawn is not the first of its step.
        loaded: what the loaders gave for the batch being drawn, before it went to the device.
        current: the micro-batch in use, or None.
    """

    def __init__(self) -> None:
        self.within_step = False
        self.loaded: list[Any] = []
        self.current: MicroBatch | None = None
        self._waiting: deque[MicroBatch] = deque()

    def take(self, level: _Level) -> MicroBatch | None:
        """The next of the step under way; None where the epoch has no more."""
        if level.gas == 1 or level.count % level.gas == 1:
            self._waiting = deque(self.draw(level))
        self.current = self._waiting.popleft() if self._waiting else None
        return self.current

    def draw(self, level: _Level) -> list[MicroBatch]:
        """Those of the coming step, one at least."""
        self.current = None
        batches: list[tuple[Any, list[int] | None]] = []
        counted: list[Any] = []
        try:
            for place in range(level.gas):
                self.within_step, self.loaded = place > 0, []
                batches.append((level.get_batch(), level.last_indices))
                # Terms are counted before the batch goes to the device, which nobody then waits
                # for.
                loaded = self.loaded or [batches[-1][0]]
                counted.append(loaded[0] if len(loaded) == 1 else tuple(loaded))
        except EpochEnd:
            pass
        finally:
            self.within_step, self.loaded = False, []
        weights = _weights(level, counted)
        of_step = level.of_step([batch for batch, _ in batches], counted)
        last = len(batches) - 1
        return [
            MicroBatch(batch, weight, place == last, indices)
            for place, (batch, (_, indices), weight) in enumerate(
                zip(of_step, batches, weights, strict=True)
            )
        ]


def _weights(level: _Level, batches: list[Any]) -> list[float | Tensor]:
    if len(batches) == 1 and level.world.world_size == 1:
        return [1.0]
    terms = [float(level.loss_terms(batch)) for batch in batches]
    if level.world.world_size == 1:
        total = sum(terms)
        # Without any term the losses are not numbers, which must show.
        return [n / total for n in terms] if total else [1.0 / len(terms)] * len(terms)
    mean = distributed.mean_of(sum(terms), level.world)
    return [n / mean if n else 0.0 for n in terms]


def loss_terms(modules: Iterable[nn.Module], batch: Any) -> float:
    """Terms of the loss that a transformers model among ``modules`` has on ``batch``.

    A causal language model is never asked for the first token, unless virtual ones come before it.
    Otherwise, and without such a model, :func:`count_terms` tells.

    Args:
        modules: models, wrapped by PEFT or not, or modules with one of these as ``model``.
        batch: with ``labels``, if it is one of a transformers model.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and labels.dim() > 1 and any(map(_shifts, modules)):
        return count_terms({"labels": labels[:, 1:]})
    return count_terms(batch)


def _shifts(module: nn.Module) -> bool:
    """Whether the loss of a module leaves out each text's first label."""
    if "transformers" not in sys.modules:  # then no module is one of its models
        return False
    from peft import PeftModel, PeftType
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    def causal(model: nn.Module) -> bool:
        names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        return any(kind.__name__ in names for kind in type(model).__mro__)

    model: Any = module
    while not (isinstance(model, PeftModel) or causal(model)):
        model = getattr(model, "model", None)
        if not isinstance(model, nn.Module):
            return False
    if not isinstance(model, PeftModel):
        return True
    config: Any = model.active_peft_config
    virtual = config.is_prompt_learning and config.peft_type != PeftType.PREFIX_TUNING
    return causal(model.get_base_model()) and not virtual


def count_terms(batch: Any) -> float:
    """Terms of a mean over a batch by the usual conventions.

    Whole-number ``labels`` in a mapping: those that are not -100. Anything else: the examples, the
    length of the first tensor that has one; 1 for a batch without.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        return int((labels != NO_LABEL).sum())
    return next(iter(_lengths(batch)), 1)


def _lengths(item: Any) -> list[int]:
    if isinstance(item, Tensor):
        return [len(item)] if item.dim() else []
    if isinstance(item, Mapping):
        item = list(item.values())
    if isinstance(item, (list, tuple)):
        return [length for part in item for length in _lengths(part)]
    return []
