"""Describe a problem whose right ranks are known: low-rank updates planted in a random transformer.

:mod:`experiments.models.planted_networks` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from bilevel.errors import UserError
from bilevel.settings import Count, Natural, Positive, Settings
from experiments.models.target_modules import matching

__all__ = ["SPECIAL", "PlantedProblem"]

SPECIAL = ("[PAD]", "[UNK]")
# Linear maps of BERT's layers, in its order.
LINEAR = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
)

Several = Annotated[int, Ge(2)]


@dataclass(frozen=True)
class PlantedProblem(Settings):
    """What is planted, and in what."""

    seed: Natural = 0
    """Decides weights, ranks and updates; the method's seed is another."""
    layers: Count = 4
    """Layers of the transformer."""
    hidden: Count = 32
    """Width of the transformer; its feed-forward layers are twice as wide."""
    heads: Count = 4
    """Attention heads; they divide hidden."""
    vocabulary: Several = 32
    """Words."""
    length: Several = 8
    """Words of a sequence; the answer is read off the first one's place."""
    classes: Several = 16
    """Classes of the head."""
    targets: str | tuple[str, ...] = "qv"
    """Where updates are planted: qv, all or a list of module names, as train.target_modules."""
    least_rank: Natural = 1
    """The least rank; each up to the most occurs as often as the others (or once more), at random
    places."""
    most_rank: Natural = 6
    """The largest rank."""
    ranks: tuple[Natural, ...] | None = None
    """Instead of a draw between the two: the rank of every target, in the model's order."""
    strength: Positive = 2.0
    """Singular values of an update, in units of the base matrix's own (their root mean square)."""
    query_strength: Positive = 3.0
    """The same of a query's update."""
    decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Each next singular value of an update over the one before; the first is as `strength` says.
    With 1 all are equal, and true ranks are the planted ones; below 1 they are what the loss
    needs."""
    rescale: Annotated[float, Ge(1), Le(1e3)] = 1.0
    """Value and attention output of a layer are multiplied and divided by one factor, query and key
    by another, from 1/rescale to rescale over the layers: what the transformer computes stays, but
    not how large its matrices, their updates and what passes between them are."""
    gain: Positive = 1.0
    """Of the linear maps: entries of a base matrix have variance gain^2 / inputs."""
    attention_gain: Positive = 1.2
    """The same of query and key."""
    value_gain: Positive = 0.7
    """The same of value and attention output."""
    logit_scale: Positive = 6.0
    """Standard deviation of each of the teacher's outputs over the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("heads", self.hidden % self.heads == 0, f"a divisor of hidden={self.hidden}")
        allowed = self.least_rank <= self.most_rank <= self.hidden
        self._check("most_rank", allowed, f"from least_rank={self.least_rank} to {self.hidden}")
        fit = all(rank <= self.hidden for rank in self.ranks or ())
        self._check("ranks", fit, f"ranks from 0 to hidden={self.hidden}")
        count = len(self.target_names())
        fit = self.ranks is None or len(self.ranks) == count
        what = f"{count} ranks, one for each module of task.planted.targets={self.targets}"
        self._check("ranks", fit, what)

    def _check(self, key: str, good: bool, allowed: str) -> None:
        if not good:
            raise UserError(f"task.planted.{key}={getattr(self, key)}: this must be {allowed}")

    def target_names(self) -> list[str]:
        """The full names of the targets in the transformer, in its order.

        Raises:
            UserError: `targets` matches nothing.
        """
        layers = range(self.layers)
        names = [f"bert.encoder.layer.{i}.{name}" for i in layers for name in LINEAR]
        model = "BertForSequenceClassification"
        return matching([*names, "bert.pooler.dense", "classifier"], self.targets, model)

    def word(self, number: int) -> str:
        """The text of a token id."""
        return [*SPECIAL, *(f"w{i}" for i in range(self.vocabulary))][number]
